"""One person: the random proportions, posture and composition from which a body is built.

Landmarks are written in the millimetres of a reference man of 1.75 m, measured on the
BodyParts3D atlas (The Database Center for Life Science, CC BY-SA 2.1 Japan): x to the right,
y anterior, z superior, z = 0 near the ankles, vertex at 1640. :meth:`Person.place` carries them
into this person's body, with the origin near the middle of the trunk.

Heights are centred on the reference adults of [1]_; the body-mass index is log-normal (ours,
clipped to 18-40), and the fat share follows from it, age and sex by the formula of [2]_. Muscle
shrinks from about 45 years on [3]_; the slope is ours.

References
----------
.. [1] ICRP 2002, Publication 89, Ann ICRP 32(3-4) (doi 10.1016/S0146-6453(03)00002-2).
.. [2] Deurenberg, Weststrate, Seidell 1991, Br J Nutr 65:105 (doi 10.1079/BJN19910073).
.. [3] Janssen et al. 2000, J Appl Physiol 89:81 (doi 10.1152/jappl.2000.89.1.81).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from osteosap.errors import ConfigError

__all__ = ["AGE_RANGE", "REFERENCE_ORIGIN_MM", "Person", "Sex"]

Points = npt.NDArray[np.float64]
Sex = Literal["male", "female"]

REFERENCE_ORIGIN_MM = np.array([0.0, 90.0, 1000.0])
REFERENCE_HEIGHT_M = 1.75
HEIGHT_M = {"male": (1.76, 0.07), "female": (1.63, 0.065)}  # mean [1], spread ours
AGE_RANGE = (18.0, 90.0)
HEAD_PIVOT = np.array([0.0, 74.0, 1470.0])
TWIST_PIVOT = np.array([0.0, 60.0])
SHOULDER, ELBOW = (165.0, 70.0, 1312.0), (209.0, 68.0, 1050.0)


@dataclass(frozen=True)
class Person:
    """Proportions, posture and composition of one adult.

    Parameters
    ----------
    sex, age_years, height_m, weight_kg
        Who.
    scale
        Factors of the reference body along x, y and z.
    shoulder_width, pelvis_width, head_size
        Further factors of breadth at the shoulders and the pelvis, and of the head.
    fat_mm
        Thickness of subcutaneous fat at the flank.
    visceral
        Fat inside the abdomen: 0 (none) to about 1.5 (a large belly).
    muscle
        Factor of muscle thickness.
    bone_scale
        Factor of bone radii.
    red_marrow
        0 (old, fatty marrow) to 1 (young, cellular marrow).
    arm_angle_rad
        Abduction of the arms (right, left).
    elbow_rad
        Flexion of the elbows (right, left).
    spine_lateral_mm, spine_sagittal_mm
        Amplitudes of scoliosis and of added kyphosis-lordosis.
    spine_phase
        Phase of the lateral curve (0-1).
    twist_rad
        Rotation of the shoulders against the pelvis.
    tilt
        Lateral shear of the left against the right side (mm of height per mm of breadth).
    waves
        Low-frequency displacement of all landmarks: rows (direction 3, wave vector 3, phase).
    """

    sex: Sex
    age_years: float
    height_m: float
    weight_kg: float
    scale: Points
    shoulder_width: float
    pelvis_width: float
    head_size: float
    fat_mm: float
    visceral: float
    muscle: float
    bone_scale: float
    red_marrow: float
    arm_angle_rad: tuple[float, float]
    elbow_rad: tuple[float, float]
    spine_lateral_mm: float
    spine_sagittal_mm: float
    spine_phase: float
    twist_rad: float
    tilt: float
    waves: Points

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        sex: Sex | None = None,
        age_years: float | None = None,
    ) -> Person:
        """Draw an adult; ``sex`` and ``age_years`` (18-90) fix what is not to be drawn.

        Raises
        ------
        ConfigError
            For another sex, or an age outside 18 to 90 years.
        """
        drawn_sex: Sex = "male" if rng.uniform() < 0.5 else "female"
        drawn_age = float(rng.triangular(20.0, 62.0, 88.0))
        sex, age = sex or drawn_sex, drawn_age if age_years is None else float(age_years)
        _check(sex, age)
        mean, spread = HEIGHT_M[sex]
        height_m = mean + spread * float(np.clip(rng.normal(), -2.5, 2.5))
        height, man = height_m / REFERENCE_HEIGHT_M, sex == "male"
        bmi = float(np.clip(rng.lognormal(np.log(25.5), 0.15), 18.0, 40.0))
        z = rng.normal(size=14)
        tissue = _composition(bmi, age, man=man, z=z[:4])
        abduction = -0.065 + 0.0035 * max(tissue["fat_mm"] - 10.0, 0.0)
        abduction += 0.05 * max(tissue["visceral"] - 0.5, 0.0)
        slim = (1 + 0.025 * z[4], 1 + 0.03 * z[5])
        return cls(
            sex=sex,
            age_years=age,
            height_m=height_m,
            weight_kg=bmi * height_m**2,
            scale=np.array([height**0.6 * slim[0], height**0.4 * slim[1], height]),
            shoulder_width=float(np.clip((1.0 if man else 0.95) * (1 + 0.02 * z[6]), 0.9, 1.06)),
            pelvis_width=float(np.clip((1.0 if man else 1.06) * (1 + 0.02 * z[7]), 0.94, 1.1)),
            head_size=float(np.clip((1.0 if man else 0.96) * (1 + 0.02 * z[8]), 0.9, 1.06)),
            **tissue,
            bone_scale=float(np.clip(1 + 0.03 * z[9], 0.93, 1.08) * height**0.5)
            * (1.0 if man else 0.95),
            arm_angle_rad=_pair(abduction, rng.normal(0, 0.02, 2)),
            elbow_rad=_pair(0.16, rng.normal(0, 0.08, 2)),
            spine_lateral_mm=float(4.0 * z[10]),
            spine_sagittal_mm=float(3.5 * z[11] + 3.0 * _wasting(age)),
            spine_phase=float(rng.uniform()),
            twist_rad=float(np.deg2rad(2.0) * z[12]),
            tilt=float(0.008 * z[13]),
            waves=_waves(rng),
        )

    @property
    def bmi(self) -> float:
        """Body-mass index, kg/m2."""
        return self.weight_kg / self.height_m**2

    @property
    def cortex(self) -> float:
        """Factor of the thickness of shafts: thinner in women and with age (slopes ours)."""
        late = np.clip((self.age_years - 40.0) / 50.0, 0.0, 1.0)
        return float((1.0 if self.sex == "male" else 0.9) * (1.0 - 0.15 * late))

    def describe(self) -> dict[str, float | str]:
        """What a truth file says of the person: plain numbers and words."""
        return {
            "sex": self.sex,
            "age_years": round(self.age_years, 1),
            "height_m": round(self.height_m, 3),
            "weight_kg": round(self.weight_kg, 1),
            "bmi_kg_per_m2": round(self.bmi, 1),
            "subcutaneous_fat_mm": round(self.fat_mm, 1),
            "visceral_fat": round(self.visceral, 2),
            "muscle_bulk": round(self.muscle, 2),
            "red_marrow": round(self.red_marrow, 2),
            "scoliosis_mm": round(self.spine_lateral_mm, 1),
            "trunk_rotation_deg": round(float(np.rad2deg(self.twist_rad)), 1),
        }

    def place(self, points: npt.ArrayLike) -> Points:
        """Carry reference landmarks (..., 3) in mm into this person's body (RAS mm)."""
        p = np.asarray(points, dtype=np.float64)
        z = p[..., 2]
        head = _step(z, 1430.0, 1480.0)[..., None]
        p = p + head * (p - HEAD_PIVOT) * (self.head_size / self.scale - 1.0)
        breadth = 1.0 + (self.shoulder_width - 1.0) * _step(z, 1080.0, 1260.0)
        breadth += (
            (self.pelvis_width - 1.0) * (1 - _step(z, 900.0, 1060.0)) * _step(z, 420.0, 700.0)
        )
        breadth = 1.0 + (breadth - 1.0) * (1 - head[..., 0])
        p = p * np.stack([breadth, np.ones_like(breadth), np.ones_like(breadth)], axis=-1)
        p = (p - REFERENCE_ORIGIN_MM) * self.scale
        return np.asarray(self._pose(p), dtype=np.float64)

    def _pose(self, p: Points) -> Points:
        """Bend and twist the trunk; ``p`` is relative to the origin."""
        directions, vectors, phase = self.waves[:, :3], self.waves[:, 3:6], self.waves[:, 6]
        shift = np.sin(p @ vectors.T + phase) @ directions
        along = np.clip((p[..., 2] / self.scale[2] + 90.0) / 560.0, 0, 1)
        lateral = self.spine_lateral_mm * np.sin(2 * np.pi * (along + self.spine_phase))
        sagittal = self.spine_sagittal_mm * np.sin(2 * np.pi * along)
        lift = self.tilt * p[..., 0]
        curve = np.stack([lateral, sagittal, lift], axis=-1)
        angle = self.twist_rad * _step(along, 0.1, 0.9)
        pivot = (TWIST_PIVOT[1] - REFERENCE_ORIGIN_MM[1]) * self.scale[1]
        x, y = p[..., 0], p[..., 1] - pivot
        c, s = np.cos(angle), np.sin(angle)
        turned = np.stack([c * x - s * y, s * x + c * y + pivot, p[..., 2]], axis=-1)
        return np.asarray(turned + shift + curve, dtype=np.float64)

    def place_arm(self, points: npt.ArrayLike, *, side: float, forearm: bool = False) -> Points:
        """Carry right-arm landmarks (N, 3) to one side (1 right, -1 left) and pose them.

        Parameters
        ----------
        points
            Reference landmarks (N, 3) of the right arm.
        side
            1 for right, -1 for left.
        forearm
            Whether the points lie below the elbow and flex with it.
        """
        p = self.place(np.asarray(points, dtype=np.float64) * [side, 1, 1])
        which = 0 if side > 0 else 1
        shoulder, elbow = self.place(np.array([SHOULDER, ELBOW]) * [side, 1, 1])
        if forearm:
            flexed = _turn_about(p - elbow, axis=0, angle=self.elbow_rad[which])
            p = _turn_about(flexed, axis=1, angle=side * 0.10) + elbow
        angle = -side * self.arm_angle_rad[which]
        return np.asarray(_turn_about(p - shoulder, axis=1, angle=angle) + shoulder)

    def radius(self, millimetres: float) -> float:
        """Scale a bone radius of the reference body to this person."""
        return millimetres * self.bone_scale


def _wasting(age: float) -> float:
    """0 up to 45 years, 1 at 90."""
    return float(np.clip((age - 45.0) / 45.0, 0.0, 1.0))


def _composition(bmi: float, age: float, *, man: bool, z: Points) -> dict[str, float]:
    """Fat, muscle and red marrow; ``z`` (4,) are the person's standard deviations."""
    percent = float(np.clip(1.2 * bmi + 0.23 * age - 10.8 * man - 5.4, 8.0, 52.0))
    thick = 0.021 * percent**2 * (1.0 if man else 0.62) * np.exp(0.18 * z[0])
    belly = (percent - 10.0) / 18.0 * (1.0 if man else 0.55) * np.exp(0.25 * z[1])
    muscle = (1.0 if man else 0.88) * (1 - 0.2 * _wasting(age)) * np.exp(0.07 * z[2])
    red = 0.85 - 0.6 * (age - 18.0) / 72.0 + (0.0 if man else 0.08) + 0.08 * z[3]
    return {
        "fat_mm": float(np.clip(thick, 4.0, 42.0)),
        "visceral": float(np.clip(belly, 0.05, 1.6)),
        "muscle": float(np.clip(muscle, 0.65, 1.2)),
        "red_marrow": float(np.clip(red, 0.05, 0.95)),
    }


def _waves(rng: np.random.Generator) -> Points:
    """Six smooth displacements of 1.8 mm and about half a metre."""
    directions, vectors = rng.normal(size=(2, 6, 3))
    phases = rng.uniform(0, 2 * np.pi, (6, 1))
    return np.hstack([directions * 1.8, vectors * (2 * np.pi / 500.0), phases])


def _check(sex: str, age: float) -> None:
    if sex not in HEIGHT_M:
        raise ConfigError(
            f"the sex is {sex!r}; expected 'male' or 'female'", remedy="Pass one, or None to draw"
        )
    if not AGE_RANGE[0] <= age <= AGE_RANGE[1]:
        raise ConfigError(
            f"the age is {age:g} years; expected {AGE_RANGE[0]:g} to {AGE_RANGE[1]:g}",
            remedy="The simulator makes adults; choose an age in that range",
        )


def _pair(mean: float, deviation: Points) -> tuple[float, float]:
    return float(mean + deviation[0]), float(mean + deviation[1])


def _step(value: Points, low: float, high: float) -> Points:
    """Smooth step from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float64)


def _turn_about(p: Points, *, axis: int, angle: float) -> Points:
    """Rotate points (N, 3) about a world axis; about y, a positive angle moves -z towards -x."""
    c, s = np.cos(angle), np.sin(angle)
    u, v = ((1, 2), (2, 0), (0, 1))[axis]
    out = p.copy()
    out[..., u], out[..., v] = c * p[..., u] - s * p[..., v], s * p[..., u] + c * p[..., v]
    return np.asarray(out, dtype=np.float64)

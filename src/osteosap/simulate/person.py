"""One person: the random proportions, posture and composition from which a body is built.

Landmarks are written in the millimetres of a reference man of 1.75 m, measured on the
BodyParts3D atlas (The Database Center for Life Science, CC BY-SA 2.1 Japan): x to the right,
y anterior, z superior, z = 0 near the ankles, vertex at 1640. :meth:`Person.place` carries them
into this person's body, with the origin near the middle of the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["REFERENCE_ORIGIN_MM", "Person"]

Points = npt.NDArray[np.float64]

REFERENCE_ORIGIN_MM = np.array([0.0, 90.0, 1000.0])


@dataclass(frozen=True)
class Person:
    """Proportions, posture and composition of one man.

    Parameters
    ----------
    scale
        Factors of the reference body along x, y and z.
    fat_mm
        Thickness of subcutaneous fat at the flank.
    bone_scale
        Factor of bone radii.
    red_marrow
        0 (old, fatty marrow) to 1 (young, cellular marrow).
    arm_angle_rad
        Abduction of the arms.
    spine_lateral_mm, spine_sagittal_mm
        Amplitudes of scoliosis and of added kyphosis-lordosis.
    spine_phase
        Phase of the lateral curve (0-1).
    waves
        Low-frequency displacement of all landmarks: rows (direction 3, wave vector 3, phase).
    """

    scale: Points
    fat_mm: float
    bone_scale: float
    red_marrow: float
    arm_angle_rad: float
    spine_lateral_mm: float
    spine_sagittal_mm: float
    spine_phase: float
    waves: Points

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """Draw an adult man: about 1.62 to 1.90 m, lean to obese."""
        height = float(np.clip(rng.normal(1.0, 0.035), 0.92, 1.09))
        breadth = height**0.5 * float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.08))
        depth = height**0.3 * float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1))
        directions = rng.normal(size=(6, 3))
        vectors = rng.normal(size=(6, 3)) * (2 * np.pi / 500.0)
        waves = np.hstack([directions * 2.2, vectors, rng.uniform(0, 2 * np.pi, (6, 1))])
        return cls(
            scale=np.array([breadth, depth, height]),
            fat_mm=float(np.clip(rng.lognormal(np.log(16.0), 0.45), 5.0, 40.0)),
            bone_scale=float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12)) * height**0.5,
            red_marrow=float(rng.uniform(0.05, 0.85)),
            arm_angle_rad=float(rng.uniform(-0.06, 0.10)),
            spine_lateral_mm=float(rng.normal(0, 4.0)),
            spine_sagittal_mm=float(rng.normal(0, 4.0)),
            spine_phase=float(rng.uniform()),
            waves=waves,
        )

    def place(self, points: npt.ArrayLike) -> Points:
        """Carry reference landmarks (..., 3) in mm into this person's body (RAS mm)."""
        p = np.asarray(points, dtype=np.float64) - REFERENCE_ORIGIN_MM
        p = p * self.scale
        directions, vectors, phase = self.waves[:, :3], self.waves[:, 3:6], self.waves[:, 6]
        shift = np.sin(p @ vectors.T + phase) @ directions
        # the midline may bend but the trunk's curve comes from the spine terms below
        along = np.clip((p[..., 2] + 90.0 * self.scale[2]) / (560.0 * self.scale[2]), 0, 1)
        lateral = self.spine_lateral_mm * np.sin(2 * np.pi * (along + self.spine_phase))
        sagittal = self.spine_sagittal_mm * np.sin(2 * np.pi * along)
        curve = np.stack([lateral, sagittal, np.zeros_like(along)], axis=-1)
        return np.asarray(p + shift + curve, dtype=np.float64)

    def radius(self, millimetres: float) -> float:
        """Scale a bone radius of the reference body to this person."""
        return millimetres * self.bone_scale

"""Checks of a quality report: what was found, what is expected, a verdict and what to do.

Expected ADC, at b-values of 0 or 50 to 800-1000. Normal marrow: 422 +- 67 um2/s over 100 people
[1]_, 410 to 500 in the lumbar spine by age and bone density [2]_; 655 parts it from disease [3]_.
Muscle: 1440 (leg) and 1490 (back) at b 50-750 [4]_. The limits (:class:`QualityConfig`) are wider,
ours, and meant to catch a wrong unit, misread b-values and failed fat suppression, not disease.

References
----------
.. [1] Colombo et al. 2021, Diagnostics 11:913 (doi 10.3390/diagnostics11050913).
.. [2] Yeung et al. 2004, J Magn Reson Imaging 19:222 (doi 10.1002/jmri.10453).
.. [3] Messiou et al. 2011, Eur Radiol 21:1713 (doi 10.1007/s00330-011-2116-4).
.. [4] Yanagisawa et al. 2009, Magn Reson Imaging 27:69 (doi 10.1016/j.mri.2008.05.011).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from osteosap.config import StageConfig
from osteosap.preprocess.quality_measures import BodyEnds, Noise, TissueLike, bone_volumes_ml

__all__ = [
    "LOOK",
    "OK",
    "UNKNOWN",
    "Check",
    "QualityConfig",
    "adc_range",
    "check_adc",
    "check_bones",
    "check_coverage",
    "check_moves",
    "check_seams",
    "check_signal",
]

Numbers = npt.NDArray[Any]
Record = Mapping[str, Any]

OK, LOOK, UNKNOWN = "ok", "look", "unknown"


class QualityConfig(StageConfig):
    """What is expected of an exam; a value outside is a warning, never an error."""

    max_t1_mismatch: float = Field(default=0.08, gt=0)
    """Relative difference of neighbouring T1 stations where they overlap, corrected, not evened."""
    max_dwi_mismatch: float = Field(default=0.3, gt=0)
    """The same of DWI, which is noisier and distorted."""
    max_station_shift_mm: float = Field(default=10.0, gt=0)
    """Movement of a T1 station onto its neighbour."""
    max_registration_shift_mm: float = Field(default=15.0, gt=0)
    """Rigid movement of a DWI station onto T1."""
    max_displacement_mm: float = Field(default=20.0, gt=0)
    """Largest B-spline displacement of a DWI station."""
    marrow_adc_um2_per_s: tuple[float, float] = (200.0, 900.0)
    """Median ADC of marrow of spine and pelvis."""
    muscle_adc_um2_per_s: tuple[float, float] = (1100.0, 1900.0)
    """Median ADC of muscle."""
    max_fat_over_muscle: float = Field(default=2.0, gt=0)
    """Signal of fat over that of muscle on b1000; fat that is not suppressed is ten times as
    bright, noise alone can make both alike."""
    min_snr: float = Field(default=2.0, gt=0)
    """Signal of muscle over noise on b1000; below it the noise floor lowers the ADC."""
    min_extent_mm: float = Field(default=800.0, gt=0)
    """Least length of the body that counts as whole-body."""
    max_missing_dwi_mm: float = Field(default=20.0, gt=0)
    """How much shorter than T1 the DWI may be at an end."""
    min_tissue_ml: float = Field(default=50.0, gt=0)
    """Less of a tissue than this gives no median."""
    min_bone_ml: float = Field(default=1.0, gt=0)
    """A bone of less volume in the skeleton map counts as absent."""


@dataclass(frozen=True)
class Check:
    """One line of the quality report.

    Parameters
    ----------
    topic
        "coverage", "seams", "alignment", "registration", "adc" or "noise".
    name
        What was looked at.
    value, expected
        For reading, with units.
    verdict
        "ok", "look" (outside what is expected) or "unknown" (could not be measured).
    note
        With "look" one sentence: the value, the expectation, what to do. With "unknown" why.
    """

    topic: str
    name: str
    value: str
    expected: str
    verdict: str = OK
    note: str = ""


def check_coverage(ends: BodyEnds, settings: QualityConfig) -> list[Check]:
    """Length, and what the ends show."""
    length, least = ends.extent_mm, settings.min_extent_mm
    short = (
        f"the images show {length:.0f} mm of the body, expected at least {least:.0f} for a whole "
        "body; check that every station was exported"
    )
    checks = [
        Check(
            "coverage", "Length from foot to head", f"{length:.0f} mm", f"at least {least:.0f} mm",
            *((OK, "") if length >= least else (LOOK, short)),
        )
    ]  # fmt: skip
    upper = ("head, whole" if ends.head_closes else "head, cut") if ends.has_head else "no head"
    no_head = (
        f"the upper end looks like {upper}, expected the crown of a head; cervical spine and skull "
        "may be missing: add the uppermost station if it exists"
    )
    no_legs = (
        "the lower end shows one trunk, expected two thighs; pelvis or femora may be cut: add the "
        "lowermost station if it exists"
    )
    top = (OK, "") if ends.head_closes else (LOOK, no_head)
    checks.append(Check("coverage", "Upper end", upper, "head, whole", *top))
    lower = "two legs" if ends.has_legs else "one trunk"
    bottom = (OK, "") if ends.has_legs else (LOOK, no_legs)
    checks.append(Check("coverage", "Lower end", lower, "two legs", *bottom))
    return [*checks, _dwi_ends(ends, settings)]


def _dwi_ends(ends: BodyEnds, settings: QualityConfig) -> Check:
    """Where the DWI ends before the T1 does."""
    foot, head, most = (
        ends.dwi_missing_foot_mm, ends.dwi_missing_head_mm, settings.max_missing_dwi_mm,
    )  # fmt: skip
    value = f"{foot:.0f} mm short at the feet, {head:.0f} mm at the head"
    note = (
        f"the DWI ends {foot:.0f} mm (feet) and {head:.0f} mm (head) before the T1, expected at "
        f"most {most:.0f}; lesions there cannot be found: check for a missing DWI station"
    )
    verdict = (OK, "") if max(foot, head) <= most else (LOOK, note)
    return Check("coverage", "DWI against T1", value, f"at most {most:.0f} mm short", *verdict)


def check_seams(seams: Sequence[Record], settings: QualityConfig) -> list[Check]:
    """The worst seam of each channel."""
    checks = []
    for channel, most in (("t1", settings.max_t1_mismatch), ("dwi", settings.max_dwi_mismatch)):
        known = [
            s for s in seams
            if s.get("channel") == channel and s.get("mismatch_after") is not None
        ]  # fmt: skip
        name, expected = f"Seams of {channel.upper()}", f"at most {most:.0%}"
        if not known:
            why = "one station, or no signal where stations overlap"
            checks.append(Check("seams", name, "none measured", expected, UNKNOWN, why))
            continue
        worst = max(known, key=lambda s: s["mismatch_after"])
        after, before = worst["mismatch_after"], worst.get("mismatch_before")
        pair = " and ".join(str(p) for p in worst.get("pair", ()))
        was = "" if before is None else f", {before:.1%} before"
        value = f"{after:.1%} at worst (stations {pair}{was})"
        note = (
            f"{channel.upper()} stations {pair} differ by {after:.1%} where they overlap{was}, "
            f"expected at most {most:.0%}; read across this seam with care, and look there for "
            "movement or a failed correction"
        )
        checks.append(
            Check("seams", name, value, expected, *((OK, "") if after <= most else (LOOK, note)))
        )
    return checks


def check_moves(done: Record, settings: QualityConfig) -> list[Check]:
    """Movements that the registrations found."""
    align, register = done.get("alignment") or {}, done.get("registration") or {}
    return [
        _move("alignment", "Shift of T1 stations", align, "shift_mm",
              settings.max_station_shift_mm),
        _move("registration", "Shift of DWI to T1", register, "shift_mm",
              settings.max_registration_shift_mm),
        _move("registration", "Distortion of DWI (B-spline)", register, "displacement_mm",
              settings.max_displacement_mm),
    ]  # fmt: skip


def _move(topic: str, name: str, record: Record, key: str, most: float) -> Check:
    expected = f"at most {most:g} mm"
    shifts = [0.0 if v is None else abs(float(v)) for v in _listed(record.get(key))]
    if not shifts:
        why = str(record.get("done") or "not done")
        return Check(topic, name, "none measured", expected, UNKNOWN, why)
    kind = {"displacement_mm": "bspline_accepted"}.get(key, "rigid_accepted")
    accepted = _listed(record.get(kind, record.get("accepted")))
    largest, place = max(shifts), int(np.argmax(shifts)) + 1
    left = [n + 1 for n, good in enumerate(accepted) if not good]
    value = f"{largest:.1f} mm at most (station {place} of {len(shifts)})"
    if accepted:
        value += f"; {sum(map(bool, accepted))} of {len(accepted)} accepted"
    where = "the seams of T1" if topic == "alignment" else "the overlay of DWI and T1"
    note = (
        f"{name[0].lower()}{name[1:]}: {largest:.1f} mm in station {place}, expected at most "
        f"{most:g}; look at {where} there, the patient may have moved or the registration failed"
    )
    if largest > most:
        return Check(topic, name, value, expected, LOOK, note)
    if key == "displacement_mm" and left:
        listed = ", ".join(map(str, left))
        note = (
            f"the distortion of DWI station {listed} was not corrected (the record says why); look "
            "at the overlay of DWI and T1 there"
        )
        return Check(topic, name, value, f"{expected}, every station", LOOK, note)
    return Check(topic, name, value, expected, OK, "")


def _listed(value: Any) -> list[Any]:
    """One entry a station; a single number is one station."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_adc(
    adc: Numbers | None,
    masks: Mapping[str, Numbers],
    settings: QualityConfig,
    *,
    voxel_ml: float,
    in_bones: bool,
) -> list[Check]:
    """Median ADC of every tissue that was found."""
    if adc is None:
        return [Check("adc", "ADC", "no ADC", "", UNKNOWN, "the exam has no ADC map")]
    if not masks:
        why = "the T1 shows no two tissues that could be told apart"
        return [Check("adc", "ADC", "not measured", "", UNKNOWN, why)]
    checks = []
    for tissue, mask in masks.items():
        bones = in_bones and tissue == "marrow"
        where = "marrow of spine and pelvis (skeleton map)" if bones else f"{tissue}-like tissue"
        volume_ml = float(np.count_nonzero(mask)) * voxel_ml
        checks.append(_tissue_adc(tissue, where, adc[mask], settings, volume_ml=volume_ml))
    return checks


def _tissue_adc(
    tissue: str, where: str, values: Numbers, settings: QualityConfig, *, volume_ml: float
) -> Check:
    """Median ADC of a tissue against its range."""
    low, high = adc_range(tissue, settings)
    name, expected = f"ADC of {where}", f"{low:.0f} to {high:.0f} µm²/s"
    if not values.size or volume_ml < settings.min_tissue_ml:
        why = f"{volume_ml:.0f} mL of it were found, {settings.min_tissue_ml:.0f} are needed"
        return Check("adc", name, "not measured", expected, UNKNOWN, why)
    median = float(np.median(values))
    value = f"{median:.3g} µm²/s" if median < 10 else f"{median:.0f} µm²/s"
    if low <= median <= high:
        return Check("adc", name, value, expected)
    advice = _adc_advice(tissue, median, low)
    note = f"median ADC of {where} is {value}, expected {low:.0f} to {high:.0f}; {advice}"
    return Check("adc", name, value, expected, LOOK, note)


def adc_range(tissue: str, settings: QualityConfig) -> tuple[float, float]:
    """Expected median of a tissue, um2/s."""
    is_marrow = tissue == "marrow"
    return settings.marrow_adc_um2_per_s if is_marrow else settings.muscle_adc_um2_per_s


def _adc_advice(tissue: str, median: float, low: float) -> str:
    """What may be wrong with an ADC outside its range."""
    if median < 10:
        return "that is a value in 1e-3 mm²/s or mm²/s: check the unit of the ADC map"
    if median > 100_000:
        return "that is no value in µm²/s: check the unit of the ADC map"
    if median < low:
        return (
            "check the b-values of the DWI, the noise floor of b1000 and fat suppression "
            "(fat that is left lowers the ADC)"
        )
    more = (
        " or fluid; diffuse marrow disease and treatment raise it too" if tissue == "marrow" else ""
    )
    return f"check the b-values of the DWI and its alignment with T1 (neighbouring organs{more})"


def check_signal(
    b1000: Numbers, tissues: TissueLike | None, noise: Noise | None, settings: QualityConfig
) -> list[Check]:
    """Signal of muscle over noise, and of fat over muscle, on b1000."""
    fat_limit, least = f"at most {settings.max_fat_over_muscle:g}", f"at least {settings.min_snr:g}"
    if tissues is None:
        why = "no muscle and fat were found on T1"
        return [Check("noise", "Muscle over noise on b1000", "not measured", least, UNKNOWN, why)]
    muscle, fat = (float(np.median(b1000[m])) for m in (tissues.muscle, tissues.fat))
    ratio = fat / muscle if muscle > 0 else float("inf")
    note = (
        f"fat is {ratio:.1f} times as bright as muscle on b1000, expected {fat_limit}; "
        "fat was not suppressed well: look for bright fat on b1000, it can pass for a lesion and "
        "lowers the ADC of marrow"
    )
    checks = [
        Check("noise", "Fat over muscle on b1000", f"{ratio:.2f}", fat_limit,
              *((OK, "") if ratio <= settings.max_fat_over_muscle else (LOOK, note)))
    ]  # fmt: skip
    if noise is None:
        why = "no air with noise and too little soft tissue"
        return [
            *checks,
            Check("noise", "Muscle over noise on b1000", "not measured", least, UNKNOWN, why),
        ]
    snr = muscle / noise.sigma
    value = f"{snr:.1f}" if noise.method == "air" else f"{snr:.1f} at most ({noise.method})"
    note = (
        f"muscle is only {snr:.1f} times the noise on b1000, expected {least}; the noise floor "
        "lowers ADC and hides small lesions: look at the coils used and the number of averages"
    )
    bad = snr < settings.min_snr
    checks.append(
        Check(
            "noise",
            "Muscle over noise on b1000",
            value,
            least,
            *((LOOK, note) if bad else (OK, "")),
        )
    )
    return checks


def check_bones(skeleton: Numbers, voxel_volume_ml: float, settings: QualityConfig) -> Check:
    """Which of the nine bones the skeleton map holds."""
    volumes = bone_volumes_ml(skeleton, voxel_volume_ml)
    absent = [name.lower() for name, ml in volumes.items() if ml < settings.min_bone_ml]
    value = f"{len(volumes) - len(absent)} of {len(volumes)}"
    note = (
        f"the skeleton map lacks {', '.join(absent)}, expected all {len(volumes)} bones from head "
        "to thigh; no lesion can be named after them: check the coverage and the map"
    )
    verdict = (LOOK, note) if absent else (OK, "")
    return Check("coverage", "Bones in the skeleton map", value, f"{len(volumes)}", *verdict)

"""The quality report of one exam: numbers, what is expected of them, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.preprocess.quality_checks import (
    LOOK,
    Check,
    QualityConfig,
    adc_range,
    check_adc,
    check_bones,
    check_coverage,
    check_moves,
    check_seams,
    check_signal,
)
from osteosap.preprocess.quality_measures import (
    Spacing,
    body_ends,
    find_tissues,
    marrow_of_bones,
    measure_noise,
    thin,
)
from osteosap.volume import Volume

__all__ = [
    "Check",
    "QualityConfig",
    "QualityReport",
    "assess",
    "assess_skeleton",
    "chain_record",
]

Numbers = npt.NDArray[Any]
Record = Mapping[str, Any]

ADC_STEP_UM2_PER_S, ADC_TOP_UM2_PER_S = 50.0, 3000.0


@dataclass(frozen=True)
class QualityReport:
    """What was looked at in one exam.

    Parameters
    ----------
    checks
        In the order of the table.
    seams
        One row a pair of neighbouring stations and channel, as the chain recorded it.
    adc
        ``edges_um2_per_s`` (n + 1) and, for ``marrow`` and ``muscle``, ``counts`` (n), ``median``,
        ``n_voxels`` and ``expected``: a histogram to draw. Empty without ADC.
    ends
        See :class:`~osteosap.preprocess.quality_measures.BodyEnds`.
    limits
        Expected at most of the seams, by channel.
    """

    checks: tuple[Check, ...]
    seams: tuple[dict[str, Any], ...] = ()
    adc: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notes of what lies outside its expectation."""
        return tuple(c.note for c in self.checks if c.verdict == LOOK)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-serialisable; goes into the preprocessing record as ``quality``."""
        return {
            "checks": [asdict(c) for c in self.checks],
            "seams": [dict(s) for s in self.seams],
            "adc": self.adc,
            "ends": self.ends,
            "limits": self.limits,
            "warnings": list(self.warnings),
        }


def chain_record(steps: Iterable[Record], seams: Sequence[Record]) -> dict[str, Any]:
    """What :func:`assess` needs of the chain, picked from its steps by their names."""
    named = {str(step.get("step")): step for step in steps}
    return {
        "seams": list(seams),
        "alignment": named.get("align t1 stations", {}),
        "registration": named.get("registration", {}),
    }


def assess(
    images: Volume,
    body: Numbers,
    *,
    record: Record | None = None,
    skeleton: Numbers | None = None,
    config: QualityConfig | None = None,
) -> QualityReport:
    """Look at an exam and at what the chain recorded; nothing is changed, nothing raises.

    Parameters
    ----------
    images
        Channels ``t1``, ``b1000`` and, where known, ``adc`` (um2/s).
    body
        Mask, shape (I, J, K).
    record
        What the chain did, all parts optional: ``seams`` (mappings with ``channel`` ("t1" or
        "dwi"), ``pair``, ``mismatch_before``, ``mismatch_after``), ``alignment`` (lists
        ``shift_mm`` and ``accepted``, one a T1 station), ``registration`` (lists ``shift_mm``,
        ``displacement_mm``, ``rigid_accepted``, ``bspline_accepted``, one a DWI station). See
        :func:`chain_record`.
    skeleton
        Class map, where there is one: the ADC of marrow is then read in the bones.
    config
        Expectations.
    """
    settings, done = config or QualityConfig(), record or {}
    step = thin(images.spacing_mm)
    spacing = _stepped(images.spacing_mm, step)
    inside = np.asarray(body[step] > 0, dtype=np.bool_)
    t1, b1000 = images.channel("t1")[step], images.channel("b1000")[step]
    adc = images.channel("adc")[step] if "adc" in images.channels else None
    tissues = find_tissues(t1, b1000, inside, spacing)
    ends = body_ends(inside, b1000, spacing)
    masks = {} if tissues is None else {"marrow": tissues.marrow, "muscle": tissues.muscle}
    if skeleton is not None:
        masks["marrow"] = marrow_of_bones(skeleton[step], b1000)
    noise = measure_noise(b1000, inside, tissues.soft, spacing) if tissues else None
    bones = (
        [] if skeleton is None else [check_bones(skeleton, images.grid.voxel_volume_ml, settings)]
    )
    checks = [
        *check_coverage(ends, settings),
        *bones,
        *check_seams(done.get("seams", ()), settings),
        *check_moves(done, settings),
        *check_adc(
            adc, masks, settings, voxel_ml=_voxel_ml(spacing), in_bones=skeleton is not None
        ),
        *check_signal(b1000, tissues, noise, settings),
    ]
    seams = tuple(dict(s) for s in done.get("seams", ()))
    return QualityReport(
        tuple(checks),
        seams,
        adc=_histogram(adc, masks, settings, voxel_ml=_voxel_ml(spacing)),
        ends=asdict(ends),
        limits={"t1": settings.max_t1_mismatch, "dwi": settings.max_dwi_mismatch},
    )


def assess_skeleton(
    images: Volume, skeleton: Numbers, *, config: QualityConfig | None = None
) -> tuple[Check, ...]:
    """What the skeleton map adds once it is there: bones present, ADC of spine and pelvis."""
    settings = config or QualityConfig()
    step = thin(images.spacing_mm)
    adc = images.channel("adc")[step] if "adc" in images.channels else None
    masks = {"marrow": marrow_of_bones(skeleton[step], images.channel("b1000")[step])}
    found = [check_bones(skeleton, images.grid.voxel_volume_ml, settings)]
    if adc is not None:
        voxel_ml = _voxel_ml(_stepped(images.spacing_mm, step))
        found += check_adc(adc, masks, settings, voxel_ml=voxel_ml, in_bones=True)
    return tuple(found)


def _voxel_ml(spacing_mm: Spacing) -> float:
    return spacing_mm[0] * spacing_mm[1] * spacing_mm[2] / 1000.0


def _stepped(spacing_mm: Spacing, step: Sequence[slice]) -> Spacing:
    first, second, third = (s * (part.step or 1) for s, part in zip(spacing_mm, step, strict=True))
    return first, second, third


def _histogram(
    adc: Numbers | None, masks: Mapping[str, Numbers], settings: QualityConfig, *, voxel_ml: float
) -> dict[str, Any]:
    """Counts of ADC inside tissues, for the figure; what is above the top goes into the last."""
    if adc is None or not masks:
        return {}
    edges = np.arange(0.0, ADC_TOP_UM2_PER_S + ADC_STEP_UM2_PER_S, ADC_STEP_UM2_PER_S)
    drawn: dict[str, Any] = {"edges_um2_per_s": edges.tolist()}
    for name, mask in masks.items():
        values = adc[mask]
        if values.size * voxel_ml < settings.min_tissue_ml:
            continue
        counts, _ = np.histogram(np.clip(values, 0.0, edges[-1]), bins=edges)
        drawn[name] = {
            "counts": counts.tolist(),
            "median": round(float(np.median(values)), 4),
            "n_voxels": int(values.size),
            "expected": list(adc_range(name, settings)),
        }
    return drawn

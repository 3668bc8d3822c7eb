"""What a report is made of. Light to import: no drawing, no templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from osteosap.config import StageConfig
from osteosap.geometry import Array
from osteosap.reporting.findings import Lesion
from osteosap.volume import Volume

__all__ = ["LIMITS", "ReportConfig", "ReportContent"]

LIMITS = (
    "Not a medical device. It has no clinical evaluation and must not be used for diagnosis, "
    "treatment or follow-up of a patient.",
    "The weights shipped with osteosap were trained on simulated examinations only. How well they "
    "find metastases in patients is not known. What was used here is stated under Segmentation.",
    "Candidates can be false: bright organs, lymph nodes and benign bone findings look alike. "
    "Lesions can be missed, small ones above all. An empty table does not mean a healthy skeleton.",
    "Volumes and total burden are sums of voxels above a threshold. They need a reader's "
    "correction before they are used for volumetry or response.",
    "Regions come from an automatic skeleton map, which is least sure inside and next to lesions. "
    "Ribs and skull have no class there: a lesion in them stays unassigned, or takes the name of a "
    "neighbouring bone, in which case the distance is shown.",
    "Probability is the network's output. It ranks candidates; it is no calibrated chance of "
    "metastasis.",
    "No MET-RADS-P response category is assigned. That is a radiologist's judgement on morphology, "
    "signal and ADC together.",
)
"""What a reader must know about every result."""


class ReportConfig(StageConfig):
    """Settings of the report.

    Parameters
    ----------
    title
        Heading of the page. Put no patient's name or id there.
    n_close_ups
        The largest so many candidates are shown enlarged.
    n_numbered
        The largest so many candidates are numbered in the projections.
    """

    title: str = "Bone lesion candidates on whole-body MRI"
    n_close_ups: int = Field(default=8, ge=0)
    n_numbered: int = Field(default=12, ge=0)


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows.

    Parameters
    ----------
    images
        Channels ``t1``, ``b1000`` and, where known, ``adc``.
    skeleton, lesions
        Maps on the grid of the images (channels ``skeleton`` and ``lesions``).
    findings
        The measured lesions of the map.
    measurements
        From :func:`osteosap.reporting.findings.measurements`.
    series
        One mapping a series: what it was taken for and why.
    preprocessing, segmentation
        Records of these stages; ``preprocessing["quality"]`` is what the quality section shows.
    snapshots
        Planes before and after preprocessing (see :mod:`osteosap.reporting.quality_figures`);
        empty where none were kept.
    versions
        Of the software.
    warnings
        What a reader should know.
    simulated
        Whether the images are simulated; the report then says so at the top.
    created
        Date and time, shown as it is.
    """

    images: Volume
    skeleton: Volume
    lesions: Volume
    findings: tuple[Lesion, ...]
    measurements: Mapping[str, Any]
    series: tuple[Mapping[str, Any], ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    segmentation: Mapping[str, Any] = field(default_factory=dict)
    snapshots: Mapping[str, Array] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    simulated: bool = False
    created: str = ""

"""The paper's results, for a reader who compares: its table, its skeleton, its features.

Medians unless said otherwise, of 33 patients and three arms. Source: Wuts, Ceranka, Michoux,
Lecouvet, Vandemeulebroucke, J Bone Oncol 57 (2026) 100745, doi 10.1016/j.jbo.2026.100745.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "CITATION",
    "N_TEST_PATIENTS",
    "PAPER_FEATURES",
    "PAPER_SKELETON_DICE",
    "PAPER_TABLE",
    "PaperFeatures",
    "PaperRow",
]

CITATION = (
    "Wuts et al., Clinically aligned whole-body MRI segmentation of skeletal metastases via "
    "Supervised Anatomical Pretraining, J Bone Oncol 57 (2026) 100745, "
    "doi 10.1016/j.jbo.2026.100745"
)

N_TEST_PATIENTS = 33


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's table.

    Parameters
    ----------
    key
        Where our number for it is made (see :mod:`osteosap.reporting.study_tables`).
    title
        As a reader should see it.
    baseline, ssl, sap
        The paper's values.
    digits
        Decimals that the paper gives.
    """

    key: str
    title: str
    baseline: float
    ssl: float
    sap: float
    digits: int = 3

    def text(self, arm: str) -> str | None:
        """The value of an arm as the paper prints it; None for an arm that it does not have."""
        values = {"baseline": self.baseline, "ssl": self.ssl, "sap": self.sap}
        return f"{values[arm]:.{self.digits}f}" if arm in values else None


PAPER_TABLE: tuple[PaperRow, ...] = (
    PaperRow("sensitivity", "Sensitivity, all lesions", 0.273, 0.427, 0.714),
    PaperRow("precision", "Precision", 0.143, 0.200, 0.167),
    PaperRow("false_positives", "False positives per exam", 13, 9, 20, digits=0),
    PaperRow("f2", "F2", 0.259, 0.312, 0.448),
    PaperRow(
        "sensitivity_large", "Sensitivity, lesions ≥ 1 mL (mean per lesion)", 0.73, 0.81, 0.89, 2
    ),
    PaperRow(
        "false_positives_large", "False positives ≥ 1 mL per exam (mean)", 1.30, 0.33, 0.46, 2
    ),
    PaperRow("froc_area", "FROC area to 15 false positives per exam", 2.96, 4.82, 7.10, 2),
    PaperRow("dice_detected", "Dice, detected lesions", 0.560, 0.622, 0.662),
    PaperRow("nsd_detected", "Surface Dice (NSD), detected lesions", 0.665, 0.691, 0.775),
    PaperRow("dice_patient", "Dice per patient, misses as 0", 0.131, 0.241, 0.442),
    PaperRow("global_dice", "Global Dice", 0.212, 0.333, 0.463),
    PaperRow("icc", "ICC(2,1) of total burden", 0.309, 0.608, 0.649),
)
"""Every row of the paper's table, in its order."""

PAPER_SKELETON_DICE: Mapping[str, float] = {
    "merged": 0.90,
    "cervical_spine": 0.90,
    "thoracic_spine": 0.94,
    "lumbar_spine": 0.93,
    "pelvis": 0.80,
    "femur": 0.90,
    "humerus": 0.67,
    "scapula": 0.70,
    "clavicle": 0.83,
    "sternum": 0.85,
}
"""Dice of the paper's skeleton network by class."""


@dataclass(frozen=True)
class PaperFeatures:
    """Distances of bottleneck features before fine-tuning; ``within`` for the two classes."""

    centroid_distance: float
    within: tuple[float, float]


PAPER_FEATURES: Mapping[str, PaperFeatures] = {
    "ssl": PaperFeatures(9.85, (21.3, 21.4)),
    "sap": PaperFeatures(9.85, (10.0, 10.4)),
}
"""The paper's distances by arm."""

"""Numbers for one exam: Dice of maps, detection of lesions, Dice of lesions.

A value that is not defined is NaN here and ``null`` in written results; it is never replaced by
0 or 1 and never enters a mean.

==============================  ==========================================================
case                            answer
==============================  ==========================================================
no reference lesion             sensitivity NaN; F2 NaN without and 0 with a false positive
no prediction                   sensitivity 0, precision NaN, F2 0, lesion Dice 0 each
neither                         all NaN, false positives 0
lesion split by predictions     one hit; no prediction is false; Dice against their union
lesions merged by a prediction  every touched lesion is a hit; Dice of each against the whole
==============================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from osteosap.anatomy import N_CLASSES, REGIONS
from osteosap.errors import GeometryError, VolumeError
from osteosap.evaluation.matching import Matching
from osteosap.geometry import Array

__all__ = [
    "Detection",
    "LesionScore",
    "at_least",
    "detect",
    "dice",
    "mean_lesion_dice",
    "score_lesions",
    "skeleton_dice",
]

_EDGE = 1e-6
"""Share by which rounding may miss 'at least v mL': affines are stored as float32."""


def at_least(size: float, limit: float) -> bool:
    """Whether a volume or a number of voxels reaches a limit, but for rounding.

    Examples
    --------
    >>> at_least(0.99999995, 1.0), at_least(0.999, 1.0)
    (True, False)
    """
    return size >= limit * (1.0 - _EDGE)


def dice(reference: Array, prediction: Array) -> float:
    """Dice coefficient of two masks; NaN when both are empty.

    Parameters
    ----------
    reference, prediction
        Masks of one shape; everything that is not 0 is foreground.

    References
    ----------
    Dice 1945, doi 10.2307/1932409.
    """
    _require_shape(reference, prediction)
    both = int(np.count_nonzero((reference != 0) & (prediction != 0)))
    return _ratio(2 * both, int(np.count_nonzero(reference) + np.count_nonzero(prediction)))


def skeleton_dice(reference: Array, prediction: Array) -> dict[str, float]:
    """Dice per bone class and of the merged skeleton (class confusions forgiven).

    Parameters
    ----------
    reference, prediction
        Class maps of one shape, ids of :mod:`osteosap.anatomy`.

    Returns
    -------
    dice
        Region name, and ``"merged"``, to Dice; NaN for a class that neither map holds.

    Raises
    ------
    VolumeError
        A map holds an id that is no class.
    """
    _require_shape(reference, prediction)
    for what, array in (("reference", reference), ("prediction", prediction)):
        if array.size and (array.min() < 0 or array.max() >= N_CLASSES):
            raise VolumeError(
                f"the {what} skeleton map holds ids {array.min()} to {array.max()}, "
                f"expected 0 to {N_CLASSES - 1}",
                remedy="Map its labels to the class ids of osteosap.anatomy",
            )
    codes = reference.astype(np.uint16) * N_CLASSES + prediction.astype(np.uint16)
    counts = np.bincount(codes.ravel(order="K"), minlength=N_CLASSES**2)
    table = counts.reshape(N_CLASSES, N_CLASSES)
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    scores = {
        r.name: _ratio(2 * int(table[r.id, r.id]), int(rows[r.id] + columns[r.id])) for r in REGIONS
    }
    scores["merged"] = _ratio(2 * int(table[1:, 1:].sum()), int(rows[1:].sum() + columns[1:].sum()))
    return scores


@dataclass(frozen=True)
class LesionScore:
    """One lesion of either side and what it touches on the other.

    Parameters
    ----------
    id
        Instance id in its map.
    volume_ml
        Its volume.
    matches
        Ids of the lesions of the other side that share a voxel with it.
    dice
        Of the lesion and the union of what it touches; 0 when it touches nothing.
    touched_ml
        Volume of the union of what it touches.
    nsd, hausdorff95_mm, surface_distance_mm
        Of the same two masks: normalised surface Dice (0 when it touches nothing), and distances
        (NaN then). NaN where they were not asked for.
    region
        Bone it lies in, ``"unassigned"``, or empty without a skeleton map.
    centre_ras_mm
        Centre of its voxels.
    probability_peak
        Highest lesion probability inside it; NaN without a map.
    """

    id: int
    volume_ml: float
    matches: tuple[int, ...]
    dice: float
    touched_ml: float = 0.0
    nsd: float = math.nan
    hausdorff95_mm: float = math.nan
    surface_distance_mm: float = math.nan
    region: str = ""
    centre_ras_mm: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    probability_peak: float = math.nan

    @property
    def hit(self) -> bool:
        """Whether it touches anything."""
        return bool(self.matches)


def score_lesions(
    matching: Matching,
    voxel_volume_ml: float,
    *,
    reference_volume_ml: Mapping[int, float] | None = None,
) -> tuple[tuple[LesionScore, ...], tuple[LesionScore, ...]]:
    """Every reference lesion and every predicted lesion with its matches and Dice.

    Parameters
    ----------
    matching
        From :func:`osteosap.evaluation.matching.match_lesions`.
    voxel_volume_ml
        Volume of one voxel of the common grid.
    reference_volume_ml
        Volumes measured on the reference's own grid, where it was resampled.

    Returns
    -------
    references, predictions
    """
    own = reference_volume_ml or {}
    forward: dict[int, dict[int, int]] = {}
    backward: dict[int, dict[int, int]] = {}
    for (r, p), n in matching.overlaps.items():
        forward.setdefault(r, {})[p] = n
        backward.setdefault(p, {})[r] = n
    references = tuple(
        _score(
            identity, own.get(identity, size * voxel_volume_ml), size,
            touched=forward.get(identity, {}), others=matching.prediction,
            voxel_volume_ml=voxel_volume_ml,
        )
        for identity, size in matching.reference.items()
    )  # fmt: skip
    predictions = tuple(
        _score(
            identity, size * voxel_volume_ml, size,
            touched=backward.get(identity, {}), others=matching.reference,
            voxel_volume_ml=voxel_volume_ml,
        )
        for identity, size in matching.prediction.items()
    )  # fmt: skip
    return references, predictions


@dataclass(frozen=True)
class Detection:
    """Detection counts of one exam, or of several added up.

    Parameters
    ----------
    n_reference, n_detected
        Reference lesions that count, and those of them that a prediction of any size touches.
    n_true_predictions
        Predictions that touch a counted reference lesion.
    n_false_positives, false_positive_ml
        Predictions that count and touch no reference lesion of any size, and their volume.
    """

    n_reference: int
    n_detected: int
    n_true_predictions: int
    n_false_positives: int
    false_positive_ml: float

    @property
    def n_missed(self) -> int:
        """Reference lesions that count and that no prediction touches."""
        return self.n_reference - self.n_detected

    @property
    def sensitivity(self) -> float:
        """Detected / counted reference lesions."""
        return _ratio(self.n_detected, self.n_reference)

    @property
    def precision_reference_side(self) -> float:
        """Detected lesions / (detected lesions + false positives); the precision inside F2."""
        return _ratio(self.n_detected, self.n_detected + self.n_false_positives)

    @property
    def precision_prediction_side(self) -> float:
        """True predictions / (true predictions + false positives)."""
        return _ratio(self.n_true_predictions, self.n_true_predictions + self.n_false_positives)

    @property
    def f2(self) -> float:
        """F-score with recall weighted twice: 5 TP / (5 TP + 4 FN + FP)."""
        tp, fn, fp = self.n_detected, self.n_missed, self.n_false_positives
        return _ratio(5 * tp, 5 * tp + 4 * fn + fp)

    def to_mapping(self) -> dict[str, float]:
        """All counts and ratios by name; undefined ones are NaN."""
        return {
            "n_reference": self.n_reference,
            "n_detected": self.n_detected,
            "n_missed": self.n_missed,
            "n_true_predictions": self.n_true_predictions,
            "n_false_positives": self.n_false_positives,
            "false_positive_ml": self.false_positive_ml,
            "sensitivity": self.sensitivity,
            "precision_reference_side": self.precision_reference_side,
            "precision_prediction_side": self.precision_prediction_side,
            "f2": self.f2,
        }


def detect(
    references: Sequence[LesionScore],
    predictions: Sequence[LesionScore],
    *,
    min_volume_ml: float = 0.0,
) -> Detection:
    """Count hits, misses and false positives, of all lesions or of those from a volume on.

    With ``min_volume_ml = v``: reference lesions of at least v count; a prediction of any size
    detects them; only predictions of at least v can be false positives, and only when they touch
    no reference lesion of any size. A large prediction on a small lesion is neither.

    References
    ----------
    Wuts et al. 2026, doi 10.1016/j.jbo.2026.100745.
    """
    counted = [r for r in references if at_least(r.volume_ml, min_volume_ml)]
    counted_ids = {r.id for r in counted}
    false = [p for p in predictions if not p.hit and at_least(p.volume_ml, min_volume_ml)]
    return Detection(
        n_reference=len(counted),
        n_detected=sum(r.hit for r in counted),
        n_true_predictions=sum(bool(counted_ids.intersection(p.matches)) for p in predictions),
        n_false_positives=len(false),
        false_positive_ml=float(sum(p.volume_ml for p in false)),
    )


def mean_lesion_dice(references: Sequence[LesionScore], *, min_volume_ml: float = 0.0) -> float:
    """Mean Dice over the reference lesions of one exam, missed ones as 0; NaN without lesions."""
    values = [r.dice for r in references if at_least(r.volume_ml, min_volume_ml)]
    return float(np.mean(values)) if values else math.nan


def _score(
    identity: int,
    volume_ml: float,
    size: int,
    *,
    touched: Mapping[int, int],
    others: Mapping[int, int],
    voxel_volume_ml: float,
) -> LesionScore:
    shared = sum(touched.values())
    union = sum(others[other] for other in touched)
    return LesionScore(
        identity,
        volume_ml,
        tuple(touched),
        2 * shared / (size + union) if touched else 0.0,
        union * voxel_volume_ml,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _require_shape(reference: Array, prediction: Array) -> None:
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"the reference has shape {reference.shape}, the prediction {prediction.shape}",
            remedy="Bring both onto one grid first",
        )

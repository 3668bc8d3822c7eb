"""How far the features of lesion patches lie from those of background patches."""

from __future__ import annotations

import importlib
import logging
import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist

from osteosap.errors import TrainingError

__all__ = ["Separation", "embed", "separation", "usable_perplexity"]

_log = logging.getLogger(__name__)

FEWEST = 4
"""Patches that t-SNE needs at least."""


@dataclass(frozen=True)
class Separation:
    """Distances between and within the two classes, in units of the features.

    Parameters
    ----------
    n_lesion, n_background
        Patches.
    centroid_distance
        Euclidean, between the two mean vectors.
    within_lesion, within_background
        Mean Euclidean distance of two patches of the class; NaN for fewer than two.
    """

    n_lesion: int
    n_background: int
    centroid_distance: float
    within_lesion: float
    within_background: float

    @property
    def ratio(self) -> float:
        """Centroid distance in units of the mean distance within classes: has no scale."""
        within = 0.5 * (self.within_lesion + self.within_background)
        return self.centroid_distance / within if within > 0.0 else math.nan

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values; None where undefined."""
        values = asdict(self) | {"ratio": self.ratio}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def separation(features: npt.NDArray[np.floating], is_lesion: npt.NDArray[np.bool_]) -> Separation:
    """Distances between and within lesion and background patches.

    Parameters
    ----------
    features
        (N, F).
    is_lesion
        (N,).

    Raises
    ------
    TrainingError
        A class is empty, or a feature is not finite.
    """
    values = features.astype(np.float64)
    if not np.isfinite(values).all():
        raise TrainingError(
            f"{int((~np.isfinite(values)).sum())} features are not finite",
            remedy="Use precision float32, or train the encoder again",
        )
    lesion, background = values[is_lesion], values[~is_lesion]
    if not len(lesion) or not len(background):
        raise TrainingError(
            f"{len(lesion)} lesion and {len(background)} background patches, expected some of both",
            remedy="Use exams with lesions",
        )
    return Separation(
        len(lesion),
        len(background),
        float(np.linalg.norm(lesion.mean(axis=0) - background.mean(axis=0))),
        float(pdist(lesion).mean()) if len(lesion) > 1 else math.nan,
        float(pdist(background).mean()) if len(background) > 1 else math.nan,
    )


def usable_perplexity(wanted: float, n: int) -> float:
    """Perplexity for ``n`` patches: at most a third of the others, as t-SNE's authors advise.

    References
    ----------
    van der Maaten and Hinton 2008, https://jmlr.org/papers/v9/vandermaaten08a.html
    """
    return min(wanted, (n - 1) / 3.0)


def embed(
    features: npt.NDArray[np.floating], *, perplexity: float, seed: int
) -> npt.NDArray[np.float64] | None:
    """Place patches in a plane by t-SNE.

    Parameters
    ----------
    features
        (N, F), finite.
    perplexity
        Lowered, with a remark in the log, where there are few patches.
    seed
        Fixes the result.

    Returns
    -------
    plane
        float64 (N, 2), or None (with a remark) where scikit-learn is not installed.

    Raises
    ------
    TrainingError
        There are fewer than four patches.
    """
    n = len(features)
    if n < FEWEST:
        raise TrainingError(
            f"{n} patches, expected at least {FEWEST} for t-SNE", remedy="Add exams with lesions"
        )
    try:
        manifold = importlib.import_module("sklearn.manifold")
    except ModuleNotFoundError:
        _log.warning("no t-SNE and no figure: install scikit-learn (pip install scikit-learn)")
        return None
    used = usable_perplexity(perplexity, n)
    if used < perplexity:
        _log.warning("perplexity lowered from %g to %.2g for %d patches", perplexity, used, n)
    tsne = manifold.TSNE(n_components=2, perplexity=used, init="pca", random_state=seed)
    return np.asarray(tsne.fit_transform(features.astype(np.float32)), dtype=np.float64)

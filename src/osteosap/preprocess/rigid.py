"""Rigid registration of one image onto another (SimpleITK), coarse search first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Affine, Grid
from osteosap.preprocess.itk import one_thread, to_sitk
from osteosap.volume import Volume

__all__ = ["RigidSearch", "find_rigid", "smoothed"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Metric = Literal["mutual information", "correlation"]

ROUND = 5
"""Decimals of mm and radians that are kept."""
SEED = 42
"""Of the voxels that are drawn."""
BINS = 32
COARSE_STEP_MM = 5.0
"""Largest distance of the translations that are tried first."""
COARSE_SAMPLES = 4_000
FINE_SAMPLES = 30_000
"""Voxels of the mask that are compared in the first and in the second search."""


@dataclass(frozen=True)
class RigidSearch:
    """How to search.

    Parameters
    ----------
    metric
        What is maximised.
    rotation
        Whether to turn, too.
    reach_mm
        Translations up to this along each axis are tried first; 0: none is.
    """

    metric: Metric = "mutual information"
    rotation: bool = False
    reach_mm: float = 0.0


def smoothed(volume: Volume, sigma_mm: float) -> Floats:
    """The first channel, smoothed by a Gaussian where the voxels are finer than that."""
    sigma = sigma_mm / np.asarray(volume.spacing_mm)
    image = volume.array[0].astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(image, np.where(sigma > 0.3, sigma, 0.0)), np.float32)


def find_rigid(
    fixed: Numbers,
    mask: Numbers,
    grid: Grid,
    moving: Numbers,
    moving_grid: Grid,
    *,
    search: RigidSearch,
) -> Affine:
    """Motion from the fixed image's world to the moving one's.

    Parameters
    ----------
    fixed, mask
        Shape (I, J, K) on ``grid``; voxels where ``mask`` is not 0 are compared.
    moving
        Shape (I, J, K) on ``moving_grid``.

    Returns
    -------
    motion
        4x4, RAS mm; a point x of the fixed image is found at ``motion @ x``.

    Raises
    ------
    RuntimeError
        Of SimpleITK: no voxel of the mask lies on the moving image (any more).

    References
    ----------
    Mattes et al. 2003, doi 10.1109/TMI.2003.809072
    """
    where = np.argwhere(mask > 0)
    centre = grid.affine[:3, :3] @ where.mean(axis=0) + grid.affine[:3, 3]
    pair = _Images(
        to_sitk(np.asarray(fixed, np.float32), grid),
        to_sitk(np.asarray(moving, np.float32), moving_grid),
        to_sitk((mask > 0).astype(np.uint8), grid),
        len(where) / mask.size,
        centre,
    )
    start = _coarse(pair, search) if search.reach_mm > 0 else np.zeros(3)
    return _fine(pair, start, search)


@dataclass(frozen=True)
class _Images:
    """SimpleITK's images of a pair, the mask's share of the lattice and its middle in mm."""

    fixed: Any
    moving: Any
    mask: Any
    share: float
    centre: Doubles

    def method(self, samples: int, metric: Metric) -> Any:
        """A registration that looks at so many voxels of the mask."""
        import SimpleITK as sitk  # noqa: N813

        one_thread()
        method = sitk.ImageRegistrationMethod()
        if metric == "correlation":
            method.SetMetricAsCorrelation()
        else:
            method.SetMetricAsMattesMutualInformation(BINS)
        method.SetMetricFixedMask(self.mask)
        drawn = samples / max(self.share * self.fixed.GetNumberOfPixels(), 1.0)
        if drawn < 1:
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(drawn, SEED)
        method.SetInterpolator(sitk.sitkLinear)
        return method


def _coarse(pair: _Images, search: RigidSearch) -> Doubles:
    """The best translation of a lattice of trials."""
    import SimpleITK as sitk  # noqa: N813

    method = pair.method(COARSE_SAMPLES, search.metric)
    steps = int(np.ceil(search.reach_mm / COARSE_STEP_MM))
    shift = sitk.TranslationTransform(3)
    method.SetInitialTransform(shift, inPlace=True)
    method.SetOptimizerScales([1.0] * 3)
    method.SetOptimizerAsExhaustive([steps] * 3, stepLength=search.reach_mm / steps)
    method.Execute(pair.fixed, pair.moving)
    return np.asarray(shift.GetOffset(), dtype=np.float64)


def _fine(pair: _Images, start: Doubles, search: RigidSearch) -> Affine:
    """Gradient descent from a translation."""
    import SimpleITK as sitk  # noqa: N813

    method = pair.method(FINE_SAMPLES, search.metric)
    offset = [float(s) for s in start]
    if search.rotation:
        move = sitk.Euler3DTransform()
        move.SetCenter([float(c) for c in pair.centre])
        move.SetTranslation(offset)
    else:
        move = sitk.TranslationTransform(3, offset)
    method.SetInitialTransform(move, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.01, numberOfIterations=80, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.Execute(pair.fixed, pair.moving)
    found = np.round(move.GetParameters(), ROUND)
    motion = np.eye(4)
    if not search.rotation:
        motion[:3, 3] = found
        return motion
    move.SetParameters([float(f) for f in found])
    turn = np.asarray(move.GetMatrix(), dtype=np.float64).reshape(3, 3)
    motion[:3, :3] = turn
    motion[:3, 3] = np.asarray(move.GetTranslation()) + pair.centre - turn @ pair.centre
    return motion

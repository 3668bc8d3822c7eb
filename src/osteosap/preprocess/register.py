"""Bring DWI to the T1 grid: by scanner coordinates, optionally refined rigidly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.errors import GeometryError
from osteosap.geometry import Affine, Grid, inside_of, resample
from osteosap.preprocess.body import foreground_threshold
from osteosap.volume import Volume

__all__ = [
    "Refinement",
    "coverage_of",
    "mutual_information",
    "refine_rigid",
    "require_coverage",
    "tissue_outside",
]

Numbers = npt.NDArray[Any]

COARSE_MM = 4.0
"""Spacing at which the refinement works."""
SEED = 42


@dataclass(frozen=True)
class Refinement:
    """Outcome of a rigid refinement.

    Parameters
    ----------
    affine
        Affine of the DWI after refinement; the given one where it was rejected.
    accepted
        Whether mutual information grew and the shift was plausible.
    before, after
        Mutual information in nats with T1, inside the body.
    shift_mm
        Largest movement of a corner of the body's box.
    reason
        One sentence for the record.
    """

    affine: Affine
    accepted: bool
    before: float
    after: float
    shift_mm: float
    reason: str


def coverage_of(body: Numbers, target: Grid, source: Grid) -> float:
    """Share of the body (mask on ``target``, not empty) in the field of view of ``source``."""
    return float(inside_of(source, target)[body > 0].mean())


def tissue_outside(image: Numbers, grid: Grid, view: Grid) -> float:
    """Share of the tissue on an image (signal above air) that lies outside a field of view."""
    return float(1.0 - inside_of(view, grid)[image > foreground_threshold(image)].mean())


def require_coverage(share: float, *, minimum: float) -> None:
    """Raise :class:`GeometryError` if the DWI covers too little of the T1 body."""
    if share < minimum:
        raise GeometryError(
            f"the DWI covers {share:.1%} of the body on the T1, expected at least {minimum:.0%}",
            remedy="Check that T1 and DWI are of one examination and the same patient position",
        )


def mutual_information(a: Numbers, b: Numbers, mask: Numbers, *, bins: int = 32) -> float:
    """Mutual information in nats of two images inside a mask (joint histogram).

    References
    ----------
    Maes et al. 1997, doi 10.1109/42.563664
    """
    inside = mask > 0
    samples = [_to_bins(x[inside], bins) for x in (a, b)]
    joint = np.bincount(samples[0] * bins + samples[1], minlength=bins * bins)
    p = joint.reshape(bins, bins) / max(int(joint.sum()), 1)
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / outer[filled])).sum())


def refine_rigid(t1: Volume, body: Numbers, dwi: Volume, *, max_shift_mm: float) -> Refinement:
    """Refine the position of a DWI volume against T1 by a rigid transform (Mattes MI).

    The transform moves the DWI's affine; nothing is resampled here.

    Parameters
    ----------
    t1, dwi
        One channel each; for ``dwi`` the lowest b-value, which resembles anatomy most.
    body
        Mask on the grid of ``t1``.
    max_shift_mm
        Larger movements are rejected.

    References
    ----------
    Mattes et al. 2003, doi 10.1109/TMI.2003.809072
    """
    spacing = np.maximum(t1.spacing_mm, COARSE_MM)
    grid = t1.grid.with_spacing((float(spacing[0]), float(spacing[1]), float(spacing[2])))
    fixed = np.asarray(resample(t1.array[0], t1.grid, grid), np.float32)
    mask = np.asarray(resample(body.astype(np.uint8), t1.grid, grid, order=0), np.uint8)
    mask = np.where(inside_of(dwi.grid, grid), mask, 0).astype(np.uint8)
    before = mutual_information(fixed, resample(dwi.array[0], dwi.grid, grid), mask)
    motion = _optimise(fixed, mask, grid, dwi)
    affine = np.asarray(np.linalg.inv(motion) @ dwi.affine, dtype=np.float64)
    moved = Grid(dwi.grid.shape, affine)
    after = mutual_information(fixed, resample(dwi.array[0], moved, grid), mask)
    shift = _largest_shift(motion, grid, mask)
    if shift > max_shift_mm:
        why = f"rejected: it would move the DWI by {shift:.1f} mm (limit {max_shift_mm:g})"
        return Refinement(dwi.affine, False, before, after, shift, why)
    if after <= before:
        why = f"rejected: mutual information does not grow ({before:.4f} to {after:.4f})"
        return Refinement(dwi.affine, False, before, after, shift, why)
    why = f"accepted: mutual information {before:.4f} to {after:.4f}, shift {shift:.1f} mm"
    return Refinement(affine, True, before, after, shift, why)


def _to_bins(values: Numbers, bins: int) -> npt.NDArray[np.intp]:
    if values.size == 0:
        return np.zeros(0, np.intp)
    low, high = np.percentile(values, [0.5, 99.5])
    scaled = (values.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.asarray(np.clip(scaled * bins, 0, bins - 1), dtype=np.intp)


def _optimise(fixed: Numbers, mask: Numbers, grid: Grid, dwi: Volume) -> Affine:
    """Rigid transform from T1 to DWI coordinates, as a 4x4 matrix in RAS mm."""
    import SimpleITK as sitk  # noqa: N813

    smooth = np.maximum(COARSE_MM / np.asarray(dwi.spacing_mm) / 2 - 0.5, 0)
    moving = ndimage.gaussian_filter(dwi.array[0].astype(np.float32), smooth)
    images = [_to_sitk(fixed, grid), _to_sitk(moving, dwi.grid)]
    region = _to_sitk(mask, grid)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # reproducible
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(region)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.5, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    centre = grid.affine[:3, :3] @ ((np.asarray(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    start = sitk.Euler3DTransform()
    start.SetCenter([float(c) for c in centre])
    method.SetInitialTransform(start, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.05, numberOfIterations=60
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.Execute(*images)
    matrix = np.asarray(start.GetMatrix(), dtype=np.float64).reshape(3, 3)
    motion = np.eye(4)
    motion[:3, :3] = matrix
    motion[:3, 3] = np.asarray(start.GetTranslation()) + centre - matrix @ centre
    return motion


def _to_sitk(array: Numbers, grid: Grid) -> Any:
    """A SimpleITK image whose physical space is RAS mm (the toolkit does not mind)."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing([float(s) for s in grid.spacing_mm])
    image.SetOrigin([float(o) for o in grid.affine[:3, 3]])
    direction = grid.affine[:3, :3] / grid.spacing_mm
    image.SetDirection([float(v) for v in direction.ravel()])
    return image


def _largest_shift(motion: Affine, grid: Grid, mask: Numbers) -> float:
    where = np.argwhere(mask > 0)
    if where.size == 0:
        return 0.0
    low, high = where.min(axis=0), where.max(axis=0)
    ends = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
    points = grid.affine[:3, :3] @ corners + grid.affine[:3, 3:]
    moved = motion[:3, :3] @ points + motion[:3, 3:]
    return float(np.linalg.norm(moved - points, axis=0).max())

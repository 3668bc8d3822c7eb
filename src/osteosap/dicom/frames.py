"""From a station image to the slices of a DICOM series: grey levels, geometry, decoys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from osteosap.errors import GeometryError, VolumeError
from osteosap.exam import StationImage
from osteosap.geometry import Affine, flip_lps_ras, to_ras

__all__ = [
    "GREY_LEVELS",
    "Frames",
    "Scale",
    "decimals",
    "decoy_of",
    "frames_of",
    "localizer_of",
    "plane_of",
    "tops_of",
]

GREY_LEVELS = 4095
"""Largest pixel value: 12 bits, as scanners write."""

_AIR = GREY_LEVELS // 20
"""Ours: T1 grey levels below this are air in decoys."""


@dataclass(frozen=True)
class Scale:
    """Stored value = intensity x ``factor``; displayed value = stored value x ``slope``."""

    factor: float
    slope: float = 1.0


@dataclass(frozen=True)
class Frames:
    """One volume of a series.

    Parameters
    ----------
    pixels
        (K, rows, columns), uint16 up to :data:`GREY_LEVELS`.
    affine_lps
        Index (column, row, slice) to LPS mm, axes at right angles.
    scale
        How ``pixels`` came from intensities.
    station
        Bed position, from 1.
    b_value
        In s/mm2, whole; None where the image is not diffusion-weighted.
    """

    pixels: npt.NDArray[np.uint16]
    affine_lps: Affine
    scale: Scale
    station: int = 1
    b_value: int | None = None


def frames_of(image: StationImage, scale: Scale, *, station: int) -> Frames:
    """Slices of a station as DICOM lays them: rows to the left, columns to the back.

    Raises
    ------
    GeometryError
        Axes that are not at right angles, which DICOM cannot say.
    """
    array, affine = to_ras(image.volume.array[0], image.volume.affine)
    turned = affine @ _flip_in_plane(array.shape)
    grey = np.clip(np.rint(array[::-1, ::-1].astype(np.float64) * scale.factor), 0, GREY_LEVELS)
    b_value = image.b_value_s_per_mm2
    return Frames(
        grey.transpose(2, 1, 0).astype(np.uint16),
        _require_right_angles(flip_lps_ras(turned)),
        scale,
        station,
        None if b_value is None else round(b_value),
    )


def localizer_of(full: Frames) -> tuple[Frames, ...]:
    """Middle slice of a station in each of the three planes."""
    frames = []
    for axis in range(3):
        # axis of the pixels (K, rows, columns) that becomes the slice axis; cyclic, so that
        # the axes stay right-handed
        order = (axis, (axis + 1) % 3, (axis + 2) % 3)
        middle = full.pixels.shape[axis] // 2
        pixels = np.take(full.pixels.transpose(order), [middle], axis=0)
        columns = [2 - order[2], 2 - order[1], 2 - order[0]]
        affine = full.affine_lps[:, [*columns, 3]].copy()
        affine[:, 3] += affine[:, 2] * middle
        frames.append(replace(full, pixels=pixels, affine_lps=affine))
    return tuple(frames)


def decoy_of(t1: Frames, kind: str) -> Frames:
    """Another contrast made up from T1 slices: it looks a little like it, and only has to be told.

    Parameters
    ----------
    t1
        Slices of a T1 station.
    kind
        ``"t2"`` (grey levels of the body inverted), ``"stir"`` (the same, squared, so that fat is
        black) or ``"dixon_fat"`` (what is bright on T1).
    """
    grey = t1.pixels.astype(np.float64) / GREY_LEVELS
    made = {
        "t2": 1.0 - grey,
        "stir": (1.0 - grey) ** 2,
        "dixon_fat": np.clip(2.0 * grey - 0.6, 0.0, 1.0),
    }[kind]
    made = np.where(t1.pixels < _AIR, grey, made)
    return replace(t1, pixels=np.rint(made * GREY_LEVELS).astype(np.uint16))


def tops_of(images: Sequence[StationImage]) -> dict[tuple[str, str], float]:
    """Largest intensity of each kind and group; at least 0.

    Raises
    ------
    VolumeError
        Values that are not finite.
    """
    largest: dict[tuple[str, str], float] = {}
    for image in images:
        array = image.volume.array
        if not np.isfinite(array).all():
            raise VolumeError(
                f"a {image.kind} station holds values that are not finite",
                remedy="Find the step of the simulation that made them",
            )
        key = (image.kind, image.group)
        largest[key] = max(largest.get(key, 0.0), float(array.max()))
    return largest


def plane_of(frames: Frames) -> str:
    """``"axial"``, ``"coronal"`` or ``"sagittal"``, whichever is nearest."""
    normal = np.abs(np.cross(frames.affine_lps[:3, 0], frames.affine_lps[:3, 1]))
    return ("sagittal", "coronal", "axial")[int(np.argmax(normal))]


def decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM allows, with all digits that fit."""
    texts = []
    for value in values:
        number = float(value) + 0.0
        digits = next(d for d in range(15, 0, -1) if len(f"{number:.{d}g}") <= 16)
        texts.append(f"{0.0 if abs(number) < 1e-12 else number:.{digits}g}")
    return texts


def _flip_in_plane(shape: tuple[int, ...]) -> Affine:
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = shape[0] - 1, shape[1] - 1
    return flip


def _require_right_angles(affine: Affine) -> Affine:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    worst = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if worst > 1e-4:
        raise GeometryError(
            f"the axes of a station are not at right angles (cosine {worst:.4f})",
            remedy="Resample it onto a grid without shear before writing",
        )
    return affine

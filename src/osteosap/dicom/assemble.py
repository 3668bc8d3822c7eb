"""From the slices of one station to a volume in RAS, with the scanner's rescaling applied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from osteosap.dicom.headers import ImageHeader
from osteosap.dicom.pixels import PixelReader
from osteosap.dicom.stations import SAME_POSITION_MM, check_spacing, positions_of
from osteosap.errors import StudyError
from osteosap.geometry import Affine, flip_lps_ras, to_ras
from osteosap.volume import Volume

__all__ = ["affine_lps", "read_station"]

Floats = npt.NDArray[np.float32]


def affine_lps(first: ImageHeader, last: ImageHeader, n_slices: int) -> Affine:
    """Index (column, row, slice) to LPS mm, from the first and the last slice of a stack.

    Follows DICOM PS3.3 C.7.6.2.1.1.
    """
    orientation = np.asarray(first.orientation_lps, dtype=np.float64)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * first.pixel_spacing_mm[1]
    affine[:3, 1] = orientation[3:] * first.pixel_spacing_mm[0]
    start, end = np.asarray(first.position_lps_mm), np.asarray(last.position_lps_mm)
    affine[:3, 2] = (end - start) / (n_slices - 1)
    affine[:3, 3] = start
    return affine


def read_station(
    headers: Sequence[ImageHeader], *, channel: str, what: str, pixels: PixelReader | None = None
) -> tuple[Volume, tuple[str, ...]]:
    """Read the pixels of one station.

    Parameters
    ----------
    headers
        All slices of one contrast or b-value at one station. Several images at a position are
        diffusion directions (or repetitions): their geometric mean is taken, trace-weighted
        images being preferred where both are there.
    channel
        Name of the volume's channel.
    what
        How messages name these images.
    pixels
        Reader to share between stations, so that a file of several frames is decoded once.

    Returns
    -------
    volume, warnings
        float32, axes turned to RAS.

    Raises
    ------
    StudyError
        Slices are missing or unevenly spaced, or pixels cannot be read or are not finite.
    """
    reader = pixels or PixelReader()
    kept, warnings = _prefer_trace(headers, what)
    check_spacing(kept, what=what)
    stacks = _group_positions(kept)
    counts = {len(s) for s in stacks}
    if len(counts) > 1:
        raise StudyError(
            f"{what} has {min(counts)} images at some slice positions and {max(counts)} at others",
            remedy="Export or copy the series again with all its images",
        )
    if counts != {1}:
        warnings += (
            f"{what}: {counts.pop()} images at each position, taken as diffusion directions; "
            "their geometric mean is used",
        )
    if any(h.lossy for h in kept):
        warnings += (
            f"{what}: the pixels went through lossy compression; intensities and ADC are not quite "
            "those that were measured",
        )
    slices = np.stack([_geometric_mean([reader.read(h, what=what) for h in s]) for s in stacks])
    _require_finite(slices, kept, what)
    affine = flip_lps_ras(affine_lps(stacks[0][0], stacks[-1][0], len(stacks)))
    array, affine = to_ras(slices.transpose(2, 1, 0), affine)
    return Volume.single(array, affine, channel), warnings


def _prefer_trace(
    headers: Sequence[ImageHeader], what: str
) -> tuple[tuple[ImageHeader, ...], tuple[str, ...]]:
    trace = tuple(h for h in headers if h.directionality == "trace")
    single = [h for h in headers if h.directionality == "direction"]
    if not trace or not single:
        return tuple(headers), ()
    return trace, (
        f"{what}: trace-weighted images are used, {len(single)} of single directions are not",
    )


def _group_positions(headers: Sequence[ImageHeader]) -> list[list[ImageHeader]]:
    """Slices in rising order along the normal, images of one position together."""
    positions = positions_of(headers)
    groups: list[list[ImageHeader]] = []
    previous = -np.inf
    for index in np.argsort(positions, kind="stable"):
        if positions[index] - previous > SAME_POSITION_MM:
            groups.append([])
        groups[-1].append(headers[index])
        previous = positions[index]
    return groups


def _geometric_mean(images: list[Floats]) -> Floats:
    if len(images) == 1:
        return images[0]
    logarithms = np.log(np.maximum(np.stack(images), 1e-6))
    return np.asarray(np.exp(logarithms.mean(axis=0)), dtype=np.float32)


def _require_finite(slices: Floats, headers: Sequence[ImageHeader], what: str) -> None:
    if np.isfinite(slices).all():
        return
    odd = sorted({h.rescale for h in headers if not np.isfinite(h.rescale).all()})
    cause = f"; their rescale slope and intercept are {odd[0]}" if odd else ""
    raise StudyError(
        f"{what}: {int((~np.isfinite(slices)).sum())} of {slices.size} voxels are NaN or infinite"
        f"{cause}, expected finite values",
        remedy="Export the series again from the scanner or the archive",
    )

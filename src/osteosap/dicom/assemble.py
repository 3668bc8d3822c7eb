"""From the slices of one station to a volume in RAS, with the scanner's rescaling applied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pydicom

from osteosap.dicom.headers import ImageHeader, quiet_pydicom
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
    headers: Sequence[ImageHeader], *, channel: str, what: str
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

    Returns
    -------
    volume, warnings
        float32, axes turned to RAS.

    Raises
    ------
    StudyError
        Slices are missing or unevenly spaced, or pixels cannot be read.
    """
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
    slices = np.stack([_geometric_mean([_read_pixels(h, what) for h in s]) for s in stacks])
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


def _read_pixels(header: ImageHeader, what: str) -> Floats:
    """One slice (rows, columns), slope and intercept applied."""
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(header.path)
            pixels = np.asarray(dataset.pixel_array, dtype=np.float32)
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, OSError) as error:
        raise StudyError(
            f"{what}: the pixels of image {header.instance_number} cannot be decoded "
            f"({type(error).__name__})",
            remedy="Export the series again, uncompressed (explicit VR little endian)",
        ) from error
    if pixels.shape != (header.rows, header.columns):
        raise StudyError(
            f"{what}: image {header.instance_number} has pixels of shape {pixels.shape}, "
            f"expected {(header.rows, header.columns)} in grey values",
            remedy="Export the series again as grey-value images",
        )
    slope = float(dataset.get("RescaleSlope", None) or 1.0)
    intercept = float(dataset.get("RescaleIntercept", None) or 0.0)
    return np.asarray(pixels * slope + intercept, dtype=np.float32)

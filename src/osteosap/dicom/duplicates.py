"""Images that are there twice: copies of a file, and equal images under another name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import pydicom

from osteosap.dicom.headers import ImageHeader, quiet_pydicom

__all__ = ["drop_duplicates"]

Headers = tuple[ImageHeader, ...]


def drop_duplicates(headers: Sequence[ImageHeader]) -> tuple[Headers, tuple[str, ...]]:
    """Keep one file an image.

    Files of one identifier (SOP instance) hold one image by the rules of DICOM. Images of one
    series with other identifiers are duplicates where contrast, position and the stored pixels are
    the same. Only images at a position that others of the series share are opened for that.

    Returns
    -------
    headers, warnings
        The warnings count what was dropped, by series.
    """
    kept: dict[tuple[object, ...], ImageHeader] = {}
    dropped: Counter[str] = Counter()
    for index, header in enumerate(headers):
        key = (header.sop_uid or f"file {index}", header.frame)
        if key in kept:
            dropped[f"series {header.series_number}"] += 1
        kept.setdefault(key, header)
    warnings = [f"{name}: {n} duplicate files dropped" for name, n in dropped.items()]
    images = tuple(kept.values())
    repeats = [h for group in _by_contrast(images) for h in _repeats(group)]
    for name, n in Counter(f"series {h.series_number}" for h in repeats).items():
        warnings.append(
            f"{name}: {n} images dropped that repeat others at the same position, pixel by pixel"
        )
    gone = {id(h) for h in repeats}
    return tuple(h for h in images if id(h) not in gone), tuple(warnings)


def _by_contrast(headers: Headers) -> list[list[ImageHeader]]:
    """Classic images of a series that only their position should tell apart."""
    groups: dict[tuple[object, ...], list[ImageHeader]] = {}
    for h in headers:
        if h.frame is None and h.has_geometry and h.series_uid:
            contrast = (h.image_type, h.echo_time_ms, h.b_value_s_per_mm2, h.directionality)
            station = (h.acquisition_number, h.table_position, h.orientation_lps, h.rows, h.columns)
            key = (h.series_uid, *contrast, *station)
            groups.setdefault(key, []).append(h)
    return list(groups.values())


def _repeats(headers: list[ImageHeader]) -> list[ImageHeader]:
    """Images whose pixels another image at their position has too.

    Where most positions hold several images by design (directions, phases), equal ones, such as
    empty slices, are kept unless what remains has one number of images at all positions.
    """
    places: dict[tuple[float, ...], list[ImageHeader]] = {}
    for h in headers:
        places.setdefault(tuple(round(x, 2) + 0.0 for x in h.position_lps_mm), []).append(h)
    if len(places) == len(headers):
        return []
    repeats: list[ImageHeader] = []
    left = []
    for images in places.values():
        seen: set[bytes] = set()
        for image in images if len(images) > 1 else ():
            digest = _digest(image)
            repeats += [image] if digest in seen else []
            seen.add(digest)
        left.append(len(seen) if len(images) > 1 else 1)
    counts = sorted(len(images) for images in places.values())
    by_design = counts[len(counts) // 2] > 1
    return [] if by_design and len(set(left)) > 1 else repeats


def _digest(header: ImageHeader) -> bytes:
    """Of the stored pixels and their rescaling; unreadable pixels are like no others."""
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(
                header.path, specific_tags=["PixelData", "FloatPixelData", "DoubleFloatPixelData"]
            )
        content = b"".join(bytes(element.value) for element in dataset)
    except Exception:  # pydicom raises many kinds; reading the image says what is wrong
        content = str(header.path).encode()
    return hashlib.sha256(repr(header.rescale).encode() + content).digest()

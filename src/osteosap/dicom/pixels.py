"""Pixels of single images, rescaled; files of several frames are decoded once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from osteosap.dicom.headers import NATIVE_SYNTAXES, ImageHeader, quiet_pydicom
from osteosap.errors import StudyError

__all__ = ["PixelReader", "require_decodable"]

Floats = npt.NDArray[np.float32]

_PIXEL_TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]
"""All that decoding looks at: the rest of a header takes longer to read than the pixels."""

_REMEDY = (
    "Export the series again, uncompressed (explicit VR little endian) or as JPEG 2000 lossless"
)


class PixelReader:
    """Reads images one by one and keeps the frames of the enhanced file read last.

    Images of a volume should come one after another: their file is then decoded once.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: npt.NDArray[Any] = np.empty(0)

    def read(self, header: ImageHeader, *, what: str) -> Floats:
        """Grey values (rows, columns) of one image, slope and intercept applied.

        Raises
        ------
        StudyError
            The pixels cannot be decoded, or are no grey values.
        """
        try:
            pixels = self._stored(header)
        except (ValueError, RuntimeError, AttributeError, NotImplementedError, OSError) as error:
            raise StudyError(
                f"{what}: the pixels of image {header.instance_number}, "
                f"{_describe(header.transfer_syntax)}, cannot be decoded ({type(error).__name__})",
                remedy=_REMEDY,
            ) from error
        if pixels.shape != (header.rows, header.columns):
            raise StudyError(
                f"{what}: image {header.instance_number} has pixels of shape {pixels.shape}, "
                f"expected {(header.rows, header.columns)} in grey values",
                remedy="Export the series again as grey-value images",
            )
        slope, intercept = header.rescale
        return np.asarray(pixels * np.float32(slope) + np.float32(intercept), dtype=np.float32)

    def _stored(self, header: ImageHeader) -> Floats:
        if header.frame is None:
            return np.asarray(_decode(header), dtype=np.float32)
        if self._path != header.path:
            self._path, self._frames = None, np.empty(0)  # free it before the next is decoded
            frames = _decode(header)
            shape = (-1, *frames.shape[-2:]) if frames.ndim in (2, 3) else frames.shape
            self._path, self._frames = header.path, frames.reshape(shape)
        return np.asarray(self._frames[header.frame], dtype=np.float32)


def _decode(header: ImageHeader) -> npt.NDArray[Any]:
    """Stored values of a file, as they are."""
    with quiet_pydicom():
        dataset = pydicom.dcmread(header.path, specific_tags=_PIXEL_TAGS, force=True)
        decoder = get_decoder(UID(header.transfer_syntax))
        pixels, _ = decoder.as_array(dataset, raw=True)
        return np.asarray(pixels)


def require_decodable(headers: Iterable[ImageHeader], *, what: str) -> None:
    """Raise :class:`StudyError` where no decoder for the pixels' compression is installed."""
    for syntax in sorted({h.transfer_syntax for h in headers} - set(NATIVE_SYNTAXES)):
        try:
            missing = get_decoder(UID(syntax)).missing_dependencies
            available = get_decoder(UID(syntax)).is_available
        except NotImplementedError:
            missing, available = [], False
        if available:
            continue
        hint = f"Install one of {'; '.join(missing)}, or export" if missing else "Export"
        raise StudyError(
            f"{what}: its pixels are {_describe(syntax)}, which cannot be decoded",
            remedy=_REMEDY.replace("Export", hint, 1),
        )


def _describe(syntax: str) -> str:
    """A transfer syntax in words and as UID."""
    uid = UID(syntax)
    name = uid.name if uid.name != syntax else "an unknown transfer syntax"
    return f"encoded as {name} ({syntax})"

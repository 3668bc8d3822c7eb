"""Histogram standardisation by Nyul and Udupa: fitted on a cohort, applied to one exam.

MR signal has no unit. The landmarks of a cohort's histograms (1st and 99th percentile and the
deciles between, inside the body) are averaged on one scale; the histogram of a single exam is then
stretched piecewise so that its own landmarks fall on them. ADC has a unit and is left alone.

References
----------
.. [1] Nyul & Udupa 1999, Magn Reson Med 42:1072
   (doi 10.1002/(SICI)1522-2594(199912)42:6<1072::AID-MRM11>3.0.CO;2-M).
.. [2] Nyul, Udupa, Zhang 2000, IEEE Trans Med Imaging 19:143 (doi 10.1109/42.836373).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from osteosap.config import StageConfig
from osteosap.errors import ConfigError, VolumeError
from osteosap.exam import INPUT_CHANNELS
from osteosap.volume import Volume

__all__ = ["Landmarks", "Standard", "StandardConfig", "apply_standard", "fit_standard"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def _check_percentiles(percentiles: tuple[float, ...]) -> None:
    rising = all(a < b for a, b in pairwise(percentiles))
    if len(percentiles) < 2 or not rising or percentiles[0] < 0 or percentiles[-1] > 100:
        raise ValueError(f"percentiles {percentiles}, expected two or more, rising, from 0 to 100")


class StandardConfig(StageConfig):
    """How a standard is fitted."""

    channels: tuple[str, ...] = INPUT_CHANNELS
    """Channels that get a standard; not ``adc``, which has a unit."""
    percentiles: tuple[float, ...] = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
    """Landmarks of a histogram: both ends and the deciles [2]."""
    scale: tuple[float, float] = (10.0, 100.0)
    """Standard values of the two ends. The lower one is above 0, which means "nothing seen"."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        _check_percentiles(self.percentiles)
        if not 0 < self.scale[0] < self.scale[1]:
            raise ValueError(f"scale {self.scale}, expected 0 < lower end < upper end")
        return self


class Landmarks(StageConfig):
    """Standard histogram of one channel."""

    percentiles: tuple[float, ...]
    """Rising, 0 to 100."""
    values: tuple[float, ...]
    """Standard signal at each percentile, not falling."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        _check_percentiles(self.percentiles)
        if len(self.values) != len(self.percentiles):
            raise ValueError(
                f"{len(self.values)} values for {len(self.percentiles)} percentiles, "
                "expected as many"
            )
        if any(b < a for a, b in pairwise(self.values)) or not self.values[-1] > self.values[0]:
            raise ValueError(f"values {self.values}, expected them to rise")
        return self


class Standard(StageConfig):
    """A cohort's standard histograms; what :func:`apply_standard` needs of a cohort."""

    channels: dict[str, Landmarks]
    """By the channel's name."""
    n_exams: int = Field(ge=1)
    """Exams it was fitted on."""

    def to_json(self) -> str:
        """As text that :meth:`from_json` reads."""
        return json.dumps(self.to_mapping(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote; anything else raises :class:`ConfigError`."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"the intensity standard is not JSON (line {error.lineno})",
                remedy="Fit it again, or point to the file that the fit wrote",
            ) from error
        if not isinstance(values, dict):
            raise ConfigError(
                f"the intensity standard holds a {type(values).__name__}, expected an object",
                remedy="Fit it again, or point to the file that the fit wrote",
            )
        return cls.from_mapping(values)


def fit_standard(
    images: Iterable[tuple[Volume, Numbers]], config: StandardConfig | None = None
) -> Standard:
    """Standard histograms of a cohort.

    Each exam's ends are mapped linearly on the scale, which takes gain and offset out; the
    landmarks between are then joined by their median over exams. (The paper takes the mean; the
    median is ours, so that one odd exam moves nothing.)

    Parameters
    ----------
    images
        One ``(images, body)`` an exam: a volume with the configured channels, and its body mask,
        shape (I, J, K). Read one at a time: a generator keeps one exam in memory. Use exams that
        show about the same part of the body, after bias correction.
    config
        Settings.

    Raises
    ------
    VolumeError
        There is no exam, a channel is missing, or an image has no histogram (see
        :func:`apply_standard`); the number of the exam is said.
    """
    settings = config or StandardConfig()
    low, high = settings.scale
    found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in settings.channels}
    n_exams = 0
    for volume, mask in images:
        n_exams += 1
        for name in settings.channels:
            what = f"'{name}' of exam {n_exams}"
            marks = _landmarks(volume.channel(name), mask, settings.percentiles, what=what)
            share = (marks - marks[0]) / (marks[-1] - marks[0])
            found[name].append(low + share * (high - low))
    if not n_exams:
        raise VolumeError(
            "no exam to fit the intensity standard on", remedy="Give at least one exam"
        )
    return Standard(
        channels={
            name: Landmarks(
                percentiles=settings.percentiles,
                values=tuple(float(v) for v in np.median(marks, axis=0)),
            )
            for name, marks in found.items()
        },
        n_exams=n_exams,
    )


def apply_standard(array: Numbers, mask: Numbers, landmarks: Landmarks) -> Floats:
    """Bring one channel of one exam to a standard.

    Piecewise linear between the landmarks; the first and the last piece go on beyond the ends,
    down to 0 at least. Never falling: where landmarks of the exam coincide, their common signal
    gets the mean of their standard values.

    Parameters
    ----------
    array
        Shape (I, J, K), not negative. 0 means that nothing was seen there (air, outside the field
        of view); such voxels do not count and stay 0.
    mask
        Body, same shape.
    landmarks
        Of this channel, from :attr:`Standard.channels`.

    Returns
    -------
    standardised
        float32, same shape; inside the body about within the scale of the standard.

    Raises
    ------
    VolumeError
        Values are NaN or infinite, shapes differ, the mask holds no signal, or the signal in it
        is constant.
    """
    marks = _landmarks(array, mask, landmarks.percentiles, what="the image")
    values = np.asarray(landmarks.values, np.float64)
    places, which = np.unique(marks, return_inverse=True)
    targets = np.bincount(which, weights=values) / np.bincount(which)
    first = (targets[1] - targets[0]) / (places[1] - places[0])
    last = (targets[-1] - targets[-2]) / (places[-1] - places[-2])
    out = np.empty(array.shape, np.float32)
    for part, result in zip(array, out, strict=True):  # plane by plane: float64 only there
        signal = part.astype(np.float64)
        mapped = np.interp(signal, places, targets)
        mapped += first * np.minimum(signal - places[0], 0.0)
        mapped += last * np.maximum(signal - places[-1], 0.0)
        result[...] = np.where(signal == 0, 0.0, np.maximum(mapped, 0.0))
    return out


def _landmarks(
    array: Numbers, mask: Numbers, percentiles: tuple[float, ...], *, what: str
) -> npt.NDArray[np.float64]:
    """Percentiles of the signal inside a mask; voxels of 0 do not count."""
    if mask.shape != array.shape:
        raise VolumeError(
            f"{what} has shape {array.shape}, its body mask {mask.shape}",
            remedy="Bring the mask to the grid of the image",
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise VolumeError(
            f"{what} holds {bad} values that are NaN or infinite, expected none",
            remedy="Find the step that made them",
        )
    inside = array[(mask != 0) & (array != 0)]
    if not inside.size:
        raise VolumeError(
            f"{what} holds no signal inside the body mask ({int(np.count_nonzero(mask))} voxels)",
            remedy="Check the body mask, and that the field of view shows the body",
        )
    marks = np.percentile(inside.astype(np.float64), percentiles)
    if not marks[-1] > marks[0]:
        raise VolumeError(
            f"{what}: percentiles {percentiles[0]:g} and {percentiles[-1]:g} inside the body are "
            f"both {marks[0]:g}, expected an image with contrast",
            remedy="Check that the image shows the body and is not constant",
        )
    return np.asarray(marks, np.float64)

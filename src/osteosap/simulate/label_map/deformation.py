"""Smooth random deformation, and label maps seen through it.

A place of the new body is carried back into the map: first divided by an anisotropic scale, then
moved by smooth random fields of several wavelengths. Each field is the curl of a random potential:
it has no divergence, so that volumes stay nearly what the scale makes them. The Jacobian stays
positive, so nothing folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import NonNegativeFloat, PositiveFloat

from osteosap.config import StageConfig
from osteosap.geometry import Grid
from osteosap.simulate.body import BODY_HI, BODY_LO
from osteosap.simulate.shapes import Canvas, Field, NoiseField

__all__ = [
    "Deformation",
    "DeformationConfig",
    "Sampler",
    "look_up",
    "sample_parts",
    "squared_distance",
]

LOWEST_JACOBIAN = 0.3
# Integrals over squared splines: 2/3 of the derivative, 0.479 of the value, which unit variance
# of the potential divides by; two such terms a component.
CURL_TO_UNIT = (2 * (2 / 3) / 0.479) ** -0.5
Entry = TypeVar("Entry", np.uint8, np.bool_)
UNDECIDED = 255


class DeformationConfig(StageConfig):
    """How far bodies from one label map differ. All values are ours.

    Parameters
    ----------
    scale_spread
        Relative SD of the scale along each axis; half of it is common to the three.
    displacement
        Pairs of wavelength (mm) and SD of the displacement (mm).
    extra_fat_mm
        Median thickness of the fat that is laid around the map's body.
    extra_fat_spread
        SD of its logarithm.
    """

    scale_spread: float = pydantic.Field(default=0.04, ge=0.0, le=0.15)
    displacement: tuple[tuple[PositiveFloat, NonNegativeFloat], ...] = ((250.0, 8.0), (90.0, 3.0))
    extra_fat_mm: NonNegativeFloat = 8.0
    extra_fat_spread: NonNegativeFloat = 0.5


@dataclass(frozen=True)
class Deformation:
    """A map from a body's places (mm) back to those of the label map.

    Parameters
    ----------
    scale
        Factors (3,) of the body along x, y, z.
    fields
        Per wavelength the x, y and z of the potential.
    amplitudes_mm
        SD of each wavelength's displacement.
    """

    scale: npt.NDArray[np.float64]
    fields: tuple[tuple[NoiseField, NoiseField, NoiseField], ...]
    amplitudes_mm: tuple[float, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, config: DeformationConfig) -> Deformation:
        """Draw a deformation; amplitudes shrink where it would fold."""
        half = config.scale_spread * 0.5**0.5
        common = rng.normal(0, half)
        scale = np.exp(np.clip(common + rng.normal(0, half, 3), -0.15, 0.15))
        fields = tuple(
            (
                NoiseField(rng, wavelength, BODY_LO, BODY_HI),
                NoiseField(rng, wavelength, BODY_LO, BODY_HI),
                NoiseField(rng, wavelength, BODY_LO, BODY_HI),
            )
            for wavelength, _ in config.displacement
        )
        drawn = cls(scale, fields, tuple(a for _, a in config.displacement))
        for _ in range(20):
            if drawn.lowest_jacobian() >= LOWEST_JACOBIAN:
                break
            drawn = cls(scale, fields, tuple(0.8 * a for a in drawn.amplitudes_mm))
        return drawn

    def back(self, axes: Sequence[npt.NDArray[np.float32]]) -> list[Field]:
        """Places in the map (mm), one array (I, J, K) an axis, of a lattice of the body."""
        scaled = [(a / s).astype(np.float32) for a, s in zip(axes, self.scale, strict=True)]
        places: list[Field] = []
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = -1
            place = np.zeros([len(a) for a in axes], np.float32)
            place += scaled[axis].reshape(shape)
            places.append(place)
        for potential, amplitude in zip(self.fields, self.amplitudes_mm, strict=True):
            if amplitude:
                for axis, moved in enumerate(_curl(potential, scaled)):
                    places[axis] += np.float32(amplitude) * moved
        return places

    def lowest_jacobian(self, *, step_mm: float = 20.0) -> float:
        """Smallest determinant of the derivative, scale left out, on a lattice over the body."""
        axes = [
            np.arange(lo, hi, step_mm).astype(np.float32) * np.float32(s)
            for lo, hi, s in zip(BODY_LO, BODY_HI, self.scale, strict=True)
        ]
        rows = [np.gradient(place, step_mm) for place in self.back(axes)]
        matrix = np.moveaxis(np.array(rows, dtype=np.float64), (0, 1), (-2, -1))
        return float(np.linalg.det(matrix).min())


def _curl(
    potential: tuple[NoiseField, NoiseField, NoiseField],
    axes: Sequence[npt.NDArray[np.float32]],
) -> Iterator[Field]:
    """x, y, z of the curl of a potential on a lattice, of unit variance."""
    step, origin, n = potential[0].step, potential[0].origin, potential[0].values.shape
    splines = [_splines((a - o) / step, m) for a, o, m in zip(axes, origin, n, strict=True)]
    for axis in range(3):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        yield _contract(potential[third].values, splines, along=second) - _contract(
            potential[second].values, splines, along=third
        )


def _splines(position: npt.NDArray[np.float64], n: int) -> tuple[Field, Field]:
    """Weights (N, n) of cubic B-splines at positions, and their derivatives."""
    offset = np.asarray(position, dtype=np.float64)[:, None] - np.arange(n)[None, :]
    d = np.abs(offset)
    value = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.maximum(2 - d, 0) ** 3 / 6)
    slope = np.where(d < 1, -2 * d + 1.5 * d**2, -(np.maximum(2 - d, 0) ** 2) / 2)
    return value.astype(np.float32), (CURL_TO_UNIT * np.sign(offset) * slope).astype(np.float32)


def _contract(values: Field, splines: list[tuple[Field, Field]], *, along: int) -> Field:
    """A field on a lattice, or its derivative along one axis."""
    wi, wj, wk = (pair[axis == along] for axis, pair in enumerate(splines))
    ni, nj, nk = values.shape
    out = np.matmul(wj, (wi @ values.reshape(ni, -1)).reshape(-1, nj, nk))
    return np.asarray(out.reshape(-1, nk) @ wk.T).reshape(len(wi), len(wj), len(wk))


def look_up(table: npt.NDArray[Entry], ids: npt.NDArray[np.uint8]) -> npt.NDArray[Entry]:
    """``table[ids]`` for a table of 256 bytes or truth values, many times faster."""
    found = bytearray(np.ascontiguousarray(ids)).translate(table.tobytes())
    return np.frombuffer(found, dtype=table.dtype).reshape(ids.shape)


def squared_distance(
    feature: npt.NDArray[np.bool_], reach: int, *, spare_axes: tuple[int, ...] = ()
) -> npt.NDArray[np.uint8]:
    """Squared distance in voxels to the nearest feature, exact up to ``reach`` (at most 10).

    Separable minima over offsets: as exact as a distance transform, but only as far as asked and
    many times faster. Farther voxels hold at least ``reach**2 + 1``.
    """
    far = np.uint8(reach * reach + 1)
    out = np.where(feature, np.uint8(0), far)
    for axis in range(3):
        if axis in spare_axes:
            continue
        moved = np.moveaxis(out, axis, 0)
        result = moved.copy(order="K")
        n = moved.shape[0]
        for offset in range(1, min(reach, n - 1) + 1):
            near = moved + np.uint8(offset * offset)
            np.minimum(result[offset:], near[:-offset], out=result[offset:])
            np.minimum(result[:-offset], near[offset:], out=result[:-offset])
        out = np.minimum(np.moveaxis(result, 0, axis), far)
    return out


def sample_parts(
    parts: npt.NDArray[np.uint8],
    depth: npt.NDArray[np.float32],
    source: Grid,
    *,
    deformation: Deformation,
    target: Grid,
    layered: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.uint8], Field]:
    """Carry a map of parts onto a grid: the part with the largest share of the eight neighbours.

    Shares make surfaces smooth where nearest sampling is blocky. The depth is interpolated too;
    a neighbour of another part counts with the opposite sign, for it lies beyond the surface.

    Parameters
    ----------
    parts
        uint8 (I, J, K), ids below 255.
    depth
        float32 (I, J, K): depth of every voxel (mm) below the surface of its part.
    source, target
        Axis-aligned RAS grids.
    deformation
        From places of ``target`` to places of ``source``; beyond its faces the map goes on.
    layered
        (256,) for which parts the depth is wanted.

    Returns
    -------
    part, depth_mm
        uint8 and float32 on ``target``; the depth is 0 for parts that are not layered.
    """
    axes = Canvas(target).axes
    sampler = Sampler.over(parts, depth)
    part = np.empty(target.shape, np.uint8)
    deep = np.empty(target.shape, np.float32)
    step = max(1, int(6e5 // (target.shape[1] * target.shape[2])))
    origin, spacing = source.affine[:3, 3], np.array(source.spacing_mm)
    for start in range(0, target.shape[0], step):
        slab = slice(start, min(start + step, target.shape[0]))
        places = deformation.back([axes[0][slab], axes[1], axes[2]])
        index = [
            ((p - np.float32(o)) / np.float32(s)).ravel()
            for p, o, s in zip(places, origin, spacing, strict=True)
        ]
        found, depths = sampler.at(index, layered)
        part[slab] = found.reshape(places[0].shape)
        deep[slab] = depths.reshape(places[0].shape)
    return part, deep


@dataclass(frozen=True)
class Sampler:
    """A map of parts laid out flat, to be looked up at fractional indices.

    Parameters
    ----------
    parts, depth, code
        Flat arrays (N,): part, depth (mm), and the part again where a voxel and its seven upper
        neighbours agree, else 255.
    shape
        (I, J, K).
    """

    parts: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    code: npt.NDArray[np.uint8]
    shape: tuple[int, ...]

    @classmethod
    def over(cls, parts: npt.NDArray[np.uint8], depth: Field) -> Sampler:
        """Sampler of two arrays (I, J, K)."""
        code = np.where(_uniform(parts), parts, np.uint8(UNDECIDED)).ravel()
        return cls(parts.ravel(), depth.ravel(), code, parts.shape)

    def at(
        self, index: list[Field], layered: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.uint8], Field]:
        """Part and depth (N,) at three arrays (N,) of fractional indices; changes ``index``."""
        base = np.zeros(index[0].shape, np.int32)
        fractions: list[Field] = []
        for place, n in zip(index, self.shape, strict=True):
            np.clip(place, 0.0, n - 1.001, out=place)
            floor = place.astype(np.int32)
            fractions.append(place - floor)
            base *= n
            base += floor
        part = self.code[base]
        depth = np.zeros(part.shape, np.float32)
        mixed = np.flatnonzero(part == UNDECIDED)
        labels, weights, depths = self._corners(base[mixed], [f[mixed] for f in fractions])
        winner = _vote(labels, weights)
        part[mixed] = winner
        signed = sum(
            w * np.where(label == winner, d, -d)
            for w, label, d in zip(weights, labels, depths, strict=True)
        )
        depth[mixed] = np.maximum(signed, 0.0) * layered[winner]
        wanted = layered[part]
        wanted[mixed] = False
        plain = np.flatnonzero(wanted)
        _, weights, depths = self._corners(base[plain], [f[plain] for f in fractions])
        depth[plain] = sum(w * d for w, d in zip(weights, depths, strict=True))
        return part, depth

    def _corners(
        self, base: npt.NDArray[np.int32], fractions: list[Field]
    ) -> tuple[list[npt.NDArray[np.uint8]], list[Field], list[Field]]:
        """Labels, weights and depths at the eight neighbours."""
        _, nj, nk = self.shape
        labels, weights, depths = [], [], []
        for corner in range(8):
            di, dj, dk = corner >> 2, (corner >> 1) & 1, corner & 1
            at = base + np.int32((di * nj + dj) * nk + dk)
            weight = np.ones(base.shape, np.float32)
            for fraction, bit in zip(fractions, (di, dj, dk), strict=True):
                weight *= fraction if bit else 1 - fraction
            labels.append(self.parts[at])
            weights.append(weight)
            depths.append(self.depth[at])
        return labels, weights, depths


def _vote(labels: list[npt.NDArray[np.uint8]], weights: list[Field]) -> npt.NDArray[np.uint8]:
    """The label with the largest sum of weights."""
    score = [w.copy() for w in weights]
    for a in range(8):
        for b in range(a + 1, 8):
            same = labels[a] == labels[b]
            score[a] += weights[b] * same
            score[b] += weights[a] * same
    best, top = labels[0].copy(), score[0]
    for label, value in zip(labels[1:], score[1:], strict=True):
        better = value > top
        best[better] = label[better]
        top = np.maximum(top, value)
    return best


def _uniform(parts: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Voxels whose seven neighbours towards higher indices are of the same part."""
    same = np.ones(parts.shape, bool)
    for axis in range(3):  # edge, then face, then cube
        view, flag = np.moveaxis(parts, axis, 0), np.moveaxis(same, axis, 0)
        flag[:-1] &= flag[1:]
        flag[:-1] &= view[1:] == view[:-1]
    return same

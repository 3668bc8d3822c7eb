"""Stations at work: the lattice of a sequence, what the body is in the scanner, what is drawn.

Every sequence is sampled on one lattice that all its stations share, as a scanner's table steps do
when they are whole numbers of slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid
from osteosap.simulate.body import Body
from osteosap.simulate.scanner import artefacts
from osteosap.simulate.scanner.coarse import CoarseBody, coarse_body
from osteosap.simulate.scanner.field import off_resonance_ppm, shimmed_ppm
from osteosap.simulate.scanner.lattice import (
    Axis,
    BodySampler,
    Pose,
    SmoothMap,
    averaging,
    axes_of,
    covering_grid,
    sample_axis,
    zero_filling,
)
from osteosap.simulate.scanner.protocol import DwiConfig, ScannerConfig, StationConfig, T1Config
from osteosap.simulate.shapes import Field
from osteosap.volume import Volume

__all__ = ["Lattice", "Scene", "Station", "StationTruth", "station_slabs", "stations_of"]


@dataclass(frozen=True)
class StationTruth:
    """What the scanner did to one station of one sequence.

    Parameters
    ----------
    kind
        "t1" or "dwi"; all b-values of a station share everything but ``eddy_mm``.
    index
        Station, inferior to superior.
    gain
        Factor of the whole image, noise too.
    bias
        Multiplicative field of the coils.
    shift_mm
        How far the body is shown from where it lies.
    field_ppm
        Off-resonance after the shim, by place in the body.
    displacement_mm
        DWI: how far water is carried along y at b = 0, by place in the body; None for T1.
    eddy_mm
        DWI: for every b-value the further shift along y at the station's upper end; it grows
        linearly from the station's centre.
    """

    kind: str
    index: int
    gain: float
    bias: SmoothMap
    shift_mm: tuple[float, float, float]
    field_ppm: SmoothMap
    displacement_mm: SmoothMap | None = None
    eddy_mm: dict[float, float] = field(default_factory=dict)


def station_slabs(grid: Grid, config: StationConfig) -> list[slice]:
    """Overlapping slices along K, inferior to superior, that cover the grid."""
    length, n = grid.shape[2], config.count
    if n == 1:
        return [slice(0, length)]
    overlap = max(2, round(config.overlap_mm / grid.spacing_mm[2]))
    height = min(int(np.ceil((length + (n - 1) * overlap) / n)), length)
    starts = [max(0, min(i * (height - overlap), length - height)) for i in range(n)]
    return [slice(s, s + height) for s in starts]


class Lattice:
    """The lattice of one sequence: acquired voxels, shown voxels, stations.

    Parameters
    ----------
    around
        Axis-aligned grid in the scanner that the lattice must cover.
    config, stations
        Voxel and interpolation; bed positions.
    """

    def __init__(self, around: Grid, config: T1Config | DwiConfig, stations: StationConfig) -> None:
        self.shown = covering_grid(around, config.spacing_mm)
        nx, ny, _ = self.shown.shape
        sx, sy, sz = self.shown.spacing_mm
        mx, my = (max(1, round(m / config.interpolation)) for m in (nx, ny))
        self.spacing_mm = (sx * nx / mx, sy * ny / my, sz)
        left, back = self.shown.affine[:2, 3] - np.array([sx, sy]) / 2
        self.axes: list[Axis] = [
            left + self.spacing_mm[0] * (np.arange(mx) + 0.5),
            back + self.spacing_mm[1] * (np.arange(my) + 0.5),
            axes_of(self.shown)[2],
        ]
        self.slabs = station_slabs(self.shown, stations)
        self._fill = (zero_filling(mx, nx), zero_filling(my, ny))

    def reach(self, slab: slice) -> tuple[float, float]:
        """Heights (mm) of the outer faces of a station."""
        half = self.spacing_mm[2] / 2
        return float(self.axes[2][slab.start] - half), float(self.axes[2][slab.stop - 1] + half)

    def show(self, image: Field, slab: slice, name: str) -> Volume:
        """The reconstructed image of a station from its acquired one."""
        if self.shown.shape[:2] != image.shape[:2]:
            for axis, fill in enumerate(self._fill):
                image = sample_axis(image, fill, axis=axis)
            image = np.abs(image)
        affine = self.shown.affine.copy()
        affine[:3, 3] += affine[:3, 2] * slab.start
        return Volume.single(np.ascontiguousarray(image), affine, name)


class Scene:
    """A body in a scanner, with the smooth maps that both sequences read.

    Parameters
    ----------
    body, pose
        The body and how it lies.
    config
        Acquisition and artefacts.
    """

    def __init__(self, body: Body, pose: Pose, config: ScannerConfig) -> None:
        self.config = config
        self.sampler = BodySampler(body.grid, pose)
        self.coarse: CoarseBody = coarse_body(body, pose)
        wrong = config.artefacts
        self.depth = artefacts.surface_depth_mm(self.coarse)
        self.breath = None
        if wrong.breathing_mm or wrong.breathing_ghost:
            self.breath = artefacts.breathing_map(self.coarse)
        if wrong.off_resonance:
            raw = off_resonance_ppm(self.coarse)
            self.field = SmoothMap(raw.values * np.float32(wrong.off_resonance), raw.grid)
        else:
            self.field = SmoothMap(np.zeros(self.coarse.grid.shape, np.float32), self.coarse.grid)

    @property
    def on_resonance(self) -> bool:
        """Whether the field is right everywhere."""
        return not (self.config.artefacts.off_resonance or self.config.artefacts.station_end_ppm)

    def shimmed(self, lo_mm: float, hi_mm: float) -> SmoothMap:
        """Field of a station between two heights."""
        return shimmed_ppm(
            self.field,
            self.coarse.shimmed,
            lo_mm=lo_mm,
            hi_mm=hi_mm,
            end_ppm=self.config.artefacts.station_end_ppm,
        )


@dataclass(frozen=True)
class Station:
    """One station of one sequence.

    Parameters
    ----------
    scene, lattice
        Body and maps; voxels of the sequence.
    slab, levels
        Its slices on the lattice; the planes of the body that it reads.
    truth
        What is drawn of it.
    moving
        How much each voxel moves with the breath (0-1), None if nothing does.
    noise
        Its own source of noise.
    """

    scene: Scene
    lattice: Lattice
    slab: slice
    levels: slice
    truth: StationTruth
    moving: Field | None
    noise: np.random.Generator

    @property
    def axes(self) -> list[Axis]:
        """Coordinates (mm) of its acquired voxels in the scanner."""
        x, y, z = self.lattice.axes
        return [x, y, z[self.slab]]

    def read(self, *fields: Field) -> list[Field]:
        """The planes of fields on the body's grid that the station reads."""
        return self.scene.sampler.slabs(fields, self.levels)

    def average(self, image: Field, *, axis: int) -> Field:
        """Average the body's voxels over the acquired ones along one axis."""
        source = self.scene.sampler.axes[axis]
        if axis == 2:
            source = source[self.levels]
        weights = averaging(
            source,
            self.axes[axis] - self.truth.shift_mm[axis],
            source_mm=self.scene.sampler.grid.spacing_mm[axis],
            target_mm=self.lattice.spacing_mm[axis],
        )
        return sample_axis(image, weights, axis=axis)

    def on_ends(self, field_map: SmoothMap, *, axis: int) -> Field:
        """A map of the body at the ends of the body's voxels along one axis.

        Along the other axes it is read at the acquired voxels.
        """
        places = [a - s for a, s in zip(self.axes, self.truth.shift_mm, strict=True)]
        centres = self.scene.sampler.axes[axis]
        step = self.scene.sampler.grid.spacing_mm[axis]
        places[axis] = np.append(centres - step / 2, centres[-1] + step / 2)
        return field_map.on(places)

    def receive(self, image: Field, *, noise_sd: float, averages: int, name: str) -> Volume:
        """Weight by the coils, add noise, amplify, reconstruct."""
        wrong = self.scene.config.artefacts
        if wrong.bias or wrong.surface_bias:
            image = image * self.truth.bias.on(self.axes)
        noisy = artefacts.rician(image, noise_sd=noise_sd, averages=averages, rng=self.noise)
        noisy *= np.float32(self.truth.gain)
        return self.lattice.show(noisy, self.slab, name)


def stations_of(
    scene: Scene,
    lattice: Lattice,
    kind: str,
    *,
    shifts_mm: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> Iterator[Station]:
    """Draw gain, coils and noise of every station; how many numbers does not hang on the voxels.

    Parameters
    ----------
    scene, lattice, kind
        Body, voxels, and "t1" or "dwi".
    shifts_mm
        (N, 3), where each station shows the body.
    rng
        Source of what is drawn.
    """
    config = scene.config
    for index, (slab, shift) in enumerate(zip(lattice.slabs, shifts_mm, strict=True)):
        lo, hi = lattice.reach(slab)
        gain = float(np.exp(config.stations.gain * rng.normal()))
        bias = artefacts.coil_bias(
            scene.coarse, scene.depth, lo_mm=lo, hi_mm=hi, config=config.artefacts, rng=rng
        )
        x, y, z = (float(s) for s in shift)
        truth = StationTruth(kind, index, gain, bias, (x, y, z), scene.shimmed(lo, hi))
        moving = None
        if scene.breath is not None:
            moving = scene.breath.on([*lattice.axes[:2], lattice.axes[2][slab]])
        levels = scene.sampler.levels(lo - z, hi - z)
        noise = np.random.default_rng(int(rng.integers(2**63)))
        yield Station(scene, lattice, slab, levels, truth, moving, noise)

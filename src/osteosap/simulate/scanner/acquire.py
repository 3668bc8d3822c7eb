"""The virtual scanner: T1 and diffusion images of a body, station by station, and their truth.

A station is a slab of the body. Its signals are averaged over the acquired voxels, carried along
the phase direction by the field, blurred by the breath, weighted by the coils, and shown with
noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from osteosap.exam import StationImage
from osteosap.geometry import Affine
from osteosap.simulate.body import Body
from osteosap.simulate.scanner import artefacts
from osteosap.simulate.scanner.epi import Warp
from osteosap.simulate.scanner.field import dephasing, fat_left, gradient_ppm_per_mm, water_left
from osteosap.simulate.scanner.lattice import Axis, Pose, SmoothMap
from osteosap.simulate.scanner.protocol import ScannerConfig
from osteosap.simulate.scanner.stations import Lattice, Scene, Station, StationTruth, stations_of
from osteosap.simulate.shapes import Field
from osteosap.simulate.signals import (
    FAT_ADC_UM2_PER_S,
    FAT_SHIFT_PPM,
    DiffusionMaps,
    SequenceConfig,
    Signals,
)
from osteosap.simulate.tissue import T

__all__ = ["DWI_SCALE", "T1_SCALE", "Scan", "scan"]

T1_SCALE, DWI_SCALE = 300.0, 1500.0  # scanner units of muscle on T1, of undecayed water on DWI
RF_BANDWIDTH_HZ = 1500.0  # of the pulses of T1: tissue further off is not excited, ours
METAL_PPM = 10.0  # T1 suffers only where the field is off by more


@dataclass(frozen=True)
class Scan:
    """What a scanner acquired, and what it did to it.

    Parameters
    ----------
    images
        Station images, T1 first, then DWI by b-value and station.
    stations
        Truth of every station of T1, then of DWI.
    affine
        4x4, body mm to scanner mm: a map of the body lies in the scanner at ``affine @ its own``.
    """

    images: list[StationImage]
    stations: list[StationTruth]
    affine: Affine


def scan(
    body: Body,
    signals: Signals,
    *,
    sequence: SequenceConfig,
    config: ScannerConfig,
    rng: np.random.Generator,
    pose: Pose | None = None,
) -> Scan:
    """Acquire T1 and every b-value of a body as stations.

    Parameters
    ----------
    body, signals
        The body and its noise-free signals, both on the body's grid.
    sequence, config
        Field strength and timing; acquisition and artefacts.
    rng
        Source of bias, gain, noise and misplacement.
    pose
        How the body lies in the scanner; by default as it was painted.

    Returns
    -------
    scan
        Images on axis-aligned lattices of the scanner, intensities of a scanner's order of
        magnitude (0 to some thousand), and what the scanner did.
    """
    pose = pose or Pose()
    scene = Scene(body, pose, config)
    n = config.stations.count
    shifts = config.stations.shift_mm * np.clip(rng.normal(size=(n, 3)), -2, 2)
    moves = config.artefacts.dwi_shift_mm * np.clip(rng.normal(size=(n, 3)), -2, 2)
    eddy_sign = float(rng.choice([-1.0, 1.0]))
    around, bed = scene.sampler.grid, config.stations
    t1_stations = stations_of(
        scene, Lattice(around, config.t1, bed), "t1", shifts_mm=shifts, rng=rng
    )
    dwi_stations = stations_of(
        scene, Lattice(around, config.dwi, bed), "dwi", shifts_mm=shifts + moves, rng=rng
    )
    muscle = body.tissue[::2, ::2, ::2] == T.MUSCLE
    images: list[StationImage] = []
    truth: list[StationTruth] = []
    noise_sd = _noise_sd(signals.t1, muscle, config.t1.snr)
    for station in t1_stations:
        images.append(_t1(station, signals.t1, sequence, noise_sd=noise_sd))
        truth.append(station.truth)
    noise_sd = _noise_sd(signals.diffusion.water, muscle, config.dwi.snr)
    by_b: dict[float, list[StationImage]] = {b: [] for b in config.dwi.b_values_s_per_mm2}
    for bare in dwi_stations:
        station = _with_displacement(bare, sequence, eddy_sign=eddy_sign)
        for b, image in _weighted(station, signals.diffusion, sequence):
            by_b[b].append(_diffusion(station, image, b, noise_sd=noise_sd))
        truth.append(station.truth)
    images += [image for group in by_b.values() for image in group]
    return Scan(images, truth, pose.affine)


def _noise_sd(signal: Field, muscle: npt.NDArray[np.bool_], snr: float) -> float:
    """SD of noise that gives muscle (the strongest signal, if there is none) its SNR."""
    if snr == 0.0:
        return 0.0
    level = signal[::2, ::2, ::2][muscle].mean() if muscle.any() else signal.max()
    return float(level) / snr


def _t1(
    station: Station, signal: Field, sequence: SequenceConfig, *, noise_sd: float
) -> StationImage:
    """The T1 image of one station."""
    wrong = station.scene.config.artefacts
    (image,) = station.read(signal)
    image = station.average(station.average(image, axis=2), axis=1)
    if np.abs(station.truth.field_ppm.values).max() > METAL_PPM:
        image = _read_out(station, image, sequence)
    else:
        image = station.average(image, axis=0)
    if station.moving is not None:
        image = artefacts.breathe(
            image,
            station.moving,
            amplitude_mm=wrong.breathing_mm / 2,
            spacing_mm=station.lattice.spacing_mm,
        )
        image = artefacts.breathing_ghosts(
            image, station.moving, strength=wrong.breathing_ghost, rng=station.noise
        )
    volume = station.receive(
        image * np.float32(T1_SCALE), noise_sd=T1_SCALE * noise_sd, averages=1, name="t1"
    )
    return StationImage(volume, "t1", source="simulated T1")


def _read_out(station: Station, image: Field, sequence: SequenceConfig) -> Field:
    """Average along x where metal bends the field: displaced, piled up, not excited."""
    lattice, truth = station.lattice, station.truth
    offset = station.on_ends(truth.field_ppm, axis=0) * np.float32(sequence.hz_per_ppm)
    bandwidth = station.scene.config.t1.read_bandwidth_hz_per_pixel
    ends = offset * np.float32(lattice.spacing_mm[0] / bandwidth)
    body_x, step = station.scene.sampler.axes[0], station.scene.sampler.grid.spacing_mm[0]
    ends += _ends(body_x, step, truth.shift_mm[0])[:, None, None]
    middle = (offset[1:] + offset[:-1]) / 2
    image = image * np.exp(-((middle / np.float32(RF_BANDWIDTH_HZ)) ** 2))
    if sequence.t1_sequence == "gre":
        slope = station.on_ends(gradient_ppm_per_mm(truth.field_ppm), axis=0)[1:]
        image *= dephasing(
            slope * np.float32(sequence.hz_per_ppm),
            voxel_mm=max(lattice.spacing_mm),
            time_ms=sequence.gre_te_ms,
        )
    warp = Warp(
        np.swapaxes(ends, 0, 1),
        source_mm=step,
        target=lattice.axes[0],
        target_mm=lattice.spacing_mm[0],
    )
    return np.swapaxes(warp(np.swapaxes(image, 0, 1)), 0, 1)


def _with_displacement(station: Station, sequence: SequenceConfig, *, eddy_sign: float) -> Station:
    """The station with the displacement that its field gives EPI."""
    config, off = station.scene.config, station.truth.field_ppm
    factor = np.float32(_mm_per_ppm(station, sequence))
    eddy = {
        b: eddy_sign * config.artefacts.eddy_mm * b / 1000.0 for b in config.dwi.b_values_s_per_mm2
    }
    moved = SmoothMap(off.values * factor, off.grid)
    return replace(station, truth=replace(station.truth, displacement_mm=moved, eddy_mm=eddy))


def _mm_per_ppm(station: Station, sequence: SequenceConfig) -> float:
    """Displacement of EPI along y by the field."""
    dwi = station.scene.config.dwi
    per_hz = station.lattice.spacing_mm[1] / dwi.bandwidth_hz_per_pixel
    return dwi.phase_polarity * sequence.hz_per_ppm * per_hz


def _weighted(
    station: Station, maps: DiffusionMaps, sequence: SequenceConfig
) -> Iterator[tuple[float, Field]]:
    """The noise-free image (acquired voxels) of every b-value."""
    config = station.scene.config
    echo = _Echo(station, sequence)
    water, whole_fat, adc = station.read(maps.water, maps.fat, maps.adc_um2_per_s)
    fat = echo.fat(station.average(station.average(whole_fat, axis=2), axis=0))
    for b in config.dwi.b_values_s_per_mm2:
        signal = water * np.exp(np.float32(-b * 1e-6) * adc) if b else water
        signal = station.average(station.average(signal, axis=2), axis=0)
        image = echo.shown(echo.water(signal), station.truth.eddy_mm[b])
        if fat is not None:
            decay = np.float32(np.exp(-b * 1e-6 * FAT_ADC_UM2_PER_S))
            image += decay * echo.shown(fat, station.truth.eddy_mm[b], shift_ppm=FAT_SHIFT_PPM)
        yield b, image


class _Echo:
    """What the field does to the echo of one station: suppression, loss, displacement.

    Images come averaged along x and z, on the body's voxels along y.
    """

    def __init__(self, station: Station, sequence: SequenceConfig) -> None:
        self._station, config = station, station.scene.config
        self._mm_per_ppm = _mm_per_ppm(station, sequence)
        self._spectral = sequence.fat_suppression == "spectral"
        self._residual = config.dwi.residual_fat
        self._off: Field | None = None
        self._ppm: Field = np.zeros((1, 1, 1), np.float32)
        self._loss: Field = np.ones((1, 1, 1), np.float32)
        self._ends = _ends(
            station.scene.sampler.axes[1],
            station.scene.sampler.grid.spacing_mm[1],
            station.truth.shift_mm[1],
        )
        if station.scene.on_resonance:
            return
        self._off = station.on_ends(station.truth.field_ppm, axis=1)
        self._ppm = np.float32(0.5) * (self._off[:, 1:] + self._off[:, :-1])
        slope = station.on_ends(gradient_ppm_per_mm(station.truth.field_ppm), axis=1)[:, 1:]
        self._loss = dephasing(
            slope * np.float32(sequence.hz_per_ppm),
            voxel_mm=max(station.lattice.spacing_mm),
            time_ms=config.artefacts.dephasing_ms,
        )

    def water(self, image: Field) -> Field:
        """Water that the echo shows."""
        if self._off is None:
            return image
        if self._spectral:
            image = image * water_left(self._ppm)
        return image * self._loss

    def fat(self, image: Field) -> Field | None:
        """Fat that suppression leaves; None if nothing is left."""
        share = np.float32(self._residual)
        if self._off is None or not self._spectral:
            return image * (share * self._loss) if self._residual else None
        left = share + (1 - share) * fat_left(self._ppm)
        return image * (left * self._loss)

    def shown(self, image: Field, eddy_mm: float, *, shift_ppm: float = 0.0) -> Field:
        """The image on the acquired voxels, carried along y."""
        station = self._station
        if self._off is None and eddy_mm == 0.0 and shift_ppm == 0.0:
            return station.average(image, axis=1)
        z = station.axes[2]
        along = (z - z.mean()) / max((z[-1] - z[0]) / 2, 1e-6) if len(z) > 1 else np.zeros(1)
        move = (eddy_mm * along + shift_ppm * self._mm_per_ppm).astype(np.float32)
        ends = self._ends[:, None] + move
        if self._off is not None:
            ends = ends + self._off * np.float32(self._mm_per_ppm)
        else:
            ends = np.broadcast_to(ends, (image.shape[0], *ends.shape))
        warp = Warp(
            ends,
            source_mm=station.scene.sampler.grid.spacing_mm[1],
            target=station.lattice.axes[1],
            target_mm=station.lattice.spacing_mm[1],
        )
        return warp(image)


def _ends(centres: Axis, step: float, shift: float) -> Field:
    """Ends of the voxels of a line, moved."""
    return np.append(centres - step / 2, centres[-1] + step / 2).astype(np.float32) + np.float32(
        shift
    )


def _diffusion(station: Station, image: Field, b: float, *, noise_sd: float) -> StationImage:
    """The image of one b-value of one station."""
    config = station.scene.config
    if station.moving is not None:
        image = artefacts.breathe(
            image,
            station.moving,
            amplitude_mm=config.artefacts.breathing_mm,
            spacing_mm=station.lattice.spacing_mm,
        )
    image = artefacts.half_view_ghost(image, strength=config.artefacts.epi_ghost)
    volume = station.receive(
        image * np.float32(DWI_SCALE),
        noise_sd=DWI_SCALE * noise_sd,
        averages=config.dwi.averages,
        name="dwi",
    )
    return StationImage(volume, "dwi", b, "simulated DWI", f"simulated b{b:g}")

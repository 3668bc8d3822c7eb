"""One station of the DWI on its own grid: eddy currents, ADC, bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from osteosap.exam import HANDED_OVER
from osteosap.geometry import Grid
from osteosap.preprocess.adc import fit_adc, grey_step
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.b1000 import B1000Choice, b_values_for_adc
from osteosap.preprocess.bias import estimate_bias
from osteosap.preprocess.bias_field import BiasField, correct_bias
from osteosap.preprocess.eddy import Eddy, common_eddy, correct_eddy, find_eddy
from osteosap.preprocess.groups import DwiGroup
from osteosap.preprocess.muscle import biases_in_muscle
from osteosap.preprocess.record import Job, number
from osteosap.preprocess.register import phase_axis
from osteosap.preprocess.stations import StationLayout
from osteosap.preprocess.stitch import Placed, place_station
from osteosap.preprocess.target import Target, note_bias
from osteosap.volume import Volume

__all__ = [
    "DwiStation",
    "fitted",
    "stations_of",
    "unbiased",
    "unbiased_in_muscle",
    "without_eddies",
]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DwiStation:
    """One station of the DWI on its own grid.

    Parameters
    ----------
    images
        Volumes by b-value, lowest first, those that are needed; without bias once it is corrected.
    axis
        Index axis along which the stations are stacked.
    adc, s0
        Fit in um2/s and signal at b = 0; None where no fit is possible; 0 where there is noise.
    bias
        What was taken off the images; None for nothing.
    alignment
        How it lies to T1; None: by scanner coordinates.
    muscle_level
        Logarithm of the signal of its muscle on the lowest b-value, bias off, pile-up and loss
        undone; None where it is not known.
    scale
        Factor that makes its images agree with its neighbours.
    evening
        What they are divided by besides, on the grid of T1, so that seams vanish; None for nothing.
    """

    images: dict[float, Volume]
    axis: int
    adc: Floats | None = None
    s0: Floats | None = None
    bias: BiasField | None = None
    alignment: DwiAlignment | None = None
    muscle_level: float | None = None
    scale: float = 1.0
    evening: BiasField | None = None

    @property
    def lowest(self) -> Volume:
        """The image of the lowest b-value."""
        return next(iter(self.images.values()))

    @property
    def grid(self) -> Grid:
        """Grid as acquired."""
        return self.lowest.grid

    def without(self, bias: BiasField) -> DwiStation:
        """The station without a bias, and with what was lost, that all of its images share."""
        images = {b: correct_bias(v, bias) for b, v in self.images.items()}
        s0 = None if self.s0 is None else self.s0 / bias.with_loss_on(self.grid)
        return replace(self, images=images, s0=s0, bias=bias)

    def place(self, array: Floats, target: Grid) -> Placed:
        """An array on the station's grid, on the grid of T1."""
        volume = Volume.single(array, self.grid.affine, "dwi")
        return place_station(volume, target, axis=self.axis, alignment=self.alignment)

    def place_masked(self, array: Floats, mask: npt.NDArray[np.bool_], target: Grid) -> Placed:
        """As :meth:`place`, but averaging only voxels inside a mask; weight 0 outside it.

        Voxels at the mask's edge are not mixed with the zeros outside: a rim of halved ADC would
        look like restricted diffusion.
        """
        values = self.place(np.where(mask, array, 0).astype(np.float32), target)
        share = self.place(mask.astype(np.float32), target).array
        inside = share >= 0.5
        out = np.zeros_like(values.array)
        np.divide(values.array, share, out=out, where=inside)
        return replace(values, array=out, weight=np.asarray(values.weight * inside, np.float32))


def stations_of(
    group: DwiGroup, choice: B1000Choice, layout: StationLayout, job: Job
) -> list[DwiStation]:
    """Stations with the b-values that are needed, with what storing them cut off on average."""
    needed = {group.b_values[0], *b_values_for_adc(group.b_values, config=job.config)}
    if choice.source != "computed":
        needed.add(choice.b_value_s_per_mm2)

    def stored(volume: Volume) -> Volume:
        half = 0.0 if group.name == HANDED_OVER else grey_step(volume.array[0]) / 2
        raised = volume.array.astype(np.float32) + np.float32(half)
        return volume if not half else Volume(raised, volume.affine, volume.channels)

    return [
        DwiStation({b: stored(station[group.b_values.index(b)]) for b in sorted(needed)}, axis)
        for station, axis in zip(group.stations, layout.axes, strict=True)
    ]


def without_eddies(stations: Sequence[DwiStation], job: Job) -> list[DwiStation]:
    """Stations whose higher b-values lie on the lowest one."""
    config = job.config.eddy
    higher = [b for b in list(stations[0].images)[1:] if b >= config.min_b_s_per_mm2]
    if not higher:
        job.step("eddy currents", f"no b-value of {config.min_b_s_per_mm2:g} or more to correct")
        return list(stations)
    axis, shape = phase_axis(stations[0].grid), stations[0].grid.shape

    def one(pair: tuple[DwiStation, float]) -> Eddy:
        station, b = pair
        return find_eddy(station.lowest, station.images[b], axis=axis, config=config)

    pairs = [(station, b) for b in higher for station in stations]
    found = job.each("find eddy currents", one, pairs)
    n = len(stations)
    common = {b: common_eddy(found[n * k : n * (k + 1)], shape) for k, b in enumerate(higher)}
    said = "; ".join(f"b{b:g}: {eddy.reason}" for b, eddy in common.items())
    largest = {f"b{b:g}": round(eddy.largest_mm, 2) for b, eddy in common.items()}
    job.step("eddy currents", said, displacement_mm=largest)
    return [
        replace(
            station,
            images={
                b: correct_eddy(v, common[b]) if b in common else v
                for b, v in station.images.items()
            },
        )
        for station in stations
    ]


def fitted(stations: Sequence[DwiStation], b_values: Sequence[float], job: Job) -> list[DwiStation]:
    """Stations with the fit of their ADC where there are two b-values."""
    if not b_values:
        return list(stations)
    config = job.config

    def one(station: DwiStation) -> DwiStation:
        signals = np.stack([station.images[b].array[0] for b in b_values])
        top = float(np.percentile(station.lowest.array.astype(np.float32), 99))
        adc, s0 = fit_adc(
            signals,
            b_values,
            weighting=config.adc_weighting,
            noise_floor=config.noise_floor_fraction * top,
        )
        return replace(station, adc=adc, s0=s0)

    return job.each("fit the ADC", one, stations)


def unbiased(stations: Sequence[DwiStation], job: Job) -> list[DwiStation]:
    """Every station without a field found on itself: a first guess, good enough to register."""

    def one(station: DwiStation) -> DwiStation:
        field = estimate_bias(station.lowest, config=job.config.bias.for_dwi())
        return station.without(field)

    return job.each("correct the bias of DWI", one, stations)


def unbiased_in_muscle(
    biased: Sequence[DwiStation],
    guessed: Sequence[DwiStation],
    target: Target,
    layout: StationLayout,
    job: Job,
) -> list[DwiStation]:
    """Stations without the bias that their muscle shows; without the first guess if it does not.

    It cancels in the ADC, whatever it is, since all b-values share it.
    """
    adcs = [s.adc for s in biased if s.adc is not None]
    stations = list(guessed)
    shown, loss_factor = 0, float("nan")
    if len(adcs) == len(biased):
        job.progress("correct the bias of DWI in muscle", 0.0)
        fields = biases_in_muscle(
            [s.lowest for s in biased],
            adcs,
            [s.alignment for s in guessed],
            (target.t1, target.body),
            config=job.config.bias,
        )
        for n, (before, now, field) in enumerate(zip(biased, guessed, fields, strict=True)):
            if not field.reason:
                station = replace(before, alignment=now.alignment).without(field)
                stations[n] = replace(station, muscle_level=field.level)
                shown, loss_factor = shown + 1, field.loss_factor
    note_bias("dwi", [f for f in (stations[i].bias for i in layout.order) if f is not None], job)
    lost = "; what is lost where the displacement is steep is made up for"
    job.step(
        "bias dwi by muscle",
        f"in {shown} of {len(stations)} stations{lost if loss_factor > 0 else ''}",
        stations=shown,
        loss_factor=number(loss_factor),
    )
    return stations

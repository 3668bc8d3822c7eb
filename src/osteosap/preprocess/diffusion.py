"""The diffusion channels: one stitched DWI protocol becomes b1000 and ADC on the T1 grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.exam import HANDED_OVER, StationImage
from osteosap.geometry import Affine, Grid, resample
from osteosap.preprocess.adc import compute_b, fit_adc
from osteosap.preprocess.b1000 import TARGET_B, B1000Choice, b_values_for_adc
from osteosap.preprocess.groups import NOTABLE, DwiGroup, select_stations
from osteosap.preprocess.intensity import StationScales
from osteosap.preprocess.record import Job
from osteosap.preprocess.register import (
    coverage_of,
    refine_rigid,
    require_coverage,
    tissue_outside,
)
from osteosap.preprocess.resampling import resample_masked
from osteosap.preprocess.stations import lay_out
from osteosap.preprocess.stitch import blend, place_stations
from osteosap.volume import Volume

__all__ = [
    "StitchedDwi",
    "Target",
    "adc_channel",
    "b1000_channel",
    "fit_dwi",
    "place_on",
    "stitch_dwi",
]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """The T1 that everything is brought to: one channel, and the body's mask on its grid."""

    t1: Volume
    body: npt.NDArray[np.bool_]

    @property
    def grid(self) -> Grid:
        """Grid of the exam."""
        return self.t1.grid


@dataclass(frozen=True)
class StitchedDwi:
    """Stitched images of one DWI protocol on their own grid.

    Parameters
    ----------
    b_values
        s/mm2, all that the protocol has; ``images`` holds those that are needed.
    grid
        Of the images, after a refinement of their position.
    images
        float32 by b-value.
    motion
        4x4, world to world in mm: what the refinement did to the position.
    """

    b_values: tuple[float, ...]
    grid: Grid
    images: dict[float, Floats]
    motion: Affine


@dataclass(frozen=True)
class DwiFit:
    """A mono-exponential fit on the DWI's grid: ADC in um2/s, S0, and the b-values fitted."""

    adc: Floats
    s0: Floats
    b_values: tuple[float, ...]


def stitch_dwi(group: DwiGroup, choice: B1000Choice, job: Job) -> StitchedDwi:
    """Stitch every b-value that is needed, all with the station scales of the lowest one.

    The scale of a station cancels in the ADC only if it is the same for every b-value.
    """
    lowest = group.b_values[0]
    needed = {lowest, *b_values_for_adc(group.b_values, config=job.config)}
    if choice.source != "computed":
        needed.add(choice.b_value_s_per_mm2)
    layout = lay_out([s[0].grid for s in group.stations])
    images: dict[float, Floats] = {}
    scales = StationScales((1.0,) * len(group.stations), (), (), ())
    for b in sorted(needed):
        index = group.b_values.index(b)
        placed = place_stations([s[index] for s in group.stations], layout)
        if b == lowest:
            scales = job.scales(placed, layout)
        images[b] = blend(placed, layout.grid.shape, scales=scales.scales)
    job.stitched(
        "dwi",
        layout,
        scales,
        sources=list(group.sources),
        scales_from_b=lowest,
        b_values_s_per_mm2=sorted(needed),
    )
    return StitchedDwi(group.b_values, layout.grid, images, np.eye(4))


def place_on(dwi: StitchedDwi, target: Target, job: Job) -> tuple[StitchedDwi, dict[str, float]]:
    """Settle the DWI's position relative to T1, and how far each shows what the other does.

    Returns
    -------
    dwi, overlay
        The DWI with its final grid (nothing is resampled yet); ``coverage``, the share of the body
        on the T1 inside the DWI's field of view, and ``dwi_outside_t1``, the share of the tissue
        on the DWI outside the T1's.

    Raises
    ------
    GeometryError
        It covers too little of the body.
    """
    coverage = coverage_of(target.body, target.grid, dwi.grid)
    require_coverage(coverage, minimum=job.config.min_coverage)
    if job.config.registration == "none":
        job.step("registration", "DWI placed on T1 by scanner coordinates")
    else:
        dwi = _refined(dwi, target, job)
        coverage = coverage_of(target.body, target.grid, dwi.grid)
    outside = tissue_outside(dwi.images[min(dwi.images)], dwi.grid, target.grid)
    overlay = {"coverage": round(coverage, 4), "dwi_outside_t1": round(outside, 4)}
    said = f"the DWI covers {coverage:.1%} of the body on the T1"
    lost = f"{outside:.1%} of the tissue on the DWI lies outside the T1"
    job.step("field of view", f"{said}; {lost}", **overlay)
    if coverage < 1 - NOTABLE:
        job.warn(f"{said}; lesions outside it cannot be found")
    if outside > NOTABLE:
        job.warn(f"{lost} and is cut off; lesions there cannot be found")
    return dwi, overlay


def fit_dwi(dwi: StitchedDwi, target: Target, job: Job) -> DwiFit | None:
    """Fit the ADC inside the body; None with fewer than two b-values."""
    b_values = b_values_for_adc(dwi.b_values, config=job.config)
    if not b_values:
        return None
    body = target.body.astype(np.float32)
    inside = np.asarray(resample(body, target.grid, dwi.grid), np.float32) > 0.5
    signals = np.stack([dwi.images[b] for b in b_values])
    lowest = signals[0][inside]
    top = float(np.percentile(lowest, 99)) if lowest.size else 0.0
    adc, s0 = fit_adc(
        signals,
        b_values,
        mask=inside,
        weighting=job.config.adc_weighting,
        noise_floor=job.config.noise_floor_fraction * top,
    )
    return DwiFit(adc, s0, b_values)


def b1000_channel(
    dwi: StitchedDwi, fit: DwiFit | None, target: Target, *, choice: B1000Choice, job: Job
) -> Floats:
    """The b1000 image on the T1 grid; 0 outside the field of view (and, if computed, the body)."""
    job.step("b1000", choice.reason, source=choice.source)
    if choice.source not in ("acquired", "handed over"):
        job.warn(f"b1000 was not acquired: {choice.reason}")
    if choice.source == "computed" and fit is not None:
        image = compute_b(fit.adc, fit.s0, TARGET_B)
        return resample_masked(image, fit.s0 > 0, dwi.grid, target.grid)
    acquired = resample(dwi.images[choice.b_value_s_per_mm2], dwi.grid, target.grid)
    return np.asarray(acquired, np.float32)


def adc_channel(
    dwi: StitchedDwi,
    fit: DwiFit | None,
    target: Target,
    *,
    maps: Sequence[StationImage],
    job: Job,
) -> tuple[Floats | None, dict[str, Any]]:
    """The ADC map (um2/s) on the T1 grid, and where it comes from.

    Parameters
    ----------
    maps
        ADC maps made by the scanner that go with this DWI protocol; may be empty.

    Returns
    -------
    adc, origin
        None where there is neither a fit nor a map.
    """
    if maps and (fit is None or job.config.adc_source == "scanner"):
        adc, origin = _scanner_adc(maps, dwi.motion, target.grid, job)
        done = "the scanner's map" + (": no fit is possible" if fit is None else ", as set")
        if all(image.group == HANDED_OVER for image in maps):
            done, origin = "the map that was handed over", origin | {"source": "handed over"}
        job.step("adc", done, **origin)
        return adc, origin
    if fit is None:
        job.step("adc", "none: one b-value and no map of the scanner", source="none")
        job.warn(
            "no ADC: one b-value and no ADC map of the scanner that goes with it; "
            "ADC columns will be empty"
        )
        return None, {"source": "none"}
    origin = {
        "source": "fit",
        "b_values_s_per_mm2": list(fit.b_values),
        "weighting": job.config.adc_weighting,
    }
    listed = "/".join(f"{b:g}" for b in fit.b_values)
    job.step("adc", f"mono-exponential fit of b {listed} inside the body", **origin)
    return resample_masked(fit.adc, fit.s0 > 0, dwi.grid, target.grid), origin


def _refined(dwi: StitchedDwi, target: Target, job: Job) -> StitchedDwi:
    lowest = Volume.single(dwi.images[min(dwi.images)], dwi.grid.affine, "dwi")
    found = refine_rigid(target.t1, target.body, lowest, max_shift_mm=job.config.max_shift_mm)
    job.step(
        "registration",
        f"rigid refinement {found.reason}",
        accepted=found.accepted,
        mutual_information=[found.before, found.after],
        shift_mm=found.shift_mm,
    )
    if not found.accepted:
        job.warn(f"DWI to T1: rigid refinement {found.reason}")
        return dwi
    motion = np.asarray(found.affine @ np.linalg.inv(dwi.grid.affine), dtype=np.float64)
    return replace(dwi, grid=Grid(dwi.grid.shape, found.affine), motion=motion)


def _scanner_adc(
    maps: Sequence[StationImage], motion: Affine, grid: Grid, job: Job
) -> tuple[Floats, dict[str, Any]]:
    """The scanner's map, stitched where it is positive, moved as the DWI was, on a grid."""
    stations, notes = select_stations(maps, "adc")
    job.warn(*notes)
    volumes = [Volume(i.volume.array, motion @ i.volume.affine, ("adc",)) for i in stations]
    layout = lay_out([v.grid for v in volumes])
    placed = [
        replace(p, weight=np.asarray(p.weight * (p.array > 0), np.float32))
        for p in place_stations(volumes, layout)
    ]
    array = blend(placed, layout.grid.shape)
    sources = sorted({i.source for i in stations if i.source})
    adc = resample_masked(array, array > 0, layout.grid, grid)
    return adc, {"source": "scanner", "images": sources}

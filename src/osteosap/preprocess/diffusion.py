"""The diffusion channels: every station corrected, fitted, registered to T1; then blended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.exam import HANDED_OVER, StationImage
from osteosap.geometry import inside_of
from osteosap.preprocess.adc import compute_b
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.b1000 import TARGET_B, B1000Choice, b_values_for_adc
from osteosap.preprocess.body import foreground_threshold
from osteosap.preprocess.dwi_station import (
    DwiStation,
    fitted,
    stations_of,
    unbiased,
    unbiased_in_muscle,
    without_eddies,
)
from osteosap.preprocess.evening import evened
from osteosap.preprocess.groups import NOTABLE, DwiGroup, select_stations
from osteosap.preprocess.record import Job, number
from osteosap.preprocess.register import coverage_of, register_station, require_coverage
from osteosap.preprocess.seams import match_stations
from osteosap.preprocess.stations import StationLayout, lay_out
from osteosap.preprocess.stitch import Placed, blend
from osteosap.preprocess.target import Target

__all__ = ["Diffusion", "DwiStation", "bring_dwi_to_t1", "view_of"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Diffusion:
    """The diffusion channels on the grid of T1.

    Parameters
    ----------
    b1000, adc
        float32; ``adc`` in um2/s, None where there is neither a fit nor a map.
    origin
        Where the ADC comes from, for the record.
    stations
        As corrected, in order from foot to head.
    pictures
        For the quality report.
    """

    b1000: Floats
    adc: Floats | None
    origin: dict[str, Any]
    stations: tuple[DwiStation, ...]
    pictures: dict[str, Floats] = field(default_factory=dict)


def view_of(group: DwiGroup, target: Target, job: Job) -> dict[str, float]:
    """How far DWI and T1 each show what the other does, by scanner coordinates.

    Returns
    -------
    view
        ``coverage``, the share of the body on the T1 inside the DWI's field of view, and
        ``dwi_outside_t1``, the share of the tissue on the DWI outside the T1's.

    Raises
    ------
    GeometryError
        The DWI has gaps, or covers too little of the body.
    """
    layout = lay_out([s[0].grid for s in group.stations])
    coverage = coverage_of(target.body, target.grid, layout.grid)
    require_coverage(coverage, minimum=job.config.min_coverage)
    tissue = outside = 0
    for station in group.stations:
        lowest = station[0].array[0]
        shown = lowest > foreground_threshold(lowest)
        tissue += int(shown.sum())
        outside += int((shown & ~inside_of(target.grid, station[0].grid)).sum())
    share = outside / max(tissue, 1)
    said = f"the DWI covers {coverage:.1%} of the body on the T1"
    lost = f"{share:.1%} of the tissue on the DWI lies outside the T1"
    view = {"coverage": round(coverage, 4), "dwi_outside_t1": round(share, 4)}
    job.step("field of view", f"{said}; {lost}", **view)
    if coverage < 1 - NOTABLE:
        job.warn(f"{said}; lesions outside it cannot be found")
    if share > NOTABLE:
        job.warn(f"{lost} and is cut off; lesions there cannot be found")
    return view


def bring_dwi_to_t1(
    group: DwiGroup,
    choice: B1000Choice,
    target: Target,
    *,
    maps: Sequence[StationImage],
    job: Job,
) -> Diffusion:
    """Correct, fit and register every station of a DWI protocol; blend b1000 and ADC on T1.

    Everything is interpolated once, from the station's own grid to that of T1.

    Parameters
    ----------
    maps
        ADC maps made by the scanner that go with this protocol; may be empty.
    """
    layout = lay_out([s[0].grid for s in group.stations])
    raw = stations_of(group, choice, layout, job)
    handed = group.name == HANDED_OVER
    stations = raw
    if not job.leaves_alone("eddy currents", enabled=job.config.eddy.enabled, handed=handed):
        stations = without_eddies(stations, job)
    stations = fitted(stations, b_values_for_adc(group.b_values, config=job.config), job)
    biased = stations
    corrects = not job.leaves_alone("bias dwi", enabled=job.config.bias.enabled, handed=handed)
    if corrects:
        stations = unbiased(biased, job)
    registers = job.config.registration.enabled
    if not job.leaves_alone("registration", enabled=registers, handed=handed):
        stations = _registered(stations, target, layout, job)
    if corrects:
        stations = unbiased_in_muscle(biased, stations, target, layout, job)
    stations, after = _matched(raw, stations, target, layout, job)
    b1000 = _b1000(stations, target, choice=choice, job=job)
    adc, origin = _adc(stations, target, maps=maps, b_values=group.b_values, job=job)
    shown = choice.b_value_s_per_mm2 if choice.source != "computed" else max(raw[0].images)
    pictures = {
        **target.planes.through([s.lowest for s in raw], layout, "low_before"),
        **target.planes.of(after, "low_after"),
        **target.planes.through([s.images[shown] for s in raw], layout, "dwi_before"),
        **target.planes.of(b1000, "dwi_after"),
    }
    ordered = tuple(stations[i] for i in layout.order)
    return Diffusion(b1000, adc, origin, ordered, pictures)


def _registered(
    stations: Sequence[DwiStation], target: Target, layout: StationLayout, job: Job
) -> list[DwiStation]:
    """Stations with their place on T1."""
    config = job.config.registration

    def one(station: DwiStation) -> DwiStation:
        found = register_station(target.t1, target.body, station.lowest, config=config)
        return replace(station, alignment=found)

    results = job.each("register DWI to T1", one, stations)
    ordered = [results[i].alignment for i in layout.order]
    found = [a for a in ordered if a is not None]
    for place, alignment in enumerate(found):
        if alignment.warning:
            job.warn(f"DWI station {place + 1} to T1: {alignment.warning}")
    kinds = {"rigid": config.rigid, "B-spline": config.bspline}
    used = ", then ".join(name for name, on in kinds.items() if on) or "neither rigid nor B-spline"
    job.step(
        "registration",
        f"every DWI station to T1: {used}",
        rigid_accepted=[a.rigid_accepted for a in found],
        bspline_accepted=[a.bspline_accepted for a in found],
        shift_mm=[round(a.shift_mm, 2) for a in found],
        displacement_mm=[round(a.largest_displacement_mm, 2) for a in found],
        mutual_information=[[number(v) for v in (a.before, a.after_rigid, a.after)] for a in found],
        reasons=[a.reason for a in found],
    )
    return results


def _matched(
    raw: Sequence[DwiStation],
    stations: Sequence[DwiStation],
    target: Target,
    layout: StationLayout,
    job: Job,
) -> tuple[list[DwiStation], Floats]:
    """Stations with their scales, the same for all b-values, and the lowest one stitched."""
    before, after = (
        job.each(
            "match the stations of DWI", lambda s: s.place(s.lowest.array[0], target.grid), some
        )
        for some in (raw, stations)
    )
    inside = [
        [replace(p, weight=np.asarray(p.weight * target.body[p.box])) for p in placed]
        for placed in (before, after)
    ]  # beside the body there is noise, which is no seam
    match = match_stations(
        inside[0],
        inside[1],
        layout,
        job=job,
        channel="dwi",
        grid=target.grid,
        levels=[s.muscle_level for s in stations],
    )
    levels = zip(stations, match.scales, match.fields, strict=True)
    matched = [replace(s, scale=scale, evening=field) for s, scale, field in levels]
    even = match.evened(after, target.grid)
    return matched, blend(even, target.grid.shape, scales=match.scales)


def _b1000(
    stations: Sequence[DwiStation], target: Target, *, choice: B1000Choice, job: Job
) -> Floats:
    """The b1000 image on T1; 0 outside the field of view (and, if computed, the body)."""
    job.step("b1000", choice.reason, source=choice.source)
    if choice.source not in ("acquired", "handed over"):
        job.warn(f"b1000 was not acquired: {choice.reason}")
    shape, scales = target.grid.shape, [s.scale for s in stations]
    if choice.source != "computed":
        b = choice.b_value_s_per_mm2

        def acquired(station: DwiStation) -> Placed:
            shown = station.place(station.images[b].array[0], target.grid)
            return evened(shown, station.evening, target.grid)

        return blend(job.each("stitch b1000", acquired, stations), shape, scales=scales)

    def computed(station: DwiStation) -> Placed:
        if station.adc is None or station.s0 is None:  # choose_b1000 says computed only with a fit
            raise AssertionError("b1000 cannot be computed without a fit")
        image = compute_b(station.adc, station.s0, TARGET_B)
        shown = station.place_masked(image, station.s0 > 0, target.grid)
        return evened(shown, station.evening, target.grid)

    placed = job.each("stitch b1000", computed, stations)
    return blend(placed, shape, scales=scales) * target.body


def _adc(
    stations: Sequence[DwiStation],
    target: Target,
    *,
    maps: Sequence[StationImage],
    b_values: Sequence[float],
    job: Job,
) -> tuple[Floats | None, dict[str, Any]]:
    """The ADC map (um2/s) on T1, and where it comes from."""
    used = b_values_for_adc(b_values, config=job.config)
    if maps and (not used or job.config.adc_source == "scanner"):
        adc, origin = _scanner_adc(maps, stations, target, job)
        done = "the scanner's map" + (", as set" if used else ": no fit is possible")
        if all(image.group == HANDED_OVER for image in maps):
            done, origin = "the map that was handed over", origin | {"source": "handed over"}
        job.step("adc", done, **origin)
        return adc, origin
    if not used:
        job.step("adc", "none: one b-value and no map of the scanner", source="none")
        job.warn(
            "no ADC: one b-value and no ADC map of the scanner that goes with it; "
            "ADC columns will be empty"
        )
        return None, {"source": "none"}
    fits = [(s, s.adc, s.s0) for s in stations if s.adc is not None and s.s0 is not None]
    placed = job.each(
        "stitch the ADC", lambda fit: fit[0].place_masked(fit[1], fit[2] > 0, target.grid), fits
    )
    adc = blend(placed, target.grid.shape) * target.body
    origin = {
        "source": "fit",
        "b_values_s_per_mm2": list(used),
        "weighting": job.config.adc_weighting,
    }
    if maps:
        origin["against_scanner"] = _difference(adc, _scanner_adc(maps, stations, target, job)[0])
    listed = "/".join(f"{b:g}" for b in used)
    job.step("adc", f"mono-exponential fit of b {listed} inside the body", **origin)
    return adc, origin


def _scanner_adc(
    maps: Sequence[StationImage], stations: Sequence[DwiStation], target: Target, job: Job
) -> tuple[Floats, dict[str, Any]]:
    """The scanner's map, moved as the DWI of its place was, blended where it is positive."""
    chosen, notes = select_stations(maps, "adc")
    job.warn(*notes)
    layout = lay_out([i.volume.grid for i in chosen])
    placed = []
    for image, axis in zip(chosen, layout.axes, strict=True):
        array = np.asarray(image.volume.array[0], np.float32)
        carrier = DwiStation({0.0: image.volume}, axis, alignment=_at(image, stations))
        placed.append(carrier.place_masked(array, array > 0, target.grid))
    sources = sorted({i.source for i in chosen if i.source})
    adc = blend(placed, target.grid.shape)
    return adc, {"source": "scanner", "images": sources}


def _at(image: StationImage, stations: Sequence[DwiStation]) -> DwiAlignment | None:
    """Alignment of the DWI station that shows most of what a map shows."""
    shares = [float(inside_of(s.grid, image.volume.grid).mean()) for s in stations]
    return stations[int(np.argmax(shares))].alignment


def _difference(ours: Floats, scanner: Floats) -> dict[str, float | int]:
    """Relative difference of two ADC maps over the voxels where both are."""
    both = (ours > 0) & (scanner > 0)
    if not both.any():
        return {"voxels": 0}
    relative = ours[both] / scanner[both] - 1
    return {
        "median_difference": round(float(np.median(relative)), 4),
        "median_absolute_difference": round(float(np.median(np.abs(relative))), 4),
        "voxels": int(both.sum()),
    }

"""The T1 that everything is brought to: bias off, stations aligned, matched and stitched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from osteosap.exam import HANDED_OVER, StationImage
from osteosap.geometry import Affine, Grid
from osteosap.preprocess.align import align_stations
from osteosap.preprocess.bias import estimate_biases
from osteosap.preprocess.bias_field import BiasField, correct_bias
from osteosap.preprocess.body import body_mask
from osteosap.preprocess.groups import select_stations
from osteosap.preprocess.overlaps import find_overlaps
from osteosap.preprocess.record import Job, number
from osteosap.preprocess.seams import match_stations
from osteosap.preprocess.snapshots import Planes
from osteosap.preprocess.stations import StationLayout, lay_out
from osteosap.preprocess.stitch import blend, place_stations
from osteosap.volume import Volume

__all__ = ["T1Station", "Target", "make_target", "note_bias"]


@dataclass(frozen=True)
class T1Station:
    """One station of the T1.

    Parameters
    ----------
    volume
        Without bias, where it was moved to.
    bias
        What was taken off it; None for nothing.
    motion
        4x4, world to world in mm: how it was moved.
    scale
        Factor that makes it agree with its neighbours.
    evening
        What it is divided by besides, on the grid of the exam, so that seams vanish; None for
        nothing.
    """

    volume: Volume
    bias: BiasField | None = None
    motion: Affine | None = None
    scale: float = 1.0
    evening: BiasField | None = None


@dataclass(frozen=True)
class Target:
    """The T1 that everything is brought to.

    Parameters
    ----------
    t1
        One channel, stitched.
    body
        bool (I, J, K): the body's mask on its grid.
    stations
        From foot to head.
    planes, pictures
        Where the pictures of the quality report are taken, and those of the T1.
    """

    t1: Volume
    body: npt.NDArray[np.bool_]
    stations: tuple[T1Station, ...]
    planes: Planes
    pictures: dict[str, npt.NDArray[np.float32]]

    @property
    def grid(self) -> Grid:
        """Grid of the exam."""
        return self.t1.grid


def make_target(images: Sequence[StationImage], job: Job) -> Target:
    """Stitch the T1 and find the body on it.

    Parameters
    ----------
    images
        Those of kind ``t1`` are used.
    """
    chosen, notes = select_stations(images, "t1")
    job.warn(*notes)
    raw = [i.volume for i in chosen]
    layout = lay_out([v.grid for v in raw])
    handed = all(i.group == HANDED_OVER for i in chosen)
    stations = [T1Station(volume) for volume in raw]
    if not job.leaves_alone("bias t1", enabled=job.config.bias.enabled, handed=handed):
        stations = _unbiased(stations, layout, job)
    if len(raw) == 1:
        job.step("align t1 stations", "one station, nothing to align")
    elif not job.leaves_alone("align t1 stations", enabled=job.config.align.enabled, handed=handed):
        stations = _aligned(stations, layout, job)
    placed = place_stations([s.volume for s in stations], layout)
    match = match_stations(place_stations(raw, layout), placed, layout, job=job, channel="t1")
    array = blend(match.evened(placed, layout.grid), layout.grid.shape, scales=match.scales)
    done = "one station" if len(raw) == 1 else f"{len(raw)} stations, feathered ({layout.method})"
    job.step(
        "stitch t1",
        done,
        stations=len(raw),
        grid=layout.grid.describe(),
        overlaps_mm=[round(v, 2) for v in layout.overlaps_mm],
        sources=sorted({i.source for i in chosen if i.source}),
    )
    body = body_mask(array)
    done = "thresholded the T1, closed gaps, filled holes in axial slices"
    job.step("body mask", done, share_of_volume=round(float(body.mean()), 4))
    planes = Planes(layout.grid, body)
    pictures = {
        **planes.through(raw, layout, "t1_before"),
        **planes.of(array, "t1_after"),
        "stations_mm": planes.edges_mm(layout, [v.grid for v in raw]),
        **planes.spacing_mm,
    }
    matched = [
        replace(s, scale=scale, evening=field)
        for s, scale, field in zip(stations, match.scales, match.fields, strict=True)
    ]
    ordered = tuple(matched[i] for i in layout.order)
    t1 = Volume.single(array, layout.grid.affine, "t1")
    return Target(t1, body, ordered, planes, pictures)


def _unbiased(stations: Sequence[T1Station], layout: StationLayout, job: Job) -> list[T1Station]:
    """Every T1 station without the bias of the coils."""
    job.progress("correct the bias of T1", 0.0)
    volumes = [s.volume for s in stations]
    config = job.config.bias
    overlaps = find_overlaps(volumes, layout.grid) if config.compares_stations else []
    fields = estimate_biases(volumes, overlaps=overlaps, config=config)
    note_bias("t1", [fields[i] for i in layout.order], job)
    return [
        replace(station, volume=correct_bias(station.volume, field), bias=field)
        for station, field in zip(stations, fields, strict=True)
    ]


def note_bias(channel: str, fields: Sequence[BiasField], job: Job) -> None:
    """Take down what was found of the bias of the stations of a channel, from foot to head."""
    how = {"n4": "N4", "shared histogram": "splines that sharpen the stations' common histogram"}
    tied = sum(f.compared > 0 for f in fields)
    too = f"; {tied} of {len(fields)} stations fitted to their overlaps, too" if tied else ""
    job.step(
        f"bias {channel}",
        how[job.config.bias.method] + too,
        field_sd=[round(float(f.log_field.std()), 4) for f in fields],
        compared=[f.compared for f in fields],
    )
    for place, found in enumerate(fields):
        if found.reason:
            job.warn(f"{channel} station {place + 1}: bias not corrected, {found.reason}")


def _aligned(stations: Sequence[T1Station], layout: StationLayout, job: Job) -> list[T1Station]:
    """Stations where they agree best with their inner neighbour."""
    job.progress("align the stations of T1", 0.0)
    volumes = [s.volume for s in stations]
    moves = align_stations(volumes, layout, config=job.config.align, threads=job.threads)
    ordered = [moves[i] for i in layout.order]
    for place, move in enumerate(ordered):
        if move.reason.startswith(("rejected", "not aligned")):
            job.warn(f"T1 station {place + 1}: {move.reason}")
    job.step(
        "align t1 stations",
        f"{sum(m.accepted for m in moves)} of {len(moves)} moved onto their inner neighbour",
        accepted=[m.accepted for m in ordered],
        shift_mm=[round(m.shift_mm, 2) for m in ordered],
        similarity=[[number(m.before), number(m.after)] for m in ordered],
        reasons=[m.reason for m in ordered],
    )
    return [
        replace(
            station,
            volume=Volume(v.array, np.asarray(move.motion @ v.affine), v.channels),
            motion=move.motion,
        )
        for station, v, move in zip(stations, volumes, moves, strict=True)
    ]

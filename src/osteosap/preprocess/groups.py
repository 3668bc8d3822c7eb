"""Sort images of an examination into what belongs together: T1, DWI protocols, ADC maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from osteosap.errors import GeometryError
from osteosap.exam import StationImage
from osteosap.geometry import Grid, inside_of
from osteosap.preprocess.stations import join_stations, reach_mm, span_lost
from osteosap.volume import Volume

__all__ = ["DwiGroup", "collect_dwi_groups", "complete_group", "maps_of", "select_stations"]

Warnings = tuple[str, ...]

NOTABLE = 0.05
"""Share of the extent that has to be lost for a warning."""


@dataclass(frozen=True)
class DwiGroup:
    """One DWI protocol over all its stations.

    Parameters
    ----------
    name
        The group of its images.
    b_values
        s/mm2, ascending; those acquired at every station.
    stations
        For each station, one volume per b-value, in the order of ``b_values``, on one grid.
    sources
        Where the images came from.
    protocols
        Groups of its images: its own name, and those of protocols that complete it.
    """

    name: str
    b_values: tuple[float, ...]
    stations: tuple[tuple[Volume, ...], ...]
    sources: tuple[str, ...]
    protocols: tuple[str, ...]

    @property
    def extent_ml(self) -> float:
        """Volume of all stations' boxes, overlaps counted twice."""
        return sum(s[0].grid.voxel_volume_ml * s[0].array.size for s in self.stations)


def collect_dwi_groups(images: Sequence[StationImage]) -> tuple[tuple[DwiGroup, ...], Warnings]:
    """DWI images by group, station and b-value.

    Images of one station and b-value (repetitions, directions) are averaged. A b-value that
    some stations lack is left out, with a warning.

    Raises
    ------
    GeometryError
        A group has no b-value that all its stations share.
    """
    groups: list[DwiGroup] = []
    warnings: list[str] = []
    for name in sorted({i.group for i in images if i.kind == "dwi"}):
        members = [i for i in images if i.kind == "dwi" and i.group == name]
        group, notes = _collect(name, members)
        groups.append(group)
        warnings.extend(notes)
    return tuple(groups), tuple(warnings)


def complete_group(best: DwiGroup, groups: Sequence[DwiGroup]) -> tuple[DwiGroup, Warnings]:
    """Complete a DWI protocol by stations of others that show what it does not.

    A station acquired with another TR or voxel size is a protocol of its own. It joins if it has
    all b-values of ``best`` and continues its stations; b-values are only ever fitted within one
    station.

    Returns
    -------
    group, warnings
        The warnings name what was added, and what was left out with the share of the extent lost.
    """
    others = [g for g in groups if g is not best]
    able = [g for g in others if set(best.b_values) <= set(g.b_values)]
    added = [(g, s) for g in able for s in g.stations]
    grids = [s[0].grid for s in best.stations]
    joined, _ = join_stations(grids, [s[0].grid for _, s in added])
    taken = [added[n] for n in joined]
    stations = [*best.stations]
    for g, station in taken:
        stations.append(tuple(station[g.b_values.index(b)] for b in best.b_values))
    names = tuple(dict.fromkeys(g.name for g, _ in taken))
    used = [s[0].grid for s in stations]
    warnings = [f"DWI of '{best.name}' is completed by stations of '{n}'" for n in names]
    for g in others:
        lost = span_lost(used, [s[0].grid for s in g.stations])
        if lost > NOTABLE:
            listed = ", ".join(f"{b:g}" for b in g.b_values)
            warnings.append(
                f"DWI of '{g.name}' (b {listed}) cannot complete '{best.name}': it lacks b-values, "
                f"lies apart or mostly repeats it; {lost:.0%} of their extent from foot to head is "
                "not used, and lesions there are not looked for"
            )
    sources = tuple(sorted({*best.sources, *(x for g, _ in taken for x in g.sources)}))
    group = replace(
        best, stations=tuple(stations), sources=sources, protocols=(*best.protocols, *names)
    )
    return group, tuple(warnings)


def maps_of(
    group: DwiGroup, groups: Sequence[DwiGroup], images: Sequence[StationImage]
) -> list[StationImage]:
    """ADC maps of the scanner that go with a DWI protocol; empty where none does.

    Maps that name the protocol as their group; without such, maps that name no protocol at all
    and lie on the grid of one of its stations, or else mainly in their field of view.
    """
    maps = sorted((i for i in images if i.kind == "adc"), key=lambda i: (i.group, i.source))
    named = [i for i in maps if i.group in group.protocols]
    if named:
        return named
    free = [i for i in maps if i.group not in {g.name for g in groups}]
    grids = [s[0].grid for s in group.stations]
    exact = [i for i in free if any(i.volume.grid.same_as(g, tolerance_mm=1.0) for g in grids)]
    return exact or [
        i for i in free if np.any([inside_of(g, i.volume.grid) for g in grids], axis=0).mean() > 0.5
    ]


def select_stations(
    images: Sequence[StationImage], kind: str
) -> tuple[tuple[StationImage, ...], Warnings]:
    """Stations of ``t1`` or ``adc``: one series where several cover the same region.

    Images of one group belong together. With several groups, the one that reaches farthest is
    taken; of the others, stations that complete it (:func:`~.stations.join_stations`).

    Parameters
    ----------
    images
        At least one of the kind.
    """
    groups: dict[str, list[StationImage]] = {}
    for image in images:
        if image.kind == kind:
            groups.setdefault(image.group, []).append(image)
    ranked = sorted(groups.items(), key=lambda g: (-reach_mm(_grids(g[1])), -_voxels(g[1]), g[0]))
    chosen = ranked[0][1]
    others = [i for _, group in ranked[1:] for i in group]
    joined, apart = join_stations(_grids(chosen), _grids(others))
    taken = [*chosen, *(others[n] for n in joined)]
    far = [others[n] for n in apart]
    double = [i for n, i in enumerate(others) if n not in (*joined, *apart)]
    warnings: Warnings = ()
    if double:
        warnings = (
            f"several {kind} series cover the same region: used {_sources(taken)}, left out "
            f"{_sources(double)}",
        )
    if far:
        lost = span_lost(_grids(taken), _grids(far))
        warnings += (
            f"{kind} of {_sources(far)} is left out: a gap parts it from {_sources(taken)}; "
            f"{lost:.0%} of their extent from foot to head is not used",
        )
    return tuple(taken), warnings


def _collect(name: str, members: Sequence[StationImage]) -> tuple[DwiGroup, Warnings]:
    stations: list[dict[float, list[Volume]]] = []
    grids: list[Grid] = []
    for image in members:
        place = next((n for n, g in enumerate(grids) if g.same_as(image.volume.grid)), len(grids))
        if place == len(grids):
            grids.append(image.volume.grid)
            stations.append({})
        stations[place].setdefault(float(image.b_value_s_per_mm2 or 0.0), []).append(image.volume)
    every = set().union(*stations)
    shared = sorted(every.intersection(*stations))
    listed = ", ".join(f"{b:g}" for b in sorted(every))
    if not shared:
        raise GeometryError(
            f"DWI group '{name}': none of the b-values {listed} was acquired at all "
            f"{len(stations)} stations",
            remedy="Remove stations that lack b-values, or export the complete series",
        )
    warnings: Warnings = ()
    if len(shared) < len(every):
        dropped = ", ".join(f"{b:g}" for b in sorted(every - set(shared)))
        warnings = (
            f"DWI group '{name}': b-values {dropped} are missing at some of "
            f"{len(stations)} stations and were left out",
        )
    volumes = tuple(tuple(_average(s[b]) for b in shared) for s in stations)
    sources = tuple(sorted({i.source for i in members if i.source}))
    return DwiGroup(name, tuple(shared), volumes, sources, (name,)), warnings


def _average(volumes: Sequence[Volume]) -> Volume:
    if len(volumes) == 1:
        return volumes[0]
    mean = np.zeros(volumes[0].array.shape, np.float32)
    for volume in volumes:
        mean += volume.array.astype(np.float32) / np.float32(len(volumes))
    return Volume(mean, volumes[0].affine, volumes[0].channels)


def _grids(images: Sequence[StationImage]) -> list[Grid]:
    return [i.volume.grid for i in images]


def _voxels(images: Sequence[StationImage]) -> int:
    return sum(i.volume.array.size for i in images)


def _sources(images: Sequence[StationImage]) -> str:
    return ", ".join(sorted({i.source or "unnamed" for i in images}))

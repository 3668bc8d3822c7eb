"""Sort images of an examination into what belongs together: T1, DWI protocols, ADC maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osteosap.errors import GeometryError
from osteosap.exam import StationImage
from osteosap.geometry import Grid
from osteosap.volume import Volume

__all__ = ["DwiGroup", "collect_dwi_groups", "select_stations"]

Warnings = tuple[str, ...]


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
    """

    name: str
    b_values: tuple[float, ...]
    stations: tuple[tuple[Volume, ...], ...]
    sources: tuple[str, ...]

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


def select_stations(
    images: Sequence[StationImage], kind: str
) -> tuple[tuple[StationImage, ...], Warnings]:
    """Stations of ``t1`` or ``adc``: one series where several cover the same region.

    Images of one group belong together. With several groups, the one that covers most is taken;
    of the others, only stations that lie mainly (more than half) outside what is taken are added.
    """
    members = [i for i in images if i.kind == kind]
    groups: dict[str, list[StationImage]] = {}
    for image in members:
        groups.setdefault(image.group, []).append(image)
    ranked = sorted(groups.values(), key=lambda g: (-_reach_mm(g), -_voxels(g)))
    chosen: list[StationImage] = list(ranked[0]) if ranked else []
    left_out = []
    for image in (i for group in ranked[1:] for i in group):
        if _covered_share(image, chosen) > 0.5:
            left_out.append(image.source or "unnamed")
        else:
            chosen.append(image)
    if not left_out:
        return tuple(chosen), ()
    used = ", ".join(sorted({i.source or "unnamed" for i in chosen}))
    return tuple(chosen), (
        f"several {kind} series cover the same region: used {used}, left out "
        f"{', '.join(sorted(set(left_out)))}",
    )


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
    return DwiGroup(name, tuple(shared), volumes, sources), warnings


def _average(volumes: Sequence[Volume]) -> Volume:
    if len(volumes) == 1:
        return volumes[0]
    mean = np.zeros(volumes[0].array.shape, np.float32)
    for volume in volumes:
        mean += volume.array.astype(np.float32) / np.float32(len(volumes))
    return Volume(mean, volumes[0].affine, volumes[0].channels)


def _span(image: StationImage) -> tuple[float, float]:
    """Lower and upper face along S, in mm."""
    grid = image.volume.grid
    half = np.abs(grid.affine[2, :3]) @ np.asarray(grid.shape) / 2
    centre = float(grid.affine[2] @ np.append((np.asarray(grid.shape) - 1) / 2, 1.0))
    return centre - float(half), centre + float(half)


def _reach_mm(group: Sequence[StationImage]) -> float:
    spans = [_span(i) for i in group]
    return round(max(s[1] for s in spans) - min(s[0] for s in spans), 1)


def _voxels(group: Sequence[StationImage]) -> int:
    return sum(i.volume.array.size for i in group)


def _covered_share(image: StationImage, chosen: Sequence[StationImage]) -> float:
    low, high = _span(image)
    levels = np.linspace(low, high, 101)
    covered = np.zeros(levels.shape, bool)
    for other in chosen:
        bottom, top = _span(other)
        covered |= (levels >= bottom) & (levels <= top)
    return float(covered.mean())

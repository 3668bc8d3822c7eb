"""The second source of anatomy: a label map of a real person, deformed into many bodies.

:func:`read_label_map` reads and checks a map once; :func:`build_body_from_labels` makes a body of
it, another one with every seed.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from osteosap.errors import InputError, VolumeError
from osteosap.geometry import Array, Grid, crop_grid
from osteosap.simulate.body import Body
from osteosap.simulate.label_map.deformation import (
    DeformationConfig,
    look_up,
    squared_distance,
)
from osteosap.simulate.label_map.fill import fill_body
from osteosap.simulate.label_map.grid import working_grid
from osteosap.simulate.label_map.names import ENVELOPES, Meaning, meaning_of
from osteosap.simulate.label_map.painting import deform_into_body
from osteosap.simulate.label_map.parts import (
    AIR,
    FAT_FILL,
    HALO,
    MUSCLE_FILL,
    Parts,
    split_parts,
)
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Field
from osteosap.simulate.tissue import T
from osteosap.volume import read_nifti

__all__ = ["LabelMap", "build_body_from_labels", "read_label_map"]

log = logging.getLogger(__name__)

DEPTH_VOXELS = 10
HALO_MARGIN_MM = 24.0  # air at the sides of the working grid
GROWTH_MM = {"skin": 0.0, "loose": 24.0, "": 60.0}
"""By how much the outline of the body may reach beyond the labels, by kind of envelope."""
REMEDY = "See docs/how-to/own-anatomy.md for the names that are known"


@dataclass(frozen=True)
class LabelMap:
    """A label map made ready: bones told apart, gaps filled, depths known.

    Parameters
    ----------
    parts
        uint8 (I, J, K): index into ``meanings``.
    depth_mm
        float32 (I, J, K): depth below the surface of the voxel's part, up to about 20 mm.
    grid
        Isotropic RAS grid of about 2 mm, x = 0 in the midline.
    meanings
        What each part is.
    unknown
        Names of the legend that mean nothing here; their voxels are muscle.
    envelope
        "skin", "loose" or "" (the outline was made).
    """

    parts: npt.NDArray[np.uint8]
    depth_mm: Field
    grid: Grid
    meanings: tuple[Meaning, ...]
    unknown: tuple[str, ...]
    envelope: str

    @property
    def sex(self) -> Literal["male", "female"] | None:
        """What the organs of the map say; None where it has none that tells."""
        tissues = {m.tissue for m in self.meanings}
        if tissues & {T.PROSTATE, T.TESTIS, T.PENIS, T.SEMINAL_VESICLE}:
            return "male"
        return "female" if tissues & {T.UTERUS, T.OVARY} else None


def read_label_map(labels: Path, legend: Path) -> LabelMap:
    """Read and check a label map and its legend.

    Parameters
    ----------
    labels
        3D NIfTI file of whole numbers, 0 = background.
    legend
        JSON: ``{"labels": {"1": {"name": "sacrum"}}}``, ``{"1": "sacrum"}`` or ``{"sacrum": 1}``.

    Raises
    ------
    InputError
        A file is missing or unreadable, the legend lacks a label of the map, or the map lacks
        spine, pelvis or femur.
    GeometryError
        The map is not three-dimensional or its affine is singular.
    VolumeError
        Its values are no whole numbers, negative, not finite, or all 0.
    """
    names = _read_legend(legend)
    volume = read_nifti(labels, channel="labels")
    ids, meanings, unknown = _meanings(_whole_numbers(volume.array[0], labels), names, labels)
    _require_bones(meanings, labels)
    kinds = {m.envelope for m in meanings} - {""}
    envelope = "skin" if "skin" in kinds else "loose" if kinds else ""
    if not envelope:
        log.warning(
            "%s has no label of the body's outline (%s): skin, fat and limb muscles are made "
            "around the labels", labels.name, ", ".join(ENVELOPES),
        )  # fmt: skip
    if unknown:
        log.warning("unknown names, taken for muscle: %s", ", ".join(unknown))
    air = HALO_MARGIN_MM + GROWTH_MM[envelope]
    parts = split_parts(*working_grid(ids, volume.grid, meanings, air_mm=air), meanings)
    fill_body(parts, envelope)
    parts = _cropped(parts)
    depth = _depth(parts)
    parts.array.flags.writeable = depth.flags.writeable = False
    return LabelMap(parts.array, depth, parts.grid, tuple(parts.meanings), tuple(unknown), envelope)


def build_body_from_labels(
    source: LabelMap,
    spacing_mm: tuple[float, float, float],
    *,
    seed: int,
    person: Person,
    config: DeformationConfig | None = None,
) -> Body:
    """Make a body of a label map.

    Parameters
    ----------
    source
        From :func:`read_label_map`.
    spacing_mm
        Voxel size of the body's grid: from the knee, or the map's lower end, to the vertex.
    seed
        Fixes the deformation and everything that is drawn, at every spacing.
    person
        Only the state of the marrow is taken from it; shape and size come from the map.
    config
        How far bodies differ.
    """
    return deform_into_body(
        Parts.of(source.parts, source.grid, source.meanings),
        source.depth_mm,
        spacing_mm,
        seed=seed,
        person=person,
        config=config or DeformationConfig(),
    )


def _read_legend(path: Path) -> dict[int, str]:
    """Names by label number."""
    if not path.is_file():
        raise InputError(f"no legend {path}", remedy="Check the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the legend {path} is not JSON ({type(error).__name__})",
            remedy='Write it as {"1": "sacrum", "2": "femur_left", ...}',
        ) from error
    entries = content.get("labels", content) if isinstance(content, dict) else None
    names: dict[int, str] = {}
    for key, value in entries.items() if isinstance(entries, dict) else ():
        name = value.get("name") if isinstance(value, dict) else value
        if isinstance(name, str) and key.strip().isdecimal():
            names[int(key)] = name
        elif isinstance(name, int) and not isinstance(name, bool):
            names[name] = key
        else:
            raise InputError(
                f"the legend {path} has an entry {key!r}: {value!r}, expected a number and a name",
                remedy='Write it as {"1": "sacrum", "2": "femur_left", ...}',
            )
    if not names:
        raise InputError(
            f"the legend {path} names no label, expected at least spine, pelvis and femur",
            remedy='Write it as {"1": "sacrum", "2": "femur_left", ...}',
        )
    return names


def _whole_numbers(array: Array, path: Path) -> Array:
    """The map as unsigned integers up to 65535."""
    lowest, highest = array.min(), array.max()
    whole = np.issubdtype(array.dtype, np.integer) or array.dtype == bool
    if not whole and not (np.rint(array) == array).all():
        raise VolumeError(
            f"{path} holds values such as {float(array[np.rint(array) != array][0]):g}, expected "
            "whole numbers",
            remedy="Use the label map itself, resampled by nearest neighbour if at all",
        )
    if lowest < 0 or highest > 65535:
        raise VolumeError(
            f"{path} holds values from {lowest:g} to {highest:g}, expected 0 to 65535",
            remedy="Use a label map with 0 as background",
        )
    if highest == 0:
        raise VolumeError(f"{path} is empty (all 0), expected labels", remedy="Check the file")
    return array.astype(np.uint16) if array.dtype != np.uint8 else array


def _meanings(
    array: Array, names: dict[int, str], path: Path
) -> tuple[npt.NDArray[np.uint8], list[Meaning], list[str]]:
    """Map of indices, what they mean (the first is the background), and names unknown."""
    counts = sum(np.bincount(plane.ravel(), minlength=65536) for plane in array)
    present = [int(n) for n in np.flatnonzero(counts) if n]
    if missing := [n for n in present if n not in names]:
        numbers = ", ".join(map(str, missing[:12]))
        raise InputError(
            f"{path} holds labels that the legend does not name: {numbers}",
            remedy="Name every label of the map in the legend",
        )
    meanings = [Meaning(T.AIR)]
    unknown: list[str] = []
    table = np.zeros(max(max(present) + 1, 256), np.uint8)
    for number in present:
        meaning = meaning_of(names[number])
        if meaning is None:
            unknown.append(names[number])
            meaning = Meaning(T.MUSCLE)
        if meaning not in meanings:
            meanings.append(meaning)
        table[number] = meanings.index(meaning)
    ids = look_up(table, array.astype(np.uint8)) if len(table) == 256 else table[array]
    return ids, meanings, unknown


def _require_bones(meanings: list[Meaning], path: Path) -> None:
    """Spine, pelvis and femur must be there."""
    needed = {"spine": "vertebrae_L5", "pelvis": "hip_left", "femur": "femur_left"}
    found = {m.site for m in meanings if m.place != "sacrum"}
    missing = [site for site in needed if site not in found]
    if missing:
        examples = ", ".join(needed[s] for s in missing)
        raise InputError(
            f"{path} has no label of: {', '.join(missing)}; named are "
            f"{', '.join(sorted(found - {''})) or 'no bones'}",
            remedy=f"Add them to map and legend (for example {examples}). {REMEDY}",
        )


def _cropped(parts: Parts) -> Parts:
    """Without the air beyond the halo, at the sides and the top."""
    used = [(parts.array != AIR).any(axis=tuple({0, 1, 2} - {a})) for a in range(3)]
    first = [max(int(np.flatnonzero(u)[0]) - 1, 0) for u in used[:2]]
    box = (
        slice(first[0], int(np.flatnonzero(used[0])[-1]) + 2),
        slice(first[1], int(np.flatnonzero(used[1])[-1]) + 2),
        slice(0, int(np.flatnonzero(used[2])[-1]) + 2),
    )
    view = parts.array[box]
    bounds = tuple(slice(s.start, s.start + n) for s, n in zip(box, view.shape, strict=True))
    return Parts.of(view, crop_grid(parts.grid, bounds), parts.meanings)


def _depth(parts: Parts) -> Field:
    """Depth (mm) of every voxel below the surface of its part; of air, above the body's."""
    group = np.arange(256, dtype=np.uint8)
    group[HALO] = AIR
    for index, meaning in enumerate(parts.meanings):
        if not meaning.site and meaning.tissue in (T.FAT, T.MUSCLE):
            group[index] = FAT_FILL
    group[MUSCLE_FILL] = FAT_FILL
    grouped = look_up(group, parts.array)
    border = np.zeros(grouped.shape, bool)
    for axis in range(3):
        view, flag = np.moveaxis(grouped, axis, 0), np.moveaxis(border, axis, 0)
        step = view[1:] != view[:-1]
        flag[1:] |= step
        flag[:-1] |= step
    squared = squared_distance(border, DEPTH_VOXELS)
    table = (np.sqrt(np.arange(256)) + 0.5) * parts.grid.spacing_mm[0]
    depth = np.asarray(table.astype(np.float32)[squared])
    depth[parts.array == AIR] = -table[-1]  # beyond the halo: to it, air is no surface
    return depth

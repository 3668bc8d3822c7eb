"""What label maps lack and readers expect: lymph nodes, ganglia, glands, eyes, ventricles.

They are painted into a copy of the parts before the deformation, so that they move with the body.
Places are relative to bones and vessels; numbers and sizes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.label_map.names import Meaning
from osteosap.simulate.label_map.parts import FAT_FILL, MUSCLE_FILL, Parts
from osteosap.simulate.shapes import Canvas, Ellipsoid, RoundCone, Shape, chain
from osteosap.simulate.tissue import T

__all__ = ["paint_extras"]

Points = npt.NDArray[np.float64]

# Nodes of one side: bone, end of it in z (0 low, 1 high), offset of the right side (mm: lateral,
# anterior, up), spread (mm), mean number.
NODE_STATIONS: tuple[tuple[str, float, tuple[float, float, float], float, float], ...] = (
    ("humerus", 1.0, (-34.0, 2.0, -55.0), 16.0, 4.0),  # axillary
    ("C5", 0.5, (34.0, 8.0, 0.0), 13.0, 5.0),  # cervical
    ("femur", 1.0, (-28.0, 34.0, -40.0), 13.0, 4.0),  # inguinal
    ("femur", 1.0, (-42.0, 12.0, 35.0), 12.0, 3.0),  # external iliac
    ("L4", 0.5, (20.0, 34.0, 0.0), 14.0, 2.5),  # retroperitoneal, common iliac
    ("T5", 0.5, (16.0, 40.0, 0.0), 14.0, 1.5),  # mediastinal
)


@dataclass(frozen=True)
class _Painter:
    parts: Parts
    canvas: Canvas
    boxes: list[tuple[slice, slice, slice] | None]
    rng: np.random.Generator

    def solid(self, shapes: list[Shape], tissue: T, *, over: npt.NDArray[np.bool_]) -> None:
        """Paint a union of shapes over some parts (256,)."""
        box, distance = self.canvas.distance(shapes, margin=1.0)
        if distance.size == 0:
            return
        view = self.parts.array[box]
        view[(distance < 0) & over[view]] = self.parts.id_of(Meaning(tissue))

    def centre(self, index: int) -> Points:
        """Middle of a part's box (mm)."""
        box = self.boxes[index]
        assert box is not None
        grid = self.parts.grid
        middle = np.array([(s.start + s.stop - 1) / 2 for s in box])
        return np.asarray(middle * np.array(grid.spacing_mm) + grid.affine[:3, 3])

    def size(self, index: int) -> Points:
        """Edge lengths of a part's box (mm)."""
        box = self.boxes[index]
        assert box is not None
        edges = np.array([s.stop - s.start for s in box], np.float64)
        return edges * np.array(self.parts.grid.spacing_mm, np.float64)

    def named(self, place: str) -> int | None:
        """Index of a bone by its place."""
        for index, meaning in enumerate(self.parts.meanings):
            if meaning.site and meaning.place == place and self.boxes[index] is not None:
                return index
        return None

    def of_tissue(self, tissue: T) -> list[int]:
        return [
            i for i, m in enumerate(self.parts.meanings)
            if m.tissue == tissue and i < len(self.boxes) and self.boxes[i] is not None
        ]  # fmt: skip


def paint_extras(parts: Parts, rng: np.random.Generator) -> None:
    """Draw small structures into ``parts`` in place."""
    boxes = ndimage.find_objects(parts.array, max_label=len(parts.meanings) - 1)
    painter = _Painter(parts, Canvas(parts.grid), [None, *boxes], rng)
    soft = parts.chosen(tissue=T.MUSCLE) | parts.chosen(tissue=T.FAT)
    soft[[FAT_FILL, MUSCLE_FILL]] = True
    _paint_ganglia(painter, soft)
    _paint_nodes(painter, soft)
    _paint_head(painter, soft)
    _paint_pharynx(painter, soft)
    _paint_vesicles(painter, soft)


def _paint_ganglia(painter: _Painter, soft: npt.NDArray[np.bool_]) -> None:
    """Root ganglia in the foramina: bright on b1000 beside every vertebra."""
    fluid = np.zeros(256, bool)
    for tissue in (T.CSF, T.CORD):
        fluid[[i for i, m in enumerate(painter.parts.meanings) if m.tissue == tissue]] = True
    for index, meaning in enumerate(painter.parts.meanings):
        box = painter.boxes[index] if index < len(painter.boxes) else None
        if meaning.site != "spine" or box is None:
            continue
        canal = np.argwhere(fluid[painter.parts.array[box]])
        grid = painter.parts.grid
        if not len(canal):
            continue
        middle = canal.mean(axis=0) + [s.start for s in box]
        centre = middle * np.array(grid.spacing_mm) + grid.affine[:3, 3]
        radius = 3.3 if meaning.class_id == 3 else 2.5
        for side in (1.0, -1.0):
            size = radius * float(np.exp(painter.rng.normal(0, 0.15)))
            a = centre + np.array([side * 11.0, 2.0, -6.0])
            b = a + np.array([side * 7.0, 2.0, -4.0])
            painter.solid([RoundCone(a, b, size, size * 0.8)], T.NERVE, over=soft)


def _paint_nodes(painter: _Painter, soft: npt.NDArray[np.bool_]) -> None:
    for place, end, offset, spread, mean in NODE_STATIONS:
        for side, name in ((1.0, "right"), (-1.0, "left")):
            index = painter.named(place if place[0].isupper() else f"{place} {name}")
            count = int(painter.rng.poisson(mean))
            scatter = painter.rng.normal(0, spread, (count, 3)) * [0.7, 0.7, 1.2]
            length = np.clip(painter.rng.lognormal(np.log(4.6), 0.35, count), 2.5, 12.0)
            turn = painter.rng.normal(size=(count, 3))
            if index is None:
                continue
            anchor = painter.centre(index)
            anchor[2] += (end - 0.5) * painter.size(index)[2]
            for moved, long_axis, step in zip(scatter, length, turn, strict=True):
                centre = anchor + np.array(offset) * [side, 1, 1] + moved
                half = step / np.linalg.norm(step) * long_axis * 0.35
                shape = RoundCone(centre - half, centre + half, long_axis * 0.6, long_axis * 0.6)
                painter.solid([shape], T.NODE, over=soft)


def _paint_head(painter: _Painter, soft: npt.NDArray[np.bool_]) -> None:
    """Parotid glands, eyeballs, ventricles."""
    jaw = painter.named("mandible")
    if jaw is not None:
        centre, size = painter.centre(jaw), painter.size(jaw)
        for side in (1.0, -1.0):
            place = centre + np.array([side * (size[0] / 2 + 2), -size[1] / 2 + 2, size[2] * 0.12])
            painter.solid([Ellipsoid(place, np.array([12.0, 17, 23]))], T.SALIVARY, over=soft)
    for index in painter.of_tissue(T.EYE):
        size, centre = painter.size(index), painter.centre(index)
        sides = (1.0, -1.0) if size[0] > 40 else (0.0,)
        if size[1] > 15:  # the whole eyeball is in the map
            continue
        for side in sides:
            place = centre + np.array([side * (size[0] / 2 - 5), 5.0 - 12.0, 0.0])
            painter.solid([Ellipsoid(place, np.full(3, 12.0))], T.EYE, over=soft)
    for index in painter.of_tissue(T.BRAIN_WHITE):
        brain = np.zeros(256, bool)
        brain[index] = True
        k = painter.size(index) / np.array([140.0, 180.0, 165.0])
        top = painter.centre(index) + np.array([0.0, 0.0, 12.0]) * k
        if k.min() < 0.5:
            continue
        width = float(np.clip(painter.rng.normal(6.0, 1.0), 4.0, 9.0))
        for side in (1.0, -1.0):
            horn = np.array([(side * 15, -38, -4), (side * 13, 0, 18), (side * 14, 30, 10)])
            shapes = chain(top + horn * k, [width * 0.9, width, width * 0.8])
            painter.solid(shapes, T.CSF, over=brain)


def _paint_pharynx(painter: _Painter, soft: npt.NDArray[np.bool_]) -> None:
    """Air from the larynx behind tongue and palate to the nose."""
    levels = [painter.named(place) for place in ("C5", "C2", "C1")]
    if any(index is None for index in levels) or painter.named("skull") is None:
        return
    low, middle, high = (painter.centre(i) for i in levels if i is not None)
    steps = np.array([(0, 34, 0), (0, 32, 0), (0, 36, 8), (0, 62, 20), (0, 88, 18)], float)
    path = np.stack([low, middle, high, high, high]) + steps
    path[:, 0] = middle[0]
    painter.solid(chain(path, [6.0, 6.0, 8.0, 9.0, 8.0]), T.GAS, over=soft)


def _paint_vesicles(painter: _Painter, soft: npt.NDArray[np.bool_]) -> None:
    """Seminal vesicles behind and above the prostate."""
    if painter.of_tissue(T.SEMINAL_VESICLE):
        return
    for index in painter.of_tissue(T.PROSTATE):
        centre, size = painter.centre(index), painter.size(index)
        for side in (1.0, -1.0):
            a = centre + np.array([side * 5, -size[1] * 0.35, size[2] * 0.5])
            b = a + np.array([side * 20, -5.0, 6.0])
            painter.solid([RoundCone(a, b, 5.5, 4.5)], T.SEMINAL_VESICLE, over=soft)

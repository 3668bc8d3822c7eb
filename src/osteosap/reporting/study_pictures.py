"""Pictures of exams of a study: what each arm found beside the truth (the paper's figure 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from osteosap.errors import InputError
from osteosap.evaluation.matching import as_components
from osteosap.exam import Exam, find_file, read_exam_files, require_file
from osteosap.geometry import Array, Grid
from osteosap.label_maps import resample_classes
from osteosap.reporting.drawing import (
    AXIAL,
    CORONAL,
    LIGHT,
    Page,
    draw_contour,
    draw_grey,
    mark,
    new_figure,
    png,
)
from osteosap.reporting.figures import body_box, display_windows, spine_plane
from osteosap.reporting.study_results import StudyResults
from osteosap.reporting.study_scores import ArmScores, ExamResult, LesionResult
from osteosap.reporting.study_style import number, stamp
from osteosap.volume import read_nifti

__all__ = ["Case", "choose_examples", "exam_picture"]

REFERENCE_COLOUR, PREDICTION_COLOUR, FALSE_COLOUR = "#35d0ff", "#ff9d1e", "#ff5fa8"
DPI = 140
_CORONAL_INCHES = 5.6
_MAX_WIDTH_INCHES = 11.0
_HEAD_INCHES, _TITLE_INCHES, _FOOT_INCHES, _GAP_INCHES = 0.5, 0.26, 0.26, 0.04
_HALF_MM = 80.0
"""From the middle of an axial close-up to its edge."""


@dataclass(frozen=True)
class Case:
    """An exam to show and why.

    Parameters
    ----------
    exam
        Its scores for the featured arm.
    why
        Heading of the picture.
    focus
        Lesion that both planes pass through; None for the planes with most of the reference.
    """

    exam: ExamResult
    why: str
    focus: LesionResult | None = None


def choose_examples(arm: ArmScores) -> list[Case]:
    """Exams at the 25th, 50th and 75th percentile of an arm's Dice per patient, each once."""
    known = [(e.value("dice_mean_misses_as_0"), e) for e in arm.exams]
    ranked = sorted((x for x in known if math.isfinite(x[0])), key=lambda x: (x[0], x[1].name))
    percents: dict[int, list[str]] = {}
    for percent in (25, 50, 75) if ranked else ():
        place = round(percent / 100 * (len(ranked) - 1))
        percents.setdefault(place, []).append(f"{percent}th")
    return [
        Case(
            ranked[place][1],
            f"{' and '.join(told)} percentile: {arm.title} Dice {number(ranked[place][0])}",
        )
        for place, told in percents.items()
    ]


def exam_picture(study: StudyResults, case: Case) -> bytes:
    """T1 and b1000 with the truth, and every arm's lesions: a coronal plane, an axial close-up.

    Parameters
    ----------
    study
        Its folder holds the predictions, ``study.patients`` the exams.
    case
        What to show.

    Raises
    ------
    OsteosapError
        A file is absent, cannot be read or does not fit.
    """
    exam = _read(study, case.exam.name)
    truth = _map(exam)
    found = _predictions(study, case.exam.name, exam)
    featured = study.featured
    own = found.get(featured.name) if featured else None
    plane, level, centre = _planes(exam, truth, truth if own is None else own, case)
    panels: list[tuple[str, str, str | None]] = [
        ("T1, reference", "t1", ""),
        ("b1000", "b1000", None),
    ]
    panels += [(study.scores[name].title, "b1000", name) for name in found]
    views = [
        (Page(exam.images.grid, CORONAL), (slice(None), plane), 100.0),
        (Page(exam.images.grid, AXIAL), (slice(None), slice(None), level), 20.0),
    ]
    coronal = views[0][0].around(*body_box(exam.images))
    x, y = views[1][0].place((*centre, level))
    limits = [coronal, (x - _HALF_MM, x + _HALF_MM, y - _HALF_MM, y + _HALF_MM)]
    sheet = _Sheet.of(coronal, len(panels))
    figure = new_figure(sheet.width, sheet.height, face="black")
    windows = display_windows(exam.images)
    height_mm = views[0][0].place((0, 0, level))[1]
    for column, (title, channel, arm) in enumerate(panels):
        for row, ((page, cut, bar_mm), limit) in enumerate(zip(views, limits, strict=True)):
            axes = figure.add_axes(sheet.box(column, row))
            draw_grey(axes, exam.images.channel(channel)[cut], page, window=windows[channel])
            if arm is not None:
                draw_contour(axes, truth[cut] != 0, page, colour=REFERENCE_COLOUR)
            if arm:
                _draw_found(axes, found[arm], truth, cut, page)
            axes.set_xlim(limit[0], limit[1])
            axes.set_ylim(limit[2], limit[3])
            mark(axes, page, colour=LIGHT, bar_mm=bar_mm)
            if row == 0:
                axes.axhline(
                    height_mm, color=LIGHT, linewidth=0.5, alpha=0.6, linestyle=(0, (6, 6))
                )
        figure.text(*sheet.title(column), title, color=LIGHT, fontsize=9, ha="center", va="bottom")
    _label(figure, study, case, sheet)
    return png(figure, dpi=DPI)


@dataclass(frozen=True)
class _Sheet:
    """Sizes of the figure in inches: columns of a coronal view above an axial one."""

    columns: int
    column: float
    coronal: float

    @classmethod
    def of(cls, limit: tuple[float, float, float, float], columns: int) -> _Sheet:
        width_mm, height_mm = limit[1] - limit[0], limit[3] - limit[2]
        scale = min(_CORONAL_INCHES / height_mm, _MAX_WIDTH_INCHES / (columns * width_mm))
        return cls(columns, width_mm * scale, height_mm * scale)

    @property
    def width(self) -> float:
        return self.columns * (self.column + _GAP_INCHES)

    @property
    def height(self) -> float:
        body = self.coronal + _GAP_INCHES + self.column
        return _HEAD_INCHES + _TITLE_INCHES + body + _FOOT_INCHES

    def box(self, column: int, row: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a view, as shares of the figure."""
        left = column * (self.column + _GAP_INCHES)
        bottom = _FOOT_INCHES + (self.column + _GAP_INCHES if row == 0 else 0.0)
        high = self.coronal if row == 0 else self.column
        return (
            left / self.width,
            bottom / self.height,
            self.column / self.width,
            high / self.height,
        )

    def title(self, column: int) -> tuple[float, float]:
        """Where a column's title stands."""
        left, bottom, width, high = self.box(column, 0)
        return left + width / 2, bottom + high + 0.06 / self.height


def _read(study: StudyResults, name: str) -> Exam:
    if study.patients is None:
        raise InputError("the exams are not there", remedy="Keep the study's lists/patients")
    folder = study.patients / name
    return read_exam_files({key: require_file(folder, key) for key in ("t1", "b1000", "lesions")})


def _map(exam: Exam) -> Array:
    assert exam.lesions is not None  # required when it was read
    return np.asarray(exam.lesions.array[0])


def _predictions(study: StudyResults, name: str, exam: Exam) -> dict[str, Array]:
    """Masks of all arms that predicted this exam, on its grid."""
    found = {}
    for arm in study.scores:
        path = find_file(study.folder / "predictions" / arm / name, "lesions")
        if path is not None:
            found[arm] = _on_grid(path, exam.images.grid)
    if not found:
        raise InputError("no arm's prediction is there", remedy="Keep the study's predictions")
    return found


def _on_grid(path: Path, grid: Grid) -> Array:
    volume = read_nifti(path, channel="lesions")
    if volume.grid.same_as(grid):
        return np.asarray(volume.array[0])
    mask = (volume.array[0] != 0).astype(np.uint8)
    return np.asarray(resample_classes(mask, volume.grid, grid))


def _planes(
    exam: Exam, truth: Array, found: Array, case: Case
) -> tuple[int, int, tuple[float, float]]:
    """Coronal plane, axial level, and the middle (i, j) of the close-up."""
    focus = _focus_mask(exam, truth, found, case)
    if focus is None:
        low, high = body_box(exam.images)
        plane = spine_plane(exam)
        return plane, (low[2] + high[2]) // 2, ((low[0] + high[0]) / 2, float(plane))
    level = int(focus.sum(axis=(0, 1)).argmax())
    i, j = np.argwhere(focus[:, :, level]).mean(axis=0)
    wide = focus if case.focus is not None else truth != 0
    return int(wide.sum(axis=(0, 2)).argmax()), level, (float(i), float(j))


def _focus_mask(exam: Exam, truth: Array, found: Array, case: Case) -> Array | None:
    """The lesion to show: the given one, or the largest of the reference; None without any."""
    focus = case.focus
    if focus is None:
        parts = as_components(truth)
        sizes = np.bincount(parts.ravel())[1:]
        return np.asarray(parts == int(sizes.argmax()) + 1) if sizes.size else None
    if focus.centre_ras_mm is None:
        return None
    everything = (truth if focus.side == "reference" else found) != 0
    voxel = (np.linalg.inv(exam.images.affine) @ [*focus.centre_ras_mm, 1.0])[:3]
    places = np.argwhere(everything)
    if not len(places):
        return None
    spacing = np.asarray(exam.images.spacing_mm)
    nearest = places[(((places - voxel) * spacing) ** 2).sum(axis=1).argmin()]
    parts, _ = ndimage.label(everything, np.ones((3, 3, 3)))
    return np.asarray(parts == parts[tuple(nearest)])


def _draw_found(axes: Any, found: Array, truth: Array, cut: Any, page: Page) -> None:
    """Predicted lesions; those that touch no reference lesion anywhere in another colour."""
    parts = as_components(found)
    hits = np.unique(parts[(truth != 0) & (parts != 0)])
    shown = parts[cut]
    is_hit = np.isin(shown, hits) & (shown != 0)
    draw_contour(axes, is_hit, page, colour=PREDICTION_COLOUR)
    draw_contour(axes, (shown != 0) & ~is_hit, page, colour=FALSE_COLOUR)


def _label(figure: Any, study: StudyResults, case: Case, sheet: _Sheet) -> None:
    stamp(figure, kind=study.kind, dark=True)
    width, height = sheet.width, sheet.height
    figure.text(
        0.06 / width, 1.0 - 0.25 / height, f"{study.label(case.exam.name)}, {case.why}",
        color=LIGHT, fontsize=9, ha="left", va="top", parse_math=False,
    )  # fmt: skip
    words = (
        ("reference", REFERENCE_COLOUR),
        ("predicted, touches a reference lesion", PREDICTION_COLOUR),
        ("predicted, touches none", FALSE_COLOUR),
    )
    x = 0.06
    for text, colour in words:
        figure.text(
            x / width, 0.08 / height, text, color=colour, fontsize=7.5, ha="left", va="bottom"
        )
        x += 0.056 * len(text) + 0.2

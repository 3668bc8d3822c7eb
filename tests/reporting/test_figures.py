"""Figures: sides, places and what is drawn, read back from pixels."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from osteosap.errors import VolumeError
from osteosap.exam import Exam
from osteosap.geometry import Grid, make_affine
from osteosap.reporting.drawing import AXIAL, CORONAL, SAGITTAL, Page, top
from osteosap.reporting.figures import (
    _spread,
    b1000_projections,
    body_height_mm,
    exam_panel,
    lesion_close_up,
    region_colour,
    spine_plane,
)
from osteosap.reporting.findings import measure_lesions
from osteosap.volume import Volume

GRID = Grid((40, 24, 90), make_affine((4.0, 4.0, 6.0), (-80.0, -48.0, -270.0)))


def _exam(*, adc: bool = True, lesion_i: int = 30) -> Exam:
    """A block of a body; one lesion, in the patient's right half (high i)."""
    t1 = np.zeros(GRID.shape, np.float32)
    t1[4:36, 4:20, 5:85] = 100.0
    b1000 = t1 * 0.1
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[lesion_i : lesion_i + 4, 8:12, 60:63] = 1
    b1000[lesions > 0] = 100.0
    skeleton = np.zeros(GRID.shape, np.uint8)
    skeleton[18:22, 6:10, 20:50] = 3
    skeleton[18:22, 6:10, 50:80] = 2
    channels = {"t1": t1, "b1000": b1000} | ({"adc": t1 * 10} if adc else {})
    return Exam(
        Volume(np.stack(list(channels.values())), GRID.affine, tuple(channels)),
        Volume.single(skeleton, GRID.affine, "skeleton"),
        Volume.single(lesions, GRID.affine, "lesions"),
    )


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(imread(io.BytesIO(png)))[..., :3]


def _red(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] > 0.6) & (pixels[..., 1] < 0.3)


def test_the_patients_right_and_anterior_are_on_the_left_of_the_page() -> None:
    for axis, sides in ((CORONAL, ("R", "L")), (AXIAL, ("R", "L")), (SAGITTAL, ("A", "P"))):
        page = Page(GRID, axis)
        assert page.sides == sides
        low, high = page.place((0, 0, 0)), page.place((39, 23, 89))
        assert high[0] < low[0]
        assert high[1] > low[1]


def test_the_page_is_as_large_as_the_grid_and_boxes_hold_whole_voxels() -> None:
    page = Page(GRID, CORONAL)
    assert page.extent == (0.0, 160.0, 0.0, 540.0)
    assert page.around((0, 0, 0), (39, 23, 89)) == pytest.approx(page.extent)


@pytest.mark.parametrize(("lesion_i", "left"), [(30, True), (6, False)])
def test_a_lesion_of_the_right_side_is_drawn_on_the_left(lesion_i: int, left: bool) -> None:
    exam = _exam(lesion_i=lesion_i)
    pixels = _pixels(exam_panel(exam))
    last = pixels[:, -pixels.shape[1] // 5 :]
    columns = np.flatnonzero(_red(last).any(axis=0))
    assert columns.size
    assert (columns.mean() < last.shape[1] / 2) == left
    rows = np.flatnonzero(_red(last).any(axis=1))
    assert rows.mean() < last.shape[0] / 2  # k = 61 of 90 is above the middle


@pytest.mark.parametrize(("adc", "n_panels"), [(True, 5), (False, 4)])
def test_the_panel_leaves_out_what_the_exam_does_not_have(adc: bool, n_panels: int) -> None:
    exam = _exam(adc=adc)
    whole, without = _pixels(exam_panel(exam)), _pixels(exam_panel(Exam(exam.images)))
    assert without.shape[1] / whole.shape[1] == pytest.approx((n_panels - 2) / n_panels, abs=0.01)


def test_maps_in_the_slice_hide_lesions_of_other_planes() -> None:
    exam = _exam()
    assert spine_plane(exam) in range(6, 10)
    far = np.zeros(GRID.shape, np.int32)
    far[30:34, 15:18, 60:63] = 1
    other = Exam(exam.images, exam.skeleton, Volume.single(far, GRID.affine, "lesions"))
    assert _red(_pixels(exam_panel(other))).any()
    assert not _red(_pixels(exam_panel(other, maps="slice"))).any()


def test_projections_colour_lesions_by_region_and_work_without_any() -> None:
    exam = _exam()
    assert exam.lesions is not None
    assert exam.skeleton is not None
    lesions = exam.lesions.array[0]
    found = measure_lesions(lesions, GRID, skeleton=exam.skeleton.array[0])
    assert found[0].region == "unassigned"
    with_lesion = _pixels(b1000_projections(exam.images, lesions, findings=found))
    assert _red(with_lesion).sum() > 50  # magenta
    none = _pixels(b1000_projections(exam.images, np.zeros_like(lesions), findings=[]))
    assert not _red(none).any()
    assert region_colour("femur") != region_colour("unassigned")


def test_a_close_up_outlines_the_lesion_in_its_middle() -> None:
    exam = _exam()
    assert exam.lesions is not None
    lesions = exam.lesions.array[0]
    (lesion,) = measure_lesions(lesions, GRID, skeleton=np.zeros(GRID.shape, np.uint8))
    pixels = _pixels(lesion_close_up(exam.images, lesions, lesion))
    height, width = pixels.shape[:2]
    assert width == 3 * height
    rows, columns = np.nonzero(_red(pixels[:, :height]))
    assert rows.mean() == pytest.approx(height / 2, abs=3)
    assert columns.mean() == pytest.approx(height / 2, abs=3)
    side = 16.0 / 90.0 * height  # 16 mm of 90 mm
    assert np.ptp(rows) == pytest.approx(side, abs=6)


def test_a_lesion_at_the_edge_of_the_volume_can_be_shown() -> None:
    exam = _exam()
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[0, 0, 0] = 7
    (lesion,) = measure_lesions(lesions, GRID, skeleton=lesions)
    assert lesion_close_up(exam.images, lesions, lesion).startswith(b"\x89PNG")
    with pytest.raises(VolumeError, match="not in the lesion map"):
        lesion_close_up(exam.images, np.zeros_like(lesions), lesion)


def test_an_exam_of_one_flat_station_stays_within_the_greatest_width() -> None:
    grid = Grid((60, 40, 6), make_affine((5.0, 5.0, 5.0), (0.0, 0.0, 0.0)))
    image = np.ones((2, *grid.shape), np.float32)
    images = Volume(image, grid.affine, ("t1", "b1000"))
    empty = np.zeros(grid.shape, np.int32)
    assert _pixels(b1000_projections(images, empty, findings=[])).shape[1] < 1400
    assert _pixels(exam_panel(Exam(images))).shape[1] < 1700


def test_the_same_exam_gives_the_same_bytes() -> None:
    assert exam_panel(_exam()) == exam_panel(_exam())


def test_empty_images_can_be_drawn() -> None:
    exam = _exam()
    black = Exam(Volume(np.zeros_like(exam.images.array), GRID.affine, exam.images.channels))
    assert exam_panel(black).startswith(b"\x89PNG")
    assert top(np.zeros((2, 2)), 99.0) == 1.0


def test_the_height_is_that_of_the_body_and_not_of_the_field_of_view() -> None:
    assert body_height_mm(_exam().images) == pytest.approx(80 * 6.0)


def test_crowded_numbers_are_pushed_apart() -> None:
    levels = _spread([1.0, 1.1, 1.2, 9.9], 1.0, 0.0, 10.0)
    assert np.diff(levels).min() >= 1.0 - 1e-9
    assert max(levels) <= 10.0
    assert _spread([], 1.0, 0.0, 10.0) == []

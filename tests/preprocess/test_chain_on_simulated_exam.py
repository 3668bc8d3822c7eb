"""The whole chain on one coarse simulated exam, against what the virtual scanner did."""

import numpy as np
import pytest

from osteosap.exam import HANDED_OVER, StationImage
from osteosap.preprocess import PreprocessConfig, assemble_exam
from osteosap.simulate import SimulationConfig, simulate_exam
from osteosap.volume import Volume

pytestmark = pytest.mark.slow

CONFIG = {
    "seed": 12,
    "lesions": 3,
    "body_spacing_mm": (5.0, 5.0, 5.0),
    "scanner": {
        "stations": {"count": 3, "shift_mm": 3.0, "overlap_mm": 60.0},
        "t1": {"spacing_mm": (5.0, 5.0, 5.0)},
        "dwi": {"spacing_mm": (6.0, 6.0, 5.0)},
    },
}


@pytest.fixture(scope="module")
def simulated():
    return simulate_exam(SimulationConfig.from_mapping(CONFIG))


@pytest.fixture(scope="module")
def told():
    """What the chain said it was doing, and the last fraction of each."""
    return {}


@pytest.fixture(scope="module")
def exam(simulated, told):
    return assemble_exam(
        simulated.stations, threads=2, progress=lambda text, share: told.update({text: share})
    )


def test_stations_of_t1_go_where_the_central_one_shows_the_body(simulated, exam):
    truth = [t for t in simulated.acquisition if t.kind == "t1"]
    for station, one in zip(exam.target.stations, truth, strict=True):
        wanted = np.subtract(truth[1].shift_mm, one.shift_mm)
        assert np.linalg.norm(station.motion[:3, 3] - wanted) < 1.5
    largest = max(np.linalg.norm(np.subtract(truth[1].shift_mm, t.shift_mm)) for t in truth)
    assert largest > 4.0  # there was something to find


def test_neighbouring_t1_stations_agree_better_than_before(exam):
    seams = [s for s in exam.record["seams"] if s["channel"] == "t1"]
    assert len(seams) == 2
    assert all(s["mismatch_after"] < 0.5 * s["mismatch_before"] for s in seams)
    assert all(s["mismatch_evened"] < s["mismatch_after"] for s in exam.record["seams"])


def test_dwi_stations_are_levelled_by_muscle(exam):
    levels = [s.muscle_level for s in exam.diffusion.stations]
    assert all(np.isfinite(level) for level in levels)
    done = next(s["done"] for s in exam.record["steps"] if s["step"] == "match dwi stations")
    assert f"the level of muscle, known in {len(levels)} of {len(levels)}" in done


def test_fields_of_neighbours_are_fitted_to_what_both_show(exam):
    for stations in (exam.target.stations, exam.diffusion.stations):
        assert all(s.bias.compared > 0 for s in stations)


def test_dwi_lies_nearer_to_t1_than_the_scanner_put_it(simulated, exam):
    """Bone's points, known from the truth, through the alignment of each station."""
    truth = {kind: [t for t in simulated.acquisition if t.kind == kind] for kind in ("t1", "dwi")}
    skeleton = simulated.exam.skeleton
    places = np.argwhere(skeleton.array[0] > 0)[::5]
    points = places @ skeleton.affine[:3, :3].T + skeleton.affine[:3, 3]
    on_t1 = points + truth["t1"][1].shift_mm
    before, after = [], []
    for station, one in zip(exam.diffusion.stations, truth["dwi"], strict=True):
        field = one.displacement_mm
        inverse = np.linalg.inv(field.grid.affine)
        index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        index = np.clip(index, 0, np.asarray(field.values.shape) - 1)
        shown = points + one.shift_mm
        shown[:, 1] += field.values[tuple(index.T)]
        grid = station.grid
        at = shown @ np.linalg.inv(grid.affine)[:3, :3].T + np.linalg.inv(grid.affine)[:3, 3]
        inside = ((at >= 0) & (at <= np.asarray(grid.shape) - 1)).all(axis=1)
        before.append(np.linalg.norm(on_t1 - shown, axis=1)[inside])
        after.append(np.linalg.norm(station.alignment.points(on_t1) - shown, axis=1)[inside])
    assert np.median(np.concatenate(after)) < 0.6 * np.median(np.concatenate(before))
    assert np.median(np.concatenate(after)) < 4.0


def test_the_result_does_not_hang_on_threads_or_on_the_order_of_the_images(simulated, exam):
    again = assemble_exam(simulated.stations[::-1], threads=1)
    np.testing.assert_array_equal(again.images.array, exam.images.array)
    assert again.record["steps"] == exam.record["steps"]


@pytest.mark.usefixtures("exam")
def test_progress_tells_every_long_step_and_ends_at_1(told):
    assert {"correct the bias of T1", "align the stations of T1", "register DWI to T1"} <= set(told)
    assert told["register DWI to T1"] == 1.0


def test_corrected_stations_lie_where_they_were_moved_to(exam):
    kept = exam.stations()
    assert {"t1_1", "t1_2", "t1_3", "dwi_1_b0", "dwi_3_b1000", "adc_2"} <= set(kept)
    moved = exam.target.stations[0]
    np.testing.assert_array_equal(kept["t1_1"].affine, moved.volume.affine)


def test_a_tilted_table_gives_the_same_exam_in_the_tilted_frame(simulated, exam):
    """Every station turned alike about the world's origin: the exam turns with them."""
    angle = np.radians(8.0)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted = [
        StationImage(
            Volume(i.volume.array, turn @ i.volume.affine, i.volume.channels),
            i.kind, i.b_value_s_per_mm2, i.group, i.source,
        )
        for i in simulated.stations
    ]  # fmt: skip
    other = assemble_exam(tilted)
    assert other.images.grid.shape == exam.images.grid.shape
    np.testing.assert_allclose(other.images.affine, turn @ exam.images.affine, atol=1e-6)
    body = exam.body.array[0] > 0
    for name, tolerance in (("t1", 0.03), ("b1000", 0.15)):
        one, two = (e.images.channel(name)[body] for e in (exam, other))
        difference = np.abs(one - two) / np.percentile(one, 99)
        assert np.median(difference) < tolerance, name


def handed_over(exam):
    return [
        StationImage(
            Volume.single(exam.images.channel(name), exam.images.affine, kind),
            kind, 1000.0 if kind == "dwi" else None, HANDED_OVER, f"{name}.nii.gz",
        )
        for name, kind in (("t1", "t1"), ("b1000", "dwi"))
    ]  # fmt: skip


def test_what_was_handed_over_is_taken_as_it_is(exam):
    as_it_is = assemble_exam(handed_over(exam))
    np.testing.assert_array_equal(as_it_is.images.array, exam.images.array[:2])
    done = {step["step"]: step["done"] for step in as_it_is.record["steps"]}
    for step in ("bias t1", "bias dwi", "eddy currents", "registration"):
        assert "taken as they are" in done[step]


def test_what_was_handed_over_is_corrected_if_asked_for(exam):
    images = handed_over(exam)
    asked = assemble_exam(images, PreprocessConfig(correct_handed_over=True))
    assert not np.array_equal(asked.images.channel("t1"), exam.images.channel("t1"))

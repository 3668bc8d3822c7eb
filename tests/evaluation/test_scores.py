"""Scores of folders: files in, JSON and rows out."""

import json
from pathlib import Path

import numpy as np
import pytest

from osteosap.errors import GeometryError, InputError, VolumeError
from osteosap.evaluation.cohort import evaluate_cohort
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.scores import evaluate_exam, evaluate_lesions
from osteosap.geometry import crop_grid, make_affine
from osteosap.volume import Volume, write_nifti

AFFINE = make_affine((2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
SHAPE = (30, 20, 40)


def _truth() -> tuple[np.ndarray, np.ndarray]:
    skeleton = np.zeros(SHAPE, np.uint8)
    skeleton[10:20, 5:15, 2:20] = 3
    skeleton[10:20, 5:15, 20:38] = 2
    lesions = np.zeros(SHAPE, np.int32)
    lesions[11:17, 6:12, 4:10] = 1  # 216 voxels of 8 mm3: 1.73 mL
    lesions[12:14, 7:9, 25:27] = 2  # 0.064 mL
    return skeleton, lesions


def _write(
    folder: Path,
    affine: np.ndarray = AFFINE,
    **maps: np.ndarray,
) -> Path:
    for name, array in maps.items():
        write_nifti(Volume.single(array, affine, name), folder / f"{name}.nii.gz")
    folder.mkdir(exist_ok=True)
    return folder


def test_the_truth_against_itself_is_perfect(tmp_path: Path) -> None:
    skeleton, lesions = _truth()
    folder = _write(tmp_path / "truth", skeleton=skeleton, lesions=lesions)
    scores = evaluate_exam(folder, folder)
    assert scores.skeleton is not None
    assert scores.skeleton["merged"] == scores.skeleton["lumbar_spine"] == 1.0
    assert scores.lesions is not None
    assert scores.lesions.all.f2 == scores.lesions.large.f2 == 1.0
    assert (scores.lesions.all.n_reference, scores.lesions.large.n_reference) == (2, 1)
    assert scores.lesions.global_dice == 1.0
    assert scores.notes == ()


def test_a_known_shift_gives_the_known_numbers_and_json_with_settings(tmp_path: Path) -> None:
    skeleton, lesions = _truth()
    prediction = np.zeros(SHAPE, np.int32)
    prediction[11:17, 6:12, 7:13] = 9  # half of lesion 1
    prediction[0:2, 0:2, 0:2] = 4  # false, small
    truth = _write(tmp_path / "truth", skeleton=skeleton, lesions=lesions)
    output = _write(tmp_path / "output", lesions=prediction)
    scores = evaluate_exam(truth, output, config=EvaluateConfig(min_volume_ml=1.5))
    result = json.loads(json.dumps(scores.to_mapping(), allow_nan=False))
    assert result["settings"]["min_volume_ml"] == 1.5
    assert result["settings"]["connectivity"] == 26
    assert result["skeleton_dice"] is None
    assert "skeleton not scored" in result["notes"][0]
    every, large = result["lesions"]["all"], result["lesions"]["large"]
    assert (every["sensitivity"], every["n_false_positives"]) == (0.5, 1)
    assert every["dice_detected_median"] == pytest.approx(0.5)
    assert every["dice_mean_misses_as_0"] == pytest.approx(0.25)
    assert (large["sensitivity"], large["n_false_positives"], large["f2"]) == (1.0, 0, 1.0)
    assert result["lesions"]["burden_reference_ml"] == pytest.approx((216 + 8) * 0.008)
    outcomes = {(r["side"], r["id"]): r["outcome"] for r in result["lesion_rows"]}
    assert outcomes == {
        ("reference", 1): "detected",
        ("reference", 2): "missed",
        ("prediction", 9): "hit",
        ("prediction", 4): "false positive",
    }
    assert scores.row()["lesions_large_sensitivity"] == 1.0


def test_no_lesion_on_either_side_is_null_not_zero(tmp_path: Path) -> None:
    folder = _write(tmp_path / "clean", lesions=np.zeros(SHAPE, np.int32))
    result = evaluate_exam(folder, folder).to_mapping()["lesions"]
    assert result["all"]["sensitivity"] is None
    assert result["all"]["f2"] is None
    assert result["all"]["n_false_positives"] == 0
    assert result["global_dice"] is None


def test_other_grids_are_refused_unless_resampling_is_asked_for(tmp_path: Path) -> None:
    skeleton, lesions = _truth()
    truth = _write(tmp_path / "truth", skeleton=skeleton, lesions=lesions)
    coarse = Volume.single(skeleton, AFFINE, "skeleton").grid.with_spacing((4.0, 4.0, 4.0))
    empty = np.zeros(coarse.shape, np.int32)
    output = _write(tmp_path / "out", coarse.affine, skeleton=empty.astype(np.uint8), lesions=empty)
    with pytest.raises(GeometryError, match="different grids"):
        evaluate_exam(truth, output)
    scores = evaluate_exam(truth, output, config=EvaluateConfig(resample_reference=True))
    assert any("share of each voxel" in note for note in scores.notes)
    assert scores.lesions is not None
    assert scores.lesions.references[0].volume_ml == pytest.approx(216 * 0.008)


def test_a_lesion_smaller_than_a_voxel_of_the_prediction_is_not_lost() -> None:
    lesions = np.zeros(SHAPE, np.int32)
    lesions[3, 3, 3] = 1  # one 2 mm voxel
    reference = Volume.single(lesions, AFFINE, "lesions")
    coarse = reference.grid.with_spacing((6.0, 6.0, 6.0))
    empty = Volume.single(np.zeros(coarse.shape, np.int32), coarse.affine, "lesions")
    scores = evaluate_lesions(reference, empty, config=EvaluateConfig(resample_reference=True))
    assert scores.lost_ids == ()
    assert (scores.all.n_reference, scores.all.n_detected) == (1, 0)


def test_lesions_outside_the_prediction_are_counted_stated_and_missed() -> None:
    lesions = np.zeros(SHAPE, np.int32)
    lesions[11:17, 6:12, 4:10] = 1
    lesions[0, 0, 0] = 2
    reference = Volume.single(lesions, AFFINE, "lesions")
    box = tuple(slice(2, n) for n in SHAPE)
    moved = Volume.single(lesions[box], crop_grid(reference.grid, box).affine, "lesions")
    notes: list[str] = []
    config = EvaluateConfig(resample_reference=True)
    scores = evaluate_lesions(reference, moved, config=config, notes=notes)
    assert scores.lost_ids == (2,)
    assert "1 of 2 reference lesions" in notes[-1]
    assert (scores.all.n_reference, scores.all.n_detected) == (2, 1)
    assert scores.to_mapping()["n_reference_lost_by_resampling"] == 1
    assert [r["outcome"] for r in scores.rows()][1] == "missed, lost by resampling"


def test_a_flipped_pair_scores_the_same() -> None:
    _, lesions = _truth()
    prediction = np.roll(lesions, 2, axis=2)
    there = evaluate_lesions(
        Volume.single(lesions, AFFINE, "lesions"), Volume.single(prediction, AFFINE, "lesions")
    )
    back = evaluate_lesions(
        Volume.single(lesions[::-1, :, ::-1], AFFINE, "lesions"),
        Volume.single(prediction[::-1, :, ::-1], AFFINE, "lesions"),
    )
    assert there.to_mapping() == back.to_mapping()


def test_a_cohort_counts_exams_without_lesions_only_where_they_belong(tmp_path: Path) -> None:
    _, lesions = _truth()
    none = np.zeros(SHAPE, np.int32)
    noise = none.copy()
    noise[0:10, 0:10, 0:2] = 1
    truth = [_write(tmp_path / f"t{i}", lesions=a) for i, a in enumerate((lesions, none))]
    output = [_write(tmp_path / f"p{i}", lesions=a) for i, a in enumerate((lesions, noise))]
    cohort = evaluate_cohort(zip(truth, output, strict=True))
    result = json.loads(json.dumps(cohort.to_mapping(), allow_nan=False))
    summary = result["summary"]["lesions_all"]
    sensitivity = summary["sensitivity"]
    assert (sensitivity["n"], sensitivity["n_undefined"], sensitivity["median"]) == (1, 1, 1.0)
    false = summary["false_positives_per_exam"]
    assert (false["n"], false["median"], false["mean"]) == (2, 0.5, 0.5)
    assert summary["f2"]["n"] == 2
    assert summary["n_exams_without_reference"] == 1
    assert summary["sensitivity_pooled"] == 1.0
    assert [row["exam"] for row in cohort.rows()] == ["p0", "p1"]


def test_what_cannot_be_scored_says_what_to_do(tmp_path: Path) -> None:
    _, lesions = _truth()
    truth = _write(tmp_path / "truth", lesions=lesions)
    with pytest.raises(InputError, match="in common"):
        evaluate_exam(truth, _write(tmp_path / "empty"))
    with pytest.raises(InputError, match="no folder"):
        evaluate_exam(truth, tmp_path / "nowhere")
    with pytest.raises(InputError, match="no exam"):
        evaluate_cohort([])
    soft = _write(tmp_path / "soft", lesions=np.full(SHAPE, 0.3, np.float32))
    with pytest.raises(VolumeError, match="whole numbers"):
        evaluate_exam(truth, soft)

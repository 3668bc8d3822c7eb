"""Every degenerate situation of lesion scoring, on rows of voxels of 1 mL, by hand.

Maps are strings along the first axis: a digit is the lesion of that id, '.' is none.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from osteosap.errors import GeometryError, InputError, VolumeError
from osteosap.evaluation.cohort import evaluate_cohort
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.pairs import find_pairs
from osteosap.evaluation.results import LesionScores
from osteosap.evaluation.scores import Extras, evaluate_lesions, evaluate_pair
from osteosap.geometry import make_affine
from osteosap.volume import Volume, write_nifti

AFFINE = make_affine((10.0, 10.0, 10.0), (0.0, 0.0, 0.0))
NAN = math.nan


def _row(text: str, channel: str = "lesions") -> Volume:
    array = np.zeros((len(text), 3, 3), np.int32)
    array[:, 1, 1] = [int(c) if c != "." else 0 for c in text]
    return Volume.single(array, AFFINE, channel)


def _score(reference: str, prediction: str, **settings: object) -> LesionScores:
    config = EvaluateConfig.from_mapping({"min_volume_ml": 2.0, **settings})
    return evaluate_lesions(_row(reference), _row(prediction), config=config)


def _numbers(scores: LesionScores, key: str = "all") -> tuple[float, ...]:
    values = scores.measures(key)
    names = ("sensitivity", "precision_reference_side", "precision_prediction_side",
             "n_false_positives", "f2", "dice_mean_misses_as_0")  # fmt: skip
    return (*(values[n] for n in names), scores.global_dice)


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        # nothing on either side: all undefined, no false positive
        ("......", "......", (NAN, NAN, NAN, 0, NAN, NAN, NAN)),
        # no lesion, one found: no sensitivity; precision 0 / 1; F2 0; Dice of masks 0 / 2
        ("......", "..11..", (NAN, 0, 0, 1, 0, NAN, 0)),
        # a lesion, nothing found: sensitivity 0; precision 0 / 0; F2 0 / (0 + 4 + 0)
        ("..11..", "......", (0, NAN, NAN, 0, 0, 0, 0)),
        # found beside it, faces touching but no shared voxel: a miss and a false positive
        ("11....", "..11..", (0, 0, 0, 1, 0, 0, 0)),
        # split in two: one hit, none false; Dice against the union 2 x 2 / (3 + 2) = 0.8
        (".111..", ".1.2..", (1, 1, 1, 0, 1, 0.8, 0.8)),
        # two lesions under one prediction of 5: both hit; Dice 2 x 2 / (2 + 5) each = 4 / 7;
        # merged 2 x 4 / (4 + 5)
        (".11.22", ".11111", (1, 1, 1, 0, 1, 4 / 7, 8 / 9)),
        # a chain: prediction 1 (4 voxels) covers lesion 1 (2) and the first voxel of lesion 2 (4),
        # prediction 2 (1 voxel) the last one of lesion 2. Lesion 1: 2 x 2 / (2 + 4) = 4 / 6;
        # lesion 2: 2 x 2 / (4 + 4 + 1) = 4 / 9; merged: 2 x 4 / (6 + 5)
        ("11.2222", "1111..1", (1, 1, 1, 0, 1, (4 / 6 + 4 / 9) / 2, 2 * 4 / 11)),
        # one of two found and one false: 1/2, 1/2, 1/2; F2 = 5 / (5 + 4 + 1) = 0.5
        ("11..22..", "11.....1", (0.5, 0.5, 0.5, 1, 0.5, 0.5, 2 * 2 / 7)),
        # two predictions on one lesion, one false: reference side 1/2, prediction side 2/3
        ("111....", "1.1...1", (1, 0.5, 2 / 3, 1, 5 / 6, 0.8, 2 * 2 / 6)),
        # one blob over everything hits all: sensitivity cannot see it, Dice can:
        # 2 x 1 / (1 + 7) for each of three
        ("1.2.3..", "1111111", (1, 1, 1, 0, 1, 0.25, 2 * 3 / 10)),
    ],
)  # fmt: skip
def test_numbers_derived_by_hand(
    reference: str, prediction: str, expected: tuple[float, ...]
) -> None:
    found = _numbers(_score(reference, prediction))
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        # from 2 mL on: the lesion of 1 mL does not count; the prediction of 1 mL on it is true
        ("1..22..", "1..22..", (1, 1, 1, 0, 1, 1, 1)),
        # a prediction of 3 mL on a lesion of 1 mL is neither true nor false
        (".1.....", "111....", (NAN, NAN, NAN, 0, NAN, NAN, 0.5)),
        # a prediction of 1 mL detects a lesion of 3 mL; false ones of 1 mL do not count
        ("333....", "1....1.", (1, 1, 1, 0, 1, 0.5, 2 / 5)),
        # a false prediction of 2 mL counts
        ("333....", "1...22.", (1, 0.5, 0.5, 1, 5 / 6, 0.5, 2 / 6)),
    ],
)
def test_numbers_of_large_lesions_by_hand(
    reference: str, prediction: str, expected: tuple[float, ...]
) -> None:
    found = _numbers(_score(reference, prediction), "large")
    assert found == pytest.approx(expected, nan_ok=True)


def test_an_empty_exam_can_be_set_to_be_perfect() -> None:
    assert _numbers(_score("....", "....", empty_exam="perfect"))[:6] == (1, 1, 1, 0, 1, 1)
    assert math.isnan(_numbers(_score("....", "....", empty_exam="undefined"))[4])
    assert _numbers(_score("....", ".1..", empty_exam="perfect"))[4] == 0.0


def test_a_least_overlap_turns_a_graze_into_a_miss() -> None:
    # 1 shared voxel of 4 + 3 - 1: IoU 1/6
    grazed, strict = "1111....", "...111.."
    assert _numbers(_score(grazed, strict))[0] == 1.0
    assert _numbers(_score(grazed, strict, min_iou=0.1))[0] == 1.0
    missed = _score(grazed, strict, min_iou=0.2)
    assert _numbers(missed)[:5] == pytest.approx((0, 0, 0, 1, 0))
    assert missed.global_dice == pytest.approx(2 / 7)  # of the masks, whatever touches


def test_corners_join_or_divide_as_set() -> None:
    array = np.zeros((4, 4, 4), np.int32)
    array[0, 0, 0] = array[1, 1, 1] = 1
    volume = Volume.single(array, AFFINE, "lesions")
    for connectivity, n in ((26, 1), (18, 2), (6, 2)):
        config = EvaluateConfig.from_mapping({"connectivity": connectivity})
        assert evaluate_lesions(volume, volume, config=config).all.n_reference == n


def test_nothing_counts_outside_the_region_of_interest() -> None:
    reference, prediction = _row("11..22..33"), _row("11......44")
    roi = _row("1111111...", "roi")
    scores = evaluate_lesions(reference, prediction, extras=Extras(roi=roi))
    found = (scores.all.n_reference, scores.all.n_detected, scores.all.n_false_positives)
    assert found == (2, 1, 0)
    cut = evaluate_lesions(_row("..1111"), _row("..1111"), extras=Extras(roi=_row("1111..", "roi")))
    assert cut.burdens_ml == pytest.approx((2.0, 2.0))


def test_splits_and_merges_are_named_in_the_table() -> None:
    rows = _score(".111.22.33..", ".1.2.3333..4").rows()
    outcomes = {(r["side"], r["id"]): (r["outcome"], r["touches"]) for r in rows}
    assert outcomes == {
        ("reference", 1): ("detected, split", "1 2"),
        ("reference", 2): ("detected", "3"),
        ("reference", 3): ("detected", "3"),
        ("prediction", 1): ("hit", "1"),
        ("prediction", 2): ("hit", "1"),
        ("prediction", 3): ("merges lesions", "2 3"),
        ("prediction", 4): ("false positive", ""),
    }


def test_surfaces_of_hits_and_misses() -> None:
    scores = _score("22..33", "22....")
    hit, missed = scores.references
    assert (hit.nsd, hit.hausdorff95_mm) == (1.0, 0.0)
    assert missed.nsd == 0.0
    assert math.isnan(missed.hausdorff95_mm)
    # one voxel of 10 mm further: every surface point is at most 10 mm away
    moved = _score("22....", ".22...", nsd_tolerance_mm=10.0).references[0]
    assert (moved.nsd, moved.hausdorff95_mm) == (1.0, 10.0)
    assert _score("22....", ".22...").references[0].nsd < 1.0


def test_a_lesion_knows_its_bone() -> None:
    skeleton = _row("333....22", "skeleton")
    lesions = _row("11..2...3")
    scores = evaluate_lesions(lesions, lesions, extras=Extras(skeleton=skeleton))
    assert [r.region for r in scores.references] == [
        "lumbar_spine", "unassigned", "thoracic_spine",
    ]  # fmt: skip
    assert scores.references[0].centre_ras_mm == pytest.approx((5.0, 10.0, 10.0))


def test_three_hundred_components_keep_their_numbers() -> None:
    array = np.zeros((61, 41, 3), np.int32)
    array[::3, ::3, 1] = 1  # 21 x 14 = 294 single voxels
    array[60, 40, 1] = 0
    reference = Volume.single(array, AFFINE, "lesions")
    assert evaluate_lesions(reference, reference).all.n_reference == int(array.sum())
    assert int(array.sum()) > 255


# ---- files


def _write(folder: Path, volume: Volume, name: str = "lesions") -> Path:
    write_nifti(volume, folder / f"{name}.nii.gz")
    return folder


def test_exams_are_matched_by_name_in_folders_or_as_flat_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _write(tmp_path / "truth" / name, _row("11.."))
        _write(tmp_path / "folders" / name, _row("11.."))
        write_nifti(_row(".11."), tmp_path / "flat" / f"{name}.nii.gz")
    pairs, missing = find_pairs(tmp_path / "truth", tmp_path / "folders")
    assert ([p.name for p in pairs], missing) == (["a", "b"], [])
    flat, _ = find_pairs(tmp_path / "truth", tmp_path / "flat")
    scores = evaluate_cohort(flat)
    assert [e.lesions.global_dice for e in scores.exams if e.lesions] == [0.5, 0.5]
    both, _ = find_pairs(tmp_path / "flat", tmp_path / "flat")
    assert [p.name for p in both] == ["a", "b"]


def test_extra_exams_are_refused_and_missing_ones_only_left_out_on_demand(tmp_path: Path) -> None:
    for side, names in (("truth", "ab"), ("one", "a"), ("more", "abc"), ("none", "")):
        (tmp_path / side).mkdir()
        for name in names:
            _write(tmp_path / side / name, _row("1..."))
    with pytest.raises(InputError, match=r"have no prediction in .*: b"):
        find_pairs(tmp_path / "truth", tmp_path / "one")
    pairs, missing = find_pairs(tmp_path / "truth", tmp_path / "one", allow_missing=True)
    assert ([p.name for p in pairs], missing) == (["a"], ["b"])
    with pytest.raises(InputError, match=r"without one of the same name in .*: c"):
        find_pairs(tmp_path / "truth", tmp_path / "more", allow_missing=True)
    with pytest.raises(InputError, match="0 exams"):
        find_pairs(tmp_path / "truth", tmp_path / "none")
    with pytest.raises(InputError, match="no folder"):
        find_pairs(tmp_path / "truth", tmp_path / "absent")


def test_probability_maps_make_masks_and_curves(tmp_path: Path) -> None:
    _write(tmp_path / "truth" / "a", _row("11..22"))
    chance = np.zeros((6, 3, 3), np.float32)
    chance[:, 1, 1] = (0.9, 0.9, 0.0, 0.0, 0.4, 0.4)
    probability = Volume.single(chance, AFFINE, "lesion_probability")
    _write(tmp_path / "maps" / "a", probability, "lesion_probability")
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "maps")
    with pytest.raises(InputError, match="threshold"):
        evaluate_pair(pairs[0])
    for threshold, detected in ((0.5, 1), (0.3, 2)):
        scores = evaluate_pair(pairs[0], config=EvaluateConfig(threshold=threshold)).lesions
        assert scores is not None
        assert scores.all.n_detected == detected
        assert scores.froc is not None
        assert scores.froc.detected.max() == 2
    peaks = [lesion.probability_peak for lesion in scores.references]
    assert peaks == pytest.approx([0.9, 0.4])
    # masks there, maps elsewhere
    _write(tmp_path / "masks" / "a", _row("11...."))
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "masks", probability=tmp_path / "maps")
    summary = evaluate_cohort(pairs).summary()
    assert summary["lesions_all"]["froc"]["area"] == pytest.approx(15.0)
    assert summary["lesions_all"]["sensitivity_pooled"] == 0.5
    # 0.9 as float32 lies just below the edge of the last bin
    filled = [b for b in summary["calibration"]["bins"] if b["predicted"]]
    assert [(b["n_voxels"], b["observed"]) for b in filled] == [(2, 1.0), (2, 1.0)]
    assert [b["predicted"] for b in filled] == pytest.approx([0.4, 0.9], abs=1e-6)
    with pytest.raises(InputError, match="no roi"):
        find_pairs(tmp_path / "truth", tmp_path / "masks", roi=tmp_path / "maps")


def test_another_grid_is_refused_and_float_masks_of_whole_numbers_are_taken(
    tmp_path: Path,
) -> None:
    truth = _write(tmp_path / "truth", _row("11.."))
    whole = Volume.single(_row("11..").array[0].astype(np.float32), AFFINE, "lesions")
    pairs, _ = find_pairs(truth, _write(tmp_path / "float", whole))
    assert evaluate_cohort(pairs).exams[0].lesions.global_dice == 1.0
    half = Volume.single(0.5 * whole.array[0], AFFINE, "lesions")
    pairs, _ = find_pairs(truth, _write(tmp_path / "half", half))
    with pytest.raises(VolumeError, match="whole numbers"):
        evaluate_cohort(pairs)
    pairs, _ = find_pairs(truth, _write(tmp_path / "longer", _row("11...")))
    with pytest.raises(GeometryError, match="different grids"):
        evaluate_cohort(pairs)


def test_exams_of_one_patient_are_drawn_together(tmp_path: Path) -> None:
    (tmp_path / "truth" / "a").mkdir(parents=True)
    for name in ("a", "b"):
        folder = _write(tmp_path / "truth" / name, _row("11.."))
        (folder / "exam.json").write_text('{"seed": 7, "config": {"site": "c"}}')
        _write(tmp_path / "out" / name, _row("11.."))
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "out")
    scores = evaluate_cohort(pairs)
    assert {e.patient for e in scores.exams} == {"seed 7"}
    assert scores.to_mapping()["n_patients"] == 1
    assert scores.summary()["by_site"]["c"]["n_exams"] == 2


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _write(tmp_path / "truth" / name, _row("11.22."))
        _write(tmp_path / "out" / name, _row("11...."))
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "out")
    one, two = evaluate_cohort(pairs), evaluate_cohort(pairs, processes=2)
    assert one.to_mapping() == two.to_mapping()

"""Every degenerate situation of lesion scoring, on rows of voxels of 1 mL, by hand.

Maps are strings along the first axis: a digit is the lesion of that id, '.' is none.
"""

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from osteosap.errors import GeometryError, InputError, VolumeError
from osteosap.evaluation.cohort import evaluate_cohort
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.froc import ThresholdCounts
from osteosap.evaluation.matching import as_components
from osteosap.evaluation.pairs import find_pairs, pair_of_folders, read_case_names
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


def _chances(*values: float) -> Volume:
    array = np.zeros((len(values), 3, 3), np.float32)
    array[:, 1, 1] = values
    return Volume.single(array, AFFINE, "lesion_probability")


def _curves(scores: LesionScores) -> tuple[ThresholdCounts, ThresholdCounts]:
    assert scores.froc is not None
    assert scores.froc_large is not None
    return scores.froc, scores.froc_large


def test_no_probability_counts_outside_the_region_of_interest() -> None:
    # inside: lesion 1 found, lesion 2 missed; outside: lesion 3 found, and a false positive
    reference, prediction = _row("11..22..33.."), _row("11......3344")
    chances = _chances(0.9, 0.9, 0, 0, 0, 0, 0, 0, 0.8, 0.8, 0.95, 0.95)
    roi = _row("1111111.....", "roi")
    config = EvaluateConfig(froc_thresholds=(0.5, 0.85))
    scores = evaluate_lesions(
        reference, prediction, config=config, extras=Extras(probability=chances, roi=roi)
    )
    curve, _ = _curves(scores)
    assert (curve.n_reference, scores.all.n_reference) == (2, 2)
    assert curve.detected.tolist() == [1, 1]
    assert curve.false_positives.tolist() == [0, 0]
    assert scores.calibration is not None
    # seven voxels: five with nothing, two with 0.9 (as float32 just below the last bin)
    assert scores.calibration.voxels.tolist() == [5, 0, 0, 0, 0, 0, 0, 0, 2, 0]
    assert scores.calibration.lesion.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 2, 0]


def test_a_component_is_cut_where_the_region_of_interest_ends() -> None:
    # what joins the two ends lies outside: one of them hits the lesion, the other is false
    chances = _chances(0.9, 0.9, 0.9, 0.9, 0.9, 0.9)
    extras = Extras(probability=chances, roi=_row("11..11", "roi"))
    config = EvaluateConfig(froc_thresholds=(0.5,))
    scores = evaluate_lesions(_row("....11"), _row("111111"), config=config, extras=extras)
    curve, _ = _curves(scores)
    assert (scores.all.n_detected, scores.all.n_false_positives) == (1, 1)
    assert (curve.detected.tolist(), curve.false_positives.tolist()) == ([1], [1])


def test_resampled_lesions_count_on_the_curve_as_in_the_numbers_beside_it() -> None:
    # voxels of 0.125 mL, brought to 1 mL: one lesion of a voxel fills 1 mL there, one is lost
    array = np.zeros((13, 4, 4), np.int32)
    array[1, 1, 1] = 1
    array[9:13, 0:4, 0:4] = 2  # 8 mL, beyond the prediction's grid
    fine = Volume.single(array, make_affine((5.0, 5.0, 5.0), (0.0, 0.0, 0.0)), "lesions")
    coarse = make_affine((10.0, 10.0, 10.0), (2.5, 2.5, 2.5))
    chances = np.zeros((2, 2, 2), np.float32)
    chances[0, 0, 0] = 0.9
    mask = Volume.single((chances > 0.5).astype(np.int32), coarse, "lesions")
    config = EvaluateConfig(resample_reference=True, min_volume_ml=1.0, froc_thresholds=(0.5,))
    scores = evaluate_lesions(
        fine, mask, config=config, extras=Extras(Volume.single(chances, coarse, "p"))
    )
    curve, large = _curves(scores)
    assert scores.lost_ids == (2,)
    assert (scores.all.n_reference, scores.all.n_detected) == (2, 1)
    assert (curve.n_reference, curve.detected.tolist()) == (2, [1])
    # lesion 1 is of 0.125 mL, whatever it fills on the other grid
    assert (scores.large.n_reference, scores.large.n_detected) == (1, 0)
    assert (large.n_reference, large.detected.tolist()) == (1, [0])


def test_a_least_overlap_holds_on_the_curve_too() -> None:
    # 1 shared voxel of 4 + 3 - 1: IoU 1/6; from 0.8 on two voxels are left: 1 of 4 + 2 - 1
    chances = _chances(0, 0, 0, 0.9, 0.9, 0.6, 0, 0)
    for least, detected, false in (
        (0.0, [1, 1], [0, 0]),
        (0.18, [0, 1], [1, 0]),
        (0.25, [0, 0], [1, 1]),
    ):
        config = EvaluateConfig(min_iou=least, froc_thresholds=(0.5, 0.8))
        scores = evaluate_lesions(
            _row("1111...."), _row("...111.."), config=config, extras=Extras(chances)
        )
        curve, _ = _curves(scores)
        assert (curve.detected.tolist(), curve.false_positives.tolist()) == (detected, false)
        assert (scores.all.n_detected, scores.all.n_false_positives) == (detected[0], false[0])


@pytest.mark.parametrize("least", [0.0, 0.2])
@pytest.mark.parametrize("cut", [False, True])
def test_the_curve_runs_through_the_numbers_beside_it(least: float, cut: bool) -> None:
    rng = np.random.default_rng(13)
    total = 0
    for _ in range(4):
        smooth = ndimage.gaussian_filter(rng.standard_normal((14, 12, 16)), 1.2)
        truth = (smooth > np.quantile(smooth, 0.95)).astype(np.int32)
        noise = ndimage.gaussian_filter(rng.standard_normal(truth.shape), 1.0)
        chances = np.clip(ndimage.gaussian_filter(truth.astype(float), 0.7) + noise, 0, 1)
        chances = chances.round(1).astype(np.float32)  # many voxels at each threshold
        roi = np.zeros_like(truth)
        roi[3:, :9] = 1
        names = ("lesions", "lesion_probability", "roi")
        reference, probability, region = (
            Volume.single(a, AFFINE, n) for a, n in zip((truth, chances, roi), names, strict=True)
        )
        for place, level in enumerate((0.3, 0.7)):
            config = EvaluateConfig(
                min_iou=least, min_volume_ml=5.0, froc_thresholds=(0.3, 0.7), threshold=level
            )
            mask = Volume.single((chances >= level).astype(np.int32), AFFINE, "lesions")
            extras = Extras(probability, roi=region if cut else None)
            scores = evaluate_lesions(reference, mask, config=config, extras=extras)
            for curve, counts in zip(_curves(scores), (scores.all, scores.large), strict=True):
                assert curve.n_reference == counts.n_reference
                assert curve.detected[place] == counts.n_detected
                assert curve.false_positives[place] == counts.n_false_positives
            total += scores.all.n_detected + scores.all.n_false_positives
    assert total > 20


def test_one_millilitre_on_an_oblique_grid_is_one_millilitre() -> None:
    # 125 voxels of 2 mm are 0.99999995 mL once the turned affine is stored as float32
    turn = Rotation.from_euler("xyz", (17.0, -9.0, 31.0), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = (2.0 * turn).astype(np.float32)
    array = np.zeros((9, 9, 9), np.int32)
    array[2:7, 2:7, 2:7] = 1
    volume = Volume.single(array, affine, "lesions")
    # the largest rounding that float32 allows, whatever this rotation's own
    assert volume.grid.voxel_volume_ml == pytest.approx(0.008, rel=3e-7)
    shrunk = Volume.single(array, affine * [[1 - 6e-8], [1], [1], [1]], "lesions")
    for one in (volume, shrunk):
        scores = evaluate_lesions(one, one, config=EvaluateConfig(min_volume_ml=1.0))
        assert (scores.large.n_reference, len(scores.detected(min_volume_ml=1.0))) == (1, 1)
    array[2, 2, 2] = 0
    less = Volume.single(array, affine, "lesions")
    assert evaluate_lesions(less, less).large.n_reference == 0


def test_huge_ids_stay_and_cost_nothing() -> None:
    reference = _row("11..22")
    huge = Volume(reference.array * 200_000_000, AFFINE, ("lesions",))
    scores = evaluate_lesions(huge, reference)
    assert [r.id for r in scores.references] == [200_000_000, 400_000_000]
    assert scores.all.n_detected == 2
    coarse = reference.grid.with_spacing((20.0, 10.0, 10.0))
    mask = Volume.single(np.zeros(coarse.shape, np.int32), coarse.affine, "lesions")
    moved = evaluate_lesions(huge, mask, config=EvaluateConfig(resample_reference=True))
    assert [r.id for r in moved.references] == [200_000_000, 400_000_000]
    assert moved.lost_ids == ()
    beyond = Volume(reference.array.astype(np.int64) * 3_000_000_000, AFFINE, ("lesions",))
    assert [r.id for r in evaluate_lesions(beyond, reference).references] == [1, 2]


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


def test_three_hundred_components_keep_their_numbers(tmp_path: Path) -> None:
    array = np.zeros((61, 46, 3), np.int32)
    array[::3, ::3, 1] = 1  # 21 x 16 = 336 single voxels
    reference = Volume.single(array, AFFINE, "lesions")
    assert evaluate_lesions(reference, reference).all.n_reference == 336
    # as a mask of bytes and as instances in a file
    mask = Volume.single(array.astype(np.uint8), AFFINE, "lesions")
    instances = Volume.single(as_components(array), AFFINE, "lesions")
    pairs, _ = find_pairs(_write(tmp_path / "truth", instances), _write(tmp_path / "out", mask))
    lesions = evaluate_pair(pairs[0]).lesions
    assert lesions is not None
    assert (lesions.all.n_detected, lesions.all.n_true_predictions) == (336, 336)
    assert [r.id for r in lesions.references] == list(range(1, 337))
    assert lesions.global_dice == 1.0


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
    assert ([p.name for p in pairs], missing) == (["a", "b"], {})
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
    assert ([p.name for p in pairs], missing) == (["a"], {"b": "without a prediction"})
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


def test_a_threshold_makes_the_same_mask_as_the_curve_has_there(tmp_path: Path) -> None:
    # 0.7 as float32 is below 0.7: at that threshold it is in the mask, and on the curve
    _write(tmp_path / "truth", _row("11..22"))
    _write(tmp_path / "out", _chances(0.7, 0.7, 0, 0, 0.6, 0.6), "lesion_probability")
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "out", probability=tmp_path / "out")
    config = EvaluateConfig(threshold=0.7, froc_thresholds=(0.6, 0.7, 0.8))
    lesions = evaluate_pair(pairs[0], config=config).lesions
    assert lesions is not None
    assert lesions.all.n_detected == 1
    assert _curves(lesions)[0].detected.tolist() == [2, 1, 0]


def test_masks_are_the_same_in_whatever_order_a_file_holds_them(tmp_path: Path) -> None:
    array = np.zeros((5, 4, 6), np.uint8)
    array[1:3, 1, 2:5] = array[4, 3, 0] = 1
    flipped = np.diag([-10.0, -10.0, 10.0, 1.0])
    turned = np.array([[0, 0, 10.0, 0], [10.0, 0, 0, 0], [0, 10.0, 0, 0], [0, 0, 0, 1]])
    (tmp_path / "truth").mkdir()
    for place, affine in enumerate((AFFINE, flipped, turned)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / "truth" / f"{place}.nii.gz")
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "truth")
    for exam, affine in zip(evaluate_cohort(pairs).exams, (AFFINE, flipped, turned), strict=True):
        assert exam.lesions is not None
        assert exam.lesions.all.n_detected == 2
        places = sorted(r.centre_ras_mm for r in exam.lesions.references)
        centres = np.array([[1.5, 1, 3, 1], [4, 3, 0, 1]]) @ affine.T
        assert np.array(places) == pytest.approx(np.array(sorted(centres[:, :3].tolist())))


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
    assert {e.patient for e in scores.exams} == {"person 7"}
    assert scores.to_mapping()["n_patients"] == 1
    assert scores.summary()["by_site"]["c"]["n_exams"] == 2


@pytest.mark.parametrize("place", ["truth/{}/exam.json", "out/{}/exam/exam.json"])
def test_a_person_named_on_either_side_is_one_patient(tmp_path: Path, place: str) -> None:
    for name, record in (
        ("a", '{"person": "P07", "seed": 1}'), ("b", '{"person": "P07", "seed": 2}'),
        ("c", '{"seed": 12}'), ("d", '{"person": 12}'), ("e", "[]"), ("f", '{"person": true}'),
    ):  # fmt: skip
        for side in ("truth", "out"):
            _write(tmp_path / side / name, _row("11.."))
        file = tmp_path / place.format(name)
        file.parent.mkdir(exist_ok=True)
        file.write_text(record)
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "out")
    patients = {pair.name: pair.patient for pair in pairs}
    assert patients == {
        "a": "person P07", "b": "person P07", "c": "person 12", "d": "person 12",
        "e": "e", "f": "f",
    }  # fmt: skip
    assert pair_of_folders(tmp_path / "truth/a", tmp_path / "out/b").patient == "person P07"
    assert evaluate_cohort(pairs).to_mapping()["n_patients"] == 4


def test_the_reference_says_whose_exam_it_is_where_both_do(tmp_path: Path) -> None:
    for side, person in (("truth", "A"), ("out", "B")):
        folder = _write(tmp_path / side, _row("11.."))
        (folder / "exam.json").write_text(f'{{"person": "{person}"}}')
    assert pair_of_folders(tmp_path / "truth", tmp_path / "out").patient == "person A"
    # a seed is what is left where no side names a person
    (tmp_path / "truth" / "exam.json").write_text('{"seed": 3, "config": {"site": "c"}}')
    pair = pair_of_folders(tmp_path / "truth", tmp_path / "out")
    assert (pair.patient, pair.site) == ("person B", "c")


def test_only_the_cases_that_are_named_are_scored(tmp_path: Path) -> None:
    for side, names in (("truth", "abcd"), ("out", "abx")):
        for name in names:
            _write(tmp_path / side / name, _row("11.."))

    def found(*cases: str, **options: bool) -> tuple[list[str], dict[str, str]]:
        pairs, missing = find_pairs(tmp_path / "truth", tmp_path / "out", cases=cases, **options)
        return [pair.name for pair in pairs], missing

    assert found("b", "a") == (["a", "b"], {})  # c, d and x are none of its business
    assert found("b") == (["b"], {})
    with pytest.raises(InputError, match=r"1 of 3 exams in .* have no prediction in .*: c"):
        found("a", "b", "c")
    for absent in ("x", "y"):  # predicted only, and nowhere at all
        with pytest.raises(InputError, match=rf"1 of 2 cases are no exam in .*truth: {absent}"):
            found("a", absent)
    assert found("a", "c", "x", allow_missing=True) == (
        ["a"], {"c": "without a prediction", "x": "without a reference"},
    )  # fmt: skip
    with pytest.raises(InputError, match="is one exam"):
        find_pairs(tmp_path / "truth/a", tmp_path / "out/a", cases=["a"])


def test_a_list_of_cases_holds_names_or_the_rows_of_a_study(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    for text in ('["a", "b"]', '[{"case": "a", "t1": "x", "person": "p"}, {"case": "b"}]'):
        path.write_text(text)
        assert read_case_names(path) == ["a", "b"]
    for text, said in (
        ("[]", "no list of cases"), ('{"a": 1}', "no list of cases"), ("[1]", "no list of cases"),
        ('[{"name": "a"}]', "no list of cases"), ('["a", "a"]', "twice: a"), ("[", "JSONDecodeE"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_case_names(path)
    with pytest.raises(InputError, match="FileNotFoundError"):
        read_case_names(tmp_path / "none.json")


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _write(tmp_path / "truth" / name, _row("11.22."))
        _write(tmp_path / "out" / name, _row("11...."))
    pairs, _ = find_pairs(tmp_path / "truth", tmp_path / "out")
    one, two = evaluate_cohort(pairs), evaluate_cohort(pairs, processes=2)
    assert one.to_mapping() == two.to_mapping()

"""Matching: who touches whom, counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from osteosap.errors import ConfigError, GeometryError, VolumeError
from osteosap.evaluation.matching import (
    _label_sparse,
    as_components,
    boxes_of,
    foreground,
    label_instances,
    match_lesions,
    sizes_of,
)


def _maps() -> tuple[np.ndarray, np.ndarray]:
    """Reference 1 split by predictions 1, 2; references 2, 3 merged by 3; 4 missed; 4 false."""
    reference = np.zeros((4, 6, 30), np.int32)
    prediction = np.zeros_like(reference)
    reference[0, :3, 0:10] = 1
    prediction[0, 0, 0:10] = 1
    prediction[0, 2, 0:4] = 2
    reference[0, :2, 12:14] = 2
    reference[0, :2, 16:20] = 3
    prediction[0, 0, 12:20] = 3
    reference[3, :, 0:2] = 4
    prediction[3, 0, 20:25] = 40
    return reference, prediction


def test_sizes_and_overlaps_are_those_counted_by_hand() -> None:
    matching = match_lesions(*_maps())
    assert matching.reference == {1: 30, 2: 4, 3: 8, 4: 12}
    assert matching.prediction == {1: 10, 2: 4, 3: 8, 40: 5}
    assert matching.overlaps == {(1, 1): 10, (1, 2): 4, (2, 3): 2, (3, 3): 4}


def test_a_split_lesion_has_two_predictions_and_a_merging_prediction_two_lesions() -> None:
    matching = match_lesions(*_maps())
    assert matching.predictions_touching(1) == (1, 2)
    assert matching.references_touching(3) == (2, 3)
    assert matching.predictions_touching(4) == ()
    assert matching.references_touching(40) == ()


def test_empty_maps_match_nothing() -> None:
    empty = np.zeros((3, 3, 3), np.int32)
    matching = match_lesions(empty, empty)
    assert (matching.reference, matching.prediction, matching.overlaps) == ({}, {}, {})


def test_more_than_255_lesions_do_not_overflow() -> None:
    many = np.zeros((1, 1, 1200), np.int32)
    many[0, 0, ::2] = 1
    labelled = label_instances(many)
    assert labelled.dtype == np.int32
    assert labelled.max() == 600
    assert len(match_lesions(labelled, labelled).overlaps) == 600


@pytest.mark.parametrize(("connectivity", "n"), [(26, 1), (18, 2), (6, 3)])
def test_connectivity_decides_what_is_one_component(connectivity: int, n: int) -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 0] = mask[2, 2, 1] = True  # an edge, then a corner
    assert label_instances(mask, connectivity=connectivity).max() == n


def test_an_unknown_connectivity_is_refused() -> None:
    with pytest.raises(ConfigError, match="6, 18 or 26"):
        label_instances(np.zeros((2, 2, 2)), connectivity=8)


def test_ids_that_are_components_stay_and_others_are_made_anew() -> None:
    kept = np.zeros((1, 1, 9), np.int32)
    kept[0, 0, 0], kept[0, 0, 4:6] = 17, 5
    assert (as_components(kept) == kept).all()
    touching = np.array([[[3, 3, 8, 8, 0, 0]]], np.int32)
    assert as_components(touching).max() == 1
    in_two_pieces = np.array([[[7, 0, 7, 0, 0, 0]]], np.int32)
    assert as_components(in_two_pieces).tolist() == [[[1, 0, 2, 0, 0, 0]]]


def test_maps_of_another_shape_or_type_are_refused() -> None:
    reference, _ = _maps()
    with pytest.raises(GeometryError, match="one grid"):
        match_lesions(reference, reference[1:])
    with pytest.raises(VolumeError, match="no instance map"):
        match_lesions(reference, reference.astype(np.float32))
    with pytest.raises(VolumeError, match="no instance map"):
        match_lesions(reference, -reference)


_instances = hnp.arrays(np.int32, (3, 4, 5), elements=st.integers(0, 4))


@settings(max_examples=50, deadline=None)
@given(_instances, _instances)
def test_swapping_the_sides_swaps_the_matching(one: np.ndarray, other: np.ndarray) -> None:
    there, back = match_lesions(one, other), match_lesions(other, one)
    assert there.reference == back.prediction
    assert there.overlaps == {(r, p): n for (p, r), n in back.overlaps.items()}
    assert sum(there.reference.values()) == np.count_nonzero(one)
    assert match_lesions(one[::-1], other[::-1]) == there


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([6, 18, 26]), st.floats(0.0, 0.6))
def test_joining_voxels_one_by_one_numbers_components_as_scipy_does(
    seed: int, connectivity: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 6, 9)) < share
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    expected, _ = ndimage.label(mask, structure=structure)
    places = np.flatnonzero(mask)
    found = np.zeros(mask.shape, np.int32)
    if places.size:
        found.flat[places] = _label_sparse(places, mask.shape, structure)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(label_instances(mask, connectivity=connectivity), expected)


@settings(max_examples=50, deadline=None)
@given(_instances, st.permutations(range(3)), st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_voxels_sizes_and_boxes_do_not_depend_on_the_order_in_memory(
    array: np.ndarray, axes: list[int], signs: tuple[int, int, int]
) -> None:
    turned = array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    straight = np.ascontiguousarray(turned)
    np.testing.assert_array_equal(foreground(turned), np.flatnonzero(straight))
    boxes = {i: b for i, b in enumerate(ndimage.find_objects(straight), start=1) if b is not None}
    assert boxes_of(turned) == boxes
    assert sizes_of(turned) == {i: int((straight == i).sum()) for i in boxes}
    np.testing.assert_array_equal(as_components(turned), as_components(straight))


def test_matching_equals_a_brute_force_loop() -> None:
    rng = np.random.default_rng(12)
    worst = 0
    for _ in range(20):
        maps = []
        for _side in range(2):
            smooth = ndimage.gaussian_filter(rng.standard_normal((12, 10, 14)), 1.2)
            maps.append(label_instances(smooth > np.quantile(smooth, 0.9)))
        found = match_lesions(*maps)
        for r in range(1, maps[0].max() + 1):
            for p in range(1, maps[1].max() + 1):
                shared = int(((maps[0] == r) & (maps[1] == p)).sum())
                worst = max(worst, abs(found.overlaps.get((r, p), 0) - shared))
        assert found.reference == {
            r: int((maps[0] == r).sum()) for r in range(1, maps[0].max() + 1)
        }
    print(f"largest difference of overlaps from brute force: {worst} voxels")
    assert worst == 0

from __future__ import annotations

import numpy as np
import pytest

from osteosap.geometry import Grid, make_affine
from osteosap.label_maps import resample_classes, resample_lesions

FINE = Grid((40, 40, 40), make_affine((2.0,) * 3, (0.0, 0.0, 0.0)))
COARSE = FINE.with_spacing((4.0, 4.0, 4.0))


def _ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    distance = sum((a - c) ** 2 for a, c in zip(np.indices(FINE.shape), centre, strict=True))
    return np.asarray(distance <= radius**2)


def test_no_lesion_vanishes_and_volumes_are_kept_at_half_the_resolution() -> None:
    lesions = np.zeros(FINE.shape, np.int32)
    lesions[_ball((10, 10, 10), 5.0)] = 1
    lesions[30, 30, 30] = 2  # an eighth of a coarse voxel
    lesions[_ball((10.5, 30.5, 10.5), 2.0)] = 7
    coarse = resample_lesions(lesions, FINE, COARSE)
    assert set(np.unique(coarse)) == {0, 1, 2, 7}
    for number in (1, 7):
        before = (lesions == number).sum() * FINE.voxel_volume_ml
        after = (coarse == number).sum() * COARSE.voxel_volume_ml
        assert after == pytest.approx(before, abs=COARSE.voxel_volume_ml)
    assert (coarse == 2).sum() == 1
    assert coarse[15, 15, 15] == 2


def test_lesions_stay_in_place_when_resampled() -> None:
    lesions = np.zeros(FINE.shape, np.int32)
    lesions[_ball((21, 14, 25), 6.0)] = 1
    coarse = resample_lesions(lesions, FINE, COARSE)
    before = FINE.affine[:3, :3] @ np.argwhere(lesions).mean(axis=0) + FINE.affine[:3, 3]
    after = COARSE.affine[:3, :3] @ np.argwhere(coarse).mean(axis=0) + COARSE.affine[:3, 3]
    assert np.abs(before - after).max() < 1.0


def test_a_lesion_outside_the_target_is_left_out() -> None:
    lesions = np.zeros(FINE.shape, np.int32)
    lesions[35:38, 35:38, 35:38] = 1
    corner = Grid((4, 4, 4), COARSE.affine)
    assert not resample_lesions(lesions, FINE, corner).any()


def test_a_voxel_takes_the_class_that_fills_most_of_it() -> None:
    classes = np.zeros(FINE.shape, np.uint8)
    classes[:, :, :20] = 3
    classes[:, :, 20:30] = 4
    coarse = resample_classes(classes, FINE, COARSE)
    assert (coarse[1:-1, 1:-1, 1:10] == 3).all()
    assert (coarse[1:-1, 1:-1, 10:15] == 4).all()
    assert (coarse[1:-1, 1:-1, 15:] == 0).all()
    assert np.array_equal(resample_classes(classes, FINE, FINE), classes)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 4.0), (3.0, 3.0, 5.0), (1.0, 2.0, 3.0)])
def test_maps_are_not_shifted_where_voxel_centres_meet_faces(
    spacing: tuple[float, float, float],
) -> None:
    # nearest-neighbour sampling displaces such maps by up to half a voxel, always to one side
    target = FINE.with_spacing(spacing)
    ball = _ball((20, 19.5, 20.2), 9.0)
    for move in (resample_classes, resample_lesions):
        moved = move(ball.astype(np.int32), FINE, target)
        before = FINE.affine[:3, :3] @ np.argwhere(ball).mean(axis=0) + FINE.affine[:3, 3]
        after = target.affine[:3, :3] @ np.argwhere(moved).mean(axis=0) + target.affine[:3, 3]
        assert np.abs(before - after).max() < 0.3  # of voxels up to 5 mm

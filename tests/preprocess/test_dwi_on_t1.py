import numpy as np
import pytest

from osteosap.errors import GeometryError
from osteosap.geometry import Grid, make_affine
from osteosap.preprocess.register import (
    coverage_of,
    mutual_information,
    require_coverage,
)
from osteosap.preprocess.resampling import resample_masked


def blobs(grid, *, inverted=False, offset=(0.0, 0.0, 0.0)):
    """A body with some structures at fixed places in mm; contrast may be inverted."""
    index = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    place = np.tensordot(grid.affine[:3, :3], np.stack(index), axes=1)
    x, y, z = place + (grid.affine[:3, 3] - offset).reshape(3, 1, 1, 1)
    image = 200.0 * ((x / 75) ** 2 + (y / 55) ** 2 < 1)
    for cx, cy, cz, r in ((20, 10, 30, 18), (-30, -15, 60, 15), (5, -20, 90, 12), (-20, 20, 95, 9)):
        ball = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < r**2
        image = np.where(ball, 60.0 if inverted else 500.0, image)
    return (image + 5.0).astype(np.float32)


T1_GRID = Grid((60, 44, 32), make_affine((3.0, 3.0, 4.0), (-90.0, -66.0, 0.0)))
DWI_GRID = Grid((36, 28, 26), make_affine((5.0, 5.0, 5.0), (-88.0, -66.0, 0.0)))


def body():
    return blobs(T1_GRID) > 20


def test_coverage_is_the_share_of_the_body_in_the_field_of_view():
    full = np.ones(T1_GRID.shape, bool)
    half = Grid((60, 44, 16), T1_GRID.affine)
    away = Grid((60, 44, 32), make_affine((3.0, 3.0, 4.0), (-90.0, -66.0, 900.0)))
    assert coverage_of(full, T1_GRID, T1_GRID) == 1.0
    assert coverage_of(full, T1_GRID, half) == 0.5
    assert coverage_of(full, T1_GRID, away) == 0.0


def test_too_little_coverage_is_refused_with_the_share():
    require_coverage(0.1, minimum=0.1)
    with pytest.raises(GeometryError, match=r"covers 3\.0% of the body"):
        require_coverage(0.03, minimum=0.1)


def test_masked_resampling_keeps_a_constant_map_constant_up_to_its_edge():
    mask = blobs(DWI_GRID) > 20
    on_t1 = resample_masked(np.where(mask, 1200.0, 0.0), mask, DWI_GRID, T1_GRID)
    assert set(np.round(np.unique(on_t1), 1)) == {0.0, 1200.0}
    assert np.count_nonzero((on_t1 > 0) & body()) > 0.93 * np.count_nonzero(body())


def test_mutual_information_of_an_image_is_largest_with_itself_and_blind_to_contrast():
    t1, inverted = blobs(T1_GRID), blobs(T1_GRID, inverted=True)
    shuffled = np.random.default_rng(0).permutation(t1.ravel()).reshape(t1.shape)
    self_information = mutual_information(t1, t1, body())
    assert mutual_information(t1, inverted, body()) == pytest.approx(self_information, rel=0.05)
    assert mutual_information(t1, shuffled, body()) < 0.1 * self_information

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from osteosap.geometry import Grid, crop_grid, make_affine
from osteosap.preprocess.evening import evened, evening_fields
from osteosap.preprocess.intensity import seam_mismatch
from osteosap.preprocess.stitch import Placed, blend

GRID = Grid((60, 40, 60), make_affine((4.0, 4.0, 4.0), (0.0, 0.0, 0.0)))
OVERLAP = slice(26, 36)


def body():
    x, y = np.ogrid[:60, :40]
    inside = ((x - 30) / 26) ** 2 + ((y - 20) / 17) ** 2 < 1
    image = np.where(inside, 300.0, 2.0)[:, :, None] * np.ones(60)
    texture = np.random.default_rng(1).uniform(0.8, 1.2, image.shape)
    return (image * texture).astype(np.float32)


def two_stations(shade):
    """Lower and upper half of a body, feathered at their ends; the upper one shaded across."""
    whole = body()
    lower, upper = whole[:, :, :36], whole[:, :, 26:] * shade
    return [
        Placed(lower, feather(36), (0, 0, 0)),
        Placed(upper.astype(np.float32), feather(34), (0, 0, 26)),
    ]


def feather(n):
    k = np.arange(n)
    return (4.0 * np.minimum(k + 0.5, n - 0.5 - k)).astype(np.float32)[None, None]


def shading(strength=0.3):
    across = strength * np.sin(np.arange(60) / 60 * np.pi)[:, None, None]
    return np.exp(across - across.mean())


def test_a_smooth_difference_between_neighbours_goes_away():
    placed = two_stations(shading())
    fields = evening_fields(placed, (0, 1), (1.0, 1.0), GRID)
    even = [evened(p, f, GRID) for p, f in zip(placed, fields, strict=True)]
    before, after = (seam_mismatch(p, (0, 1), (1.0, 1.0))[0] for p in (placed, even))
    assert before > 0.06
    assert after < 0.3 * before


def test_each_station_gives_as_much_as_the_other_counts_in_the_blend():
    placed = two_stations(shading())
    lower, upper = (np.log(f.on(GRID)) for f in evening_fields(placed, (0, 1), (1.0, 1.0), GRID))
    inside = (slice(10, 50), slice(10, 30))
    ratio = lower[(*inside, OVERLAP)] - upper[(*inside, OVERLAP)]
    share = ((np.arange(26, 36) - 25.5) / 10)[None, None]  # of the upper one
    np.testing.assert_allclose(lower[(*inside, OVERLAP)], share * ratio, atol=0.01)
    assert np.abs(lower[(*inside, slice(0, 25))]).max() < 1e-6
    assert np.abs(upper[(*inside, slice(37, 60))]).max() < 1e-6


def test_the_blend_stays_what_it_is_without_fields():
    placed = two_stations(shading())
    fields = evening_fields(placed, (0, 1), (1.0, 1.0), GRID)
    even = [evened(p, f, GRID) for p, f in zip(placed, fields, strict=True)]
    plain, smooth = (blend(p, GRID.shape) for p in (placed, even))
    inside = (slice(10, 50), slice(10, 30))
    np.testing.assert_allclose(smooth[inside], plain[inside], rtol=0.02)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 2.0, 6.0)], ids=str)
def test_weights_that_end_at_the_skin_change_nothing_at_it(spacing):
    grid = Grid(GRID.shape, make_affine(spacing, (5.0, -7.0, 3.0)))
    placed = two_stations(shading())
    skin = ndimage.binary_dilation(body() > 100, np.ones((3, 3, 1))).astype(np.float32)
    cut = [replace(p, weight=p.weight * skin[p.box]) for p in placed]
    plain, masked = (evening_fields(p, (0, 1), (1.0, 1.0), grid) for p in (placed, cut))
    for one, other, station in zip(plain, masked, placed, strict=True):
        inside = body()[station.box] > 100
        part = crop_grid(grid, station.box)
        difference = np.abs(np.log(one.on(part)) - np.log(other.on(part)))[inside]
        assert difference.max() < 0.02
        assert np.abs(np.log(one.on(part)))[inside].max() > 0.05


def test_what_scales_already_mend_needs_no_field():
    placed = two_stations(np.array(2.0))
    for field in evening_fields(placed, (0, 1), (1.0, 0.5), GRID):
        assert np.abs(field.log_field).max() < 1e-3


def test_detail_as_fine_as_a_voxel_is_not_evened():
    shade = np.where(np.arange(60) % 2 < 1, 1.3, 1 / 1.3)[:, None, None]  # 4 mm stripes
    for field in evening_fields(two_stations(shade), (0, 1), (1.0, 1.0), GRID):
        assert np.abs(field.on(GRID)[10:50, 10:30] - 1).max() < 0.03


@pytest.mark.parametrize("gap", [0, 4])
def test_stations_that_do_not_overlap_are_left_alone(gap):
    whole = body()
    placed = [
        Placed(whole[:, :, :30], feather(30), (0, 0, 0)),
        Placed(whole[:, :, 30 + gap :], feather(30 - gap), (0, 0, 30 + gap)),
    ]
    for field in evening_fields(placed, (0, 1), (1.0, 1.0), GRID):
        assert not field.log_field.any()


def test_an_overlap_without_signal_gives_no_field():
    placed = two_stations(np.array(1.0))
    dark = Placed(np.zeros_like(placed[1].array), placed[1].weight, placed[1].start)
    for field in evening_fields([placed[0], dark], (0, 1), (1.0, 1.0), GRID):
        assert not field.log_field.any()

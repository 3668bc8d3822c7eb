import numpy as np
import pytest
from scanner_phantoms import box_body, grid_of

from osteosap.simulate.scanner.coarse import SUSCEPTIBILITY_PPM, coarse_body
from osteosap.simulate.scanner.field import (
    dephasing,
    fat_left,
    gradient_ppm_per_mm,
    off_resonance_ppm,
    shimmed_ppm,
    susceptibility_field_ppm,
    water_left,
)
from osteosap.simulate.scanner.lattice import Pose, SmoothMap, axes_of
from osteosap.simulate.tissue import T


def test_a_sphere_has_the_field_of_a_dipole_around_it_and_none_of_its_own() -> None:
    n, radius, chi = 64, 9.0, 9.4
    axis = np.arange(n) - (n - 1) / 2
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    inside = np.clip(radius - r + 0.5, 0, 1) * chi
    field = susceptibility_field_ppm(inside.astype(np.float32), (1.0, 1.0, 1.0))
    expected = chi / 3 * (radius / r) ** 3 * (3 * (z / r) ** 2 - 1)
    ring = (r > 1.4 * radius) & (r < 2.8 * radius)
    assert np.abs(field - expected)[ring].max() < 0.06 * chi / 3
    # Lorentz: a sphere sees nothing of itself
    assert np.abs(field[r < 0.6 * radius]).max() < 0.05 * chi / 3
    # along the field twice as strong as across it and of the other sign
    c = n // 2
    assert field[c, c, c + 15] == pytest.approx(-2 * field[c + 15, c, c], rel=0.08)


def test_the_field_scales_with_the_grid_not_with_its_voxels() -> None:
    fine, coarse = (np.zeros((n,) * 3, np.float32) for n in (48, 24))
    fine[16:32, 16:32, 16:32] = coarse[8:16, 8:16, 8:16] = 1.0
    a = susceptibility_field_ppm(fine, (1.0, 1.0, 1.0))[24, 24, 40]
    b = susceptibility_field_ppm(coarse, (2.0, 2.0, 2.0))[12, 12, 20]
    assert a == pytest.approx(b, rel=0.12)


def test_susceptibility_knows_air_metal_and_water() -> None:
    assert SUSCEPTIBILITY_PPM[T.AIR] == SUSCEPTIBILITY_PPM[T.GAS] == pytest.approx(0.36)
    assert SUSCEPTIBILITY_PPM[T.MUSCLE] == pytest.approx(-9.05)
    assert SUSCEPTIBILITY_PPM[T.CORTEX] < SUSCEPTIBILITY_PPM[T.MUSCLE]
    assert SUSCEPTIBILITY_PPM[T.MUSCLE] < SUSCEPTIBILITY_PPM[T.LUNG] < 0
    assert SUSCEPTIBILITY_PPM[T.METAL] > 100


def test_a_shim_takes_constant_and_slopes_and_the_ends_stay() -> None:
    grid = grid_of((12, 12, 20), 6.0)
    x, y, z = axes_of(grid)
    plane = 2.0 + 0.02 * x[:, None, None] - 0.03 * y[:, None] + 0.01 * z
    tissue = np.ones(grid.shape, bool)
    field = SmoothMap(plane.astype(np.float32), grid)
    flat = shimmed_ppm(field, tissue, lo_mm=-40.0, hi_mm=40.0, end_ppm=0.0)
    assert np.abs(flat.values).max() < 1e-3
    bent = shimmed_ppm(field, tissue, lo_mm=-42.0, hi_mm=42.0, end_ppm=1.0)
    at = bent.on([np.zeros(1), np.zeros(1), np.array([0.0, 21.0, 42.0])])[0, 0]
    assert at[0] == pytest.approx(0.0, abs=0.02)
    assert at[1] == pytest.approx(0.5**4, abs=0.03)
    assert at[2] == pytest.approx(1.0, abs=0.15)


def test_a_shim_does_not_follow_metal() -> None:
    grid = grid_of((12, 12, 20), 6.0)
    values = np.zeros(grid.shape, np.float32)
    values[3:5, 3:5, 8:10] = 100.0
    shimmed = shimmed_ppm(
        SmoothMap(values, grid), np.ones(grid.shape, bool), lo_mm=-60, hi_mm=60, end_ppm=0.0
    )
    assert np.abs(np.median(shimmed.values)) < 1e-3
    assert shimmed.values[4, 4, 9 - 0] == pytest.approx(100.0, abs=1.0)


def test_a_station_without_tissue_has_a_field_all_the_same() -> None:
    grid = grid_of((6, 6, 8), 6.0)
    nothing = shimmed_ppm(
        SmoothMap(np.ones(grid.shape, np.float32), grid), np.zeros(grid.shape, bool),
        lo_mm=-20, hi_mm=20, end_ppm=0.5,
    )  # fmt: skip
    assert np.isfinite(nothing.values).all()


def test_gas_in_a_body_bends_its_field_more_than_no_gas() -> None:
    plain, gassy = box_body(), box_body()
    gassy.tissue[17:23, 15:21, 27:33] = T.GAS
    a, b = (off_resonance_ppm(coarse_body(body, Pose())) for body in (plain, gassy))
    near = [np.array([0.0]), np.array([0.0]), np.array([18.0])]
    assert (b.on(near) - a.on(near)).item() > 0.5  # above the bubble, along the field


def test_the_field_of_a_turned_body_turns_with_it() -> None:
    body = box_body((30, 30, 40), margin=9)
    body.tissue[13:17, 13:17, 16:24] = T.GAS
    straight = coarse_body(body, Pose())
    turned = coarse_body(body, Pose((0.0, 0.0, 90.0)))
    field = off_resonance_ppm(straight), off_resonance_ppm(turned)
    p, q = np.array([12.0]), np.array([3.0])
    before, after = field[0].on([p, q, q]).item(), field[1].on([-q, p, q]).item()
    assert after == pytest.approx(before, abs=0.25)


def test_spectral_suppression_holds_near_resonance_and_fails_beyond_its_band() -> None:
    off = np.array([0.0, 0.8, 1.6, 2.6, -2.6, -3.4], np.float32)
    left = fat_left(off)
    assert left[0] < 0.005
    assert left[1] < 0.05
    assert left[2] == pytest.approx(0.5)
    assert left[3] == pytest.approx(left[4])
    assert left[3] > 0.95
    kept = water_left(off)
    assert kept[0] > 0.99
    assert kept[5] < 0.01  # water where fat should be is suppressed in its place


def test_dephasing_follows_the_spread_over_the_voxel() -> None:
    loss = dephasing(np.array([0.0, 5.0], np.float32), voxel_mm=4.0, time_ms=15.0)
    assert loss[0] == 1.0
    assert loss[1] == pytest.approx(np.sinc(5.0 * 4.0 * 0.015), abs=0.03)


def test_the_gradient_of_a_slope_is_its_slope() -> None:
    grid = grid_of((6, 6, 6), 6.0)
    slope = np.broadcast_to(0.3 * axes_of(grid)[1][:, None], grid.shape).astype(np.float32)
    np.testing.assert_allclose(gradient_ppm_per_mm(SmoothMap(slope, grid)).values, 0.3, rtol=1e-4)


def test_the_legs_go_on_below_the_image() -> None:
    body = box_body((40, 40, 80), margin=10)
    body.tissue[:, :, -20:] = T.AIR  # a top, and a bottom that only the image has
    coarse = coarse_body(body, Pose())
    field = off_resonance_ppm(coarse)
    bottom, inner, top = (
        field.on([np.zeros(1), np.zeros(1), np.array([z])]).item() for z in (-115.0, -60.0, 55.0)
    )
    assert abs(bottom - inner) < 0.25 * abs(top - inner)

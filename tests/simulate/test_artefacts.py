import numpy as np
import pytest
from scanner_phantoms import box_body

from osteosap.simulate.body import Body
from osteosap.simulate.scanner.artefacts import (
    breathe,
    breathing_ghosts,
    breathing_map,
    coil_bias,
    half_view_ghost,
    rician,
    surface_depth_mm,
)
from osteosap.simulate.scanner.coarse import coarse_body
from osteosap.simulate.scanner.lattice import Pose
from osteosap.simulate.scanner.protocol import ArtefactConfig
from osteosap.simulate.tissue import T


def chest() -> Body:
    """A box with two lungs in its upper half and a spine behind them."""
    body = box_body((60, 50, 80), spacing=5.0, margin=8)
    body.tissue[14:46, 18:36, 40:76] = T.LUNG
    body.tissue[27:33, 11:18, :] = T.MARROW
    body.bone[27:33, 11:18, :] = 1
    return body


def test_noise_of_strong_signal_has_the_sd_asked_for_whatever_the_averages() -> None:
    clean = np.full((40, 40, 40), 100.0, np.float32)
    for averages in (1, 4):
        noisy = rician(clean, noise_sd=5.0, averages=averages, rng=np.random.default_rng(averages))
        assert noisy.std() == pytest.approx(5.0, rel=0.03)
        # each magnitude is biased upwards by half its variance over the signal
        assert noisy.mean() == pytest.approx(100 + 25.0 * averages / 200, rel=0.005)


def test_noise_of_no_signal_is_rayleigh() -> None:
    noisy = rician(np.zeros((40, 40, 40), np.float32), noise_sd=2.0, averages=1,
                   rng=np.random.default_rng(0))  # fmt: skip
    assert noisy.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.02)
    assert noisy.std() == pytest.approx(2.0 * np.sqrt(2 - np.pi / 2), rel=0.02)


def test_the_ghost_of_epi_lies_half_the_field_of_view_away() -> None:
    image = np.zeros((3, 40, 3), np.float32)
    image[1, 7, 1] = 1.0
    ghost = half_view_ghost(image, strength=0.1)
    assert ghost[1, 27, 1] == pytest.approx(0.1)
    assert ghost.sum() == pytest.approx(1.1)
    assert half_view_ghost(image, strength=0.0) is image


def test_breath_ghosts_come_from_what_moves_and_only_along_y() -> None:
    image = np.zeros((4, 60, 4), np.float32)
    image[1, 30, 1] = image[2, 30, 2] = 1.0
    moving = np.zeros_like(image)
    moving[1] = 1.0
    out = breathing_ghosts(image, moving, strength=0.2, rng=np.random.default_rng(0))
    changed = np.argwhere(np.abs(out - image) > 1e-6)
    assert len(changed) >= 2
    assert set(changed[:, 0]) == set(changed[:, 2]) == {1}
    assert (np.abs(changed[:, 1] - 30) >= 7).all()


def test_breath_moves_the_front_at_the_diaphragm_and_leaves_the_spine() -> None:
    moving = breathing_map(coarse_body(chest(), Pose()))
    assert moving is not None
    diaphragm = (40 - 39.5) * 5.0
    front, spine, top, low = (
        moving.on([np.zeros(1), np.array([y]), np.array([z])]).item()
        for y, z in ((50.0, diaphragm), (-60.0, diaphragm), (50.0, 170.0), (50.0, -190.0))
    )
    assert front > 0.8
    assert spine < 0.1
    assert top < 0.5 * front
    assert low < 0.3 * front


def test_a_body_without_lungs_does_not_breathe() -> None:
    assert breathing_map(coarse_body(box_body(), Pose())) is None


def test_breathing_blurs_along_z_and_keeps_the_signal() -> None:
    image = np.zeros((5, 21, 41), np.float32)
    image[2, 10, 20] = 1.0
    moving = np.ones_like(image)
    out = breathe(image, moving, amplitude_mm=20.0, spacing_mm=(4.0, 4.0, 4.0))
    assert out.sum() == pytest.approx(1.0, rel=1e-3)
    k = np.arange(41) - 20
    spread = np.sqrt((out.sum(axis=(0, 1)) @ k**2) * 16)
    assert spread == pytest.approx(0.35 * 20.0, rel=0.1)
    still = breathe(image, 0 * moving, amplitude_mm=20.0, spacing_mm=(4.0, 4.0, 4.0))
    np.testing.assert_array_equal(still, image)


def test_depth_is_the_distance_to_the_surface() -> None:
    coarse = coarse_body(box_body((40, 40, 40), margin=8), Pose())
    depth = surface_depth_mm(coarse)
    assert depth.max() == pytest.approx(12 * 3.0, abs=6.0)
    assert (depth[~coarse.inside] == 0).all()


def test_coils_are_brighter_near_the_surface_and_differ_between_stations() -> None:
    coarse = coarse_body(chest(), Pose())
    depth, rng = surface_depth_mm(coarse), np.random.default_rng(0)
    common = {"lo_mm": -100.0, "hi_mm": 100.0, "rng": rng}
    only_surface = ArtefactConfig.none().model_copy(update={"surface_bias": 0.5})
    bias = coil_bias(coarse, depth, config=only_surface, **common)
    middle, skin = (bias.on([np.zeros(1), np.array([y]), np.zeros(1)]).item() for y in (0.0, 82.0))
    assert 1.2 < skin / middle < np.exp(0.5)
    random = ArtefactConfig.none().model_copy(update={"bias": 0.2})
    first, second = (coil_bias(coarse, depth, config=random, **common) for _ in range(2))
    assert 0.02 < np.log(first.values).std() < 0.5
    assert np.abs(first.values - second.values).max() > 0.05

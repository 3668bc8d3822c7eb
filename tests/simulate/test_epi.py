import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.simulate.scanner.epi import Warp
from osteosap.simulate.scanner.lattice import averaging

Y = 2.0 * np.arange(60)
TARGET = 3.0 * np.arange(40) + 0.5


def ends_of(displacement: np.ndarray) -> np.ndarray:
    """Moved ends (1, 61, 1) of 60 voxels of 2 mm."""
    plain = np.append(Y - 1.0, Y[-1] + 1.0)
    return (plain + displacement)[None, :, None].astype(np.float32)


def warp_of(displacement: np.ndarray) -> Warp:
    return Warp(ends_of(displacement), source_mm=2.0, target=TARGET, target_mm=3.0)


def line(*bright: int) -> np.ndarray:
    image = np.zeros((1, 60, 1), np.float32)
    image[0, list(bright), 0] = 1.0
    return image


def centre(image: np.ndarray) -> float:
    return float((image[0, :, 0] @ TARGET) / image.sum())


def test_without_displacement_it_is_the_average_over_the_voxel() -> None:
    image = np.random.default_rng(0).uniform(size=(1, 60, 1)).astype(np.float32)
    weights = averaging(Y, TARGET, source_mm=2.0, target_mm=3.0)
    np.testing.assert_allclose(warp_of(np.zeros(61))(image)[0, :, 0], weights @ image[0, :, 0],
                               atol=1e-5)  # fmt: skip


def test_signal_lands_where_the_displacement_says() -> None:
    image = line(29, 30, 31)
    for shift in (6.0, -9.0):
        moved = warp_of(np.full(61, shift))(image)
        assert centre(moved) == pytest.approx(Y[30] + shift, abs=0.8)
        assert moved.sum() * 3.0 == pytest.approx(image.sum() * 2.0, rel=1e-5)


def test_a_field_that_squeezes_piles_signal_up_and_one_that_stretches_thins_it() -> None:
    image = np.ones((1, 60, 1), np.float32)
    slope = (np.arange(61) - 30) * 2.0
    squeezed, stretched = warp_of(-0.5 * slope)(image), warp_of(0.5 * slope)(image)
    assert squeezed[0, 20, 0] == pytest.approx(2.0, rel=0.02)
    assert stretched[0, 20, 0] == pytest.approx(1 / 1.5, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100), st.floats(0.0, 30.0))
def test_signal_is_conserved_even_where_lines_fold(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    image = line(*range(25, 36)) * rng.uniform(0.5, 1.5, size=(1, 60, 1)).astype(np.float32)
    moved = warp_of(np.clip(size * rng.normal(size=61), -40, 40))(image)
    assert moved.sum() * 3.0 == pytest.approx(image.sum() * 2.0, rel=1e-4)
    assert moved.min() >= -1e-6


def test_what_leaves_the_field_of_view_is_gone() -> None:
    assert warp_of(np.full(61, 500.0))(line(30)).sum() == 0.0
    assert warp_of(np.full(61, -500.0))(line(30)).sum() == 0.0

"""Rigid registration: what was moved is found, and always to the same bit."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from osteosap.geometry import Grid
from osteosap.preprocess import rigid
from osteosap.preprocess.rigid import RigidSearch, find_rigid

GRID = Grid((40, 36, 44), np.diag([3.0, 3.0, 3.0, 1.0]))


@pytest.fixture(scope="module")
def pair():
    """A blurred random body at two contrasts, the second one moved by 2 and -1 voxels."""
    rng = np.random.default_rng(3)
    fixed = ndimage.gaussian_filter(rng.random(GRID.shape), 2.0)
    fixed = (fixed - fixed.min()) / np.ptp(fixed)
    moving = np.roll(1.0 - fixed**2, (2, -1), axis=(0, 2))
    mask = np.zeros(GRID.shape, bool)
    mask[6:-6, 6:-6, 6:-6] = True
    return fixed, mask, moving + rng.normal(0, 0.01, GRID.shape)


def test_a_translation_is_found_at_another_contrast(pair):
    fixed, mask, moving = pair
    motion = find_rigid(fixed, mask, GRID, moving, GRID, search=RigidSearch(reach_mm=10.0))
    np.testing.assert_allclose(motion[:3, 3], [6.0, 0.0, -3.0], atol=0.3)


def test_many_threads_of_itk_do_not_change_a_bit(pair, monkeypatch):
    """Sums over threads would: what is compared is what comes before it is rounded."""
    found = []

    class Unrounded:
        def __getattr__(self, name):
            return self.round if name == "round" else getattr(np, name)

        def round(self, values, _):
            found.append(tuple(values))
            return np.asarray(values)

    monkeypatch.setattr(rigid, "np", Unrounded())
    fixed, mask, moving = pair
    for _ in range(6):
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(4)
        find_rigid(fixed, mask, GRID, moving, GRID, search=RigidSearch())
    assert len(set(found)) == 1

"""The 48 ways to store the axes of an image give the same exam."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from osteosap.geometry import Grid
from osteosap.ingest import read_input
from osteosap.preprocess import assemble_exam
from osteosap.volume import Volume

ORIENTATIONS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]


@pytest.fixture(scope="module")
def small():
    """A small exam of some structure, on a grid of three different spacings and odd sizes."""
    rng = np.random.default_rng(4)
    affine = np.diag([4.0, 5.0, 6.0, 1.0])
    affine[:3, 3] = -31.0, 17.0, 240.0
    x, y, _ = np.indices((23, 19, 17))
    body = ((x - 11) / 10) ** 2 + ((y - 9) / 8) ** 2 < 1
    images = {}
    for name, level in (("t1", 300.0), ("b1000", 80.0), ("adc", 1000.0)):
        array = np.where(body, level * rng.uniform(0.6, 1.4, body.shape), 0.01)
        images[name] = Volume.single(array.astype(np.float32), affine, name)
    return images


def write_turned(images, folder, order, signs):
    """The same images, stored with other axes: permuted and flipped, their places unchanged."""
    for name, volume in images.items():
        ornt = np.column_stack([order, signs])
        turned = nib.orientations.apply_orientation(volume.array[0], ornt)
        back = nib.orientations.inv_ornt_aff(ornt, volume.array.shape[1:])
        nib.save(nib.Nifti1Image(turned, volume.affine @ back), folder / f"{name}.nii.gz")


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_each_of_the_48_axis_orientations_gives_the_same_exam(small, tmp_path, order, signs):
    write_turned(small, tmp_path, order, signs)
    exam = assemble_exam(read_input(tmp_path).images)
    for name, volume in small.items():
        np.testing.assert_allclose(exam.images.channel(name), volume.array[0], rtol=1e-5, atol=1e-4)
    assert exam.images.grid.same_as(Grid(volume.array.shape[1:], volume.affine), tolerance_mm=1e-3)

import errno

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osteosap.errors import GeometryError, InputError, OutputError, VolumeError
from osteosap.geometry import make_affine
from osteosap.volume import Volume, read_nifti, stack, write_nifti

AFFINE = make_affine((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def test_a_channel_is_found_by_name_whatever_the_order():
    one, two = np.zeros((2, 3, 4)), np.ones((2, 3, 4))
    volume = Volume(np.stack([two, one]), AFFINE, ("b1000", "t1"))
    assert (volume.channel("t1") == 0).all()
    assert (volume.channel("b1000") == 1).all()


def test_an_absent_channel_is_named_with_those_that_are_there():
    volume = Volume.single(np.zeros((2, 2, 2)), AFFINE, "t1")
    with pytest.raises(VolumeError, match="'adc' among t1"):
        volume.channel("adc")


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((2, 2, 2), ("t1",)), ((2, 2, 2, 2), ("t1",)), ((2, 2, 2, 2), ("t1", "t1"))],
    ids=["3 axes", "too few names", "one name twice"],
)
def test_a_volume_refuses_what_does_not_fit(shape, channels):
    with pytest.raises(VolumeError):
        Volume(np.zeros(shape), AFFINE, channels)


def test_channels_on_different_grids_are_not_stacked():
    one = Volume.single(np.zeros((2, 2, 2)), AFFINE, "t1")
    other = Volume.single(np.zeros((2, 2, 3)), AFFINE, "b1000")
    with pytest.raises(GeometryError, match="different grids"):
        stack([one, other])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    dtype=st.sampled_from([np.uint8, np.int16, np.int32, np.float32]),
    spacing=st.tuples(*[st.floats(0.5, 6.0)] * 3),
    seed=st.integers(0, 1000),
)
def test_what_is_written_reads_back_the_same(tmp_path, shape, dtype, spacing, seed):
    array = (np.random.default_rng(seed).random(shape) * 200).astype(dtype)
    volume = Volume.single(array, make_affine(spacing, (-10.0, 20.0, 30.0)), "t1")
    write_nifti(volume, tmp_path / "t1.nii.gz")
    back = read_nifti(tmp_path / "t1.nii.gz", channel="t1")
    assert back.array.dtype == dtype
    assert np.array_equal(back.array, volume.array)
    assert np.allclose(back.affine, volume.affine, atol=1e-3)


def test_equal_volumes_make_equal_files(tmp_path):
    volume = Volume.single(np.ones((3, 3, 3), np.float32), AFFINE, "t1")
    write_nifti(volume, tmp_path / "a.nii.gz")
    write_nifti(volume, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_is_written_as_small_integers(tmp_path):
    write_nifti(Volume.single(np.ones((2, 2, 2), bool), AFFINE, "body"), tmp_path / "body.nii.gz")
    assert read_nifti(tmp_path / "body.nii.gz", channel="body").array.dtype == np.uint8


def test_a_file_in_another_orientation_reads_as_ras(tmp_path):
    truth = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    lps = AFFINE.copy()
    lps[:3, 3] += AFFINE[:3, :3] @ [1, 2, 0]
    lps[:, :2] *= -1
    nib.save(nib.Nifti1Image(truth[::-1, ::-1], lps), tmp_path / "t1.nii")
    volume = read_nifti(tmp_path / "t1.nii", channel="t1")
    assert np.array_equal(volume.channel("t1"), truth)
    assert np.allclose(volume.affine, AFFINE)
    as_stored = read_nifti(tmp_path / "t1.nii", channel="t1", contiguous=False)
    assert np.array_equal(as_stored.array, volume.array)
    assert np.array_equal(as_stored.affine, volume.affine)
    assert volume.array.flags.c_contiguous
    assert not as_stored.array.flags.c_contiguous  # no copy was made


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_nifti(tmp_path / "t1.nii.gz", channel="t1")


def test_a_truncated_file_is_an_input_error(tmp_path):
    path = tmp_path / "t1.nii.gz"
    noise = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    write_nifti(Volume.single(noise, AFFINE, "t1"), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        read_nifti(path, channel="t1")


def test_a_file_of_four_axes_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), AFFINE), tmp_path / "t1.nii")
    with pytest.raises(GeometryError, match="4 axes"):
        read_nifti(tmp_path / "t1.nii", channel="t1")


def test_values_that_are_not_finite_are_refused_unless_allowed(tmp_path):
    array = np.zeros((2, 2, 2), np.float32)
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "t1.nii")
    with pytest.raises(VolumeError, match="1 values"):
        read_nifti(tmp_path / "t1.nii", channel="t1")
    assert np.isnan(read_nifti(tmp_path / "t1.nii", channel="t1", finite=False).array).sum() == 1


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(_image, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    volume = Volume.single(np.zeros((2, 2, 2), np.float32), AFFINE, "t1")
    with pytest.raises(OutputError, match="No space left"):
        write_nifti(volume, tmp_path / "t1.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_several_channels_do_not_go_into_one_file(tmp_path):
    volume = Volume(np.zeros((2, 2, 2, 2), np.float32), AFFINE, ("t1", "b1000"))
    with pytest.raises(VolumeError, match="one channel"):
        write_nifti(volume, tmp_path / "both.nii.gz")


def test_resampling_moves_every_channel(small_exam):
    target = small_exam.images.grid.with_spacing((8.0, 8.0, 10.0))
    moved = small_exam.images.resampled(target)
    assert moved.channels == small_exam.images.channels
    assert moved.array.shape == (3, *target.shape)

import numpy as np
import pytest

from osteosap.errors import GeometryError, InputError, VolumeError
from osteosap.exam import ExamPaths, StationImage, find_file, read_exam, write_exam
from osteosap.geometry import make_affine
from osteosap.volume import Volume, write_nifti


def test_an_exam_reads_back_as_written(small_exam, exam_folder):
    back = read_exam(exam_folder)
    assert back.images.channels == ("t1", "b1000", "adc")
    assert np.array_equal(back.images.array, small_exam.images.array)
    assert np.array_equal(back.skeleton.array, small_exam.skeleton.array)
    assert np.array_equal(back.lesions.array, small_exam.lesions.array)
    assert (back.skeleton.array.dtype, back.lesions.array.dtype) == (np.uint8, np.int32)


def test_images_below_exam_are_found_too(small_exam, tmp_path):
    write_exam(small_exam, tmp_path / "exam")
    assert read_exam(tmp_path).images.channels == ("t1", "b1000", "adc")


def test_what_is_optional_may_be_absent(exam_folder):
    for name in ("adc", "skeleton", "lesions"):
        (exam_folder / f"{name}.nii.gz").unlink()
    back = read_exam(exam_folder)
    assert back.images.channels == ("t1", "b1000")
    assert back.skeleton is None
    assert back.lesions is None


@pytest.mark.parametrize("name", ["t1", "b1000"])
def test_a_missing_network_input_is_named(exam_folder, name):
    (exam_folder / f"{name}.nii.gz").unlink()
    with pytest.raises(InputError, match=rf"no {name}\.nii\.gz"):
        read_exam(exam_folder)


@pytest.mark.parametrize("name", ["b1000", "skeleton"])
def test_files_on_different_grids_are_refused(exam_folder, name):
    affine = make_affine((4.0, 4.0, 5.0), (0.0, 0.0, 0.0))
    write_nifti(
        Volume.single(np.zeros((12, 10, 14), np.uint8), affine, name),
        exam_folder / f"{name}.nii.gz",
    )
    with pytest.raises(GeometryError, match="different grids"):
        read_exam(exam_folder)


def test_a_diffusion_image_has_a_b_value_and_only_it_has_one():
    volume = Volume.single(np.zeros((2, 2, 2)), np.eye(4), "x")
    assert StationImage(volume, "dwi", 0.0).b_value_s_per_mm2 == 0.0
    for kind, b_value in (("dwi", None), ("t1", 50.0), ("t2", None)):
        with pytest.raises(VolumeError):
            StationImage(volume, kind, b_value)


def test_every_key_has_a_file_of_its_own_below_the_root(tmp_path):
    paths = ExamPaths(tmp_path)
    files = [paths[key] for key in ExamPaths.FILES]
    assert len(set(files)) == len(files)
    assert all(path.is_relative_to(tmp_path) for path in files)


def test_an_uncompressed_file_is_found(tmp_path):
    (tmp_path / "t1.nii").touch()
    assert find_file(tmp_path, "t1") == tmp_path / "t1.nii"
    assert find_file(tmp_path, "b1000") is None

import json

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from osteosap.errors import ConfigError, GeometryError, StudyError, VolumeError
from osteosap.exam import StationImage
from osteosap.geometry import Grid, make_affine
from osteosap.preprocess import AssembledExam, PreprocessConfig, assemble_exam
from osteosap.volume import Volume

PLAIN = PreprocessConfig.from_mapping(
    {
        "bias": {"enabled": False},
        "align": {"enabled": False},
        "eddy": {"enabled": False},
        "registration": {"enabled": False},
    }
)
"""Without the corrections that need anatomy, which these cylinders have not."""

T1_SPACING = (4.0, 4.0, 5.0)
DWI_SPACING = (5.0, 5.0, 5.0)


def world(grid):
    index = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    place = np.tensordot(grid.affine[:3, :3], np.stack(index), axes=1)
    return place + grid.affine[:3, 3].reshape(3, 1, 1, 1)


def true_adc(grid):
    x, y, _ = world(grid)
    return np.where(x > 0, 1200.0, 800.0) * ((x / 80) ** 2 + (y / 60) ** 2 < 1)


def true_t1(grid):
    x, y, _ = world(grid)
    r = (x / 80) ** 2 + (y / 60) ** 2
    return np.where(r < 0.7, 150.0, np.where(r < 1, 500.0, 4.0))


def make(kind, z_mm, *, b=None, gain=1.0, group="wb", slices=16, value=None):
    spacing = T1_SPACING if kind == "t1" else DWI_SPACING
    affine = make_affine(spacing, (-100.0, -80.0, z_mm))
    grid = Grid((round(200 / spacing[0]) + 1, round(160 / spacing[1]) + 1, slices), affine)
    if kind == "t1":
        array = true_t1(grid)
    elif kind == "adc":
        array = true_adc(grid)
    else:
        adc = true_adc(grid)
        array = np.where(adc > 0, 300.0 * np.exp(-b * adc * 1e-6), 2.0)
    array = gain * array if value is None else np.full(grid.shape, value)
    volume = Volume.single(array.astype(np.float32), affine, kind)
    return StationImage(volume, kind, b, "" if kind == "t1" else group, f"{kind} {b} {z_mm:g}")


def study(*, t1_gains=(1.0, 1.0, 1.0), dwi_gains=(1.0, 1.0, 1.0), b_values=(50.0, 400.0, 1000.0)):
    images = []
    for n in range(3):
        images.append(make("t1", 65.0 * n, gain=t1_gains[n]))
        images += [make("dwi", 65.0 * n, b=b, gain=dwi_gains[n]) for b in b_values]
    return images


def deep(grid):
    """Well inside either half, away from edges where interpolation mixes."""
    x, y, _ = world(grid)
    return ((x / 80) ** 2 + (y / 60) ** 2 < 0.6) & (np.abs(x) > 8)


def test_a_study_of_three_stations_becomes_one_exam_with_true_adc():
    exam = assemble_exam(study(t1_gains=(0.5, 1.0, 1.7), dwi_gains=(1.4, 1.0, 0.6)), PLAIN)
    assert isinstance(exam, AssembledExam)
    assert exam.images.channels == ("t1", "b1000", "adc")
    assert exam.images.array.dtype == np.float32
    assert exam.body.array.dtype == np.uint8
    assert exam.images.array.shape[1:] == (51, 41, 42)
    grid = exam.images.grid
    inside = deep(grid)
    adc = exam.images.channel("adc")
    np.testing.assert_allclose(adc[inside], true_adc(grid)[inside], rtol=0.01)
    np.testing.assert_allclose(exam.images.channel("t1")[inside], true_t1(grid)[inside], rtol=0.01)
    expected = 300.0 * np.exp(-1e-3 * true_adc(grid))
    np.testing.assert_allclose(exam.images.channel("b1000")[inside], expected[inside], rtol=0.01)
    assert exam.record["coverage"] == pytest.approx(1.0, abs=0.01)
    assert exam.warnings == ()


def test_the_record_is_json_and_tells_every_step():
    exam = assemble_exam(study(), PLAIN)
    record = json.loads(json.dumps(exam.record, allow_nan=False))
    steps = [s["step"] for s in record["steps"]]
    assert steps == [
        "DWI protocol", "bias t1", "align t1 stations", "match t1 stations", "stitch t1",
        "body mask", "field of view", "eddy currents", "bias dwi", "registration",
        "match dwi stations", "b1000", "adc",
    ]  # fmt: skip
    assert record["b1000"]["source"] == "acquired"
    assert record["adc"]["b_values_s_per_mm2"] == [50.0, 400.0, 1000.0]
    assert record["settings"] == PLAIN.to_mapping()
    assert [seam["pair"] for seam in record["seams"]] == [[1, 2], [2, 3]] * 2
    assert all(check["verdict"] for check in record["quality"]["checks"])


def test_the_order_of_the_images_does_not_matter():
    images = study(t1_gains=(0.5, 1.0, 1.7), dwi_gains=(1.4, 1.0, 0.6))
    first = assemble_exam(images, PLAIN)
    second = assemble_exam(images[::-1], PLAIN)
    np.testing.assert_allclose(second.images.array, first.images.array, rtol=1e-4, atol=1e-2)


def test_one_station_keeps_the_t1_voxels_untouched():
    images = [make("t1", 0.0), make("dwi", 0.0, b=50.0), make("dwi", 0.0, b=1000.0)]
    exam = assemble_exam(images, PLAIN)
    np.testing.assert_array_equal(exam.images.channel("t1"), images[0].volume.array[0])
    np.testing.assert_array_equal(exam.images.affine, images[0].volume.affine)


def test_flipping_the_patient_left_to_right_flips_the_exam():
    def flipped(image):
        affine = np.diag([-1.0, 1.0, 1.0, 1.0]) @ image.volume.affine  # mirrored world
        volume = image.volume
        turned = affine.copy()
        turned[0, 0] = -affine[0, 0]
        turned[0, 3] = affine[0, 3] + affine[0, 0] * (volume.array.shape[1] - 1)
        mirrored = Volume(volume.array[:, ::-1], turned, volume.channels)
        return StationImage(mirrored, image.kind, image.b_value_s_per_mm2, image.group)

    images = study(dwi_gains=(1.4, 1.0, 0.6))
    exam = assemble_exam(images, PLAIN)
    mirrored = assemble_exam([flipped(i) for i in images], PLAIN)
    np.testing.assert_allclose(
        mirrored.images.array[:, ::-1], exam.images.array, rtol=1e-3, atol=0.5
    )


def test_without_an_acquired_b1000_it_is_computed_and_said():
    exam = assemble_exam(study(b_values=(0.0, 400.0, 800.0)), PLAIN)
    inside = deep(exam.images.grid)
    expected = 300.0 * np.exp(-1e-3 * true_adc(exam.images.grid))
    np.testing.assert_allclose(exam.images.channel("b1000")[inside], expected[inside], rtol=0.01)
    assert exam.record["b1000"]["source"] == "computed"
    assert any("b1000 was not acquired" in w for w in exam.warnings)


def test_a_stitched_exam_with_b1000_and_adc_is_taken_as_given():
    t1, b1000, adc = (make("t1", 0.0), make("dwi", 0.0, b=1000.0), make("adc", 0.0))
    b1000 = StationImage(b1000.volume, "dwi", 1000.0, "", "b1000.nii.gz")
    exam = assemble_exam([t1, b1000, adc], PLAIN)
    assert exam.record["b1000"]["source"] == "acquired"
    assert exam.record["adc"]["source"] == "scanner"
    inside = deep(exam.images.grid)
    truth = true_adc(exam.images.grid)
    np.testing.assert_allclose(exam.images.channel("adc")[inside], truth[inside], rtol=1e-4)
    assert exam.warnings == ()


def test_channels_on_the_t1_grid_are_not_interpolated():
    t1 = make("t1", 0.0)
    grid = t1.volume.grid
    b1000 = np.random.default_rng(0).random((1, *grid.shape)).astype(np.float32)
    dwi = StationImage(Volume(b1000, grid.affine, ("dwi",)), "dwi", 1000.0)
    exam = assemble_exam([t1, dwi], PLAIN)
    np.testing.assert_array_equal(exam.images.channel("b1000"), b1000[0])


def test_one_b_value_and_no_map_leaves_the_adc_channel_out_with_a_warning():
    exam = assemble_exam([make("t1", 0.0), make("dwi", 0.0, b=1000.0)], PLAIN)
    assert exam.images.channels == ("t1", "b1000")
    assert exam.record["adc"] == {"source": "none"}
    assert any("ADC columns will be empty" in w for w in exam.warnings)


def test_the_unit_of_an_adc_image_is_not_guessed_a_second_time():
    adc = make("adc", 0.0, gain=0.01)  # 8-12 um2/s: odd, but stated by who read it
    exam = assemble_exam([make("t1", 0.0), make("dwi", 0.0, b=1000.0), adc], PLAIN)
    inside = deep(exam.images.grid)
    truth = 0.01 * true_adc(exam.images.grid)
    np.testing.assert_allclose(exam.images.channel("adc")[inside], truth[inside], rtol=1e-4)


def test_dwi_that_covers_a_part_is_0_outside_and_the_share_is_told():
    images = [make("t1", 0.0, slices=40), make("dwi", 0.0, b=1000.0, slices=20)]
    exam = assemble_exam(images, PLAIN)
    assert exam.record["coverage"] == pytest.approx(0.5, abs=0.03)
    assert not exam.images.channel("b1000")[..., 21:].any()
    assert any("lesions outside it cannot be found" in w for w in exam.warnings)


def test_dwi_that_reaches_beyond_the_t1_is_told_with_the_share_cut_off():
    images = [make("t1", 0.0, slices=20), make("dwi", 0.0, b=1000.0, slices=40)]
    exam = assemble_exam(images, PLAIN)
    assert exam.record["dwi_outside_t1"] == pytest.approx(0.5, abs=0.03)
    assert any("tissue on the DWI lies outside the T1" in w for w in exam.warnings)
    assert not any("covers" in w for w in exam.warnings)


def test_a_station_with_another_repetition_time_is_part_of_the_exam():
    images = [
        StationImage(i.volume, i.kind, i.b_value_s_per_mm2, f"{i.group} legs", i.source)
        if i.volume.affine[2, 3] == 0
        else i
        for i in study()
    ]
    exam = assemble_exam(images, PLAIN)
    assert exam.images.array.shape[1:] == (51, 41, 42)
    assert exam.record["coverage"] == pytest.approx(1.0, abs=0.01)
    inside = deep(exam.images.grid)
    truth = true_adc(exam.images.grid)
    np.testing.assert_allclose(exam.images.channel("adc")[inside], truth[inside], rtol=0.01)
    assert exam.warnings == ("DWI of 'wb' is completed by stations of 'wb legs'",)


def test_dwi_of_another_body_part_is_refused():
    with pytest.raises(GeometryError, match=r"covers 0\.0% of the body"):
        assemble_exam([make("t1", 0.0), make("dwi", 700.0, b=1000.0)], PLAIN)


def test_a_missing_station_is_refused():
    images = [i for i in study() if not (i.kind == "t1" and "65" in i.source)]
    with pytest.raises(GeometryError, match=r"gap of 50\.0 mm"):
        assemble_exam(images, PLAIN)


@pytest.mark.parametrize(("kept", "missing"), [("t1", "DWI"), ("dwi", "T1")])
def test_t1_or_dwi_alone_is_refused_by_name(kept, missing):
    with pytest.raises(StudyError, match=f"no .*{missing}.* images"):
        assemble_exam([i for i in study() if i.kind == kept], PLAIN)


@pytest.mark.parametrize("value", [np.nan, 0.0, 5.0])
@pytest.mark.parametrize("kind", ["t1", "dwi"])
def test_nan_and_constant_images_are_refused(kind, value):
    bad = make(kind, 0.0, b=1000.0 if kind == "dwi" else None, value=value)
    other = make("dwi", 0.0, b=1000.0) if kind == "t1" else make("t1", 0.0)
    with pytest.raises(VolumeError, match=r"NaN|every voxel"):
        assemble_exam([bad, other], PLAIN)


def test_negative_images_are_refused_but_ringing_is_set_to_0_with_a_warning():
    dwi, t1 = make("dwi", 0.0, b=1000.0), make("t1", 0.0)
    for value, ok in ((-100.0, False), (-0.5, True)):
        array = t1.volume.array.copy()
        array[0, 0, 0, 0] = value
        image = StationImage(Volume(array, t1.volume.affine, ("t1",)), "t1", source="series 4")
        if ok:
            exam = assemble_exam([image, dwi], PLAIN)
            assert exam.images.channel("t1").min() >= 0
            assert any("series 4" in w for w in exam.warnings)
        else:
            with pytest.raises(VolumeError, match="magnitude"):
                assemble_exam([image, dwi], PLAIN)


def test_settings_are_refused_when_unknown():
    with pytest.raises(ConfigError, match="registration"):
        PreprocessConfig.from_mapping({"registration": "spline"})
    with pytest.raises(ConfigError, match=r"bias\.enable.*did you mean 'enabled'"):
        PreprocessConfig.from_mapping({"bias": {"enable": False}})
    with pytest.raises(ConfigError, match="a dot does not nest, write 'bias:' and below it"):
        PreprocessConfig.from_mapping({"bias.enabled": False})
    with pytest.raises(ConfigError) as caught:
        PreprocessConfig.from_mapping({"min_coverage.x": 1})
    assert "nest" not in str(caught.value)


@pytest.mark.parametrize(("weight", "tied"), [(0.1, "; 3 of 3 stations fitted"), (0.0, "")])
def test_bias_of_t1_is_fitted_to_overlaps_unless_they_are_left_out(weight, tied):
    bias = {"enabled": True, "overlap_weight": weight}
    config = PreprocessConfig.from_mapping(PLAIN.to_mapping() | {"bias": bias})
    record = assemble_exam(study(), config).record
    step = next(s for s in record["steps"] if s["step"] == "bias t1")
    assert [n > 0 for n in step["compared"]] == [bool(tied)] * 3
    assert ("fitted to their overlaps" in step["done"]) == bool(tied)
    assert tied in step["done"]


def test_stations_side_by_side_leave_blas_one_thread_and_give_it_back():
    inside = set()

    def look(_text, _fraction):
        inside.update(lib["num_threads"] for lib in blas())

    with threadpool_limits(2, user_api="blas"):
        assemble_exam(study(), progress=look)
        after = {lib["num_threads"] for lib in blas()}
    assert inside == {1}
    assert after == {2}


def blas():
    return [lib for lib in threadpool_info() if lib["user_api"] == "blas"]

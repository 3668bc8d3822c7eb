"""Three vendors' ways to write the same simulated study, and one reader for all."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_studies import (
    B_VALUES,
    assert_same_images,
    edit,
    files_of,
    make_images,
    oblique_affine,
    station_affine,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from osteosap.dicom import DicomWriterConfig, read_study, write_study
from osteosap.dicom.b_values import read_b_value
from osteosap.exam import StationImage
from osteosap.ingest import read_input
from osteosap.volume import Volume

VENDORS = ("siemens", "philips", "ge")
DECOYS = ("t2", "stir", "dixon_fat")
GRADIENT_ECHO = {
    "t1_sequence": "gre",
    "t1_repetition_time_ms": 7.0,
    "t1_echo_time_ms": 4.6,
    "t1_flip_angle_deg": 15.0,
    "field_strength_t": 3.0,
}


def config_of(vendor: str, **values: object) -> DicomWriterConfig:
    return DicomWriterConfig.from_mapping({"seed": 3, "dialect": vendor, **values})


def written(tmp_path: Path, vendor: str, images: list[StationImage], **values: object) -> Path:
    folder = tmp_path / vendor
    write_study(images, folder, config=config_of(vendor, **values))
    return folder


def first_of(folder: Path, kind: str, b_value: int | None = None) -> Dataset:
    """First image of a kind in the order of their names, with this b-value."""
    datasets = (pydicom.dcmread(f) for f in files_of(folder, kind))
    return next(d for d in datasets if b_value is None or read_b_value(d)[0] == b_value)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("t1", [{}, GRADIENT_ECHO], ids=["tse", "gre"])
def test_roles_b_values_stations_and_voxels_come_back_from_every_dialect(
    tmp_path: Path, vendor: str, t1: dict[str, object]
) -> None:
    images = make_images()
    found = read_input(written(tmp_path, vendor, images, **t1))
    assert_same_images(images, found.images)
    assert found.simulated
    assert found.warnings == ()
    roles = [s["role"] for s in found.series]
    assert roles == ["localizer", "t1", "t1"] + ["dwi"] * (1 if vendor == "ge" else 2)
    dwi = [s for s in found.series if s["role"] == "dwi"]
    assert all(tuple(s["b_values_s_per_mm2"]) == B_VALUES for s in dwi)
    assert sum(s["n_stations"] for s in dwi) == 2
    assert len({i.group for i in found.images if i.kind == "dwi"}) == 1


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_same_study_has_the_same_intensities_in_every_dialect(
    tmp_path: Path, vendor: str
) -> None:
    images = make_images()
    expected = read_study(written(tmp_path / "x", "siemens", images)).images
    found = read_study(written(tmp_path, vendor, images)).images
    for one, other in zip(expected, found, strict=True):
        assert (one.kind, one.b_value_s_per_mm2) == (other.kind, other.b_value_s_per_mm2)
        np.testing.assert_allclose(one.volume.affine, other.volume.affine, atol=1e-3)
        assert np.abs(one.volume.array - other.volume.array).max() <= 1.01


@settings(max_examples=12, deadline=None)
@given(
    vendor=st.sampled_from(VENDORS),
    degrees=st.tuples(*[st.floats(-35, 35)] * 3),
    along_normal=st.booleans(),
)
@pytest.mark.slow
def test_oblique_stations_come_back_where_they_were(
    vendor: str, degrees: tuple[float, float, float], along_normal: bool
) -> None:
    affines = []
    for number in range(3):
        affine = oblique_affine(degrees)
        step = affine[:3, 2] / np.linalg.norm(affine[:3, 2]) if along_normal else (0.0, 0.0, 1.0)
        affine[:3, 3] -= np.asarray(step) * 25.0 * number
        affines.append(affine)
    images = make_images(affines, b_values=(0.0, 1000.0))
    with tempfile.TemporaryDirectory() as folder:
        found = read_study(written(Path(folder), vendor, images)).images
    assert_same_images(images, found)


@pytest.mark.parametrize("vendor", VENDORS)
def test_wide_oblique_stations_are_neighbours_though_their_boxes_overlap(
    tmp_path: Path, vendor: str
) -> None:
    rng = np.random.default_rng(1)
    images = []
    for number in range(3):
        affine = oblique_affine((25.0, -10.0, 5.0))
        affine[:3, :3] *= 4
        affine[:3, 3] -= affine[:3, 2] * 6 * number
        for b in (None, 0.0, 1000.0):
            array = rng.uniform(1, 500, (40, 40, 8)).astype(np.float32)
            volume = Volume.single(array, affine, "image")
            images.append(StationImage(volume, "t1" if b is None else "dwi", b))
    reading = read_study(written(tmp_path, vendor, images))
    assert_same_images(images, reading.images)
    assert len({i.group for i in reading.images}) == 2


def test_siemens_writes_trace_images_with_its_private_header(tmp_path: Path) -> None:
    folder = written(tmp_path, "siemens", make_images(), fat_suppression="stir")
    image = first_of(folder, "dwi", 1000)
    assert image.SeriesDescription == "ep2d_diff_stir_3scan_trace_st1"
    assert image.SequenceName == "ep_b1000t"
    assert first_of(folder, "dwi", 0).SequenceName == "ep_b0"
    assert list(image.ImageType)[:4] == ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]
    block = image.private_block(0x0019, "SIEMENS MR HEADER")
    assert (block[0x0C].value, block[0x0D].value) == (1000, "ISOTROPIC")
    assert "RescaleSlope" not in image
    # as in the real series: all slices of one b-value, then those of the next
    values = [read_b_value(pydicom.dcmread(f))[0] for f in files_of(folder, "dwi")[:18]]
    assert values == [0.0] * 6 + [50.0] * 6 + [1000.0] * 6


def test_philips_writes_all_b_values_of_a_slice_together_and_two_scalings(tmp_path: Path) -> None:
    images = make_images()
    folder = written(tmp_path, "philips", images)
    image = first_of(folder, "dwi", 1000)
    assert list(image.ImageType) == ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
    assert image.DiffusionBValue == 1000
    assert image.private_block(0x2001, "Philips Imaging DD 001")[0x03].value == 1000
    assert image.private_block(0x2001, "Philips Imaging DD 001")[0x04].value == "I"
    assert image.SeriesNumber % 100 == 1
    values = [read_b_value(pydicom.dcmread(f))[0] for f in files_of(folder, "dwi")[:6]]
    assert values == [0.0, 50.0, 1000.0] * 2
    for number, series in enumerate(sorted(folder.glob("*_t1"))):
        slices = [pydicom.dcmread(f) for f in sorted(series.glob("*.dcm"))]
        assert max(int(s.pixel_array.max()) for s in slices) == 4095
        # stored values over the private scale slope are the scanner's own intensities
        # (Chenevert et al. 2014); times the rescale slope they are what the reader hands on
        slope = slices[0].private_block(0x2005, "Philips MR Imaging DD 001")[0x0E].value
        truth = [i for i in images if i.kind == "t1"][number].volume.array
        assert 4095 / slope == pytest.approx(float(truth.max()), rel=1e-5)


def test_the_rescale_slope_makes_stations_of_philips_comparable(tmp_path: Path) -> None:
    images = make_images()
    weak = [
        StationImage(
            Volume.single(i.volume.array[0] * (0.25 if n >= len(images) // 2 else 1), a, "x"),
            i.kind,
            i.b_value_s_per_mm2,
            i.group,
        )
        for n, i in enumerate(images)
        for a in [i.volume.affine]
    ]
    folder = written(tmp_path, "philips", weak)
    assert_same_images(weak, read_study(folder).images)
    slopes = {float(pydicom.dcmread(f).RescaleSlope) for f in files_of(folder, "t1")}
    assert min(slopes) == pytest.approx(0.25, rel=0.05)


def test_ge_packs_the_b_value_and_joins_the_stations(tmp_path: Path) -> None:
    folder = written(tmp_path, "ge", make_images())
    image = first_of(folder, "dwi", 1000)
    assert image.SeriesDescription == "Ax DWI b0 50 1000"
    assert list(image.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER"]
    assert "DiffusionBValue" not in image
    packed = image.private_block(0x0043, "GEMS_PARM_01")[0x39]
    assert (packed.VR, list(packed.value)) == ("IS", [1000001000, 8, 0, 0])
    assert read_b_value(image) == (1000.0, "GE (0043,1039)")
    assert len(list(folder.glob("*_dwi"))) == 1
    edit(files_of(folder, "dwi"), lambda d: setattr(d, "AcquisitionNumber", 1))
    assert_same_images(make_images(), read_study(folder).images)  # told by their order alone


@pytest.mark.parametrize("vendor", VENDORS)
def test_no_dialect_claims_a_product_or_a_person(tmp_path: Path, vendor: str) -> None:
    folder = written(tmp_path, vendor, make_images(), decoy_series=DECOYS)
    for path in folder.glob("*/IM0001.dcm"):
        dataset = pydicom.dcmread(path)
        assert dataset.Manufacturer.startswith("osteosap simulator")
        assert dataset.ManufacturerModelName == "phantom"
        assert dataset.PatientID == "SIM-3"
        assert "simulated" in dataset.ImageComments
        assert dataset.BitsStored == 12
        assert ("decoy" in dataset.ImageComments) == path.parent.name.endswith(DECOYS)


def test_the_map_of_the_scanner_is_written_where_the_vendor_or_the_config_says_so(
    tmp_path: Path,
) -> None:
    images = make_images(adc=True)
    for vendor in VENDORS:
        folder = written(tmp_path, vendor, images)
        assert bool(files_of(folder, "adc")) == (vendor == "siemens")
        for choice in (True, False):
            folder = written(tmp_path / f"{choice}", vendor, images, scanner_adc=choice)
            assert bool(files_of(folder, "adc")) == choice
            if choice:
                reading = read_study(folder)
                assert_same_images(images, reading.images)
                dwi = {i.group for i in reading.images if i.kind == "dwi"}
                assert {i.group for i in reading.images if i.kind == "adc"} == dwi
                assert any("1e-3 mm2/s" in w for w in reading.warnings) == (vendor == "philips")


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("t1", [{}, GRADIENT_ECHO], ids=["tse", "gre"])
def test_decoys_are_not_taken_for_the_t1(
    tmp_path: Path, vendor: str, t1: dict[str, object]
) -> None:
    images = make_images()
    reading = read_study(written(tmp_path, vendor, images, decoy_series=DECOYS, **t1))
    assert_same_images(images, reading.images)
    kinds = [(r.role, r.used) for r in reading.series[-6:]]
    assert kinds == [("other", False)] * 4 + [("t1", False)] * 2


@pytest.mark.parametrize("vendor", VENDORS)
def test_equal_input_gives_equal_bytes_in_every_dialect(tmp_path: Path, vendor: str) -> None:
    images = make_images([station_affine(0)], adc=True)
    one, two = (
        written(tmp_path / name, vendor, images, decoy_series=DECOYS) for name in ("a", "b")
    )
    names = sorted(p.relative_to(one) for p in one.rglob("*.dcm"))
    assert names == sorted(p.relative_to(two) for p in two.rglob("*.dcm"))
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in names)


@pytest.mark.parametrize("vendor", VENDORS)
def test_timing_flip_and_field_are_those_of_the_config(tmp_path: Path, vendor: str) -> None:
    values = {**GRADIENT_ECHO, "dwi_repetition_time_ms": 7100.0, "dwi_echo_time_ms": 58.0}
    folder = written(tmp_path, vendor, make_images(), **values)
    t1, dwi = first_of(folder, "t1"), first_of(folder, "dwi")
    assert (t1.RepetitionTime, t1.EchoTime, t1.FlipAngle) == (7.0, 4.6, 15.0)
    assert (t1.ScanningSequence, t1.MRAcquisitionType) == ("GR", "3D")
    assert (dwi.RepetitionTime, dwi.EchoTime, dwi.MagneticFieldStrength) == (7100.0, 58.0, 3.0)
    assert float(dwi.ImagingFrequency) == pytest.approx(127.73, abs=0.01)


@pytest.mark.server
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("t1", [{}, GRADIENT_ECHO], ids=["tse", "gre"])
def test_images_of_every_series_are_valid_for_dciodvfy(
    tmp_path: Path, vendor: str, t1: dict[str, object]
) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    images = make_images([station_affine(0), oblique_affine()], adc=True)
    folder = written(
        tmp_path,
        vendor,
        images,
        scanner_adc=True,
        decoy_series=DECOYS,
        fat_suppression="stir",
        **t1,
    )
    series = [sorted(s.glob("*.dcm")) for s in sorted(folder.iterdir())]
    assert len(series) >= 12
    for path in [f for files in series for f in files[:: max(len(files) // 3, 1)]]:
        done = subprocess.run(
            ["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60
        )
        lines = (done.stdout + done.stderr).splitlines()
        assert "MRImage" in lines
        assert [line for line in lines if line.startswith("Error")] == []

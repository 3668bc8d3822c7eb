import json

import numpy as np
import pytest

from osteosap.errors import VolumeError
from osteosap.ingest import IngestConfig, adc_unit, read_input, read_stations, write_stations
from osteosap.volume import Volume, write_nifti


@pytest.mark.parametrize(
    ("factor", "unit"), [(1.0, "um2/s"), (1e-3, "1e-3 mm2/s"), (1e-6, "mm2/s")]
)
def test_the_unit_of_an_adc_map_is_told_and_converted(study, body_exam, factor, unit):
    adc = body_exam.images.channel("adc")
    write_nifti(
        Volume.single((adc * factor).astype(np.float32), body_exam.images.affine, "adc"),
        study / "adc.nii.gz",
    )
    found = read_input(study)
    image = next(image for image in found.images if image.kind == "adc")
    assert np.allclose(image.volume.channel("adc"), adc, rtol=1e-4)
    assert unit in found.series[2]["reason"]


def test_a_set_unit_is_taken_as_set(study):
    found = read_input(study, IngestConfig(nifti_adc_unit="1e-3 mm2/s"))
    image = next(image for image in found.images if image.kind == "adc")
    assert image.volume.array.max() == pytest.approx(1e6)


@pytest.mark.parametrize("value", [0.0, 1e9])
def test_a_map_that_fits_no_unit_is_refused(value):
    with pytest.raises(VolumeError, match="fits no unit"):
        adc_unit(np.full((2, 2, 2), value))


def test_a_study_without_the_marker_is_not_called_simulated(study):
    assert read_input(study).simulated
    (study / "exam.json").unlink()
    assert not read_input(study).simulated


def test_stations_read_back_as_they_were_written(study, tmp_path):
    found = read_input(study)
    write_stations(found, tmp_path / "stations")
    back = read_stations(tmp_path / "stations")
    assert [(i.kind, i.b_value_s_per_mm2, i.group, i.source) for i in back.images] == [
        (i.kind, i.b_value_s_per_mm2, i.group, i.source) for i in found.images
    ]
    for one, other in zip(found.images, back.images, strict=True):
        assert np.array_equal(one.volume.array, other.volume.array)
    assert (back.series, back.kind, back.simulated) == (found.series, "nifti", True)
    assert json.loads((tmp_path / "stations" / "series.json").read_text())["study"] == "nifti"

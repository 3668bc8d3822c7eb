"""Small simulated studies, and the real one where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dicom_studies import make_images, station_affine

from osteosap.dicom import DicomWriterConfig, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two stations with a localizer."""
    folder = tmp_path / "study"
    write_study(make_images(), folder, config=DicomWriterConfig(seed=1))
    return folder


@pytest.fixture
def one_station(tmp_path: Path) -> Path:
    """A study of one station without other series."""
    folder = tmp_path / "one"
    config = DicomWriterConfig(seed=2, decoys=False)
    write_study(make_images([station_affine(0)]), folder, config=config)
    return folder


@pytest.fixture
def real_pelvis() -> Path:
    """The real Siemens study, where this machine has it."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("OSTEOSAP_TEST_DATA", default)) / "real_dicom_pelvis"
    if not folder.is_dir():
        pytest.skip(f"the real study is not at {folder}")
    return folder

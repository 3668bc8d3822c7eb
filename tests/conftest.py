"""What tests share: small exams in memory and on disk, and the optional data folder."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from osteosap.exam import Exam, write_exam
from osteosap.geometry import make_affine
from osteosap.volume import Volume, stack

REPOSITORY = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("osteosap", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("osteosap")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real test data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("OSTEOSAP_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no test data (OSTEOSAP_TEST_DATA or ../shared/data)")
    return folder


@pytest.fixture
def small_exam() -> Exam:
    """A box of 'body' with one bone and one lesion; ADC 1000 um2/s."""
    shape = (12, 10, 14)
    affine = make_affine((4.0, 4.0, 5.0), (-24.0, -20.0, 100.0))
    rng = np.random.default_rng(7)
    t1 = np.zeros(shape, np.float32)
    t1[2:-2, 2:-2] = 300.0 + 10.0 * rng.standard_normal((8, 6, 14))
    b1000 = np.where(t1 > 0, 50.0, 0.0).astype(np.float32)
    adc = np.where(t1 > 0, 1000.0, 0.0).astype(np.float32)
    skeleton = np.zeros(shape, np.uint8)
    skeleton[4:8, 4:7, 3:10] = 3
    lesions = np.zeros(shape, np.int32)
    lesions[5:7, 5:6, 5:8] = 1
    b1000[lesions > 0] = 200.0
    images = stack([Volume.single(a, affine, n) for a, n in ((t1, "t1"), (b1000, "b1000"))])
    images = stack([images, Volume.single(adc, affine, "adc")])
    return Exam(
        images,
        Volume.single(skeleton, affine, "skeleton"),
        Volume.single(lesions, affine, "lesions"),
    )


@pytest.fixture
def exam_folder(small_exam: Exam, tmp_path: Path) -> Path:
    """The small exam on disk."""
    folder = tmp_path / "exam_on_disk"
    write_exam(small_exam, folder)
    return folder

"""What tests share: small exams in memory and on disk, and the optional data folder."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from osteosap.exam import Exam, write_exam
from osteosap.geometry import Grid, make_affine
from osteosap.simulate import exam as simulated_exam
from osteosap.simulate.body import Body
from osteosap.simulate.person import Person
from osteosap.volume import Volume, stack

REPOSITORY = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("osteosap", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("osteosap")


@pytest.fixture(scope="session", autouse=True)
def bodies_painted_once() -> Iterator[None]:
    """Every coarse body is painted once in a process, whatever tests scan it.

    That painting is repeatable is what tests/simulate/test_anatomy.py shows; it takes most of the
    time of a coarse exam. Lesions are painted into a copy.
    """
    known: dict[bytes, Body] = {}
    paint = simulated_exam.build_body

    def build_body(person: Person, grid: Grid, *, seed: int) -> Body:
        key = pickle.dumps((person, grid, seed))
        if key not in known:
            body = paint(person, grid, seed=seed)
            if body.tissue.size > 3e6:
                return body
            known[key] = body
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_exam, "build_body", build_body)
        yield


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

"""Units as jobs of a real SLURM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from osteosap.geometry import make_affine
from osteosap.manifest import read_json
from osteosap.volume import Volume, write_nifti

pytestmark = [pytest.mark.server, pytest.mark.slow]

AFFINE = make_affine((10.0, 10.0, 10.0), (0.0, 0.0, 0.0))
SMALL_JOB = {"slurm_mem_per_cpu": "100", "cpus_per_task": 1, "timeout_min": 5}

STUDY = """
import sys
from pathlib import Path
from osteosap.study.engine import Engine, run_plan
from osteosap.study.plan import Unit

study = Path(sys.argv[1])
scores = [
    Unit(
        f"scores_{arm}",
        ("evaluate", "--reference", "truth", "--prediction", arm, "--out", f"scores/{arm}"),
        (),
        (f"scores/{arm}/evaluation.json",),
    )
    for arm in ("good", "poor")
]
comparison = Unit(
    "comparison",
    ("compare-methods", "good=good", "poor=poor", "--reference", "truth", "--out", "comparison"),
    tuple(unit.name for unit in scores),
    ("comparison/comparison.json",),
)
run_plan([comparison, *scores], study, engine=Engine("slurm", 2, SLURM))
"""


def _write(folder: Path, array: np.ndarray) -> None:
    write_nifti(Volume.single(array, AFFINE, "lesions"), folder / "lesions.nii.gz")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three exams, a method that finds their lesion and one that does not."""
    folder = tmp_path / "study"
    for number in range(3):
        truth = np.zeros((12, 12, 12), np.int32)
        truth[2:5, 3:6, 3 + number : 6 + number] = 1
        _write(folder / "truth" / f"exam_{number}", truth)
        _write(folder / "good" / f"exam_{number}", truth)
        _write(folder / "poor" / f"exam_{number}", np.roll(truth, 6, axis=0))
    return folder


def test_units_run_as_jobs_of_a_real_slurm_in_their_order_and_once(
    repository: Path, study: Path
) -> None:
    script = study.parent / "start.py"
    script.write_text(STUDY.replace("SLURM", repr(SMALL_JOB)))
    command = [repository / "examples" / "slurm" / "local_slurm.sh", sys.executable, script, study]
    _run(command, study)
    first, jobs = _records(study)
    assert set(first) == {"scores_good.json", "scores_poor.json", "comparison.json"}
    assert len(jobs) == 3
    began = {name: read_json(study / "units" / name)["started"] for name in first}
    assert began["comparison.json"] >= max(began["scores_good.json"], began["scores_poor.json"])
    _run(command, study)  # everything is finished: no record is written anew, no job submitted
    assert _records(study) == (first, jobs)
    sensitivities = {
        arm: read_json(study / "scores" / arm / "evaluation.json")["summary"]["lesions_all"][
            "sensitivity_pooled"
        ]
        for arm in ("good", "poor")
    }
    assert sensitivities == {"good": 1.0, "poor": 0.0}


def _run(command: list[object], study: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, timeout=500
    )
    if done.returncode == 69:
        pytest.skip(done.stderr.strip())
    logs = {p.name: p.read_text() for p in study.glob("units/**/*.log")}
    assert done.returncode == 0, f"{done.stderr}\n{logs}"


def _records(study: Path) -> tuple[dict[str, bytes], list[Path]]:
    """Records of finished units, and jobs that were submitted."""
    records = {p.name: p.read_bytes() for p in study.glob("units/*.json")}
    return records, sorted(study.glob("units/slurm/*_submitted.pkl"))

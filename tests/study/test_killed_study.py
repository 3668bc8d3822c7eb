"""A whole study, killed at random moments, ends with the numbers of one left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from osteosap.manifest import file_checksum, read_json
from osteosap.study.config import load_profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALLER = {
    "skeleton": {"steps": 8, "save_every": 3},
    "self_supervised": {"steps": 4, "save_every": 2},
    "lesions": {"steps": 8, "save_every": 3, "validate_every": 4},
}
KILLS = 6


def _profile(path: Path) -> Path:
    """The smoke profile, coarser and shorter."""
    values = load_profile("smoke").model_dump(mode="json", exclude_unset=True)
    simulation = values["cohort"]["simulation"]
    simulation["body_spacing_mm"] = [8.0] * 3
    simulation["scanner"] = {
        "stations": {"count": 2},
        "t1": {"spacing_mm": [10.0] * 3},
        "dwi": {"spacing_mm": [10.0] * 3},
    }
    off = {"enabled": False}
    values["tested_folds"] = [1]
    values["cohort"]["preprocess"] = dict.fromkeys(("bias", "align", "eddy", "registration"), off)
    for name, loop in SMALLER.items():
        values[name]["loop"] |= loop | {"batch_size": 2}
        values[name]["network"]["filters"] = [4, 8, 8]
        values[name]["input"]["spacing_mm"] = [10.0] * 3
    path.write_text(yaml.safe_dump(values))
    return path


def _start(profile: Path, study: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "osteosap", "reproduce", "--profile", str(profile)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--out", str(study), "--processes", "1"],
        env=environment,
        start_new_session=True,  # killed with all that it has started
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _numbers(study: Path) -> dict[str, object]:
    """Weights, masks and scores by file."""
    found: dict[str, object] = {}
    for path in study.glob("runs/*/*.safetensors"):
        found[str(path.relative_to(study))] = {k: v.tobytes() for k, v in load_file(path).items()}
    for pattern in ("predictions/*/*/*.nii.gz", "runs/*/validation.csv"):
        found |= {str(p.relative_to(study)): file_checksum(p) for p in study.glob(pattern)}
    for pattern in ("scores/*/evaluation.json", "comparison/*.json", "features/features.json"):
        for path in study.glob(pattern):
            found[str(path.relative_to(study))] = read_json(path)
    return found


def test_a_study_killed_again_and_again_has_the_numbers_of_one_left_alone(tmp_path: Path) -> None:
    profile = _profile(tmp_path / "small.yaml")
    began = time.monotonic()
    assert _start(profile, tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - began
    seed = random.SystemRandom().randrange(10**6)
    print(f"undisturbed {seconds:.0f} s; moments of the kills: seed {seed}")
    draw = random.Random(seed)
    study, killed = tmp_path / "killed", 0
    for _ in range(KILLS):
        process = _start(profile, study)
        try:
            assert process.wait(draw.uniform(3.0, 1.5 * seconds / KILLS)) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    print(f"killed {killed} times")
    assert killed >= 2
    assert _start(profile, study).wait() == 0
    whole = _numbers(tmp_path / "whole")
    assert len([name for name in whole if name.endswith(".safetensors")]) == 5
    numbers = _numbers(study)
    assert set(numbers) == set(whole)
    assert [name for name in whole if numbers[name] != whole[name]] == []
    assert (study / "report" / "study.html").is_file()

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml


def test_each_process_of_a_batch_job_gets_the_cores_it_asked_for(repository: Path) -> None:
    script = (repository / "examples" / "slurm" / "train.sbatch").read_text()
    (start,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert '--cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"' in start  # not taken over since 22.05


@pytest.mark.server
@pytest.mark.slow
def test_a_batch_job_trains_on_two_processes_under_a_real_slurm(
    repository: Path, tiny_exams: list[Path], tmp_path: Path
) -> None:
    recipe = yaml.safe_load((repository / "configs" / "skeleton_smoke.yaml").read_text())
    recipe["loop"] |= {"steps": 6, "batch_size": 4, "log_every": 1, "device": "cpu", "devices": 2}
    config, train, held_out = (tmp_path / n for n in ("recipe.yaml", "train", "validation"))
    config.write_text(yaml.safe_dump(recipe))
    for folder, exams in ((train, tiny_exams[:2]), (held_out, tiny_exams[2:])):
        folder.mkdir()
        for exam in exams:
            (folder / exam.name).symlink_to(exam)
    out, log = tmp_path / "out", tmp_path / "job.log"
    slurm = repository / "examples" / "slurm"
    small = ["--gres=none", "--cpus-per-task=1", "--mem-per-cpu=100", "--time=10"]
    job = [str(p) for p in (slurm / "train.sbatch", config, train, held_out, out)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [slurm / "local_slurm.sh", "sbatch", "--wait", f"--output={log}", *small, *job],
        env=os.environ | {"PATH": path, "OSTEOSAP_RECIPE": "skeleton"},
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    if done.returncode == 69:
        pytest.skip(done.stderr.strip())
    said = log.read_text() if log.is_file() else ""
    assert done.returncode == 0, done.stdout + done.stderr + said
    with (out / "training.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert torch.load(out / "state.pt", weights_only=True)["where"] == [2, "cpu"]
    assert (out / "skeleton.safetensors").is_file()
    assert said.count("weights:") == 1

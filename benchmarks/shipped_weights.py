"""What the shipped weights reach on simulated examinations never used in training.

Each examination goes the way of a user's: simulated as a multi-station DICOM study with the default
protocol, ``osteosap run``, scored against the known truth. Prints a table and writes it as JSON.

Simulated people are simpler than patients: these numbers say nothing about patients.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np

from osteosap.evaluation.cohort import evaluate_cohort
from osteosap.evaluation.config import EvaluateConfig
from osteosap.manifest import software_versions
from osteosap.simulate import SimulationConfig
from osteosap.simulated_study import simulate_to_folder
from osteosap.stage import Scope
from osteosap.workflow import run_exam

FIRST_SEED = 3000
"""Training used 1000-1043 (healthy), 2000-2047 and 2100-2109 (patients); the demo uses 20261."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exams", type=int, default=8)
    parser.add_argument("--keep", action="store_true", help="keep studies and results")
    options = parser.parse_args()
    pairs, seconds = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + options.exams):
        study, result = options.out / f"study_{seed}", options.out / f"result_{seed}"
        if not (result / "run.json").is_file():
            simulate_to_folder(SimulationConfig(seed=seed), study, formats=("dicom",))
        started = time.monotonic()
        scope = Scope(force=True)  # a kept result would take no time
        run_exam(study / "dicom", result, scope=scope)
        seconds.append(time.monotonic() - started)
        pairs.append((study / "truth", result))
        print(f"seed {seed}: {seconds[-1]:.0f} s", flush=True)
    scores = evaluate_cohort(pairs, config=EvaluateConfig(resample_reference=True))
    content = {
        "what": "shipped weights on simulated examinations never used in training",
        "simulated": True,
        "seeds": [FIRST_SEED, FIRST_SEED + options.exams - 1],
        "seconds_per_exam_median": round(float(np.median(seconds)), 1),
        "versions": software_versions(),
        **scores.to_mapping(),
    }
    (options.out / "shipped_weights.json").write_text(json.dumps(content, indent=1) + "\n")
    print(markdown(content))
    if not options.keep:
        for study, result in pairs:
            shutil.rmtree(study.parent)
            shutil.rmtree(result)


def markdown(content: dict) -> str:
    """The summary as a table for the README and the model card."""
    summary = content["summary"]
    lines = ["| measure (simulated) | median | mean | n |", "|---|---|---|---|"]
    rows = {f"skeleton Dice, {k}": v for k, v in summary["skeleton_dice"].items()}
    for key, title in (("lesions_all", "all lesions"), ("lesions_large", "lesions >= 1 mL")):
        part = summary[key]
        pooled, n = part["sensitivity_pooled"], part["n_reference"]
        rows[f"{title}: sensitivity pooled over lesions"] = {"median": None, "mean": pooled, "n": n}
        for name, value in part.items():
            if name == "froc":
                for allowed, found in value["sensitivity_at"].items():
                    row = f"{title}: sensitivity at {allowed} false positives per exam"
                    rows[row] = {"median": None, "mean": found, "n": n}
            elif isinstance(value, dict):
                rows[f"{title}: {name.replace('_', ' ')}"] = value
    rows["global Dice"] = summary["global_dice"]
    for name, value in rows.items():
        middle, mean = ("-" if value[k] is None else f"{value[k]:.2f}" for k in ("median", "mean"))
        lines.append(f"| {name} | {middle} | {mean} | {value['n']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

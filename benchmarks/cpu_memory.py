"""What it saves on a CPU that freed memory is kept: one training step, and one exam segmented.

Network, patch and batch of a recipe, random images; the exam is of zeros, segmented before any
training step. Processes take turns, each with its own setting; the printed ratio is of medians.

::

    python benchmarks/cpu_memory.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path

import numpy as np
from paper_step import peak_gigabytes, time_steps

from osteosap.config import read_yaml
from osteosap.inference.sliding import WindowConfig, predict_probabilities
from osteosap.manifest import software_versions, write_json
from osteosap.models.cpu_memory import keep_freed_memory
from osteosap.models.networks import NetworkSpec, build_network
from osteosap.training import devices
from osteosap.training.schedule import LoopConfig

EXAM = (112, 64, 256)
"""Voxels of the exam that is segmented: a body at 4 mm."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/lesions_cpu.yaml"))
    parser.add_argument("--steps", type=int, default=4, help="after a first one, not counted")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for turn in range(options.turns):
        for kept in (False, True) if turn % 2 == 0 else (True, False):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measured, (options.config, options.steps, kept))
            rows[kept].append(row)
            print("kept" if kept else "given back", row, flush=True)
    names = rows[True][0]
    medians = {
        kept: {name: statistics.median(r[name] for r in found) for name in names}
        for kept, found in rows.items()
    }
    ratio = {name: round(medians[True][name] / medians[False][name], 3) for name in names}
    print("kept over given back:", ratio)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        content = {
            "what": f"{options.config.name} on a CPU, freed memory kept over given back",
            "ratio": ratio,
            "given_back": rows[False],
            "kept": rows[True],
            "versions": software_versions(),
        }
        write_json(options.out / "cpu_memory.json", content)
    return 0


def measured(config: Path, steps: int, kept: bool) -> dict[str, float]:
    """Seconds of a step and of an exam, and peak memory, in a process of its own."""
    if kept:
        keep_freed_memory()
    devices.keep_freed_memory = lambda: False
    values = read_yaml(config)
    spec = NetworkSpec.from_mapping(values["network"] | {"n_classes": 2})
    patch = tuple(values["patch"])
    network = build_network(spec)
    images = np.zeros((len(spec.channels), *EXAM), np.float32)
    begin = time.monotonic()
    predict_probabilities(
        network,
        images,
        body=np.ones(EXAM, bool),
        n_classes=2,
        patch=patch,
        config=WindowConfig(device="cpu"),
    )
    segmented = time.monotonic() - begin
    loop = LoopConfig.from_mapping(values["loop"] | {"device": "cpu"})
    fabric = devices.start_fabric(loop)
    seconds, _, _ = time_steps(spec, loop, fabric, patch=patch, steps=steps)
    return {
        "seconds_a_step": round(statistics.median(seconds[1:]), 2),
        "seconds_an_exam": round(segmented, 2),
        "peak_gb": peak_gigabytes(fabric)["process"],
    }


if __name__ == "__main__":
    raise SystemExit(main())

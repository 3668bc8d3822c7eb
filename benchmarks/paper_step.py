"""Seconds and peak memory of one training step of the paper's profile, on whatever device there is.

The network, patch, batch, loss, optimiser and precision are those of a recipe; images and
references are random, so that neither exams nor weights are needed: this is the cost of the
arithmetic alone. Sampling is measured in ``sampling.py``. Peak memory is that of the GPU (allocated
by torch, and reserved by it), or on a CPU of the whole process (VmHWM). Processor seconds (all
threads added) tell a busy machine from a slow one.

::

    python benchmarks/paper_step.py --out benchmarks/results
    python benchmarks/paper_step.py --config configs/skeleton_paper.yaml --device cuda --batch 4
    python benchmarks/paper_step.py --patch 64 --steps 1 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from osteosap.anatomy import N_CLASSES
from osteosap.config import read_yaml
from osteosap.manifest import software_versions, write_json
from osteosap.models.networks import NetworkSpec, build_network
from osteosap.models.transfer import parameter_groups
from osteosap.training.devices import precision_of, start_fabric
from osteosap.training.objectives import segmentation_objective
from osteosap.training.schedule import LoopConfig


def main() -> int:
    options = _options()
    values = read_yaml(options.config)
    skeleton = values["recipe"] == "pretrain_skeleton"
    spec = NetworkSpec.from_mapping(values["network"] | {"n_classes": N_CLASSES if skeleton else 2})
    patch = (options.patch,) * 3 if options.patch else tuple(values["patch"])
    spec.require_patch(patch)
    changes = {"device": options.device, "precision": options.precision}
    if options.batch:
        changes |= {"batch_size": options.batch, "accumulate": 1}
    loop = LoopConfig.from_mapping(values["loop"] | changes)
    fabric = start_fabric(loop)
    seconds, processor, n_parameters = time_steps(
        spec, loop, fabric, patch=patch, steps=options.steps
    )
    row: dict[str, Any] = {
        "what": f"one optimiser step of {options.config.name}, random images",
        "device": device_name(fabric),
        "precision": precision_of(loop),
        "network": f"{spec.architecture}, {n_parameters:,} parameters",
        "patch": list(patch),
        "batch": loop.batch_size,
        "steps": options.steps,
        "seconds_first_step": round(seconds[0], 3),
        "seconds_a_step": round(statistics.median(seconds[1:] or seconds), 3),
        "processor_seconds_a_step": round(statistics.median(processor[1:] or processor), 3),
        "peak_gb": peak_gigabytes(fabric),
        "threads": torch.get_num_threads(),
        "versions": software_versions(),
    }
    for name, value in row.items():
        print(f"{name:<25} {value}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "paper_step.json", row)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/lesions_paper.yaml"))
    parser.add_argument("--patch", type=int, help="side in voxels; the recipe's without")
    parser.add_argument("--batch", type=int, help="patches a step; the recipe's without")
    parser.add_argument("--steps", type=int, default=10, help="timed steps after the first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def time_steps(
    spec: NetworkSpec, loop: LoopConfig, fabric: Fabric, *, patch: tuple[int, ...], steps: int
) -> tuple[list[float], list[float], int]:
    """Wall and processor seconds of a first step and of ``steps`` more; number of parameters."""
    torch.manual_seed(loop.seed)
    network = build_network(spec)
    groups = parameter_groups(network, spec, encoder_rate=1e-6, decoder_rate=1e-5)
    kind = torch.optim.AdamW if loop.optimiser == "adamw" else torch.optim.Adam
    optimiser = kind(groups, weight_decay=loop.weight_decay)
    model, optimiser = fabric.setup(network, optimiser)
    objective = segmentation_objective(loop)
    batch = (
        torch.rand((loop.batch_size, len(spec.channels), *patch), device=fabric.device),
        torch.randint(0, spec.n_classes, (loop.batch_size, 1, *patch), device=fabric.device),
    )
    seconds, processor = [], []
    model.train()
    for _ in range(1 + steps):
        _wait(fabric)
        started, busy = time.perf_counter(), time.process_time()
        optimiser.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI indexes tensors in ways that torch deprecates
            loss = objective(model, batch, 0.5).loss
        fabric.backward(loss)
        fabric.clip_gradients(model, optimiser, max_norm=loop.gradient_clip)
        optimiser.step()
        _wait(fabric)
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - busy)
        if not math.isfinite(float(loss.detach())):
            raise SystemExit(f"the loss is {float(loss.detach())}: nothing that can be timed")
    return seconds, processor, sum(p.numel() for p in network.parameters())


def _wait(fabric: Fabric) -> None:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)


def device_name(fabric: Fabric) -> str:
    """Name of the GPU, or of the processor with its cores."""
    if fabric.device.type == "cuda":
        properties = torch.cuda.get_device_properties(fabric.device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "CPU")
    return f"{model}, {os.cpu_count()} cores"


def peak_gigabytes(fabric: Fabric) -> dict[str, float]:
    """Largest memory so far, in 10^9 bytes."""
    if fabric.device.type == "cuda":
        return {
            "allocated": round(torch.cuda.max_memory_allocated(fabric.device) / 1e9, 2),
            "reserved": round(torch.cuda.max_memory_reserved(fabric.device) / 1e9, 2),
        }
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))
    return {"process": round(kilobytes * 1024 / 1e9, 2)}


if __name__ == "__main__":
    raise SystemExit(main())

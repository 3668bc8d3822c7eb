"""A training run of seconds, for tests that start, kill and count processes.

Imported by the fork server once, so that every process starts in a moment.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import threading
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import monai.networks.nets  # noqa: F401  (so that processes do not import it one by one)
import numpy as np
import pytest
import torch
from torch import nn

from osteosap.geometry import Grid
from osteosap.inference.sliding import WindowConfig
from osteosap.models.networks import NetworkSpec, build_network
from osteosap.models.transfer import parameter_groups
from osteosap.training import validation
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.data import TrainingExam
from osteosap.training.devices import start_fabric
from osteosap.training.loop import FitResult, LoopConfig, fit
from osteosap.training.patches import PatchStream
from osteosap.training.sampler import LesionSampler, LesionSamplingConfig

PATCH = (16, 16, 16)
SHAPE = (24, 20, 28)


def exam(n_lesions: int = 2, seed: int = 0) -> TrainingExam:
    rng = np.random.default_rng(seed)
    images = (0.2 * rng.random((2, *SHAPE))).astype(np.float16)
    lesions = np.zeros(SHAPE, np.int32)
    places = [(4, 4, 4), (16, 12, 20), (5, 14, 12), (17, 4, 12), (4, 12, 22)]
    for number, place in enumerate(places[:n_lesions], start=1):
        box = tuple(slice(p, p + 4) for p in place)
        lesions[box] = number
        images[:, *box] = 0.9
    return TrainingExam(images, np.ones(SHAPE, bool), None, lesions, Grid(SHAPE, np.eye(4)))


def stream(exams: list[TrainingExam] | None = None, *, ratio: float = 0.67) -> PatchStream:
    exams = exams or [exam()]
    return PatchStream(
        exams,
        LesionSampler(exams, PATCH, config=LesionSamplingConfig(background_ratio=ratio), seed=0),
        reference="lesions",
        patch=PATCH,
        augmentation=AugmentationConfig(),
        seed=0,
    )


def loop(**values: Any) -> LoopConfig:
    base = {"steps": 6, "batch_size": 2, "warmup_steps": 2, "device": "cpu", "log_every": 1}
    base |= {"precision": "float32", "tensorboard": False}
    return LoopConfig.from_mapping(base | values)


def network(**values: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkSpec(filters=(4, 8, 8), n_classes=2, **values))


def groups(model: nn.Module, rate: float = 3e-3) -> list[dict[str, Any]]:
    spec = NetworkSpec(filters=(4, 8, 8), n_classes=2)
    return parameter_groups(model, spec, encoder_rate=rate, decoder_rate=rate)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(
    out: Path, *, dropout: float = 0.0, rate: float = 3e-3, n_exams: int = 1, **values: Any
) -> tuple[nn.Module, FitResult]:
    """Train alone, in this process."""
    model = network(dropout=dropout)
    exams = [exam(2 + number, number) for number in range(n_exams)]
    result = fit(model, groups(model, rate), stream=stream(exams), config=loop(**values), out=out)
    return model, result


# ---- processes -------------------------------------------------------------------------------


def server() -> ForkServerContext:
    """Starts processes that have imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run"])
    with pytest.MonkeyPatch.context() as patch:  # the server does not take over sys.path
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()
    return context


def killable(out: Path, told: Connection, stuck_in_save: int, values: dict[str, Any]) -> None:
    """Train, tell each step, write ``weights.pt``; write half of one save and hang, if asked."""
    torch.set_num_threads(1)
    _hang_in_save(stuck_in_save, told)
    model = network(dropout=0.3)
    step = iter(range(10**6))
    fit(
        model,
        groups(model),
        stream=stream([exam(), exam(3, 1)]),
        config=loop(**values),
        out=out,
        validate=lambda m: {"score": float(weights(m).sum())},
        progress=lambda _, __: told.send(next(step)),
    )
    torch.save(weights(model), out / "weights.pt")


def _hang_in_save(number: int, told: Connection) -> None:
    whole, count = torch.save, iter(range(1, 10**6))

    def save(content: Any, file: Any) -> None:
        if next(count) != number:
            whole(content, file)
            return
        file.write(b"PK half of a file")
        file.flush()
        told.send("saving")
        threading.Event().wait()

    if number:
        torch.save = save


def run_ranks(out: Path, *, world_size: int, values: dict[str, Any]) -> None:
    """Train on several processes, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = server()
    ranks: list[BaseProcess] = [
        context.Process(target=rank_main, args=(out, rank, world_size, port, values))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    failed = [process.exitcode for process in ranks if process.exitcode]
    for process in ranks:
        if process.is_alive():
            process.kill()
            failed.append(None)
    assert not failed, f"exit codes {failed}"


def rank_main(out: Path, rank: int, world_size: int, port: int, values: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_PORT": str(port)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    values = dict(values)
    n_exams, blind = values.pop("n_exams", 3), values.pop("blind", False)
    validated = values.pop("validated", False)
    config = loop(**values)
    lines = _listen()
    fabric = start_fabric(config)
    model = network()
    if blind:
        silence(model)
    exams = [exam(1 + number, number) for number in range(n_exams)]
    patches = stream(exams, ratio=1.0)
    drawn: list[list[int]] = []
    inner = patches.places

    def places(step: int, **how: int) -> Any:
        found = inner(step, **how)
        drawn.extend([step, position, place.exam, place.lesion] for position, place in found)
        return found

    patches.places = places  # type: ignore[method-assign]
    said: dict[str, Any] = {"drawn": drawn, "log": lines}
    try:
        rate = 1e-9 if blind else 3e-3
        fit(model, groups(model, rate), stream=patches, config=config, out=out, fabric=fabric)
    except Exception as problem:
        said["error"] = str(problem)
    if validated:
        said |= scores(exams)
    torch.save(weights(model), out / f"weights-{rank}.pt")
    (out / f"rank-{rank}.json").write_text(json.dumps(said))


def _listen() -> list[str]:
    """Collect what is logged from now on, as the command line sets it up."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("osteosap")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return lines


def scores(exams: list[TrainingExam]) -> dict[str, Any]:
    """Scores of a network that marks what is bright, and how many exams were predicted here."""
    count = 0
    whole = validation.predict_probabilities

    def predict(*args: Any, **how: Any) -> Any:
        nonlocal count
        count += 1
        return whole(*args, **how)

    validation.predict_probabilities = predict
    windows = WindowConfig(device="cpu", precision="float32", overlap=0.0)
    found = validation.validate_lesions(Bright(), exams, patch=PATCH, windows=windows)[1]
    return {"scores": found, "predicted": count}


class Bright(nn.Module):
    """Finds what is bright, and half believes in a corner that is not."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        lesion = 20.0 * (images[:, :1] - 0.5)
        lesion[:, :, :2, :2, :2] = 0.0
        return torch.cat([-lesion, lesion], dim=1)


def silence(model: nn.Module) -> None:
    """Make a network predict background and nothing else."""
    with torch.no_grad():
        head = model.output_block.conv.conv  # type: ignore[union-attr]
        head.weight.zero_()
        head.bias.copy_(torch.tensor([50.0, -50.0]))

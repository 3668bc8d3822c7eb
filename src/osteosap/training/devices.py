"""Where training runs: a CPU, a GPU, or many processes; and sums over these processes.

Several processes are started from outside, by ``torchrun`` or by SLURM's ``srun``; their ranks are
read from the variables these set (the one place below ``cli`` that reads the environment).
Nothing is spawned from here.
"""

from __future__ import annotations

import datetime
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

from osteosap.errors import ConfigError
from osteosap.inference.sliding import best_precision, choose_device
from osteosap.models.cpu_memory import keep_freed_memory
from osteosap.training.schedule import LoopConfig

__all__ = [
    "Launch",
    "find_launch",
    "is_first_process",
    "mean_over_ranks",
    "precision_of",
    "require_even_batch",
    "start_fabric",
    "sum_over_ranks",
]

TIMEOUT = datetime.timedelta(hours=2)
"""Longest wait for another process: the first one may be preparing exams."""


@dataclass(frozen=True)
class Launch:
    """How the processes were started: ``by`` is ``alone``, ``torchrun`` or ``slurm``."""

    by: str
    devices: int
    nodes: int

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Read from the launcher's variables how many processes there are.

    Parameters
    ----------
    environment
        In place of the process's own.

    Raises
    ------
    ConfigError
        SLURM granted several tasks but ``srun`` did not start them, or the processes are not
        spread evenly over the nodes.
    """
    values = os.environ if environment is None else environment
    if "RANK" in values and "WORLD_SIZE" in values:
        world = int(values["WORLD_SIZE"])
        return _even("torchrun", world, int(values.get("LOCAL_WORLD_SIZE", world)))
    world = int(values.get("SLURM_STEP_NUM_TASKS", 1))
    if world > 1:
        nodes = int(values.get("SLURM_STEP_NUM_NODES", 1))
        each = values.get("SLURM_NTASKS_PER_NODE")
        if world % nodes or each != str(world // nodes):
            raise ConfigError(
                f"srun started {world} processes on {nodes} nodes, with --ntasks-per-node {each}",
                remedy="Set --nodes and --ntasks-per-node, and no --ntasks",
            )
        return Launch("slurm", world // nodes, nodes)
    if int(values.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NUM_TASKS" not in values:
        raise ConfigError(
            f"SLURM granted {values['SLURM_NTASKS']} tasks, but this process was started alone",
            remedy="Put 'srun' before the command in the batch script",
        )
    return Launch("alone", 1, 1)


def _even(by: str, world: int, devices: int) -> Launch:
    if devices < 1 or world % devices:
        raise ConfigError(
            f"{world} processes, {devices} on this node, expected as many on each node",
            remedy="Start the same number of processes on every node",
        )
    return Launch(by, devices, world // devices)


def is_first_process() -> bool:
    """Whether this is the process that speaks for all; true for one alone."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def start_fabric(config: LoopConfig) -> Fabric:
    """Choose device and precision, join the other processes, and return the launched Fabric.

    Parameters
    ----------
    config
        ``device``, ``devices``, ``nodes``, ``precision``.

    Returns
    -------
    fabric
        One process alone, or one of several with distributed data parallelism (NCCL on GPUs,
        gloo on CPUs). Only the first one goes on to log.

    Raises
    ------
    ConfigError
        Other processes were started than the settings ask for, the device is absent, or the
        batch cannot be divided.
    """
    launch = find_launch()
    _require(config, launch)
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it prints its precision
    settings: dict[str, Any] = {
        "accelerator": device.type,
        "num_nodes": launch.nodes,
        "devices": launch.devices,
        "precision": "bf16-mixed" if precision_of(config) == "bfloat16" else "32-true",
        "plugins": [_environment(launch)],
    }
    if launch.world_size > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        settings["strategy"] = DDPStrategy(process_group_backend=backend, timeout=TIMEOUT)
    elif device.index is not None:
        settings["devices"] = [device.index]
    with warnings.catch_warnings():
        # a GPU that is not used and a SLURM that did not start us are no mistakes
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning_fabric")
        fabric = Fabric(**settings)
        fabric.launch()
    if not fabric.is_global_zero:  # the first process has said it
        logging.getLogger("osteosap").setLevel(logging.ERROR)
    return fabric


def precision_of(config: LoopConfig) -> str:
    """``float32`` or ``bfloat16``: what the setting stands for on the chosen device."""
    if config.precision == "auto":
        return best_precision(choose_device(config.device))
    return config.precision


def require_even_batch(config: LoopConfig, world_size: int) -> None:
    """Raise :class:`ConfigError` unless a batch divides into processes and micro-batches."""
    pieces = world_size * config.accumulate
    if config.batch_size % pieces:
        raise ConfigError(
            f"a batch of {config.batch_size} patches cannot be divided evenly over "
            f"{world_size} processes and {config.accumulate} micro-batches",
            remedy=f"Set batch_size to a multiple of {pieces}",
        )


def _require(config: LoopConfig, launch: Launch) -> None:
    for name, asked, started in (
        ("devices", config.devices, launch.devices),
        ("nodes", config.nodes, launch.nodes),
    ):
        if asked is not None and asked != started:
            raise ConfigError(
                f"the settings ask for {asked} {name}, but {started} were started",
                remedy="Start the processes with torchrun or srun "
                "(docs/how-to/train-on-many.md), or leave the setting out",
            )
    require_even_batch(config, launch.world_size)


def _environment(launch: Launch) -> ClusterEnvironment:
    if launch.by == "torchrun":
        return TorchElasticEnvironment()
    if launch.by == "slurm":
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


class _SumOverRanks(torch.autograd.Function):
    """Sum over processes that passes the gradient on.

    Every process computes the same loss L(S) of the summed S. DDP averages the gradients of W
    processes, so that each must hand back W dL/dS for the average to be the gradient of L.
    """

    @staticmethod
    def forward(_context: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * distributed.get_world_size()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, equal on each; differentiable under DDP.

    The loss must be the same function of the sums on every process. Without other processes the
    tensor comes back as it is.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total: torch.Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total


def mean_over_ranks(values: list[float], fabric: Fabric) -> list[float]:
    """Means of plain numbers over all processes, equal on each; float64."""
    if fabric.world_size == 1:
        return values
    dtype = torch.float64
    row = torch.tensor(values, dtype=dtype, device=fabric.device)
    distributed.all_reduce(row)
    return [value / fabric.world_size for value in row.tolist()]

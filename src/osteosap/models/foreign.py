"""Weight files of other programs: the authors', MONAI's, nnU-Net-like ones. Read, never run.

A ``.pt`` or ``.pth`` file is a pickle, and unpickling runs whatever its writer put in. Here only
tensors, numbers, text and containers of them are read (``torch.load(weights_only=True)``); a file
that asks for anything else is refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import osteosap
from osteosap.anatomy import REGIONS
from osteosap.config import StageConfig
from osteosap.errors import CheckpointError
from osteosap.models.checkpoint import (
    Checkpoint,
    CheckpointMetadata,
    LoadReport,
    load_into,
    sha256_of,
)
from osteosap.models.foreign_channels import adapt_channels, assumed_channels
from osteosap.models.foreign_names import Recognised, own_names, recognise, strangers
from osteosap.models.networks import NetworkSpec, build_network, head_prefixes, named_weights
from osteosap.models.transfer import encoder_state

__all__ = ["ForeignFile", "ImportConfig", "Imported", "import_foreign", "read_foreign"]

CONTAINERS = ("state_dict", "model", "network", "model_state_dict", "network_weights", "net")
"""Keys under which programs keep a network's tensors beside the optimiser's and the epoch."""

CLASSES: dict[str, tuple[str, ...]] = {
    "skeleton": ("background", *(region.name for region in REGIONS)),
    "lesions": ("background", "lesion"),
    "self_supervised": (),
}
"""Classes of a task, in our order."""


class ImportConfig(StageConfig):
    """How a file of another program becomes one of ours.

    ``channels`` are those of the new network, ``file_channels`` those that the file's network was
    trained on, in its order (``grey`` for an image of another kind; empty: see
    :func:`~osteosap.models.foreign_channels.assumed_channels`). ``file_classes`` are the file's
    classes in its order, by our names, where that order is not ours. ``new_head`` takes encoder
    and decoder only. ``minimum_fraction`` of the tensors must fit. ``spacing_mm``, ``patch`` and
    ``percentiles`` say what the network expects of its input; the file does not. ``monai`` is the
    version that a Swin UNETR was trained with (``1.3``), since equal weights compute something
    else from 1.5 on (see :mod:`osteosap.models.merging`); other networks need none.
    """

    task: Literal["skeleton", "lesions", "self_supervised"]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int] = (96, 96, 96)
    percentiles: tuple[float, float] = (1.0, 99.0)
    channels: tuple[str, ...] = ("t1", "b1000")
    file_channels: tuple[str, ...] = ()
    file_classes: tuple[str, ...] = ()
    new_head: bool = False
    minimum_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    monai: str = Field(default="", pattern=r"^(\d+\.\d+(\.\w+)*)?$")
    training_data: str = "unknown; imported from another program"


@dataclass(frozen=True)
class ForeignFile:
    """What lies in a file of another program.

    Parameters
    ----------
    path, sha256
        The file.
    container
        Keys that lead to the tensors, joined by dots; empty if they lie at the top.
    others
        What else is in the file: key to kind of value.
    state
        Name to tensor, as in the file.
    """

    path: Path
    sha256: str
    container: str
    others: dict[str, str]
    state: dict[str, torch.Tensor]

    def recognised(self) -> Recognised | None:
        """The network that the tensors belong to; None for one that osteosap does not have."""
        return recognise(own_names(self.state))

    def describe(self) -> dict[str, Any]:
        """All of it but the numbers, as plain JSON types."""
        network = self.recognised()
        return {
            "sha256": self.sha256,
            "container": self.container,
            "others": self.others,
            "network": network.describe() if network else None,
            "n_weights": sum(t.numel() for t in self.state.values()),
            "tensors": {
                name: {"shape": list(t.shape), "type": str(t.dtype).removeprefix("torch.")}
                for name, t in self.state.items()
            },
        }


@dataclass(frozen=True)
class Imported:
    """A checkpoint made from a file of another program, and how well it fitted."""

    checkpoint: Checkpoint
    report: LoadReport
    network: str
    remarks: tuple[str, ...]


def read_foreign(path: Path) -> ForeignFile:
    """Read the tensors of a ``.pt``, ``.pth`` or ``.safetensors`` file, and run nothing in it.

    Raises
    ------
    CheckpointError
        The file is missing or damaged, holds no tensors, or asks to run code.
    """
    if not path.is_file():
        raise CheckpointError(f"no weight file {path}", remedy="Check the path")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    state, container, others = _find_tensors(content, path)
    return ForeignFile(path, sha256_of(path), container, others, state)


def import_foreign(path: Path, config: ImportConfig) -> Imported:
    """Make a checkpoint of ours from a file of another program.

    Parameters
    ----------
    path
        A state dict, plain or beside other things, pickled or as safetensors.
    config
        Task, channels and what the network expects.

    Returns
    -------
    imported
        The checkpoint (not written yet), the counts, and remarks for the user.

    Raises
    ------
    CheckpointError
        The file cannot be read safely, its network is unknown, or too little of it fits.
    """
    file = read_foreign(path)
    state = own_names(file.state)
    found = recognise(state)
    if found is None:
        raise CheckpointError(
            f"{path.name} holds {len(state)} tensors of a network that osteosap does not know "
            f"(first: {next(iter(state), 'none')})",
            remedy="Only Swin UNETR, DynUNet and SegResNet as MONAI builds them are imported",
        )
    given = config.file_channels or assumed_channels(found.n_channels, config.channels)
    found.settings |= _merging(found, config)
    spec = found.spec(config.channels, len(CLASSES[config.task]) or 2)
    spec.require_patch(config.patch)
    state = adapt_channels(state, spec.layout.inputs, wanted=config.channels, given=given)
    _require_head(found, config)
    network = _seeded_network(spec)
    state = _our_class_order(state, head_prefixes(network, spec), config)
    report = _load(network, spec, state, config)
    checkpoint = _checkpoint(file, config, spec, network, report)
    return Imported(checkpoint, report, found.describe(), _remarks(config, given, spec))


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({type(error).__name__})",
            remedy="The file is damaged; fetch it again",
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces changes of its own storage classes
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|function|class) ([\w.]+\.\w+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it is no plain state dict"
        raise CheckpointError(
            f"{path} is refused: it holds more than tensors, numbers and text ({what}), and "
            "unpickling that could run any code",
            remedy="If you trust its source, load it with the program that wrote it, in an "
            "environment of its own, and save the state dict alone as safetensors",
        ) from error
    except Exception as error:  # torch, zipfile and pickle raise many kinds for broken files
        raise CheckpointError(
            f"{path} cannot be read as a file of torch ({type(error).__name__})",
            remedy="Save the state dict with torch.save or as safetensors",
        ) from error


def _find_tensors(content: Any, path: Path) -> tuple[dict[str, torch.Tensor], str, dict[str, str]]:
    """Tensors by name, the keys that lead to them, and what lies beside them."""
    keys: list[str] = []
    others: dict[str, str] = {}
    while isinstance(content, Mapping):
        state = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        inner = next((k for k in CONTAINERS if isinstance(content.get(k), Mapping)), None)
        beside = {k: v for k, v in content.items() if str(k) not in state and k != inner}
        others |= {".".join((*keys, str(k))): type(v).__name__ for k, v in beside.items()}
        if inner is None or len(state) > len(content) / 2:
            if not state:
                break
            return state, ".".join(keys), others
        keys.append(inner)
        content = content[inner]
    kind = f"keys {', '.join(others) or 'none'}" if others else f"a {type(content).__name__}"
    raise CheckpointError(
        f"{path} holds no state dict ({kind})",
        remedy=f"Save the network's state_dict(), at the top or under one of "
        f"{', '.join(CONTAINERS)}",
    )


def _merging(found: Recognised, config: ImportConfig) -> dict[str, str]:
    """The setting of Swin UNETR that its weights do not show."""
    if found.architecture != "swin_unetr":
        return {}
    if not config.monai:
        raise CheckpointError(
            "Swin UNETR computes something else from MONAI 1.5 on than before with equal weights, "
            "and the file does not say with which version it was trained",
            remedy="Give the version of MONAI it was trained with, such as 1.3 (the authors' "
            "scripts and MONAI's pretrained transformers: below 1.5)",
        )
    major, minor = (int(part) for part in config.monai.split(".")[:2])
    return {"merging": "complete" if (major, minor) >= (1, 5) else "monai_1_4"}


def _require_head(found: Recognised, config: ImportConfig) -> None:
    """Refuse a file without the head that its task needs."""
    if config.task == "self_supervised":
        return
    if found.n_classes is None:
        raise CheckpointError(
            "the file holds an encoder alone, expected a whole network",
            remedy="Import it as self_supervised and start the arm ssl from it",
        )
    expected = len(CLASSES[config.task])
    if found.n_classes != expected and not config.new_head:
        raise CheckpointError(
            f"the file's head knows {found.n_classes} classes, expected {expected} for "
            f"'{config.task}'",
            remedy="Ask for a new head to take encoder and decoder only, and fine-tune it",
        )


def _our_class_order(
    state: dict[str, torch.Tensor], heads: tuple[str, ...], config: ImportConfig
) -> dict[str, torch.Tensor]:
    """Head rows in our order of classes."""
    expected = CLASSES[config.task]
    if not config.file_classes or config.new_head or config.task == "self_supervised":
        return state
    if sorted(config.file_classes) != sorted(expected):
        raise CheckpointError(
            f"the file's classes are given as {', '.join(config.file_classes)}",
            remedy=f"Name each of {', '.join(expected)} once, in the file's order",
        )
    order = [config.file_classes.index(name) for name in expected]
    return {n: t[order] if n.startswith(heads) else t for n, t in state.items()}


def _seeded_network(spec: NetworkSpec) -> nn.Module:
    """Random weights that do not depend on, or change, the state of torch's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(spec)


def _load(
    network: nn.Module,
    spec: NetworkSpec,
    state: dict[str, torch.Tensor],
    config: ImportConfig,
) -> LoadReport:
    only: tuple[str, ...] = ("",)
    if config.task == "self_supervised":
        only = tuple(f"{name}." for name in spec.layout.self_supervised)
    skip = head_prefixes(network, spec) if config.new_head else ()
    report = load_into(
        network, state, only=only, skip=skip, minimum_fraction=config.minimum_fraction
    )
    odd = strangers([n for n in report.unexpected if n.startswith(only)], spec.architecture)
    if odd:
        raise CheckpointError(
            f"the file's {spec.architecture} has {len(odd)} tensors inside its modules that ours "
            f"does not have (first: {odd[0]}), so that it computes something else",
            remedy="Only networks as osteosap builds them are imported",
        )
    return report


def _checkpoint(
    file: ForeignFile,
    config: ImportConfig,
    spec: NetworkSpec,
    network: nn.Module,
    report: LoadReport,
) -> Checkpoint:
    weights = named_weights(network)
    drawn: tuple[str, ...] = (*report.missing, *report.reshaped)
    if config.task == "self_supervised":
        weights = encoder_state(network, spec)
    elif config.new_head:
        drawn += tuple(n for n in weights if n.startswith(head_prefixes(network, spec)))
    metadata = CheckpointMetadata(
        task=config.task,
        classes=CLASSES[config.task],
        spacing_mm=config.spacing_mm,
        patch=config.patch,
        percentiles=config.percentiles,
        threshold=config.threshold if config.task == "lesions" else None,
        training_data=config.training_data,
        code_version=osteosap.__version__,
        untrained=drawn,
        origin={
            "file": file.path.name,
            "sha256": file.sha256,
            "tensors_matched": len(report.matched),
            "parameters_matched": report.parameters_matched,
        },
    )
    return Checkpoint(spec, metadata, weights)


def _remarks(config: ImportConfig, given: tuple[str, ...], spec: NetworkSpec) -> tuple[str, ...]:
    remarks = []
    if not config.file_channels:
        remarks.append(f"the file's channels are taken to be {', '.join(given)}, in this order")
    unused = [name for name in given if name not in (*spec.channels, "grey")]
    if unused:
        remarks.append(f"the file's channel {', '.join(unused)} is left out")
    filled = [name for name in spec.channels if name not in given]
    if filled:
        remarks.append(f"{', '.join(filled)} start from the file's grey channels")
    if config.task == "skeleton" and not (config.file_classes or config.new_head):
        remarks.append(f"the file's classes are taken to be {', '.join(CLASSES['skeleton'])}")
    if config.new_head:
        remarks.append("the head is new and random: fine-tune before any use")
    return tuple(remarks)

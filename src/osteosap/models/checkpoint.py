"""Self-describing weight files: safetensors with JSON metadata in the header.

Nothing is ever unpickled. A file says which network it belongs to, which channels in which
order, at which spacing and with which scaling it expects them, which classes it returns, what it
was trained on and by which code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import nn

from osteosap.config import StageConfig
from osteosap.errors import CheckpointError, ConfigError
from osteosap.manifest import write_bytes
from osteosap.models.networks import NetworkSpec, build_network, named_weights

__all__ = [
    "Checkpoint",
    "CheckpointMetadata",
    "LoadReport",
    "describe",
    "is_ours",
    "load_checkpoint",
    "load_into",
    "restore_network",
    "save_checkpoint",
    "sha256_of",
    "warn_of_untrained",
]

_log = logging.getLogger(__name__)

HEADER_KEY = "osteosap"
FORMAT = 1


class CheckpointMetadata(StageConfig):
    """What a weight file says about itself.

    ``percentiles`` and ``body_only`` describe the scaling of each channel to [0, 1], ``standard``
    the histogram standard that comes before it (None for none);
    ``threshold`` is the tuned lesion probability (None for skeleton networks); ``recipe`` is the
    resolved training configuration. A ``self_supervised`` file holds an encoder and no classes.
    ``untrained`` names tensors that were drawn at random and never trained (a new head after an
    import): such a network is a start for training, and is refused for prediction. ``origin``
    says which file of another program the weights were imported from.
    """

    task: Literal["skeleton", "lesions", "self_supervised"]
    classes: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    percentiles: tuple[float, float] = (1.0, 99.0)
    body_only: Literal[True] = True
    standard: dict[str, Any] | None = None
    orientation: Literal["RAS"] = "RAS"
    threshold: float | None = Field(default=None, gt=0.0, lt=1.0)
    arm: str = ""
    training_data: str = ""
    n_training_exams: int = 0
    n_validation_exams: int = 0
    n_training_people: int = 0
    n_validation_people: int = 0
    steps: int = 0
    seed: int = 0
    code_version: str = ""
    git_sha: str | None = None
    initial_weights_sha256: str | None = None
    validation: dict[str, float | None] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    recipe_hash: str = ""
    untrained: tuple[str, ...] = ()
    origin: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A weight file in memory.

    Parameters
    ----------
    spec
        The network the weights belong to.
    metadata
        What the file says about itself.
    state
        Name to float32 tensor.
    sha256
        Of the file; empty for one never written.
    """

    spec: NetworkSpec
    metadata: CheckpointMetadata
    state: dict[str, torch.Tensor]
    sha256: str = ""


@dataclass(frozen=True)
class LoadReport:
    """How much of a network a set of weights filled.

    Parameters
    ----------
    matched, missing, reshaped
        Names of the network's tensors that were filled, are not in the file, or have another
        shape there.
    unexpected
        Names in the file that were not asked for: the network, or the part of it that was to be
        filled, does not have them.
    parameters, parameters_matched
        Numbers in all tensors that were to be filled, and in those that were.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    parameters: int
    parameters_matched: int

    @property
    def total(self) -> int:
        """Number of the network's tensors that were to be filled."""
        return len(self.matched) + len(self.missing) + len(self.reshaped)

    @property
    def fraction(self) -> float:
        """Share of the network's tensors that were filled."""
        return len(self.matched) / self.total if self.total else 0.0

    def describe(self) -> str:
        """One line with the counts."""
        return (
            f"{len(self.matched)} of {self.total} tensors and {self.parameters_matched:,} of "
            f"{self.parameters:,} parameters loaded, {len(self.missing)} missing, "
            f"{len(self.reshaped)} of another shape, {len(self.unexpected)} not used"
        )

    def examples(self) -> str:
        """The first name of each kind that did not fit, in brackets; empty where all fitted."""
        kinds = (
            ("missing", self.missing),
            ("of another shape", self.reshaped),
            ("not used", self.unexpected),
        )
        found = [f"{kind}: {names[0]}" for kind, names in kinds if names]
        return f" (first {', '.join(found)})" if found else ""


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, half: bool = True) -> str:
    """Write a weight file, whole or not at all.

    Parameters
    ----------
    checkpoint
        Spec, metadata and weights.
    path
        Target, usually ``*.safetensors``.
    half
        Store float16 (half the size); they are always loaded as float32.

    Returns
    -------
    sha256
        Of the written file.

    Raises
    ------
    CheckpointError
        A weight is not finite.
    OutputError
        The file cannot be written.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {n: t.detach().cpu().to(dtype).contiguous() for n, t in checkpoint.state.items()}
    broken = [n for n, t in tensors.items() if not torch.isfinite(t).all()]
    if broken:
        raise CheckpointError(
            f"{len(broken)} of {len(tensors)} weights are not finite (first: {broken[0]})",
            remedy="Lower the learning rate, or store float32 if the values exceed 65504",
        )
    header = {
        "format": FORMAT,
        "spec": checkpoint.spec.to_mapping(),
        "metadata": checkpoint.metadata.to_mapping(),
    }
    content = serialise(tensors, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a weight file written by :func:`save_checkpoint`.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or was not written by osteosap.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no weight file {path}",
            remedy="Train one with 'osteosap train', or check the path",
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            state = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({type(error).__name__})",
            remedy="Download or train it again, or bring a file of another program over with "
            "'osteosap model import'",
        ) from error
    spec, metadata = _parse_header(header, path)
    return Checkpoint(spec, metadata, state, sha256_of(path))


def load_into(
    network: nn.Module,
    state: dict[str, torch.Tensor],
    *,
    only: tuple[str, ...] = ("",),
    skip: tuple[str, ...] = (),
    minimum_fraction: float = 1.0,
) -> LoadReport:
    """Copy weights into a network and count what fitted.

    Parameters
    ----------
    network
        Changed in place.
    state
        Name to tensor.
    only
        Prefixes of names that are loaded and counted (an encoder); all by default.
    skip
        Prefixes of names that stay as they are and are not counted (the head).
    minimum_fraction
        Least share of the network's tensors that must be filled.

    Raises
    ------
    CheckpointError
        Fewer than ``minimum_fraction`` fitted; the network is then unchanged.
    """

    def chosen(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: t for n, t in tensors.items() if n.startswith(only) and not n.startswith(skip)}

    weights, given = chosen(named_weights(network)), chosen(state)
    unasked = (n for n in state if n not in weights and not n.startswith(skip))
    matched = tuple(n for n, w in weights.items() if n in given and given[n].shape == w.shape)
    report = LoadReport(
        matched=matched,
        missing=tuple(n for n in weights if n not in given),
        unexpected=tuple(unasked),
        reshaped=tuple(n for n in weights if n in given and n not in set(matched)),
        parameters=sum(w.numel() for w in weights.values()),
        parameters_matched=sum(weights[n].numel() for n in matched),
    )
    if report.fraction < minimum_fraction:
        raise CheckpointError(
            f"the weights do not fit the network: {report.describe()}{report.examples()}; "
            f"expected at least {minimum_fraction:.0%}",
            remedy="Use a checkpoint of the same architecture and size",
        )
    with torch.no_grad():
        for name in matched:
            weights[name].copy_(given[name])
    return report


def warn_of_untrained(checkpoint: Checkpoint, taken: Iterable[str]) -> None:
    """Warn where tensors that a training or a comparison takes over were never trained.

    Parameters
    ----------
    checkpoint
        Where they come from.
    taken
        Names of the tensors.
    """
    taken = set(taken)
    untrained = [name for name in checkpoint.metadata.untrained if name in taken]
    if untrained:
        _log.warning(
            "%d of the %d tensors taken from the %s weights were never trained (first: %s): the "
            "import did not find them",
            len(untrained),
            len(taken),
            checkpoint.metadata.task,
            untrained[0],
        )


def restore_network(checkpoint: Checkpoint) -> nn.Module:
    """Build the checkpoint's network with its weights, in evaluation mode.

    Raises
    ------
    CheckpointError
        The file holds an encoder alone or weights that were never trained, or a tensor is
        missing, left over or of another shape.
    """
    if checkpoint.metadata.task == "self_supervised":
        raise CheckpointError(
            "the file holds a self-supervised encoder alone, expected a whole network",
            remedy="Fine-tune from it first (arm ssl)",
        )
    if checkpoint.metadata.untrained:
        raise CheckpointError(
            f"{len(checkpoint.metadata.untrained)} tensors of the network were never trained "
            f"(first: {checkpoint.metadata.untrained[0]}), expected none",
            remedy="Fine-tune from it first; as it is, it predicts nothing of meaning",
        )
    network = build_network(checkpoint.spec)
    report = load_into(network, checkpoint.state)
    if report.unexpected:
        raise CheckpointError(
            f"the file holds {len(report.unexpected)} tensors that its network does not have "
            f"(first: {report.unexpected[0]})",
            remedy="The file does not belong to its description; train it again",
        )
    return network.eval()


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Spec, metadata, size and checksum as plain JSON types."""
    return {
        "sha256": checkpoint.sha256,
        "n_weights": sum(t.numel() for t in checkpoint.state.values()),
        "spec": checkpoint.spec.to_mapping(),
        **checkpoint.metadata.to_mapping(),
    }


def is_ours(path: Path) -> bool:
    """Whether a file is safetensors with a description of osteosap; False for no file."""
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER_KEY in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse_header(header: str | None, path: Path) -> tuple[NetworkSpec, CheckpointMetadata]:
    if header is None:
        raise CheckpointError(
            f"{path} holds weights but no osteosap description",
            remedy="Bring weights of other programs over with 'osteosap model import'",
        )
    try:
        values = json.loads(header)
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {values['format']}, expected {FORMAT}",
                remedy="Update osteosap",
            )
        spec = NetworkSpec.from_mapping(values["spec"])
        metadata = CheckpointMetadata.from_mapping(values["metadata"])
    except (json.JSONDecodeError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"the description in {path} cannot be used ({error})",
            remedy="Use a file written by this or an older version of osteosap",
        ) from error
    expected = 0 if metadata.task == "self_supervised" else spec.n_classes
    if len(metadata.classes) != expected:
        raise CheckpointError(
            f"{path} names {len(metadata.classes)} classes for {expected} outputs",
            remedy="The file is damaged; train it again",
        )
    spec.require_patch(metadata.patch)
    return spec, metadata

"""Recipe: find lesions, from a skeleton network (arm SAP) or from random weights (baseline).

Wuts et al. 2026, doi 10.1016/j.jbo.2026.100745.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from osteosap.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.transfer import parameter_groups, reset_head, transfer_skeleton
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.data import load_exams
from osteosap.training.loop import LoopConfig, Progress, fit
from osteosap.training.patches import PatchStream
from osteosap.training.recipes import (
    RecipeConfig,
    base_metadata,
    require_other_people,
    validation_windows,
)
from osteosap.training.sampler import LesionSampler, LesionSamplingConfig
from osteosap.training.validation import validate_lesions

__all__ = ["FinetuneLesionsConfig", "finetune_lesions"]

_log = logging.getLogger(__name__)


class FinetuneLesionsConfig(RecipeConfig):
    """Fine-tuning for lesions.

    ``head_bias`` starts the head at the class prior (background, lesion). With a skeleton
    checkpoint its architecture is used, and ``network`` only for dropout rates.
    """

    recipe: Literal["finetune_lesions"] = "finetune_lesions"
    patch: tuple[int, int, int] = (64, 64, 64)
    sampling: LesionSamplingConfig = LesionSamplingConfig()
    augmentation: AugmentationConfig = AugmentationConfig(flip=(0.5, 0.5, 0.5), rotate90=0.2)
    loop: LoopConfig = LoopConfig(steps=1500, batch_size=4, warmup_steps=100)
    encoder_learning_rate: float = Field(default=4e-4, gt=0.0)
    decoder_learning_rate: float = Field(default=2e-3, gt=0.0)
    head_bias: tuple[float, float] = (3.0, -3.0)


def finetune_lesions(
    config: FinetuneLesionsConfig,
    train: Sequence[Path],
    validation: Sequence[Path],
    *,
    out: Path,
    skeleton_checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a lesion network and tune its threshold on the validation exams.

    Parameters
    ----------
    config
        Recipe.
    train, validation
        Exam folders with ``lesions``; no person may be on both sides.
    out
        Folder for ``lesions.safetensors`` and the logs.
    skeleton_checkpoint
        Weights to start from (arm ``sap``); None starts from random ones (arm ``baseline``).
    progress
        Called with a line and the fraction done.

    Returns
    -------
    path
        Of the weights; their metadata hold the tuned threshold (0.5 without validation exams).

    Raises
    ------
    TrainingError
        There are no exams or lesions, or training collapses.
    CheckpointError
        The skeleton checkpoint does not fit.
    """
    skeleton = load_checkpoint(skeleton_checkpoint) if skeleton_checkpoint else None
    spec = _lesion_spec(config, skeleton)
    spec.require_patch(config.patch)
    require_other_people(train, validation)
    cache = config.cache or out / "cache"
    exams = load_exams(train, config.input, needs="lesions", cache=cache, progress=progress)
    held_out = (
        load_exams(validation, config.input, needs="lesions", cache=cache) if validation else []
    )
    network = _start(config, spec, skeleton)
    windows = validation_windows(config)

    def validate(current: nn.Module) -> dict[str, float]:
        return validate_lesions(
            current, held_out, patch=config.patch, windows=windows, folders=validation
        )[1]

    result = fit(
        network,
        parameter_groups(
            network,
            spec,
            encoder_rate=config.encoder_learning_rate,
            decoder_rate=config.decoder_learning_rate,
        ),
        stream=PatchStream(
            exams,
            LesionSampler(exams, config.patch, config=config.sampling, seed=config.loop.seed),
            reference="lesions",
            patch=config.patch,
            augmentation=config.augmentation,
            seed=config.loop.seed,
        ),
        config=config.loop,
        out=out,
        validate=validate if held_out else None,
        progress=progress,
    )
    metadata = base_metadata(
        config,
        task="lesions",
        classes=("background", "lesion"),
        n_exams=(len(exams), len(held_out)),
        result=result,
        arm="sap" if skeleton else "baseline",
        threshold=result.validation.get("threshold", 0.5),
        initial_weights_sha256=skeleton.sha256 if skeleton else None,
    )
    path = out / "lesions.safetensors"
    save_checkpoint(Checkpoint(spec, metadata, named_weights(network)), path, half=config.half)
    return path


def _lesion_spec(config: FinetuneLesionsConfig, skeleton: Checkpoint | None) -> NetworkSpec:
    values = config.network.model_dump() | {"n_classes": 2}
    if skeleton is not None:
        rates = ("dropout", "drop_rate", "attention_drop_rate", "drop_path_rate")
        values = skeleton.spec.model_dump() | {name: values[name] for name in rates}
        values["n_classes"] = 2
        if skeleton.metadata.spacing_mm != config.input.spacing_mm:
            _log.warning(
                "the skeleton network was trained at %s mm, lesions are trained at %s mm",
                skeleton.metadata.spacing_mm,
                config.input.spacing_mm,
            )
    return NetworkSpec.from_mapping(values)


def _start(
    config: FinetuneLesionsConfig, spec: NetworkSpec, skeleton: Checkpoint | None
) -> nn.Module:
    """The network before its first step: SAP weights or random ones, the head at the prior."""
    torch.manual_seed(config.loop.seed)
    network = build_network(spec)
    if skeleton is None:
        reset_head(network, spec, bias=config.head_bias)
        return network
    report = transfer_skeleton(network, spec, skeleton=skeleton, head_bias=config.head_bias)
    _log.info("from the skeleton network: %s", report.describe())
    return network

"""Recipe: learn to name the bones of healthy people (the S of SAP).

Wuts et al. 2026, doi 10.1016/j.jbo.2026.100745.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from osteosap.anatomy import N_CLASSES, REGIONS
from osteosap.models.checkpoint import Checkpoint, save_checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.transfer import parameter_groups
from osteosap.training.data import load_exams
from osteosap.training.loop import Progress, fit
from osteosap.training.patches import PatchStream
from osteosap.training.recipes import (
    RecipeConfig,
    base_metadata,
    require_other_people,
    validation_windows,
)
from osteosap.training.sampler import SkeletonSampler, SkeletonSamplingConfig
from osteosap.training.validation import validate_skeleton

__all__ = ["PretrainSkeletonConfig", "pretrain_skeleton"]


class PretrainSkeletonConfig(RecipeConfig):
    """Skeleton pretraining."""

    recipe: Literal["pretrain_skeleton"] = "pretrain_skeleton"
    network: NetworkSpec = NetworkSpec(n_classes=N_CLASSES)
    sampling: SkeletonSamplingConfig = SkeletonSamplingConfig()
    learning_rate: float = Field(default=2e-3, gt=0.0)


def pretrain_skeleton(
    config: PretrainSkeletonConfig,
    train: Sequence[Path],
    validation: Sequence[Path],
    *,
    out: Path,
    progress: Progress | None = None,
) -> Path:
    """Train a skeleton network.

    Parameters
    ----------
    config
        Recipe.
    train, validation
        Exam folders with ``skeleton``; no person may be on both sides.
    out
        Folder for ``skeleton.safetensors`` and the logs.
    progress
        Called with a line and the fraction done.

    Returns
    -------
    path
        Of the weights.

    Raises
    ------
    TrainingError
        There are no exams, one lacks its skeleton, or training fails.
    """
    spec = NetworkSpec(**(config.network.model_dump() | {"n_classes": N_CLASSES}))
    spec.require_patch(config.patch)
    require_other_people(train, validation)
    cache = config.cache or out / "cache"
    exams = load_exams(train, config.input, needs="skeleton", cache=cache, progress=progress)
    held_out = (
        load_exams(validation, config.input, needs="skeleton", cache=cache) if validation else []
    )
    torch.manual_seed(config.loop.seed)
    network = build_network(spec)
    windows = validation_windows(config)

    def validate(current: nn.Module) -> dict[str, float]:
        return validate_skeleton(
            current, held_out, patch=config.patch, windows=windows, n_classes=N_CLASSES
        )

    sampler = SkeletonSampler(exams, config.patch, config=config.sampling, seed=config.loop.seed)
    result = fit(
        network,
        parameter_groups(
            network, spec, encoder_rate=config.learning_rate, decoder_rate=config.learning_rate
        ),
        stream=PatchStream(
            exams,
            sampler,
            reference="skeleton",
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
        task="skeleton",
        classes=("background", *(region.name for region in REGIONS)),
        n_exams=(len(exams), len(held_out)),
        result=result,
    )
    path = out / "skeleton.safetensors"
    save_checkpoint(Checkpoint(spec, metadata, named_weights(network)), path, half=config.half)
    return path

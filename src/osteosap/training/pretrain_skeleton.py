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
from osteosap.models.checkpoint import Checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.transfer import parameter_groups
from osteosap.training.cases import TrainingCase
from osteosap.training.devices import start_fabric
from osteosap.training.loop import Progress, fit
from osteosap.training.patches import PatchStream
from osteosap.training.recipes import (
    RecipeConfig,
    Validation,
    base_metadata,
    load_sides,
    loop_of,
    save_once,
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
    train: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
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
        Exams with a skeleton map; no person may be on both sides.
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
        There are no exams, some cannot be learnt from, or training fails.
    """
    spec = NetworkSpec(**(config.network.model_dump() | {"n_classes": N_CLASSES}))
    spec.require_patch(config.patch)
    fabric = start_fabric(config.loop)
    exams, held_out = load_sides(
        config, (train, validation), needs="skeleton", out=out, fabric=fabric, progress=progress
    )
    torch.manual_seed(config.loop.seed)
    network = build_network(spec)
    windows = validation_windows(config)

    def score(current: nn.Module) -> dict[str, float]:
        return validate_skeleton(
            current, held_out, patch=config.patch, windows=windows, n_classes=N_CLASSES
        )

    scored = Validation(score, held_out, {"overlap": config.validation_overlap})
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
        config=loop_of(config, held_out),
        out=out,
        fabric=fabric,
        validate=scored if held_out else None,
        progress=progress,
    )
    metadata = base_metadata(
        config,
        task="skeleton",
        classes=("background", *(region.name for region in REGIONS)),
        sides=(train, validation),
        result=result,
    )
    checkpoint = Checkpoint(spec, metadata, named_weights(network))
    return save_once(checkpoint, out / "skeleton.safetensors", config=config, fabric=fabric)

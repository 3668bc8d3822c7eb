"""Recipe: let an encoder learn from images alone (arm SSL).

Tang et al. 2022, doi 10.1109/CVPR52688.2022.02007; as an arm of the comparison in Wuts et al.
2026, doi 10.1016/j.jbo.2026.100745.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field, model_validator
from torch import nn

from osteosap.errors import ConfigError
from osteosap.models.checkpoint import Checkpoint
from osteosap.models.networks import build_network
from osteosap.models.transfer import encoder_state
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.bottleneck import BottleneckEncoder
from osteosap.training.cases import TrainingCase
from osteosap.training.data import TrainingExam
from osteosap.training.devices import start_fabric
from osteosap.training.loop import LoopConfig, Progress, fit
from osteosap.training.objectives import Batch, Outcome
from osteosap.training.recipes import (
    RecipeConfig,
    Validation,
    base_metadata,
    load_sides,
    loop_of,
    save_once,
)
from osteosap.training.self_supervision import (
    SelfSupervisedNetwork,
    SelfSupervisionConfig,
    self_supervision_losses,
)
from osteosap.training.view_stream import BodySampler, BodySamplingConfig, ViewStream
from osteosap.training.views import ViewsConfig

__all__ = ["PretrainSelfSupervisedConfig", "pretrain_self_supervised"]

VIEWS_ONLY = AugmentationConfig(
    flip=(0.0, 0.0, 0.0),
    affine=0.0,
    intensity=0.0,
    gamma_probability=0.0,
    noise_probability=0.0,
    bias_probability=0.0,
    blur_probability=0.0,
)
"""No change but the views, as in Tang et al."""


class PretrainSelfSupervisedConfig(RecipeConfig):
    """Self-supervised pretraining.

    ``augmentation`` comes before the views; it may not hide which way a patch is turned.
    ``validation_patches`` are cut from the held-out exams, always the same.
    """

    recipe: Literal["pretrain_self_supervised"] = "pretrain_self_supervised"
    patch: tuple[int, int, int] = (64, 64, 64)
    augmentation: AugmentationConfig = VIEWS_ONLY
    sampling: BodySamplingConfig = BodySamplingConfig()
    views: ViewsConfig = ViewsConfig()
    losses: SelfSupervisionConfig = SelfSupervisionConfig()
    learning_rate: float = Field(default=1e-3, gt=0.0)
    validation_patches: int = Field(default=64, ge=2)
    loop: LoopConfig = LoopConfig(steps=4000, batch_size=4)

    @model_validator(mode="after")
    def _turns_can_be_told(self) -> Self:
        first, second = self.views.rotation_plane
        if self.patch[first] != self.patch[second]:
            raise ValueError(
                f"a patch of {'x'.join(map(str, self.patch))} voxels is not square in "
                f"rotation_plane {self.views.rotation_plane}"
            )
        flip = self.augmentation.flip
        if self.augmentation.rotate90 > 0.0 or (flip[first] > 0.0 and flip[second] > 0.0):
            raise ValueError(
                "augmentation.rotate90, or flips of both axes of rotation_plane, turn patches "
                "before the views do: no network could tell how far a view is turned"
            )
        return self


def pretrain_self_supervised(
    config: PretrainSelfSupervisedConfig,
    train: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    out: Path,
    progress: Progress | None = None,
) -> Path:
    """Train an encoder without any reference.

    Parameters
    ----------
    config
        Recipe.
    train, validation
        Exams; only their images are used. No person may be on both sides.
    out
        Folder for ``self_supervised.safetensors`` and the logs.
    progress
        Called with a line and the fraction done.

    Returns
    -------
    path
        Of the weights: those of the encoder alone.

    Raises
    ------
    ConfigError
        There is but one patch a device and step, and contrast has a weight.
    TrainingError
        There are no exams, or training fails.
    """
    spec = config.network
    spec.require_patch(config.patch)
    fabric = start_fabric(config.loop)
    _require_pairs(config, fabric)
    exams, held_out = load_sides(
        config, (train, validation), needs="images", out=out, fabric=fabric, progress=progress
    )
    torch.manual_seed(config.loop.seed)
    network = build_network(spec)
    student = SelfSupervisedNetwork(BottleneckEncoder(network, spec), config.losses)
    result = fit(
        student,
        [
            {
                "params": list(student.parameters()),
                "name": "encoder and heads",
                "lr": config.learning_rate,
                "base_lr": config.learning_rate,
            }
        ],
        stream=_stream(config, exams),
        config=loop_of(config, held_out),
        out=out,
        objective=ViewsObjective(config.losses),
        fabric=fabric,
        validate=_validation(config, held_out) if held_out else None,
        progress=progress,
    )
    metadata = base_metadata(
        config,
        task="self_supervised",
        classes=(),
        sides=(train, validation),
        result=result,
        arm="ssl",
    )
    checkpoint = Checkpoint(spec, metadata, encoder_state(network, spec))
    path = out / "self_supervised.safetensors"
    return save_once(checkpoint, path, config=config, fabric=fabric)


def _require_pairs(config: PretrainSelfSupervisedConfig, fabric: Fabric) -> None:
    """Contrast tells patches of one device and micro-batch apart: there must be two."""
    together = config.loop.batch_size // (fabric.world_size * config.loop.accumulate)
    if together < 2 and config.losses.contrast > 0.0:
        raise ConfigError(
            f"{together} patch at a time (batch_size {config.loop.batch_size}, "
            f"{fabric.world_size} processes, accumulate {config.loop.accumulate}), expected at "
            "least 2 to contrast",
            remedy="Raise loop.batch_size, or set losses.contrast to 0",
        )


def _stream(config: PretrainSelfSupervisedConfig, exams: Sequence[TrainingExam]) -> ViewStream:
    seed = config.loop.seed
    return ViewStream(
        exams,
        BodySampler(exams, config.patch, config=config.sampling, seed=seed),
        augmentation=config.augmentation,
        views=config.views,
        seed=seed,
    )


def _validation(config: PretrainSelfSupervisedConfig, exams: Sequence[TrainingExam]) -> Validation:
    """Losses and accuracy on views of held-out exams, always the same, not augmented."""
    quiet = config.model_copy(update={"augmentation": VIEWS_ONLY})
    stream = _stream(quiet, exams)
    size = max(2, config.loop.batch_size)

    def score(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        rows = []
        for step in range(max(1, config.validation_patches // size)):
            views = (tensor.to(device) for tensor in stream.batch(step, size))
            with torch.inference_mode():
                losses = self_supervision_losses(network, *views, config=config.losses)
            rows.append(losses.to_row())
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    return Validation(score, exams, {"patches": config.validation_patches})


class ViewsObjective:
    """The loss of a batch of views, for the training loop."""

    def __init__(self, config: SelfSupervisionConfig) -> None:
        self.config = config

    def describe(self) -> dict[str, Any]:
        """What a resumed run must agree with."""
        return {"kind": "self_supervision", **self.config.to_mapping()}

    def __call__(self, model: nn.Module, batch: Batch, done: float) -> Outcome:
        """Loss and its parts; ``done`` changes nothing."""
        del done
        changed, whole, turns = batch
        losses = self_supervision_losses(model, changed, whole, turns, config=self.config)
        parts = losses.to_row()
        del parts["total"]
        return Outcome(losses.total, parts)

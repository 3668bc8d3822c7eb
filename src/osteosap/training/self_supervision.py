"""What self-supervised pretraining minimises, and the three heads that it needs.

Tang et al. 2022, doi 10.1109/CVPR52688.2022.02007: from the bottleneck of the encoder, the views'
unchanged voxels are reconstructed (L1), their quarter turns told (4-way cross-entropy) and views
of one patch drawn together, those of different patches apart (NT-Xent, Chen et al. 2020,
arXiv 2002.05709). Ours, so that the heads fit every architecture: contrast reads the average over
the bottleneck and rotation those of its eight octants, where Tang et al. read one token each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from osteosap.config import StageConfig
from osteosap.errors import TrainingError
from osteosap.training.bottleneck import BottleneckEncoder

__all__ = [
    "Answers",
    "SelfSupervisedNetwork",
    "SelfSupervisionConfig",
    "SelfSupervisionLosses",
    "contrast_loss",
    "self_supervision_losses",
]


class SelfSupervisionConfig(StageConfig):
    """Weights of the three losses, temperature of the contrast, length of its vectors."""

    reconstruction: float = Field(default=1.0, ge=0.0)
    rotation: float = Field(default=1.0, ge=0.0)
    contrast: float = Field(default=1.0, ge=0.0)
    temperature: float = Field(default=0.5, gt=0.0)
    embedding: int = Field(default=512, ge=2)

    @model_validator(mode="after")
    def _there_is_something_to_learn(self) -> Self:
        if self.reconstruction + self.rotation + self.contrast == 0.0:
            raise ValueError("the weights of all three losses are 0, expected one above 0")
        return self


class Answers(NamedTuple):
    """What the heads say of a batch of images.

    ``images`` (B, C, I, J, K), ``turns`` logits (B, 4), ``vectors`` (B, embedding).
    """

    images: torch.Tensor
    turns: torch.Tensor
    vectors: torch.Tensor


class SelfSupervisedNetwork(nn.Module):
    """An encoder with heads for reconstruction, rotation and contrast.

    Parameters
    ----------
    encoder
        Of the network that is pretrained.
    config
        Length of the vectors.
    """

    def __init__(self, encoder: BottleneckEncoder, config: SelfSupervisionConfig) -> None:
        super().__init__()
        width = encoder.n_features()
        self.encoder = encoder
        self.rotation = nn.Linear(8 * width, 4)
        self.contrast = nn.Linear(width, config.embedding)
        layers: list[nn.Module] = []
        for _ in range(encoder.divisor.bit_length() - 1):
            narrow = max(4, width // 2)
            layers += [
                nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False),
                nn.Conv3d(width, narrow, kernel_size=3, padding=1),
                nn.InstanceNorm3d(narrow, affine=True),
                nn.LeakyReLU(0.01),
            ]
            width = narrow
        self.reconstruction = nn.Sequential(*layers, nn.Conv3d(width, encoder.channels, 1))

    def forward(self, images: torch.Tensor) -> Answers:
        """Answers of all heads; each takes part, so that no parameter is without gradient."""
        features = self.encoder(images)
        octants = functional.adaptive_avg_pool3d(features, 2).flatten(1)
        return Answers(
            self.reconstruction(features),
            self.rotation(octants),
            self.contrast(features.mean(dim=(2, 3, 4))),
        )


@dataclass(frozen=True)
class SelfSupervisionLosses:
    """Loss to minimise, its three parts without their weights, and the share of turns told."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    rotation: torch.Tensor
    contrast: torch.Tensor
    rotation_accuracy: float

    def to_row(self) -> dict[str, float]:
        """As plain numbers for logs."""
        parts = {
            "total": self.total,
            "reconstruction": self.reconstruction,
            "rotation": self.rotation,
            "contrast": self.contrast,
        }
        values = {name: float(value.detach()) for name, value in parts.items()}
        return values | {"rotation_accuracy": self.rotation_accuracy}


def self_supervision_losses(
    model: nn.Module,
    changed: torch.Tensor,
    whole: torch.Tensor,
    turns: torch.Tensor,
    *,
    config: SelfSupervisionConfig,
) -> SelfSupervisionLosses:
    """The three losses of a batch of views.

    Parameters
    ----------
    model
        A :class:`SelfSupervisedNetwork`, perhaps wrapped for distributed training.
    changed, whole
        float32 (B, 2, C, I, J, K), two views of each patch (see :mod:`.views`).
    turns
        int64 (B, 2) in 0 to 3.
    config
        Weights and temperature.

    Raises
    ------
    TrainingError
        There is one patch only, and contrast has a weight: nothing is there to be told apart.
    """
    if len(changed) < 2 and config.contrast > 0.0:
        raise TrainingError(
            f"a batch of {len(changed)} patch, expected at least 2 to contrast",
            remedy="Use batch_size 2 or more on each device, or set the weight of contrast to 0",
        )
    answers: Answers = model(torch.cat([changed[:, 0], changed[:, 1]]))
    wanted = torch.cat([turns[:, 0], turns[:, 1]])
    reconstruction = functional.l1_loss(
        answers.images.float(), torch.cat([whole[:, 0], whole[:, 1]])
    )
    rotation = functional.cross_entropy(answers.turns.float(), wanted)
    first, second = answers.vectors.float().chunk(2)
    contrast = contrast_loss(first, second, temperature=config.temperature)
    return SelfSupervisionLosses(
        config.reconstruction * reconstruction
        + config.rotation * rotation
        + config.contrast * contrast,
        reconstruction,
        rotation,
        contrast,
        float((answers.turns.argmax(1) == wanted).float().mean()),
    )


def contrast_loss(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Normalised, temperature-scaled cross-entropy (NT-Xent).

    Parameters
    ----------
    first, second
        (B, D) vectors of the two views; row n of both belongs to patch n.
    temperature
        Divides the cosine similarities.

    Returns
    -------
    loss
        Mean over the 2 B vectors of the cross-entropy of finding its other view among all
        other vectors; ln(2 B - 1) where they are all alike, 0 for B = 1.
    """
    vectors = functional.normalize(torch.cat([first, second]), dim=1)
    similarity = vectors @ vectors.T / temperature
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    similarity = similarity.masked_fill(itself, float("-inf"))
    n = len(first)
    other = (torch.arange(2 * n, device=vectors.device) + n) % (2 * n)
    return functional.cross_entropy(similarity, other)

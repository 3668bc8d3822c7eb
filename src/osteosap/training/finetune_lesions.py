"""Recipe: find lesions, in one of three arms (see :mod:`osteosap.training.arms`).

Wuts et al. 2026, doi 10.1016/j.jbo.2026.100745.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from pydantic import Field
from torch import nn

from osteosap.errors import CheckpointError
from osteosap.inference.prepare import InputConfig
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata, load_checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.transfer import (
    parameter_groups,
    reset_head,
    transfer_encoder,
    transfer_skeleton,
)
from osteosap.training.arms import Arm, ArmRates, InitialWeights, RateSearchConfig
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.cases import TrainingCase
from osteosap.training.data import TrainingExam
from osteosap.training.devices import start_fabric
from osteosap.training.loop import LoopConfig, Progress, fit
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
from osteosap.training.sampler import LesionSampler, LesionSamplingConfig
from osteosap.training.validation import validate_lesions

__all__ = ["FinetuneLesionsConfig", "finetune_lesions"]

_log = logging.getLogger(__name__)


class FinetuneLesionsConfig(RecipeConfig):
    """Fine-tuning for lesions.

    ``arms`` gives single arms rates of their own; the others learn at
    ``encoder_learning_rate`` and ``decoder_learning_rate``. ``head_bias`` starts the head at the
    class prior (background, lesion). With weights to start from their architecture is used, and
    ``network`` only for dropout rates and deep supervision. ``rate_search`` is read by
    ``osteosap train rates`` alone.
    """

    recipe: Literal["finetune_lesions"] = "finetune_lesions"
    patch: tuple[int, int, int] = (64, 64, 64)
    sampling: LesionSamplingConfig = LesionSamplingConfig()
    augmentation: AugmentationConfig = AugmentationConfig(flip=(0.5, 0.5, 0.5), rotate90=0.2)
    loop: LoopConfig = LoopConfig(steps=1500, batch_size=4, warmup_steps=100)
    encoder_learning_rate: float = Field(default=4e-4, gt=0.0)
    decoder_learning_rate: float = Field(default=2e-3, gt=0.0)
    arms: dict[Arm, ArmRates] = Field(default_factory=dict)
    rate_search: RateSearchConfig = RateSearchConfig()
    head_bias: tuple[float, float] = (3.0, -3.0)

    def rates_of(self, arm: Arm) -> ArmRates:
        """Learning rates of an arm."""
        everyone = ArmRates(
            encoder_learning_rate=self.encoder_learning_rate,
            decoder_learning_rate=self.decoder_learning_rate,
        )
        return self.arms.get(arm, everyone)


def finetune_lesions(
    config: FinetuneLesionsConfig,
    train: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    out: Path,
    initial: InitialWeights | None = None,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a lesion network and tune its threshold on the validation exams.

    Parameters
    ----------
    config
        Recipe.
    train, validation
        Exams with a lesion map, or known to be healthy; no person may be on both sides.
    out
        Folder for ``lesions.safetensors`` and the logs.
    initial
        Weights to start from: decides the arm. None starts from random ones (``baseline``).
    fabric
        Where to run, if already started.
    progress
        Called with a line and the fraction done.

    Returns
    -------
    path
        Of the weights; their metadata hold the arm and the tuned threshold (0.5 without
        validation exams).

    Raises
    ------
    TrainingError
        There are no exams or lesions, some exams cannot be learnt from, or training collapses.
    CheckpointError
        The weights to start from do not fit.
    """
    initial = initial or InitialWeights()
    pretrained = load_checkpoint(initial.path) if initial.path else None
    spec = _lesion_spec(config, pretrained)
    spec.require_patch(config.patch)
    fabric = fabric or start_fabric(config.loop)
    exams, held_out = load_sides(
        config, (train, validation), needs="lesions", out=out, fabric=fabric, progress=progress
    )
    network = _start(config, spec, initial.arm, pretrained)
    rates = config.rates_of(initial.arm)
    result = fit(
        network,
        parameter_groups(
            network,
            spec,
            encoder_rate=rates.encoder_learning_rate,
            decoder_rate=rates.decoder_learning_rate,
        ),
        stream=_stream(config, exams),
        config=loop_of(config, held_out),
        out=out,
        fabric=fabric,
        validate=_validation(config, held_out, validation) if held_out else None,
        progress=progress,
    )
    if held_out and not result.validation.get("f2"):
        _log.warning("no threshold finds a lesion of the exams kept aside: 0.5 is not tuned")
    metadata = base_metadata(
        config,
        task="lesions",
        classes=("background", "lesion"),
        sides=(train, validation),
        result=result,
        arm=initial.arm,
        threshold=result.validation.get("threshold", 0.5),
        initial_weights_sha256=pretrained.sha256 if pretrained else None,
    )
    checkpoint = Checkpoint(spec, metadata, named_weights(network))
    return save_once(checkpoint, out / "lesions.safetensors", config=config, fabric=fabric)


def _stream(config: FinetuneLesionsConfig, exams: Sequence[TrainingExam]) -> PatchStream:
    return PatchStream(
        exams,
        LesionSampler(exams, config.patch, config=config.sampling, seed=config.loop.seed),
        reference="lesions",
        patch=config.patch,
        augmentation=config.augmentation,
        seed=config.loop.seed,
    )


def _validation(
    config: FinetuneLesionsConfig, exams: Sequence[TrainingExam], cases: Sequence[TrainingCase]
) -> Validation:
    """Lesion-wise scores of whole exams on their own grids, at the threshold with the best F2."""
    windows = validation_windows(config)

    def score(network: nn.Module) -> dict[str, float]:
        return validate_lesions(network, exams, patch=config.patch, windows=windows, cases=cases)[1]

    return Validation(score, exams, {"overlap": config.validation_overlap})


def _lesion_spec(config: FinetuneLesionsConfig, pretrained: Checkpoint | None) -> NetworkSpec:
    values = config.network.model_dump() | {"n_classes": 2}
    if pretrained is not None:
        own = (
            "dropout", "drop_rate", "attention_drop_rate", "drop_path_rate", "deep_supervision",
            "n_classes",
        )  # fmt: skip
        values = pretrained.spec.model_dump() | {name: values[name] for name in own}
        if pretrained.spec.channels != config.input.channels:
            raise CheckpointError(
                f"the pretrained network reads {pretrained.spec.channels}, the exams are prepared "
                f"with {config.input.channels}",
                remedy="Set input.channels and network.channels to those of the pretrained "
                "network, in its order",
            )
    return NetworkSpec.from_mapping(values)


def _warn_of_other_input(config: InputConfig, pretrained: CheckpointMetadata) -> None:
    """Say where exams are prepared otherwise than for the pretraining: it then helps less."""
    standard = config.standard.to_mapping() if config.standard else None
    for name, before, now in (
        ("spacing_mm", pretrained.spacing_mm, config.spacing_mm),
        ("percentiles", pretrained.percentiles, config.percentiles),
    ):
        if before != now:
            _log.warning("%s was %s in the pretraining, is %s for lesions", name, before, now)
    if pretrained.standard != standard:
        _log.warning("the pretraining had another histogram standard (or none) than lesions have")


def _start(
    config: FinetuneLesionsConfig, spec: NetworkSpec, arm: Arm, pretrained: Checkpoint | None
) -> nn.Module:
    """The network before its first step: the arm's weights, the head at the prior."""
    torch.manual_seed(config.loop.seed)
    network = build_network(spec)
    if pretrained is None:
        reset_head(network, spec, bias=config.head_bias)
        return network
    _warn_of_other_input(config.input, pretrained.metadata)
    if arm == "sap":
        report = transfer_skeleton(network, spec, skeleton=pretrained, head_bias=config.head_bias)
    else:
        report = transfer_encoder(network, spec, pretrained=pretrained)
        reset_head(network, spec, bias=config.head_bias)
    _log.info("arm %s: %s", arm, report.describe())
    return network

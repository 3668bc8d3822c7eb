"""What the recipes share: common settings, metadata of the result, reading a recipe file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

import osteosap
from osteosap.config import StageConfig, canonical_hash
from osteosap.errors import TrainingError
from osteosap.inference.prepare import InputConfig
from osteosap.inference.sliding import WindowConfig
from osteosap.models.checkpoint import CheckpointMetadata
from osteosap.models.networks import NetworkSpec
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.loop import FitResult, LoopConfig

__all__ = [
    "RecipeConfig",
    "base_metadata",
    "git_sha",
    "require_other_people",
    "validation_windows",
]


class RecipeConfig(StageConfig):
    """Settings of every recipe.

    ``training_data`` is written into the weights: say what the exams are. ``half`` stores
    float16. ``validation_overlap`` is that of the windows during validation. ``cache`` is the
    folder of prepared exams; None means ``cache`` in the output folder.
    """

    network: NetworkSpec = NetworkSpec()
    input: InputConfig = InputConfig()
    patch: tuple[int, int, int] = (96, 64, 96)
    augmentation: AugmentationConfig = AugmentationConfig()
    loop: LoopConfig = LoopConfig()
    validation_overlap: float = Field(default=0.25, ge=0.0, lt=1.0)
    half: bool = True
    cache: Path | None = None
    training_data: str = "simulated whole-body MRI (osteosap simulator); no patient data"

    @model_validator(mode="after")
    def _the_network_reads_what_is_prepared(self) -> Self:
        if self.network.channels != self.input.channels:
            raise ValueError(
                f"network.channels {self.network.channels} differ from input.channels "
                f"{self.input.channels}"
            )
        return self


def require_other_people(train: Sequence[Path], validation: Sequence[Path]) -> None:
    """Refuse an exam, or a simulated person (seed in ``exam.json``), on both sides.

    Raises
    ------
    TrainingError
        The same folder or seed is in both lists.
    """
    both = {p.resolve() for p in train} & {p.resolve() for p in validation}
    seeds = [{_seed_of(p) for p in side} - {None} for side in (train, validation)]
    if both or seeds[0] & seeds[1]:
        raise TrainingError(
            f"{len(both) or len(seeds[0] & seeds[1])} exams are both trained and validated on",
            remedy="Keep every person on one side",
        )


def _seed_of(folder: Path) -> int | None:
    try:
        seed = json.loads((folder / "exam.json").read_text()).get("seed")
    except (OSError, ValueError, AttributeError):
        return None
    return seed if isinstance(seed, int) else None


def validation_windows(config: RecipeConfig) -> WindowConfig:
    """Windows of the validation, on the device of the training."""
    return WindowConfig(
        overlap=config.validation_overlap,
        device=config.loop.device,
        precision=config.loop.precision,
    )


def base_metadata(
    config: RecipeConfig,
    *,
    task: str,
    classes: Sequence[str],
    n_exams: tuple[int, int],
    result: FitResult,
    **more: Any,
) -> CheckpointMetadata:
    """Metadata of a trained network; ``n_exams`` are those trained on and validated on."""
    recipe = config.to_mapping()
    recipe.pop("cache", None)  # a private folder
    recipe.pop("network", None)  # the checkpoint's spec says what was built
    values = {
        "task": task,
        "classes": list(classes),
        "spacing_mm": config.input.spacing_mm,
        "patch": config.patch,
        "percentiles": config.input.percentiles,
        "standard": config.input.standard.to_mapping() if config.input.standard else None,
        "training_data": config.training_data,
        "n_training_exams": n_exams[0],
        "n_validation_exams": n_exams[1],
        "steps": result.steps,
        "seed": config.loop.seed,
        "code_version": osteosap.__version__,
        "git_sha": git_sha(Path(__file__).resolve().parents[3]),
        "validation": {
            name: None if math.isnan(value) else round(value, 4)
            for name, value in result.validation.items()
        },
        "recipe": recipe,
        "recipe_hash": canonical_hash(recipe),
    }
    return CheckpointMetadata.from_mapping(values | more)


def git_sha(root: Path) -> str | None:
    """Commit of a source checkout, read from its files; None elsewhere."""
    try:
        head = (root / ".git" / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        loose = root / ".git" / reference
        if loose.is_file():
            return loose.read_text().strip()
        for line in (root / ".git" / "packed-refs").read_text().splitlines():
            if line.endswith(f" {reference}"):
                return line.split()[0]
    except OSError:
        return None
    return None

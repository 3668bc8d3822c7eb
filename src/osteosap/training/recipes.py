"""What the recipes share: common settings, loading of the exams, metadata of the result."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lightning_fabric import Fabric
from pydantic import Field, model_validator
from torch import nn

import osteosap
from osteosap.config import StageConfig, canonical_hash
from osteosap.inference.prepare import InputConfig
from osteosap.inference.sliding import WindowConfig
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata, save_checkpoint
from osteosap.models.networks import NetworkSpec
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.cases import TrainingCase, require_cases, require_other_people
from osteosap.training.data import TrainingExam, load_exams
from osteosap.training.loop import FitResult, LoopConfig, Progress
from osteosap.training.state import STATE

__all__ = [
    "RecipeConfig",
    "Validation",
    "are_simulated",
    "base_metadata",
    "git_sha",
    "load_sides",
    "loop_of",
    "save_once",
    "validation_windows",
]

_log = logging.getLogger(__name__)

SIMULATED = "simulated whole-body MRI (osteosap simulator); no patient data"


class RecipeConfig(StageConfig):
    """Settings of every recipe.

    ``training_data`` is written into the weights: say what the exams are; None says that they are
    simulated where they are, and that they are not described otherwise. ``half`` stores float16.
    ``validation_overlap`` is that of the windows during validation. ``cache`` is the folder of
    prepared exams; None means ``cache`` in the output folder.
    """

    network: NetworkSpec = NetworkSpec()
    input: InputConfig = InputConfig()
    patch: tuple[int, int, int] = (96, 64, 96)
    augmentation: AugmentationConfig = AugmentationConfig()
    loop: LoopConfig = LoopConfig()
    validation_overlap: float = Field(default=0.25, ge=0.0, lt=1.0)
    half: bool = True
    cache: Path | None = None
    training_data: str | None = None

    @model_validator(mode="after")
    def _the_network_reads_what_is_prepared(self) -> Self:
        if self.network.channels != self.input.channels:
            raise ValueError(
                f"network.channels {self.network.channels} differ from input.channels "
                f"{self.input.channels}"
            )
        return self


@dataclass(frozen=True)
class Validation:
    """Scores of held-out exams, as the loop wants them.

    Parameters
    ----------
    score
        From a network to its scores.
    exams
        What it is scored on.
    settings
        What else the scores depend on, as plain JSON types.
    """

    score: Callable[[nn.Module], dict[str, float]]
    exams: Sequence[TrainingExam]
    settings: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """What a resumed run must agree with."""
        return {"exams": [exam.checksum() for exam in self.exams], **self.settings}

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """The scores."""
        return self.score(network)


def validation_windows(config: RecipeConfig) -> WindowConfig:
    """Windows of the validation, on the device of the training."""
    return WindowConfig(
        overlap=config.validation_overlap,
        device=config.loop.device,
        precision=config.loop.precision,
    )


def load_sides(
    config: RecipeConfig,
    sides: tuple[Sequence[TrainingCase], Sequence[TrainingCase]],
    *,
    needs: str,
    out: Path,
    fabric: Fabric,
    progress: Progress | None = None,
) -> tuple[list[TrainingExam], list[TrainingExam]]:
    """Check all cases of both sides, prepare them once, open them.

    Parameters
    ----------
    config
        Says how exams are prepared and where prepared ones are kept.
    sides
        Cases to learn from, and cases of other people to validate on (perhaps none).
    needs
        ``"skeleton"``, ``"lesions"`` or ``"images"``: what every case must have.
    out
        Output folder of the run.
    fabric
        Its first process prepares; the others wait and open.
    progress
        Called with a line and the fraction done, on the first process.

    Raises
    ------
    TrainingError
        There is nothing to learn from, a case has problems (all are listed), or a person is on
        both sides.
    """
    if not fabric.is_global_zero:
        progress = None
    train, validation = sides
    require_other_people(train, validation)
    store = config.cache or out / "cache"
    with fabric.rank_zero_first():
        for side in (train, validation) if validation else (train,):
            require_cases(
                side,
                needs=needs,
                channels=config.input.channels,
                progress=progress,
                sound=store / "sound.json",
            )
        exams = load_exams(
            [*train, *validation], config.input, needs=needs, store=store, progress=progress
        )
    return exams[: len(train)], exams[len(train) :]


def loop_of(config: RecipeConfig, held_out: Sequence[TrainingExam]) -> LoopConfig:
    """The loop's settings; without held-out exams the last weights are kept."""
    if held_out or config.loop.select is None:
        return config.loop
    _log.warning("no validation exams: the last weights are kept, not the best")
    return config.loop.model_copy(update={"select": None})


def base_metadata(
    config: RecipeConfig,
    *,
    task: str,
    classes: Sequence[str],
    sides: tuple[Sequence[TrainingCase], Sequence[TrainingCase]],
    result: FitResult,
    **more: Any,
) -> CheckpointMetadata:
    """Metadata of a trained network; ``sides`` are the cases trained on and validated on."""
    recipe = config.to_mapping()
    recipe.pop("cache", None)  # a private folder
    recipe.pop("network", None)  # the checkpoint's spec says what was built
    simulated = are_simulated([*sides[0], *sides[1]])
    values = {
        "task": task,
        "classes": list(classes),
        "spacing_mm": config.input.spacing_mm,
        "patch": config.patch,
        "percentiles": config.input.percentiles,
        "standard": config.input.standard.to_mapping() if config.input.standard else None,
        "training_data": config.training_data or (SIMULATED if simulated else "not described"),
        "n_training_exams": len(sides[0]),
        "n_validation_exams": len(sides[1]),
        "n_training_people": _count_people(sides[0]),
        "n_validation_people": _count_people(sides[1]),
        "steps": result.best_step,
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


def are_simulated(cases: Sequence[TrainingCase]) -> bool:
    """Whether the simulator made every case (its ``exam.json`` beside the images says so)."""
    return bool(cases) and all(_is_simulated(case) for case in cases)


def _is_simulated(case: TrainingCase) -> bool:
    folders = {path.parent for path in case.images.values()}
    try:
        return all(
            json.loads((folder / "exam.json").read_text()).get("simulated") is True
            for folder in folders
        )
    except (OSError, ValueError, AttributeError):
        return False


def _count_people(cases: Sequence[TrainingCase]) -> int:
    """People behind the cases; a case of an unknown person counts as one of its own."""
    known = {case.person for case in cases if case.person is not None}
    return len(known) + sum(case.person is None for case in cases)


def save_once(checkpoint: Checkpoint, path: Path, *, config: RecipeConfig, fabric: Fabric) -> Path:
    """Write the weights from the first process; all wait until they are there.

    Without ``keep_state`` the state of the run is removed then, and not before.
    """
    if fabric.is_global_zero:
        save_checkpoint(checkpoint, path, half=config.half)
        if not config.loop.keep_state:
            path.with_name(STATE).unlink(missing_ok=True)
    fabric.barrier()
    return path


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

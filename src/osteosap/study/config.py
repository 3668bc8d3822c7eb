"""What a study does: cohorts, folds, arms and their recipes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from osteosap.cohort import CohortConfig
from osteosap.config import StageConfig
from osteosap.errors import ConfigError

__all__ = ["PROFILES", "Minutes", "StudyConfig", "load_profile"]

Arm = Literal["baseline", "ssl", "sap"]
PROFILES = ("smoke", "cpu", "paper")


class Minutes(StageConfig):
    """Expected duration of each kind of unit, for the plan alone."""

    exam: float = Field(default=0.5, ge=0.0)
    """Simulating and preprocessing one exam, on one core."""
    skeleton: float = Field(default=60.0, ge=0.0)
    self_supervised: float = Field(default=60.0, ge=0.0)
    rates: float = Field(default=60.0, ge=0.0)
    lesions: float = Field(default=30.0, ge=0.0)
    predict: float = Field(default=5.0, ge=0.0)
    """All test exams of one fold."""
    other: float = Field(default=1.0, ge=0.0)


class StudyConfig(StageConfig):
    """Settings of a study; recipes as the files in ``configs/``, without their training data."""

    cohort: CohortConfig | None = None
    """Groups ``healthy`` (split into training and validation) and ``patients``."""
    validation_share: float = Field(default=0.15, ge=0.0, lt=1.0)
    """Share of healthy people kept to validate the skeleton on, for exams of one's own."""
    n_folds: int = Field(default=7, ge=2)
    """Folds of patients, stratified by lesions; one tunes, the others are tested in turn."""
    tuning_fold: int = Field(default=0, ge=0)
    tested_folds: tuple[int, ...] | None = None
    """Folds to test; None for all but the tuning fold."""
    seed: int = Field(default=42, ge=0)
    """Of the folds and of every training."""
    arms: tuple[Arm, ...] = ("baseline", "ssl", "sap")
    skeleton: dict[str, Any] = Field(default_factory=dict)
    """Recipe of the skeleton pretraining."""
    self_supervised: dict[str, Any] = Field(default_factory=dict)
    """Recipe of the self-supervised pretraining."""
    lesions: dict[str, Any] = Field(default_factory=dict)
    """Recipe of the fine-tuning, with rates by arm where they differ."""
    search_rates: bool = False
    """Give every arm rates of its own by the same search on the tuning fold."""
    evaluation: dict[str, Any] = Field(default_factory=dict)
    """Settings of the evaluation."""
    minutes: Minutes = Minutes()

    @model_validator(mode="after")
    def _folds_agree(self) -> StudyConfig:
        tested = self.test_folds
        known = set(range(self.n_folds)) - {self.tuning_fold}
        if not tested or len(set(tested)) != len(tested) or not set(tested) <= known:
            raise ValueError(
                f"tested_folds {tested} of {self.n_folds} folds, tuning on {self.tuning_fold}: "
                "expected some of the others, each once"
            )
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ValueError("arms: name at least one, each once")
        return self

    @property
    def test_folds(self) -> tuple[int, ...]:
        """Folds that are tested."""
        if self.tested_folds is not None:
            return self.tested_folds
        return tuple(i for i in range(self.n_folds) if i != self.tuning_fold)


def load_profile(name: str) -> StudyConfig:
    """A profile that comes with osteosap, or a YAML file.

    Raises
    ------
    ConfigError
        There is no such profile or file, or it holds wrong settings.
    """
    if name in PROFILES:
        with resources.as_file(resources.files("osteosap.study") / "profiles") as folder:
            return StudyConfig.from_yaml(folder / f"{name}.yaml")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"no profile '{name}'", remedy=f"Use {', '.join(PROFILES)}, or a YAML file"
        )
    return StudyConfig.from_yaml(path)

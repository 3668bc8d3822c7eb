"""Begin a study, or go on with one: its folder, its settings, and what it says of itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osteosap.config import canonical_hash
from osteosap.errors import ConfigError, InputError, OutputError
from osteosap.evaluation.config import EvaluateConfig
from osteosap.manifest import read_json, require_folder, software_versions, write_json, write_text
from osteosap.marked_folder import says_simulated
from osteosap.study.config import StudyConfig
from osteosap.study.plan import Unit, recipe_files
from osteosap.training.finetune_lesions import FinetuneLesionsConfig
from osteosap.training.pretrain_self_supervised import PretrainSelfSupervisedConfig
from osteosap.training.pretrain_skeleton import PretrainSkeletonConfig

__all__ = ["require_data", "start_study"]

_log = logging.getLogger(__name__)


def start_study(
    out: Path, config: StudyConfig, units: Sequence[Unit], *, profile: str, data: Path | None
) -> None:
    """Write ``study.json`` and the settings of every unit.

    Parameters
    ----------
    out
        Empty, absent, or an earlier start of a study on the same data; settings may differ: what
        they change is made anew.
    config
        Checked with the recipes of all trainings before anything is run.
    units
        Its plan; the report counts no others.
    profile
        Its name, for the report.
    data
        Folder with ``healthy`` and ``patients``; None for simulated exams.

    Raises
    ------
    ConfigError
        A recipe holds wrong settings.
    InputError
        The data folder lacks a part.
    OutputError
        The folder holds something else, or a study of other data.
    """
    _require_recipes(config)
    require_data(data)
    require_folder(out)
    name = "exams" if data else "simulated"
    place = str(data.resolve()) if data else None
    before = out / "study.json"
    if before.is_file():
        known = _known(before)
        if known.get("data_folder") != place:
            raise OutputError(f"{out} is a study of other exams", remedy="Choose another folder")
    elif out.is_dir() and any(not p.name.startswith(".") for p in out.iterdir()):
        raise OutputError(f"{out} is not empty and no study", remedy="Choose an empty folder")
    content = {
        "profile": Path(profile).name,
        "data": name,
        "data_folder": place,
        "simulated": data is None or _holds_simulated(data),
        "arms": list(config.arms),
        "seeds": [config.seed],
        "units": [unit.name for unit in units],
        "config": config.to_mapping(),
        "config_hash": canonical_hash(config.to_mapping()),
        "versions": software_versions(),
    }
    if not before.is_file() or _known(before) != content:
        write_json(before, content)  # first: it marks the folder as a study
    for path, text in recipe_files(config, data=data.resolve() if data else None).items():
        if not (out / path).is_file() or (out / path).read_text(encoding="utf-8") != text:
            write_text(out / path, text)


def require_data(data: Path | None) -> None:
    """Refuse a data folder without its parts.

    Raises
    ------
    InputError
        It lacks one.
    """
    for part in ("healthy", "patients") if data else ():
        if data is not None and not (data / part).is_dir():
            raise InputError(
                f"no folder {data / part}",
                remedy="Put exam folders of healthy people and of patients there",
            )


def _known(path: Path) -> dict[str, Any]:
    """What an earlier start wrote."""
    try:
        return read_json(path)
    except InputError as error:
        raise OutputError(
            f"{path} cannot be read as JSON",
            remedy="Put it back from a copy, or choose another folder",
        ) from error


def _holds_simulated(data: Path) -> bool:
    """Whether any exam of a data folder says that it is simulated."""
    return any(map(says_simulated, data.glob("*/*/exam.json")))


def _require_recipes(config: StudyConfig) -> None:
    for kind, values in (
        (PretrainSkeletonConfig, config.skeleton),
        (PretrainSelfSupervisedConfig, config.self_supervised),
        (FinetuneLesionsConfig, config.lesions),
        (EvaluateConfig, config.evaluation),
    ):
        kind.from_mapping(dict(values))
    if config.cohort is not None:
        groups = {group.name: group for group in config.cohort.groups}
        if set(groups) != {"healthy", "patients"} or config.cohort.form != "exams":
            raise ConfigError(
                f"a cohort of {', '.join(sorted(groups))} as {config.cohort.form}",
                remedy="Name its groups 'healthy' and 'patients', as exams",
            )
        if set(groups["healthy"].split) != {"training", "validation"} or groups["patients"].split:
            raise ConfigError(
                "healthy people are to be split into training and validation, patients not at all",
                remedy="Patients are divided into folds",
            )

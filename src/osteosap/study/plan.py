"""A study as a list of units: each a command, what it waits for and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from osteosap.cohort import CohortConfig
from osteosap.errors import ConfigError
from osteosap.study.config import StudyConfig

__all__ = ["RECIPES", "Unit", "make_plan", "recipe_files"]

RECIPES = "recipes"
"""Folder of the settings of all units."""

PATIENTS = "lists/patients"
"""Folder of links to the exam folders of patients, the truth of the evaluation."""

_FOLD_SETTINGS = ("n_folds", "tuning_fold", "tested_folds", "seed", "validation_share")
_TASKS = {"skeleton": "skeleton", "self_supervised": "self-supervised"}


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Parameters
    ----------
    name
        Unique in the study.
    command
        Arguments of ``osteosap``, run in the study's folder; paths are relative to it.
    needs
        Units that must be finished before.
    makes
        Files (or patterns of files), relative to the study, that tell whether it is finished.
    reads
        Files of settings, relative to the study, that its result depends on.
    cases
        List of exams (JSON) whose names ``{case}`` in ``makes`` stands for.
    minutes
        Expected duration.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    cases: str = ""
    minutes: float = 1.0


def make_plan(config: StudyConfig, *, data: Path | None, processes: int = 1) -> list[Unit]:
    """Units of a study, every one after those that it needs.

    Parameters
    ----------
    config
        What to do.
    data
        Folder with ``healthy`` and ``patients``, exam folders in each; None simulates.
    processes
        At once, for units that use several.

    Raises
    ------
    ConfigError
        Exams are to be simulated, but there is no cohort.
    """
    units = [] if data else [_cohort_unit(config, processes)]
    first = tuple(unit.name for unit in units)
    units.append(
        Unit(
            "folds",
            ("study", "folds", "."),
            first,
            ("folds.json", "lists/*.json"),
            (f"{RECIPES}/folds.yaml",),
            minutes=config.minutes.other,
        )
    )
    wanted = {"sap": "skeleton", "ssl": "self_supervised"}
    pretrained = {name: wanted[name] for name in config.arms if name in wanted}
    # the report shows how well bones are named whatever the arms
    tasks = ("skeleton", *(task for task in pretrained.values() if task != "skeleton"))
    units += [_pretraining_unit(task, config) for task in tasks]
    for arm in config.arms:
        units += _arm_units(arm, pretrained.get(arm), config, processes)
    units += _closing_units(config, sorted(set(pretrained.values()) | {"skeleton"}))
    return units


def recipe_files(config: StudyConfig, *, data: Path | None) -> dict[str, str]:
    """Text of every file of settings, by its path in the study."""
    recipes: dict[str, Mapping[str, Any]] = {
        "skeleton": config.skeleton | {"recipe": "pretrain_skeleton"},
        "self_supervised": config.self_supervised | {"recipe": "pretrain_self_supervised"},
        "lesions": config.lesions | {"recipe": "finetune_lesions"},
    }
    files = {}
    for name, recipe in recipes.items():
        loop = {**recipe.get("loop", {}), "seed": config.seed}
        files[f"{RECIPES}/{name}.yaml"] = _text({**recipe, "loop": loop, "cache": "store"})
    if config.cohort is not None:
        files[f"{RECIPES}/cohort.yaml"] = _text(_given(config.cohort))
    files[f"{RECIPES}/evaluation.yaml"] = _text(config.evaluation)
    folds = config.model_dump(mode="json", include=set(_FOLD_SETTINGS))
    files[f"{RECIPES}/folds.yaml"] = _text({**folds, "data": str(data) if data else None})
    return files


def _cohort_unit(config: StudyConfig, processes: int) -> Unit:
    if config.cohort is None:
        raise ConfigError(
            "no cohort to simulate in this profile", remedy="Give exams of your own with --data"
        )
    n = sum(group.subjects for group in config.cohort.groups)
    recipe = f"{RECIPES}/cohort.yaml"
    return Unit(
        "cohort",
        ("simulate", "cohort", recipe, "--out", "cohort", "--processes", str(processes)),
        makes=("cohort/cohort.json",),
        reads=(recipe,),
        minutes=config.minutes.exam * n / processes,
    )


def _pretraining_unit(task: str, config: StudyConfig) -> Unit:
    recipe = f"{RECIPES}/{task}.yaml"
    return Unit(
        task,
        (
            "train", _TASKS[task], "--config", recipe, "--train", "lists/healthy_training.json",
            "--validation", "lists/healthy_validation.json", "--out", f"runs/{task}",
        ),
        ("folds",),
        (f"runs/{task}/{task}.safetensors",),
        (recipe,),
        minutes=getattr(config.minutes, task),
    )  # fmt: skip


def _arm_units(arm: str, pretrained: str | None, config: StudyConfig, processes: int) -> list[Unit]:
    recipe, units = f"{RECIPES}/lesions.yaml", []
    start: tuple[str, ...] = ()
    needs = ["folds"]
    if pretrained:
        option = f"--{_TASKS[pretrained]}"
        start = (option, f"runs/{pretrained}/{pretrained}.safetensors")
        needs.append(pretrained)
    if config.search_rates:
        out = f"runs/rates_{arm}"
        units.append(
            Unit(
                f"rates_{arm}",
                (
                    "train", "rates", "--config", recipe, "--train", "lists/rates_training.json",
                    "--validation", "lists/tuning.json", "--out", out, *start,
                ),
                tuple(needs),
                (f"{out}/lesions_fair.yaml", f"{out}/rates_{arm}.json"),
                (recipe,),
                minutes=config.minutes.rates,
            )
        )  # fmt: skip
        recipe = f"{out}/lesions_fair.yaml"
        needs.append(f"rates_{arm}")
    bones: tuple[str, ...] = ()
    if arm == config.arms[0]:  # the same for all arms
        bones = ("--weights", "runs/skeleton/skeleton.safetensors")
    for fold in config.test_folds:
        run = f"runs/{arm}_fold{fold}"
        train = Unit(
            f"{arm}_fold{fold}",
            (
                "train", "lesions", "--config", recipe,
                "--train", f"lists/training_fold{fold}.json",
                "--validation", "lists/tuning.json", "--out", run, *start,
            ),
            tuple(needs),
            (f"{run}/lesions.safetensors",),
            (recipe,),
            minutes=config.minutes.lesions,
        )  # fmt: skip
        predict = Unit(
            f"predict_{arm}_fold{fold}",
            (
                "predict", f"lists/test_fold{fold}.json",
                "--weights", f"{run}/lesions.safetensors",
                *bones, "--out", f"predictions/{arm}",
            ),
            (train.name, "skeleton"),
            (f"predictions/{arm}/{{case}}/prediction.json",),
            cases=f"lists/test_fold{fold}.json",
            minutes=config.minutes.predict,
        )  # fmt: skip
        units += [train, predict]
    units.append(
        Unit(
            f"scores_{arm}",
            (
                "evaluate", "--reference", PATIENTS, "--prediction", f"predictions/{arm}",
                "--allow-missing", "--out", f"scores/{arm}",
                "--config", f"{RECIPES}/evaluation.yaml",
                "--processes", str(processes),
            ),
            tuple(f"predict_{arm}_fold{fold}" for fold in config.test_folds),
            (f"scores/{arm}/evaluation.json",),
            (f"{RECIPES}/evaluation.yaml",),
            minutes=config.minutes.other,
        )
    )  # fmt: skip
    return units


def _closing_units(config: StudyConfig, encoders: list[str]) -> list[Unit]:
    scored = tuple(f"scores_{arm}" for arm in config.arms)
    units = []
    if len(config.arms) > 1:
        units.append(
            Unit(
                "comparison",
                (
                    "compare-methods", *(f"{arm}=predictions/{arm}" for arm in config.arms),
                    "--reference", PATIENTS, "--allow-missing", "--out", "comparison",
                    "--config", f"{RECIPES}/evaluation.yaml",
                ),
                scored,
                ("comparison/comparison.json",),
                (f"{RECIPES}/evaluation.yaml",),
                minutes=config.minutes.other,
            )
        )  # fmt: skip
    weights = [w for name in encoders for w in ("--weights", f"runs/{name}/{name}.safetensors")]
    units.append(
        Unit(
            "features",
            ("features", *weights, "--cases", "lists/test.json", "--out", "features"),
            ("folds", *encoders),
            ("features/features.json",),
            minutes=config.minutes.other,
        )
    )
    units.append(
        Unit(
            "report",
            ("study", "report", "."),
            (*scored, *(unit.name for unit in units)),
            ("report/study.html", "report/study.md"),
            minutes=config.minutes.other,
        )
    )
    return units


def _given(cohort: CohortConfig) -> dict[str, Any]:
    """Only what differs from the defaults, so that the file can be read."""
    return cohort.model_dump(mode="json", exclude_defaults=True)


def _text(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None)

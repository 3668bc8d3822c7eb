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

__all__ = ["CONTENTS", "PATIENTS", "RECIPES", "Unit", "make_plan", "recipe_files"]

RECIPES = "recipes"
"""Folder of the settings of all units."""

PATIENTS = "lists/patients"
"""Folder of links to the exam folders of patients, the truth of the evaluation."""

CONTENTS = "lists/contents"
"""Folder of checksums of every list's exams: what results depend on, wherever the exams lie."""

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
        Units whose results it uses.
    makes
        Files (or patterns of files), relative to the study, that tell whether it is finished.
    reads
        Files, relative to the study, that its result depends on.
    after
        Units that must be finished before, though all it takes from them is in ``reads``.
    cases
        List of exams (JSON) whose names ``{case}`` in ``makes`` stands for.
    folder
        Its own, set aside when it begins anew; "" where the command replaces what is out of date.
    always
        Run at every start, to see whether exams are all there and as they were.
    minutes
        Expected duration.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cases: str = ""
    folder: str = ""
    always: bool = False
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
            makes=("folds.json", "lists/*.json", f"{CONTENTS}/*.json"),
            reads=(f"{RECIPES}/folds.yaml",),
            always=True,
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
    encoders = sorted(set(pretrained.values()) | {"skeleton"})
    units += _closing_units(config, encoders, processes)
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
        always=True,
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
        after=("folds",),
        makes=(f"runs/{task}/{task}.safetensors",),
        reads=(recipe, *_contents("healthy_training", "healthy_validation")),
        folder=f"runs/{task}",
        minutes=getattr(config.minutes, task),
    )  # fmt: skip


def _arm_units(arm: str, pretrained: str | None, config: StudyConfig, processes: int) -> list[Unit]:
    recipe, units = f"{RECIPES}/lesions.yaml", []
    start: tuple[str, ...] = ()
    needs: list[str] = []
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
                after=("folds",),
                makes=(f"{out}/lesions_fair.yaml", f"{out}/rates_{arm}.json"),
                reads=(recipe, *_contents("rates_training", "tuning")),
                folder=out,
                minutes=config.minutes.rates,
            )
        )  # fmt: skip
        recipe = f"{out}/lesions_fair.yaml"
        needs.append(f"rates_{arm}")
    bones: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    if arm == config.arms[0]:  # the same for all arms
        bones, named = ("--weights", "runs/skeleton/skeleton.safetensors"), ("skeleton",)
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
            after=("folds",),
            makes=(f"{run}/lesions.safetensors",),
            reads=(recipe, *_contents(f"training_fold{fold}", "tuning")),
            folder=run,
            minutes=config.minutes.lesions,
        )  # fmt: skip
        predict = Unit(
            f"predict_{arm}_fold{fold}",
            (
                "predict", f"lists/test_fold{fold}.json",
                "--weights", f"{run}/lesions.safetensors",
                *bones, "--out", f"predictions/{arm}",
            ),
            (train.name, *named),
            after=("folds",),
            makes=tuple(
                f"predictions/{arm}/{{case}}/{name}" for name in ("prediction.json", "*.nii.gz")
            ),
            reads=_contents(f"test_fold{fold}"),
            cases=f"lists/test_fold{fold}.json",
            minutes=config.minutes.predict,
        )  # fmt: skip
        units += [train, predict]
    units.append(
        Unit(
            f"scores_{arm}",
            (
                "evaluate", "--reference", PATIENTS, "--prediction", f"predictions/{arm}",
                "--cases", "lists/test.json", "--out", f"scores/{arm}",
                "--config", f"{RECIPES}/evaluation.yaml",
                "--processes", str(processes),
            ),
            tuple(f"predict_{arm}_fold{fold}" for fold in config.test_folds),
            after=("folds",),
            makes=(f"scores/{arm}/evaluation.json",),
            reads=(f"{RECIPES}/evaluation.yaml", *_contents("test")),
            minutes=config.minutes.other,
        )
    )  # fmt: skip
    return units


def _closing_units(config: StudyConfig, encoders: list[str], processes: int) -> list[Unit]:
    scored = tuple(f"scores_{arm}" for arm in config.arms)
    units = []
    if len(config.arms) > 1:
        units.append(
            Unit(
                "comparison",
                (
                    "compare-methods", *(f"{arm}=predictions/{arm}" for arm in config.arms),
                    "--reference", PATIENTS, "--cases", "lists/test.json", "--out", "comparison",
                    "--config", f"{RECIPES}/evaluation.yaml", "--processes", str(processes),
                ),
                scored,
                makes=("comparison/comparison.json",),
                reads=(f"{RECIPES}/evaluation.yaml",),
                minutes=config.minutes.other,
            )
        )  # fmt: skip
    weights = [w for name in encoders for w in ("--weights", f"runs/{name}/{name}.safetensors")]
    units.append(
        Unit(
            "features",
            ("features", *weights, "--cases", "lists/test.json", "--out", "features"),
            tuple(encoders),
            after=("folds",),
            makes=("features/features.json",),
            reads=_contents("test"),
            minutes=config.minutes.other,
        )
    )
    units.append(
        Unit(
            "report",
            ("study", "report", "."),
            (*scored, *(unit.name for unit in units)),
            makes=("report/study.html", "report/study.md"),
            reads=("study.json",),
            minutes=config.minutes.other,
        )
    )
    return units


def _contents(*lists: str) -> tuple[str, ...]:
    return tuple(f"{CONTENTS}/{name}.json" for name in lists)


def _given(cohort: CohortConfig) -> dict[str, Any]:
    """Only what differs from the defaults, so that the file can be read."""
    return cohort.model_dump(mode="json", exclude_defaults=True)


def _text(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None)

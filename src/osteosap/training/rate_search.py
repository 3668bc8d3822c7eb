"""A learning rate of its own for every arm, by the same small search (profile ``fair``).

The paper gives each arm fixed rates; at 1e-5 a network that starts from random weights may simply
be undertrained, and an arm then wins by its rate. Here every arm tries the same pairs of rates
with the same budget on the tuning split, and the best pair goes into the recipe. The paper's pair
is tried too, for comparison; it is chosen only where it is one of the grid.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning_fabric import Fabric

from osteosap.config import canonical_hash, read_yaml
from osteosap.errors import TrainingError
from osteosap.manifest import read_json, write_json, write_text
from osteosap.models.checkpoint import load_checkpoint
from osteosap.training.arms import PAPER_RATES, Arm, ArmRates, InitialWeights
from osteosap.training.cases import TrainingCase
from osteosap.training.devices import start_fabric
from osteosap.training.finetune_lesions import FinetuneLesionsConfig, finetune_lesions
from osteosap.training.loop import Progress

__all__ = ["RateSearch", "Trial", "ranked", "search_rates", "trial_config"]

_log = logging.getLogger(__name__)

SCORES = (
    "f2",
    "sensitivity",
    "false_positives_per_exam",
    "sensitivity_1ml",
    "global_dice",
    "threshold",
)
"""Columns of the table that come from the validation."""


@dataclass(frozen=True)
class Trial:
    """One pair of rates and what came of it.

    Parameters
    ----------
    arm, encoder_learning_rate, decoder_learning_rate
        What was tried.
    in_grid, is_paper
        Whether it may be chosen; whether it is the paper's pair of this arm.
    outcome
        ``finished``, ``collapsed`` (background only, in training or in all tuning exams) or
        ``diverged`` (loss or gradient not finite).
    scores
        Of the tuning exams at the tuned threshold; empty where training was stopped.
    seconds
        Of the whole trial, its validation included.
    remark
        Why it did not finish.
    """

    arm: str
    encoder_learning_rate: float
    decoder_learning_rate: float
    in_grid: bool
    is_paper: bool
    outcome: str
    scores: dict[str, float | None]
    seconds: float
    remark: str = ""

    @property
    def rates(self) -> ArmRates:
        """The pair."""
        return ArmRates(
            encoder_learning_rate=self.encoder_learning_rate,
            decoder_learning_rate=self.decoder_learning_rate,
        )

    @property
    def f2(self) -> float:
        """Mean F2; NaN where there is none."""
        value = self.scores.get("f2")
        return math.nan if value is None else value

    def to_row(self) -> dict[str, Any]:
        """Row of the table."""
        row = asdict(self)
        row |= {name: row["scores"].get(name) for name in SCORES}
        del row["scores"]
        return row


@dataclass(frozen=True)
class RateSearch:
    """All trials of an arm, best first; the chosen rates; the recipe that holds them."""

    trials: list[Trial]
    best: ArmRates
    recipe: Path


def search_rates(
    config: FinetuneLesionsConfig,
    train: Sequence[TrainingCase],
    tuning: Sequence[TrainingCase],
    *,
    out: Path,
    initial: InitialWeights | None = None,
    progress: Progress | None = None,
) -> RateSearch:
    """Try all pairs of rates for one arm and write the recipe with the best.

    Parameters
    ----------
    config
        Recipe; its block ``rate_search`` says which rates and how many steps.
    train, tuning
        Exams to learn from, and exams of other people to score on: the tuning split, never a
        test split.
    out
        Folder; ``rates_ARM.csv`` and ``.json`` hold the table, ``lesions_fair.yaml`` the recipe.
        A search that finds its finished trials there does not repeat them.
    initial
        What the arm starts from.
    progress
        Called with a line and the fraction done.

    Raises
    ------
    TrainingError
        No exams to score on, or no pair of the grid gave a score (the table is written).
    CheckpointError
        The weights to start from cannot be read, or do not fit.
    """
    initial = initial or InitialWeights()
    if not tuning:
        raise TrainingError(
            "no exams to score rates on", remedy="Give the tuning split with --validation"
        )
    fabric = start_fabric(config.loop)
    search = _Search(config, train, tuning, out=out, initial=initial)
    trials = []
    pairs = _pairs(config, initial.arm)
    for number, rates in enumerate(pairs):
        told = _told(progress, f"{number + 1} of {len(pairs)}, {rates.name()}")
        trials.append(search.run(rates, fabric, told))
    trials = ranked(trials)
    recipe = out / "lesions_fair.yaml"
    if fabric.is_global_zero:
        _write_table(trials, out, initial.arm)
    best = _chosen(trials, config)
    if best.decoder_learning_rate in (min(config.rate_search.rates), max(config.rate_search.rates)):
        _log.warning(
            "the best decoder rate, %g, lies at the edge of those tried: the best may lie beyond",
            best.decoder_learning_rate,
        )
    if fabric.is_global_zero:
        _write_recipe(config, best, initial.arm, recipe)
    fabric.barrier()
    return RateSearch(trials, best, recipe)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Best first: by F2, then by the Dice of all lesions, then the gentler decoder and encoder.

    A trial without a score (collapsed, diverged, F2 undefined) comes after all that have one.
    """

    def key(trial: Trial) -> tuple[bool, float, float, float, float]:
        missing = trial.outcome != "finished" or math.isnan(trial.f2)
        dice = trial.scores.get("global_dice")
        return (
            missing,
            0.0 if missing else -trial.f2,
            0.0 if dice is None or math.isnan(dice) else -dice,
            trial.decoder_learning_rate,
            trial.encoder_learning_rate,
        )

    return sorted(trials, key=key)


def trial_config(config: FinetuneLesionsConfig, rates: ArmRates) -> FinetuneLesionsConfig:
    """The recipe of a trial: these rates, the search's steps, warm-up in proportion."""
    steps = config.rate_search.steps
    share = steps / config.loop.steps
    loop = config.loop.model_dump() | {
        "steps": steps,
        "max_minutes": None,
        "warmup_steps": round(config.loop.warmup_steps * min(1.0, share)),
        "validate_every": 0,
        "select": None,
        "keep_state": False,
        "tensorboard": False,
        "collapse_window": max(1, min(config.loop.collapse_window, steps // 16)),
    }
    values = config.model_dump() | rates.model_dump() | {"loop": loop, "arms": {}}
    return FinetuneLesionsConfig.from_mapping(values)


class _Search:
    """Runs the trials of one arm, or reads those that are finished."""

    def __init__(
        self,
        config: FinetuneLesionsConfig,
        train: Sequence[TrainingCase],
        tuning: Sequence[TrainingCase],
        *,
        out: Path,
        initial: InitialWeights,
    ) -> None:
        self.config = config
        self.train, self.tuning = train, tuning
        self.initial = initial
        self.store = config.cache or out / "cache"
        self.folder = out / "trials" / initial.arm
        digest = load_checkpoint(initial.path).sha256 if initial.path else None
        self.key = [initial.arm, digest, _fingerprint(train), _fingerprint(tuning)]

    def run(self, rates: ArmRates, fabric: Fabric, progress: Progress | None) -> Trial:
        """Train with these rates and score on the tuning exams."""
        config = trial_config(self.config, rates).model_copy(update={"cache": self.store})
        settings = config.to_mapping()
        del settings["cache"], settings["loop"]["device"], settings["loop"]["workers"]
        key = canonical_hash([settings, *self.key])
        folder = self.folder / rates.name()
        done = _finished_before(folder / "trial.json", key)
        if done is not None:
            return _trial(done, self.config, self.initial.arm, rates)
        started = time.perf_counter()
        outcome, remark, scores = "finished", "", {}
        try:
            path = finetune_lesions(
                config,
                self.train,
                self.tuning,
                out=folder,
                initial=self.initial,
                fabric=fabric,
                progress=progress,
            )
            scores = load_checkpoint(path).metadata.validation
            if not scores.get("sensitivity") and not scores.get("false_positives_per_exam"):
                outcome, remark = "collapsed", "no lesion is predicted in any tuning exam"
        except TrainingError as error:
            outcome, remark = _outcome_of(error), error.problem
        fabric.barrier()
        seconds = round(time.perf_counter() - started, 1)
        values = {"outcome": outcome, "scores": scores, "seconds": seconds, "remark": remark}
        if fabric.is_global_zero:
            write_json(folder / "trial.json", {"key": key, **values})
            for name in ("lesions.safetensors", "state.pt"):  # the table is all that is kept
                (folder / name).unlink(missing_ok=True)
        return _trial(values, self.config, self.initial.arm, rates)


def _told(progress: Progress | None, trial: str) -> Progress | None:
    """Progress that says which trial runs."""
    if progress is None:
        return None
    return lambda text, done: progress(f"{trial}: {text}", done)


def _pairs(config: FinetuneLesionsConfig, arm: Arm) -> list[ArmRates]:
    """The grid, then the paper's pair of this arm unless it is in the grid."""
    grid = config.rate_search.grid()
    paper = PAPER_RATES[arm]
    return grid if paper in grid else [*grid, paper]


def _outcome_of(error: TrainingError) -> str:
    """Word for a training that ended early; other errors go on."""
    if "background only" in error.problem:
        return "collapsed"
    if "not finite" in error.problem or "loss is" in error.problem:
        return "diverged"
    raise error


def _trial(
    values: Mapping[str, Any], config: FinetuneLesionsConfig, arm: Arm, rates: ArmRates
) -> Trial:
    return Trial(
        arm=arm,
        **rates.model_dump(),
        in_grid=rates in config.rate_search.grid(),
        is_paper=rates == PAPER_RATES[arm],
        outcome=values["outcome"],
        scores=values["scores"],
        seconds=values["seconds"],
        remark=values["remark"],
    )


def _finished_before(path: Path, key: str) -> dict[str, Any] | None:
    """A finished trial's record, if it is one of the same search."""
    if not path.is_file():
        return None
    values = read_json(path)
    if values.get("key") != key:
        raise TrainingError(
            f"{path} belongs to a search with another recipe, exams or initial weights",
            remedy="Choose another output folder",
        )
    return values


def _fingerprint(cases: Sequence[TrainingCase]) -> str:
    """Which files the cases are, without their names."""
    files = []
    for case in cases:
        paths = [*case.images.values(), case.skeleton, case.lesions]
        stats = [(str(p.resolve()), p.stat()) for p in paths if p is not None]
        files.append(sorted([name, s.st_size, s.st_mtime_ns] for name, s in stats))
    return canonical_hash(sorted(files))


def _chosen(trials: Sequence[Trial], config: FinetuneLesionsConfig) -> ArmRates:
    """Rates of the best trial of the grid that has a score above 0."""
    for trial in trials:
        if trial.in_grid and trial.outcome == "finished" and trial.f2 > 0.0:
            return trial.rates
    outcomes = ", ".join(f"{t.rates.name()} {t.outcome}" for t in trials if t.in_grid)
    raise TrainingError(
        f"no pair of rates found a lesion in {config.rate_search.steps} steps ({outcomes})",
        remedy="Add rates to rate_search.rates, or raise rate_search.steps",
    )


def _write_table(trials: Sequence[Trial], out: Path, arm: Arm) -> None:
    rows = [{"rank": number + 1} | trial.to_row() for number, trial in enumerate(trials)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / f"rates_{arm}.csv", text.getvalue())
    write_json(out / f"rates_{arm}.json", {"arm": arm, "trials": rows})


def _write_recipe(config: FinetuneLesionsConfig, best: ArmRates, arm: Arm, path: Path) -> None:
    """The recipe with the rates found, beside those of other arms that were searched before."""
    values = config.model_dump(mode="json", exclude_unset=True)
    values["recipe"] = config.recipe
    arms = {name: rates.model_dump() for name, rates in config.arms.items()}
    if path.is_file():
        before = read_yaml(path)
        found = before.pop("arms", {})
        if before == {k: v for k, v in values.items() if k != "arms"}:
            arms |= found
        elif lost := sorted(set(found) - {arm}):
            _log.warning(
                "%s held rates of %s, searched with other settings: they are left out",
                path,
                ", ".join(lost),
            )
    values["arms"] = arms | {arm: best.model_dump()}
    head = "# Written by 'osteosap train rates': each arm with the rates that scored best on the\n"
    head += "# tuning exams, among the same pairs and with the same number of steps.\n"
    write_text(path, head + yaml.safe_dump(values, sort_keys=False, default_flow_style=None))

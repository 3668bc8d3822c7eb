"""Cohorts of simulated people: groups by seed, sites and time points, and who is on which side.

A person is a seed; all scans of a person lie on one side of the split. Sides are balanced by the
number of lesions, which is known before anything is simulated.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import NonNegativeInt, PositiveInt

from osteosap import __version__
from osteosap.config import StageConfig
from osteosap.errors import ConfigError, OsteosapError, OutputError
from osteosap.manifest import require_folder, require_own, write_json
from osteosap.marked_folder import says_simulated
from osteosap.preprocess.config import PreprocessConfig
from osteosap.simulated_study import (
    exam_hash,
    is_complete,
    simulate_to_folder,
    simulate_training_exam,
)

if TYPE_CHECKING:
    from osteosap.simulate import SimulationConfig

__all__ = [
    "CohortConfig",
    "CohortExam",
    "CohortGroup",
    "cohort_state",
    "plan_cohort",
    "simulate_cohort",
]

log = logging.getLogger(__name__)

COHORT_FILE = "cohort.json"
Side = Literal["training", "validation", "test"]
Form = Literal["exams", "studies"]
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class CohortGroup(StageConfig):
    """People of one kind.

    Parameters
    ----------
    name
        Folder of the group.
    subjects
        How many people.
    first_seed
        Seed of the first; the others count on from it.
    sites
        Virtual sites at which every one of them is scanned.
    in_turn
        Scan everyone at one of the sites, in turn, instead of at all of them.
    scans
        Scans of a person at each site.
    split
        People on each side ("training", "validation", "test"); together all of them. Without it
        all are on the side "all".
    simulation
        Settings of this group, laid over those of the cohort block by block. Seed, site, scan and
        time point are the cohort's to give.
    """

    name: str = pydantic.Field(pattern=r"^[a-z][a-z0-9_]*$")
    subjects: PositiveInt
    first_seed: NonNegativeInt
    sites: tuple[Literal["a", "b", "c"], ...] = pydantic.Field(default=("a",), min_length=1)
    in_turn: bool = False
    scans: PositiveInt = 1
    split: dict[Side, NonNegativeInt] = pydantic.Field(default_factory=dict)
    simulation: dict[str, Any] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check_split(self) -> CohortGroup:
        if self.split and sum(self.split.values()) != self.subjects:
            raise ValueError(
                f"the split of '{self.name}' holds {sum(self.split.values())} people, "
                f"the group {self.subjects}"
            )
        if len(set(self.sites)) != len(self.sites):
            raise ValueError(f"'{self.name}' names a site twice")
        _refuse_reserved(self.simulation)
        return self


class CohortConfig(StageConfig):
    """A cohort.

    Parameters
    ----------
    form
        "exams": preprocessed, for training; "studies": DICOM with truth beside, for the main job.
    groups
        Who; no seed in two of them.
    simulation
        Settings of all exams.
    preprocess
        How training exams are made of their stations; best as the product does it.
    """

    form: Form = "exams"
    groups: tuple[CohortGroup, ...] = pydantic.Field(min_length=1)
    simulation: dict[str, Any] = pydantic.Field(default_factory=dict)
    preprocess: PreprocessConfig = PreprocessConfig()

    @pydantic.model_validator(mode="after")
    def _check_people(self) -> CohortConfig:
        seen: dict[int, str] = {}
        for group in self.groups:
            for seed in range(group.first_seed, group.first_seed + group.subjects):
                if seed in seen:
                    raise ValueError(
                        f"person {seed} is in '{seen[seed]}' and in '{group.name}': a person "
                        "may be on one side only, so move first_seed"
                    )
                seen[seed] = group.name
        _refuse_reserved(self.simulation)
        for group in self.groups:
            sides = [side for side, count in group.split.items() if count]
            if len(sides) > 1 and "anatomy" in {**self.simulation, **group.simulation}:
                raise ValueError(
                    f"'{group.name}' splits the bodies of one label map: they are one person; "
                    "give each side a group with a map of its own"
                )
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError(f"two groups of one name among {', '.join(names)}")
        return self


@dataclass(frozen=True)
class CohortExam:
    """One exam of a cohort, as ``cohort.json`` lists it.

    Parameters
    ----------
    folder
        Relative to the cohort: group, side, and a name of seed, site, scan and time point.
    group, side
        Where the person belongs; "all" without a split.
    seed, site, scan, timepoint
        Person and examination.
    n_lesions
        Lesions at the first time point, as drawn.
    hash
        Of everything the exam depends on.
    """

    folder: str
    group: str
    side: str
    seed: int
    site: str
    scan: int
    timepoint: int
    n_lesions: int
    hash: str


def plan_cohort(config: CohortConfig) -> tuple[tuple[CohortExam, SimulationConfig], ...]:
    """Every exam of a cohort with its settings, in order; nothing is simulated.

    Raises
    ------
    ConfigError
        Settings of the simulation that are not known or contradict each other.
    """
    plan = []
    for group in config.groups:
        people = [_person(config, group, group.first_seed + n) for n in range(group.subjects)]
        sides = _sides([count for _, count in people], group.split)
        for (first, count), side in zip(people, sides, strict=True):
            for site, scan, timepoint, settings in _scans(config, group, first):
                name = f"subject_{first.seed:06d}_{site}"
                name += f"_scan{scan}" if group.scans > 1 else ""
                name += f"_time{timepoint}" if first.timepoints > 1 else ""
                folder = f"{group.name}/{side}/{name}"
                exam = CohortExam(
                    folder, group.name, side, first.seed, site, scan, timepoint, count,
                    exam_hash(settings, form=config.form, preprocess=config.preprocess),
                )  # fmt: skip
                plan.append((exam, settings))
    return tuple(plan)


def cohort_state(config: CohortConfig, out: Path) -> tuple[tuple[CohortExam, bool], ...]:
    """Every exam of a cohort, and whether a complete one is there already; nothing is made.

    Raises
    ------
    ConfigError, OutputError
        What :func:`simulate_cohort` would refuse.
    """
    exams = [exam for exam, _ in plan_cohort(config)]
    _refuse_strangers(out, {exam.folder for exam in exams})
    return tuple((e, is_complete(out / e.folder, e.hash, form=config.form)) for e in exams)


def simulate_cohort(
    config: CohortConfig,
    out: Path,
    *,
    processes: int = 1,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[tuple[CohortExam, ...], int]:
    """Make all exams of a cohort below ``out``, and ``cohort.json``.

    An exam that is complete and was made by the same settings and package version is kept. One
    that fails does not stop the others.

    Parameters
    ----------
    config
        Who and how.
    out
        Folder of the cohort.
    processes
        Exams made at the same time.
    progress
        Called with the finished exam's folder and the fraction done.

    Returns
    -------
    exams, made_now
        All exams, and how many of them this call made.

    Raises
    ------
    ConfigError
        Settings that do not fit together, or ``processes`` is not positive.
    OutputError
        The folder cannot be written, or would lose files that no earlier call wrote.
    OsteosapError
        Exams failed: which and why; the others stay, and the next call takes up from there.
    """
    if processes < 1:
        raise ConfigError(f"{processes} processes", remedy="Give at least one process")
    plan = plan_cohort(config)
    require_folder(out)
    own = {COHORT_FILE} if says_simulated(out / COHORT_FILE) else set()
    require_own(out, [COHORT_FILE], own)
    _refuse_strangers(out, {exam.folder for exam, _ in plan})
    report = progress or _silent
    made = 0
    failed: list[tuple[str, OsteosapError]] = []
    for done, (exam, outcome) in enumerate(_made(plan, out, config, processes), start=1):
        if isinstance(outcome, OsteosapError):
            failed.append((exam.folder, outcome))
            log.warning("%s failed: %s", exam.folder, outcome)
        else:
            made += outcome
        report(exam.folder, done / len(plan))
    if failed:
        folder, error = failed[0]
        raise OutputError(
            f"{len(failed)} of {len(plan)} exams failed (the log names them), {folder} first: "
            f"{error.problem}",
            remedy=f"{error.remedy}. Then run the same command again: finished exams are kept",
        )
    write_json(
        out / COHORT_FILE,
        {
            "simulated": True,
            "osteosap": __version__,
            "config": _without_paths(config.to_mapping()),
            "exams": [asdict(exam) for exam, _ in plan],
        },
    )
    return tuple(exam for exam, _ in plan), made


def _person(config: CohortConfig, group: CohortGroup, seed: int) -> tuple[SimulationConfig, int]:
    """Settings of a person's first scan and the number of lesions it will have."""
    from osteosap.simulate import SimulationConfig, planned_lesions

    turn = (seed - group.first_seed) % len(group.sites) if group.in_turn else 0
    values = _laid_over(config.simulation, group.simulation)
    settings = SimulationConfig.from_mapping({**values, "seed": seed, "site": group.sites[turn]})
    return settings, planned_lesions(settings)


def _scans(
    config: CohortConfig, group: CohortGroup, first: SimulationConfig
) -> Iterator[tuple[str, int, int, SimulationConfig]]:
    from osteosap.simulate import SimulationConfig

    values = _laid_over(config.simulation, group.simulation) | {"seed": first.seed}
    for site in (first.site,) if group.in_turn else group.sites:
        for scan in range(group.scans):
            for timepoint in range(first.timepoints):
                key = {"site": site, "scan": scan, "timepoint": timepoint}
                yield site, scan, timepoint, SimulationConfig.from_mapping({**values, **key})


def _died(error: BaseException) -> OsteosapError:
    """What no error of ours explains: memory, a killed process, a defect."""
    return OutputError(
        f"{type(error).__name__}: {error}",
        remedy="Use fewer processes if memory ran out; otherwise report it with the log",
    )


def _refuse_reserved(simulation: dict[str, Any]) -> None:
    given = {"seed", "site", "scan", "timepoint"} & simulation.keys()
    if given:
        raise ValueError(
            f"{', '.join(sorted(given))} in 'simulation': the cohort gives these; use first_seed, "
            "sites, scans and timepoints"
        )


def _laid_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Settings laid over others, block by block."""
    merged = dict(base)
    for name, value in over.items():
        inner = merged.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _laid_over(inner, value)  # noqa: PLW2901
        merged[name] = value
    return merged


def _without_paths(values: Any) -> Any:
    """The same without label maps, whose names may name a person; each exam has their checksum."""
    if isinstance(values, dict):
        kept = {name: _without_paths(value) for name, value in values.items()}
        return {**kept, "anatomy": "a label map"} if "anatomy" in kept else kept
    return [_without_paths(value) for value in values] if isinstance(values, list) else values


def _refuse_strangers(out: Path, planned: set[str]) -> None:
    """Refuse exams of another plan in the same folder: a person could lie on two sides."""
    found = {p.parent.relative_to(out).as_posix() for p in out.glob("*/*/subject_*/exam.json")}
    strangers = sorted(found - planned)
    if strangers:
        raise OutputError(
            f"{len(strangers)} exams in {out} are not of this cohort, {strangers[0]} among them",
            remedy="Choose another folder, or move these exams away: a person may be on one "
            "side only",
        )


def _sides(counts: Sequence[int], split: dict[Side, int]) -> list[str]:
    """Side of each person: in order of lesions, always the side that lags most behind."""
    if not split:
        return ["all"] * len(counts)
    order = sorted(range(len(counts)), key=lambda i: (counts[i], i))
    given = dict.fromkeys(split, 0)
    sides = [""] * len(counts)
    for rank, person in enumerate(order, start=1):
        lag = {s: split[s] * rank / len(counts) - given[s] for s in split if given[s] < split[s]}
        side = max(lag, key=lambda s: (lag[s], split[s]))
        given[side] += 1
        sides[person] = side
    return sides


def _made(
    plan: Sequence[tuple[CohortExam, SimulationConfig]],
    out: Path,
    config: CohortConfig,
    processes: int,
) -> Iterator[tuple[CohortExam, bool | OsteosapError]]:
    """Yield every exam as it is finished, and whether it was made now, or why it failed."""
    if processes == 1:
        for exam, settings in plan:
            yield exam, _make_one(exam, settings, out, config)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context)
    try:
        with _one_thread_each():  # processes start as work is submitted
            futures = {
                pool.submit(_make_one, exam, settings, out, config): exam for exam, settings in plan
            }
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], _died(error) if error else future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_one(
    exam: CohortExam, settings: SimulationConfig, out: Path, config: CohortConfig
) -> bool | OsteosapError:
    """Make one exam, unless a complete one is there; whether it was made now, or why it failed."""
    folder = out / exam.folder
    started = time.monotonic()
    try:
        if is_complete(folder, exam.hash, form=config.form):
            log.info("%s: complete, made by the same settings, kept", exam.folder)
            return False
        if config.form == "exams":
            simulate_training_exam(settings, folder, preprocess=config.preprocess)
        else:
            simulate_to_folder(settings, folder, formats=("dicom",))
    except OsteosapError as error:
        return error
    except Exception as error:  # a fault of ours in one exam must not cost the others
        log.exception("%s", exam.folder)
        return _died(error)
    log.info("%s: %.0f s", exam.folder, time.monotonic() - started)
    return True


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep processes that start in here to one thread each: the pool is the parallelism.

    Libraries read these variables while they are imported, before a worker runs any of our code.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _silent(_message: str, _fraction: float) -> None:
    pass

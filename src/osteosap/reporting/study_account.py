"""What a study did, for its report: arms, exams, folds, times, and how the paper differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from osteosap.reporting.paper_results import N_TEST_PATIENTS
from osteosap.reporting.study_results import StudyResults
from osteosap.reporting.study_runs import Run
from osteosap.reporting.study_scores import arm_title, as_number
from osteosap.reporting.study_tables import NOTHING

__all__ = [
    "arm_rows",
    "cards",
    "comparability",
    "facts",
    "fold_rows",
    "n_kept_aside",
    "pretraining_rows",
    "rate_note",
    "time_rows",
]

Row = dict[str, Any]

_STARTS = {
    "baseline": "random",
    "ssl": "encoder of the self-supervised training; decoder random",
    "sap": "encoder and decoder of the skeleton network; new head",
}


def cards(study: StudyResults) -> list[Row]:
    """Numbers at the top of the page."""
    most = max(study.scores.values(), key=lambda arm: len(arm.exams), default=None)
    exams = most.exams if most else ()
    n_lesions = sum(x.side == "reference" for e in exams for x in e.lesions)
    limit = most.find("lesions_large", "min_volume_ml") if most else None
    n_large = most.find("lesions_large", "n_reference") if most else None
    large = f"{n_large} of at least {limit:g} mL" if limit and n_large is not None else ""
    minutes = sum(unit.seconds for unit in study.units) / 60
    return [
        {"label": "Exams tested", "value": str(len(exams)),
         "note": f"of {len({e.patient for e in exams})} {_people(study)}"},
        {"label": "Reference lesions", "value": str(n_lesions), "note": large},
        {"label": "Arms", "value": str(len(study.arms)),
         "note": ", ".join(arm_title(a) for a in study.arms)},
        {"label": "Trainings", "value": str(len(study.runs)), "note": _folds_note(study)},
        {"label": "Time", "value": _duration(minutes) if study.units else NOTHING,
         "note": f"of {len(study.units)} finished units, each since its last start"},
    ]  # fmt: skip


def facts(study: StudyResults) -> dict[str, str]:
    """Names and values of what identifies the study."""
    started = [unit.started for unit in study.units if unit.started]
    return {
        "Profile": study.profile,
        "Exams": "simulated by osteosap; there is no patient" if study.simulated else "real",
        "Seeds": ", ".join(map(str, study.seeds)) or NOTHING,
        "Settings (SHA-256)": study.config_hash[:16] or NOTHING,
        "First unit started": min(started, default=NOTHING).replace("T", " "),
        "Last unit started": max(started, default=NOTHING).replace("T", " "),
        "Versions": ", ".join(f"{k} {v}" for k, v in study.versions.items()) or NOTHING,
    }


def arm_rows(study: StudyResults) -> list[Row]:
    """One row an arm: where it starts, how fast it learns, how often it was trained."""
    rows = []
    for arm in study.arms:
        runs = [run for run in study.runs.values() if run.arm == arm]
        finished = [run for run in runs if run.metadata]
        rows.append(
            {
                "arm": arm_title(arm),
                "start": _STARTS.get(arm, "not known"),
                "rates": _rates(study, arm, finished),
                "trainings": f"{len(finished)} of {len(runs)} finished" if runs else NOTHING,
                "steps": _span(run.metadata.get("steps") for run in finished),
                "exams": _span(run.metadata.get("n_training_exams") for run in finished),
                "threshold": _span(run.metadata.get("threshold") for run in finished),
            }
        )
    return rows


def pretraining_rows(study: StudyResults) -> list[Row]:
    """One row a pretraining that was logged."""
    titles = {"skeleton": "Skeleton", "self_supervised": "Self-supervised"}
    return [
        {
            "what": title,
            "steps": _span([run.metadata.get("steps")]),
            "exams": _span([run.metadata.get("n_training_exams")]),
            "aside": _span([run.metadata.get("n_validation_exams")]),
            "rate": _span([(run.metadata.get("recipe") or {}).get("learning_rate")]),
            "network": str(run.network.get("architecture", NOTHING)),
        }
        for name, title in titles.items()
        if (run := study.runs.get(name))
    ]


def n_kept_aside(study: StudyResults) -> str:
    """How many healthy people the skeleton network is validated on; "" where unknown."""
    run = study.runs.get("skeleton")
    n = run.metadata.get("n_validation_exams") if run else None
    return str(n) if n else ""


def rate_note(study: StudyResults) -> str:
    """What a search for rates has seen of exams that are tested; "" where there was none."""
    if not study.config.get("search_rates"):
        return ""
    return (
        "Every arm's rates were found by the same search: trained on the exams that the first "
        "tested fold learns from, exams of other tested folds among them, and chosen on the tuning "
        "fold."
    )


def fold_rows(study: StudyResults) -> list[Row]:
    """One row a fold: exams, lesions, what for."""
    if study.folds is None:
        return []
    rows = []
    for number, fold in enumerate(study.folds.folds):
        counts = study.fold_counts[number] if number < len(study.fold_counts) else {}
        tested = any(run.fold == number for run in study.runs.values())
        use = "tested in turn" if tested or not study.runs else "learnt from only"
        rows.append(
            {
                "fold": str(number),
                "exams": str(counts.get("n_exams", len(fold))),
                "lesions": str(counts.get("n_lesions", NOTHING)),
                "use": "tunes thresholds; never tested" if number == study.folds.tuning else use,
            }
        )
    return rows


def comparability(study: StudyResults) -> tuple[str, str]:
    """Why our numbers and the paper's are not comparable, and what would make them so."""
    reasons = []
    if study.simulated:
        reasons.append("our exams are simulated, the paper's are of patients")
    else:
        reasons.append("our exams are not the paper's")
    network, patch, spacing = _network(study)
    name = str(network.get("architecture", "unknown"))
    if name != "swin_unetr" or network.get("feature_size", 48) != 48:
        reasons.append(f"our network is {name}, the paper's Swin UNETR with feature size 48")
    if patch and tuple(patch) != (96, 96, 96):
        size = " x ".join(map(str, patch))
        reasons.append(f"it sees patches of {size} voxels instead of 96 x 96 x 96")
    if spacing:
        told = " x ".join(f"{s:g}" for s in spacing)
        reasons.append(f"voxels are {told} mm (the paper states no size)")
    reasons += _other_measures(study)
    tolerance = next((arm.settings.get("nsd_tolerance_mm") for arm in study.scores.values()), None)
    if tolerance is not None:
        reasons.append(f"surface Dice allows {tolerance:g} mm (the paper states no tolerance)")
    n = max((len(arm.exams) for arm in study.scores.values()), default=0)
    if n != N_TEST_PATIENTS:
        reasons.append(
            f"we test {n} exam{'s' if n != 1 else ''}, the paper {N_TEST_PATIENTS} patients"
        )
    remedy = (
        "They would be comparable if the profile 'paper' ran on the paper's own exams and marks "
        "(private), or, as a replication, on real exams of alike patients, marked by readers in "
        "the same way: osteosap reproduce --profile paper --data DIR."
    )
    return "Ours and the paper's numbers are not comparable: " + "; ".join(reasons) + ".", remedy


def time_rows(study: StudyResults) -> list[Row]:
    """Finished units and their time by kind."""
    kinds: dict[str, list[float]] = {}
    for unit in study.units:
        kinds.setdefault(_kind(unit.name), []).append(unit.seconds)
    return [
        {"kind": kind, "n": str(len(seconds)), "time": _duration(sum(seconds) / 60)}
        for kind, seconds in kinds.items()
    ]


def _network(study: StudyResults) -> tuple[Mapping[str, Any], Any, Any]:
    """Network, patch and spacing of the fine-tuning: of a weight file, else of the settings."""
    for run in study.runs.values():
        if run.arm and run.network:
            return run.network, run.metadata.get("patch"), run.metadata.get("spacing_mm")
    lesions = study.config.get("lesions") or {}
    spacing = (lesions.get("input") or {}).get("spacing_mm")
    return lesions.get("network") or {}, lesions.get("patch"), spacing


def _other_measures(study: StudyResults) -> list[str]:
    """Settings of the evaluation under which rows of the paper's table mean something else."""
    settings = next((arm.settings for arm in study.scores.values()), {})
    volume = as_number(settings.get("min_volume_ml"), 1.0)
    limit = as_number(settings.get("froc_limit"), 15.0)
    reasons = []
    if volume != 1.0:
        reasons.append(f"our large lesions are of at least {volume:g} mL instead of 1 mL")
    if limit != 15.0:
        reasons.append(f"our FROC area ends at {limit:g} false positives per exam instead of 15")
    return reasons


def _people(study: StudyResults) -> str:
    return "simulated people" if study.simulated else "patients"


def _folds_note(study: StudyResults) -> str:
    if study.folds is None:
        return "folds not known"
    return f"{len(study.folds.folds)} folds, fold {study.folds.tuning} tunes"


def _rates(study: StudyResults, arm: str, runs: Iterable[Run]) -> str:
    """Encoder / decoder: of the weights, else of the settings."""
    known = {run.rates for run in runs if run.rates}
    if not known:
        lesions: Mapping[str, Any] = study.config.get("lesions") or {}
        own = (lesions.get("arms") or {}).get(arm) or lesions
        given = [as_number(own.get(f"{part}_learning_rate")) for part in ("encoder", "decoder")]
        if any(map(math.isnan, given)):
            searched = study.config.get("search_rates")
            return "found by a search that is not finished" if searched else NOTHING
        known = {(given[0], given[1])}
    return "; ".join(f"{encoder:.2g} / {decoder:.2g}" for encoder, decoder in sorted(known))


def _span(values: Iterable[Any]) -> str:
    """A number, or the smallest to the largest."""
    found = sorted({float(v) for v in values if isinstance(v, int | float)})
    if not found:
        return NOTHING
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"


def _kind(name: str) -> str:
    starts = {
        "cohort": "simulating and preprocessing",
        "folds": "folds and lists",
        "skeleton": "skeleton pretraining",
        "self_supervised": "self-supervised pretraining",
        "rates_": "search for rates",
        "predict_": "prediction",
        "scores_": "scores",
        "comparison": "comparison",
        "features": "features",
    }
    for start, kind in starts.items():
        if name.startswith(start):
            return kind
    return f"fine-tuning, {arm_title(name.partition('_fold')[0])}" if "_fold" in name else name


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{math.ceil(60 * minutes)} s"
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"

"""``osteosap simulate``: examinations with known truth."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from osteosap.simulate import SimulationConfig

__all__ = ["app"]

app = typer.Typer(
    help="Simulate whole-body MRI with known truth.", no_args_is_help=True, rich_markup_mode=None
)


class Format(StrEnum):
    """What to write."""

    DICOM = "dicom"
    NIFTI = "nifti"


class Site(StrEnum):
    """Virtual sites."""

    A = "a"
    B = "b"
    C = "c"


class Profile(StrEnum):
    """How a patient does over time."""

    RESPONSE = "response"
    STABLE = "stable disease"
    PROGRESSION = "progression"
    MIXED = "mixed response"


_OUT = Annotated[Path, typer.Option("--out", help="Output folder; made if absent.")]
_CONFIG = Annotated[
    Path | None, typer.Option("--config", help="Settings of the simulation (YAML).")
]

_SEED = Annotated[int | None, typer.Option("--seed", min=0, help="Another seed, another person.")]
_LESIONS = Annotated[
    int | None, typer.Option("--lesions", min=0, help="How many; 0 is a healthy person.")
]
_SPACING = Annotated[
    float | None, typer.Option("--spacing", min=1.0, help="Voxel edge of the truth in mm.")
]
_SITE = Annotated[Site | None, typer.Option("--site", help="Virtual site that scans.")]
_ANATOMY = Annotated[
    Path | None, typer.Option("--anatomy", help="Label map (NIfTI) that becomes the person.")
]
_LEGEND = Annotated[Path | None, typer.Option("--legend", help="Names of its labels (JSON).")]
_FORMATS = Annotated[
    list[Format] | None, typer.Option("--format", help="Repeat for several; all by default.")
]


@app.command()
def exam(
    out: _OUT,
    seed: _SEED = None,
    lesions: _LESIONS = None,
    spacing: _SPACING = None,
    site: _SITE = None,
    anatomy: _ANATOMY = None,
    legend: _LEGEND = None,
    config: _CONFIG = None,
    formats: _FORMATS = None,
) -> None:
    """One examination: DICOM study, NIfTI exam and truth."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.simulated_study import FORMATS, simulate_to_folder

    chosen = tuple(item.value for item in formats) if formats else FORMATS
    settings = _settings(
        config,
        seed=seed,
        lesions=lesions,
        body_spacing_mm=_voxel(spacing),
        site=site.value if site else None,
        anatomy=_anatomy(anatomy, legend),
    )
    with progress_bar() as progress:
        simulate_to_folder(settings, out, formats=chosen, progress=progress)
    results.print(f"simulated examination of seed {settings.seed}: {out}", markup=False)


@app.command()
def patient(
    out: _OUT,
    timepoints: Annotated[
        int | None, typer.Option("--timepoints", min=2, help="Examinations over time; 3.")
    ] = None,
    profile: Annotated[
        Profile | None, typer.Option("--profile", help="How the patient does; drawn if left out.")
    ] = None,
    seed: _SEED = None,
    lesions: _LESIONS = None,
    spacing: _SPACING = None,
    site: _SITE = None,
    anatomy: _ANATOMY = None,
    legend: _LEGEND = None,
    config: _CONFIG = None,
    formats: _FORMATS = None,
) -> None:
    """One patient over time: an examination each time, and the course of every lesion."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.simulated_patient import simulate_patient_to_folder
    from osteosap.simulated_study import FORMATS

    chosen = tuple(item.value for item in formats) if formats else FORMATS
    settings = _settings(
        config,
        seed=seed,
        lesions=lesions,
        body_spacing_mm=_voxel(spacing),
        timepoints=timepoints,
        profile=profile.value if profile else None,
        site=site.value if site else None,
        anatomy=_anatomy(anatomy, legend),
        otherwise={"timepoints": 3},
    )
    with progress_bar() as progress:
        simulate_patient_to_folder(settings, out, formats=chosen, progress=progress)
    results.print(
        f"simulated patient of seed {settings.seed} at {settings.timepoints} time points: {out}",
        markup=False,
    )


@app.command()
def cohort(
    config: Annotated[Path, typer.Argument(help="Who and how (YAML).", metavar="CONFIG")],
    out: _OUT,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Exams at the same time, 3 GB each.")
    ] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be made, and make nothing.")
    ] = False,
) -> None:
    """People in groups, at sites and time points, split by person; finished exams are kept."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.cohort import CohortConfig, cohort_state, simulate_cohort

    settings = CohortConfig.from_yaml(config)
    if plan:
        state = cohort_state(settings, out)
        for exam, there in state:
            first = " at the first time" if exam.timepoint else ""
            what = "kept" if there else "to be made"
            text = f"{exam.folder}: {exam.n_lesions} lesions{first}, {what}"
            results.print(text, markup=False)
        kept = sum(there for _, there in state)
        results.print(f"{len(state)} exams, {len(state) - kept} to be made", markup=False)
        return
    with progress_bar() as progress:
        exams, made = simulate_cohort(settings, out, processes=processes, progress=progress)
    results.print(f"{len(exams)} exams in {out}, {made} of them made now", markup=False)


def _voxel(spacing: float | None) -> tuple[float, float, float] | None:
    return None if spacing is None else (spacing, spacing, spacing)


def _anatomy(labels: Path | None, legend: Path | None) -> dict[str, Path] | None:
    """Both files or none of them."""
    if labels is None and legend is None:
        return None
    if labels is None or legend is None:
        from osteosap.errors import ConfigError

        raise ConfigError(
            "--anatomy and --legend go together",
            remedy='Give the label map and its names, a JSON file such as {"1": "sacrum"}',
        )
    return {"labels": labels, "legend": legend}


def _settings(
    config: Path | None, *, otherwise: dict[str, object] | None = None, **options: object
) -> SimulationConfig:
    """Settings of a file, over them the options that were given (not None), under both defaults."""
    from osteosap.config import read_yaml
    from osteosap.simulate import SimulationConfig

    values = read_yaml(config) if config else {}
    given = {name: value for name, value in options.items() if value is not None}
    return SimulationConfig.from_mapping((otherwise or {}) | values | given)

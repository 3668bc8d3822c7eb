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


_OUT = Annotated[Path, typer.Option("--out", help="Output folder; made if absent.")]
_CONFIG = Annotated[
    Path | None, typer.Option("--config", help="Settings of the simulation (YAML).")
]


@app.command()
def exam(
    out: _OUT,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Another seed, another man.")
    ] = None,
    lesions: Annotated[
        int | None, typer.Option("--lesions", min=0, help="How many; 0 is a healthy man.")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option("--spacing", min=1.0, help="Voxel edge of the truth in mm.")
    ] = None,
    config: _CONFIG = None,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="Repeat for several; all by default.")
    ] = None,
) -> None:
    """One examination: DICOM study, NIfTI exam and truth."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.cohort import FORMATS, simulate_to_folder

    chosen = tuple(item.value for item in formats) if formats else FORMATS
    voxel = None if spacing is None else (spacing, spacing, spacing)
    settings = _settings(config, seed=seed, lesions=lesions, body_spacing_mm=voxel)
    with progress_bar() as progress:
        simulate_to_folder(settings, out, formats=chosen, progress=progress)
    results.print(f"simulated examination of seed {settings.seed}: {out}", markup=False)


@app.command()
def cohort(
    out: _OUT,
    count: Annotated[int, typer.Option("--count", min=1, help="How many exams.")],
    first_seed: Annotated[int | None, typer.Option("--first-seed", min=0)] = None,
    config: _CONFIG = None,
    processes: Annotated[int, typer.Option("--processes", min=1)] = 1,
) -> None:
    """Exams for training, preprocessed as the main job does it; finished ones are kept."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.cohort import simulate_cohort

    first = _settings(config, seed=first_seed).seed
    configs = [_settings(config, seed=seed) for seed in range(first, first + count)]
    with progress_bar() as progress:
        entries = simulate_cohort(configs, out, processes=processes, progress=progress)
    made = sum(entry.made_now for entry in entries)
    results.print(f"{len(entries)} exams in {out}, {made} of them made now", markup=False)


def _settings(config: Path | None, **options: object) -> SimulationConfig:
    """Settings of a file, and over them the options that were given (not None)."""
    from osteosap.config import read_yaml
    from osteosap.simulate import SimulationConfig

    values = read_yaml(config) if config else {}
    given = {name: value for name, value in options.items() if value is not None}
    return SimulationConfig.from_mapping(values | given)

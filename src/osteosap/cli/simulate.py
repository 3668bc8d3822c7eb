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
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another man.")] = 0,
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
    from osteosap.cli.console import results
    from osteosap.cohort import FORMATS, simulate_to_folder

    chosen = tuple(item.value for item in formats) if formats else FORMATS
    changes: dict[str, object] = {} if lesions is None else {"lesions": lesions}
    if spacing is not None:
        changes["body_spacing_mm"] = (spacing, spacing, spacing)
    settings = _settings(config, seed).model_copy(update=changes)
    simulate_to_folder(settings, out, formats=chosen)
    results.print(f"simulated examination of seed {seed}: {out}", markup=False)


@app.command()
def cohort(
    out: _OUT,
    count: Annotated[int, typer.Option("--count", min=1, help="How many exams.")],
    first_seed: Annotated[int, typer.Option("--first-seed", min=0)] = 0,
    config: _CONFIG = None,
    processes: Annotated[int, typer.Option("--processes", min=1)] = 1,
) -> None:
    """Exams for training, preprocessed as the main job does it; finished ones are kept."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.cohort import simulate_cohort

    configs = [_settings(config, seed) for seed in range(first_seed, first_seed + count)]
    with progress_bar() as progress:
        entries = simulate_cohort(configs, out, processes=processes, progress=progress)
    made = sum(entry.made_now for entry in entries)
    results.print(f"{len(entries)} exams in {out}, {made} of them made now", markup=False)


def _settings(config: Path | None, seed: int) -> SimulationConfig:
    from osteosap.config import read_yaml
    from osteosap.simulate import SimulationConfig

    values = read_yaml(config) if config else {}
    return SimulationConfig.from_mapping({**values, "seed": seed})

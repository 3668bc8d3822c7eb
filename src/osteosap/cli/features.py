"""``osteosap features``: what encoders make of lesions before any fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from osteosap.training.features import EncoderFeatures

__all__ = ["features"]


def features(
    weights: Annotated[
        list[Path], typer.Option("--weights", help="Weight file of an encoder; may be repeated.")
    ],
    cases: Annotated[
        Path,
        typer.Option(
            "--cases",
            help="Exams with lesion maps: folder of exam folders, nnU-Net raw folder, list.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for features.csv, .json, .npz and .png.")
    ],
    random: Annotated[
        bool, typer.Option("--random/--no-random", help="Add an encoder that never learnt.")
    ] = True,
    perplexity: Annotated[
        float, typer.Option("--perplexity", help="Of the t-SNE; lowered for few patches.")
    ] = 15.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of patches and t-SNE.")] = 42,
) -> None:
    """Compare encoders before fine-tuning: features of lesion and background patches."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.manifest import require_folder
    from osteosap.training.cases import find_cases
    from osteosap.training.features import FeatureConfig, compare_encoders, write_features
    from osteosap.training.recipes import are_simulated

    require_folder(out)
    config = FeatureConfig.from_mapping({"random": random, "perplexity": perplexity, "seed": seed})
    found_cases = find_cases(cases)
    simulated = are_simulated(found_cases)
    with progress_bar() as progress:
        found = compare_encoders(
            weights, found_cases, store=out / "cache", config=config, progress=progress
        )
    write_features(found, out, simulated=simulated)
    for encoder in found:
        results.print(f"{encoder.name}: {' '.join(encoder.lines()[:1])}", markup=False)
    figure = _draw(found, out, simulated=simulated)
    results.print(
        f"figure: {figure}" if figure else f"numbers: {out / 'features.json'}", markup=False
    )


def _draw(found: Sequence[EncoderFeatures], out: Path, *, simulated: bool) -> Path | None:
    """Write the figure; None, with a remark in the log, where a library for it is missing."""
    from osteosap.manifest import write_bytes

    try:
        from osteosap.reporting.feature_figure import FeaturePanel, feature_figure
    except ModuleNotFoundError as error:
        logging.getLogger(__name__).warning("no figure: %s is not installed", error.name)
        return None
    panels = [
        FeaturePanel(encoder.name, encoder.plane, encoder.is_lesion, encoder.lines())
        for encoder in found
        if encoder.plane is not None
    ]
    if not panels:
        return None
    note = "simulated examinations; " if simulated else ""
    note += (
        "apart: distance of the centroids; within: mean distance of two lesion | background patches"
    )
    path = out / "features.png"
    write_bytes(path, feature_figure(panels, note=note))
    return path

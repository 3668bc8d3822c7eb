"""``osteosap predict``: exams to masks, with weights of one's choice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["predict"]


def predict(
    exams: Annotated[
        Path,
        typer.Argument(help="A folder of exam folders, a CSV or JSON list, or an nnU-Net dataset."),
    ],
    weights: Annotated[
        list[Path],
        typer.Option("--weights", help="A lesion and/or a skeleton network (give it twice)."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for one folder an exam.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Names of exams; all when left out.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Of lesions; otherwise the one tuned with the weights."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Predict exams that are already preprocessed; no measurements, no report."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.errors import InputError
    from osteosap.inference.candidates import CandidateConfig
    from osteosap.inference.cohort import predict_exams
    from osteosap.inference.predict import SegmentConfig
    from osteosap.manifest import require_folder
    from osteosap.training.cases import find_cases

    require_folder(out)
    found = {case.name: dict(case.images) for case in find_cases(exams)}
    absent = sorted(set(only or ()) - set(found))
    if absent:
        raise InputError(
            f"no exam called {absent[0]} among the {len(found)} of {exams}",
            remedy="Name exams that are there",
        )
    chosen = {name: files for name, files in found.items() if not only or name in only}
    with progress_bar() as progress:
        predict_exams(
            chosen,
            out,
            weights=weights,
            config=SegmentConfig.from_mapping({"device": device}),
            candidates=CandidateConfig.from_mapping({"threshold": threshold}),
            progress=progress,
        )
    results.print(f"predictions of {len(chosen)} exams: {out}", markup=False)

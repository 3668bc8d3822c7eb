r"""The lesion threshold of weights, tuned on exams that they never saw, and written into a copy.

During a training the threshold is tuned on exams at the voxel size of the network. This asks again
at the exams' own voxels, as a user's studies have them: the best mean F2 over exams.

::

    osteosap simulate cohort configs/cohort_tuning.yaml --out tuning
    python benchmarks/tune_threshold.py --weights runs/sap/lesions.safetensors \
        --exams tuning/patients/all --out lesions.safetensors
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from osteosap.cli.console import progress_bar, set_up_logging
from osteosap.evaluation.matching import as_components
from osteosap.inference.candidates import CandidateConfig
from osteosap.inference.cohort import predict_exams
from osteosap.inference.predict import SegmentConfig
from osteosap.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from osteosap.training.cases import find_cases
from osteosap.training.validation import THRESHOLDS, Case, tune_threshold
from osteosap.volume import read_nifti

LOW = (0.02, 0.05)
"""Tried besides what a training tries: networks that see few lesions say little of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--exams", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    set_up_logging(quiet=False)
    found = find_cases(options.exams)
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        predict_exams(
            {case.name: dict(case.images) for case in found},
            Path(folder) / "predicted",
            weights=[options.weights],
            config=SegmentConfig(),
            candidates=CandidateConfig(),
            progress=progress,
        )
        maps = {case.name: (case.lesions, Path(folder) / "predicted" / case.name) for case in found}
        threshold, scores = tune_threshold(cases(maps, progress), thresholds=(*LOW, *THRESHOLDS))
    print(json.dumps(scores, indent=1))
    checkpoint = load_checkpoint(options.weights)
    tuned = checkpoint.metadata.model_copy(
        update={
            "threshold": threshold,
            "validation": checkpoint.metadata.validation
            | {f"tuning_{name}": value for name, value in scores.items() if "_at_" not in name},
        }
    )
    save_checkpoint(Checkpoint(checkpoint.spec, tuned, checkpoint.state), options.out)


def cases(
    maps: dict[str, tuple[Path | None, Path]], progress: Callable[[str, float], None]
) -> Iterator[Case]:
    """One exam after the other; they are large."""
    for done, (name, (lesion_map, prediction)) in enumerate(maps.items()):
        progress(f"score {name}", done / len(maps))
        if lesion_map is None:
            raise SystemExit(f"{name} has no map of lesions")
        lesions = read_nifti(lesion_map, channel="lesions")
        probability = read_nifti(prediction / "lesion_probability.nii.gz", channel="probability")
        reference = as_components(lesions.array[0].astype("int32")).astype("int32")
        yield Case(reference, probability.array[0], lesions.grid.voxel_volume_ml)


if __name__ == "__main__":
    main()

"""A small study and small networks with random weights, so that the whole chain runs in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from osteosap import workflow
from osteosap.anatomy import N_CLASSES, REGIONS
from osteosap.exam import Exam, write_exam
from osteosap.geometry import make_affine
from osteosap.reporting import figures, quality_figures
from osteosap.stage import Stage, StageContext, StageResult
from osteosap.volume import Volume, stack
from osteosap.workflow import STAGES, RunConfig


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with figures of few pixels: drawing them takes most of the time of a small run."""
    for module in (figures, quality_figures):
        monkeypatch.setattr(module, "DPI", 20)


@pytest.fixture(scope="session")
def body_exam() -> Exam:
    """An elliptic cylinder of tissue with a bright spot; ADC 1000 um2/s."""
    shape, spacing = (36, 26, 40), 10.0
    affine = make_affine((spacing,) * 3, (-175.0, -125.0, 0.0))
    x, y, z = np.indices(shape)
    body = ((x - 17.5) / 15) ** 2 + ((y - 12.5) / 10) ** 2 < 1
    spot = (x - 20) ** 2 + (y - 9) ** 2 + (z - 20) ** 2 < 7
    noise = np.random.default_rng(3).normal(0, 6, shape)
    t1 = np.where(body, 300 + noise, np.abs(noise))
    b1000 = np.where(body, 60 + noise, np.abs(noise)) + 300 * spot
    adc = np.where(body, 1000.0, 0.0)
    named = {"t1": t1, "b1000": b1000, "adc": adc}
    images = [Volume.single(a.astype(np.float32), affine, n) for n, a in named.items()]
    return Exam(stack(images))


@pytest.fixture
def study(body_exam: Exam, tmp_path: Path) -> Path:
    """A NIfTI study that says it is simulated."""
    folder = tmp_path / "study"
    write_exam(body_exam, folder)
    (folder / "exam.json").write_text(json.dumps({"simulated": True}))
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks with random weights: nothing is expected of what they find."""
    import torch

    from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata, save_checkpoint
    from osteosap.models.networks import NetworkSpec, build_network, named_weights

    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    names = {
        "skeleton": ("background", *(region.name for region in REGIONS)),
        "lesions": ("background", "lesion"),
    }
    assert len(names["skeleton"]) == N_CLASSES
    for task, classes in names.items():
        torch.manual_seed(0)
        spec = NetworkSpec(filters=(4, 6, 8), n_classes=len(classes))
        metadata = CheckpointMetadata(
            task=task,
            classes=classes,
            spacing_mm=(20.0, 20.0, 20.0),
            patch=(16, 16, 16),
            threshold=0.5 if task == "lesions" else None,
        )
        paths[task] = folder / f"{task}.safetensors"
        network = build_network(spec)
        save_checkpoint(Checkpoint(spec, metadata, named_weights(network)), paths[task])
    return paths


@pytest.fixture
def config(weights: dict[str, Path]) -> RunConfig:
    """Settings of the main job with the small networks."""
    return RunConfig.from_mapping(
        {
            "segment": {
                "skeleton_weights": str(weights["skeleton"]),
                "lesion_weights": str(weights["lesions"]),
                "device": "cpu",
            }
        }
    )


@pytest.fixture
def calls_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Start to note the names of the stages that really run, in order."""

    def start() -> list[str]:
        calls: list[str] = []

        def spied(stage: Stage) -> Stage:
            def run(context: StageContext) -> StageResult:
                calls.append(stage.name)
                return stage.run(context)

            return Stage(**{**vars(stage), "run": run})

        monkeypatch.setattr(workflow, "STAGES", tuple(spied(stage) for stage in STAGES))
        return calls

    return start

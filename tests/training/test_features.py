from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from osteosap.cli import main
from osteosap.errors import CheckpointError, TrainingError
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata, save_checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.transfer import encoder_state
from osteosap.training.cases import find_cases
from osteosap.training.features import FeatureConfig, compare_encoders

SPEC = NetworkSpec(filters=(4, 8, 8), n_classes=10)
CLASSES = tuple("abcdefghij")


def save(path: Path, task: str, spec: NetworkSpec = SPEC, spacing: float = 8.0) -> Path:
    torch.manual_seed(len(task))
    network = build_network(spec)
    alone = task == "self_supervised"
    metadata = CheckpointMetadata.from_mapping(
        {
            "task": task,
            "classes": () if alone else CLASSES[: spec.n_classes],
            "spacing_mm": (spacing,) * 3,
            "patch": (16, 16, 16),
        }
    )
    state = encoder_state(network, spec) if alone else named_weights(network)
    save_checkpoint(Checkpoint(spec, metadata, state), path, half=False)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    tasks = ("skeleton", "self_supervised")
    return {task: save(folder / f"{task}.safetensors", task) for task in tasks}


def test_encoders_see_the_same_patches_as_many_of_each_class(
    files: dict[str, Path], tiny_exams: list[Path], tmp_path: Path
) -> None:
    cases = find_cases(tiny_exams[0].parent)
    config = FeatureConfig(perplexity=3.0, device="cpu")
    found = compare_encoders([*files.values()], cases, store=tmp_path, config=config)
    assert [encoder.name for encoder in found] == ["sap", "ssl", "random"]
    for encoder in found:
        assert encoder.features.shape == (12, 8)  # two exams with three lesions each
        assert encoder.is_lesion.sum() == 6
        assert np.array_equal(encoder.exam, found[0].exam)
        assert encoder.plane is not None
        assert encoder.in_features.n_background == 6
    assert not np.allclose(found[0].features, found[1].features)
    again = compare_encoders([files["skeleton"]], cases, store=tmp_path, config=config)
    assert np.array_equal(again[0].features, found[0].features)


def test_the_command_writes_table_numbers_and_figure(
    files: dict[str, Path],
    tiny_exams: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = [text for path in files.values() for text in ("--weights", str(path))]
    cases = str(tiny_exams[0].parent)
    code = main(["features", *weights, "--cases", cases, "--out", str(tmp_path), "--no-random"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "perplexity lowered" in printed.err
    rows = list(csv.DictReader((tmp_path / "features.csv").read_text().splitlines()))
    assert len(rows) == 24
    assert {row["kind"] for row in rows} == {"lesion", "background"}
    numbers = json.loads((tmp_path / "features.json").read_text())
    assert numbers["simulated"] is False
    points = np.array(
        [[float(r["tsne_1"]), float(r["tsne_2"])] for r in rows if r["encoder"] == "ssl"]
    )
    lesion = np.array([r["kind"] == "lesion" for r in rows if r["encoder"] == "ssl"])
    apart = np.linalg.norm(points[lesion].mean(axis=0) - points[~lesion].mean(axis=0))
    stored = numbers["encoders"]["ssl"]["tsne"]["centroid_distance"]
    assert stored == pytest.approx(apart, rel=1e-3)
    assert np.load(tmp_path / "features.npz")["sap"].shape == (12, 8)
    assert (tmp_path / "features.png").read_bytes()[:4] == b"\x89PNG"


def test_encoders_that_expect_other_images_are_not_compared(
    files: dict[str, Path], tiny_exams: list[Path], tmp_path: Path
) -> None:
    other = save(tmp_path / "fine.safetensors", "skeleton", spacing=4.0)
    cases = find_cases(tiny_exams[0].parent)
    with pytest.raises(CheckpointError, match="prepared in different ways"):
        compare_encoders([files["skeleton"], other], cases, store=tmp_path, config=FeatureConfig())
    with pytest.raises(TrainingError, match="no lesion in any of 1"):
        compare_encoders(
            [files["skeleton"]], cases[2:], store=tmp_path, config=FeatureConfig(device="cpu")
        )


def test_simulated_exams_are_called_so(
    files: dict[str, Path], tiny_exams: list[Path], tmp_path: Path
) -> None:
    for folder in tiny_exams[:2]:
        shutil.copytree(folder, tmp_path / "cases" / folder.name)
        (tmp_path / "cases" / folder.name / "exam.json").write_text('{"simulated": true}')
    arguments = ["--weights", str(files["skeleton"]), "--cases", str(tmp_path / "cases")]
    assert main(["-q", "features", *arguments, "--out", str(tmp_path / "out"), "--no-random"]) == 0
    assert json.loads((tmp_path / "out" / "features.json").read_text())["simulated"] is True

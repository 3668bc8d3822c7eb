"""Predicting folders of exams: as the main job does it, resumable, nothing of others replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from osteosap.cli import main
from osteosap.errors import CheckpointError, InputError, OutputError
from osteosap.exam import Exam, write_exam
from osteosap.geometry import make_affine
from osteosap.inference import cohort
from osteosap.inference.candidates import CandidateConfig
from osteosap.inference.cohort import predict_exams
from osteosap.inference.predict import SegmentConfig, segment_exam
from osteosap.manifest import read_json
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata, save_checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.volume import Volume, read_nifti


def _images(seed: int) -> Volume:
    rng = np.random.default_rng(seed)
    shape = (28, 20, 30)
    i, j, _ = np.indices(shape)
    inside = ((i - 14) / 10) ** 2 + ((j - 10) / 7) ** 2 < 1
    t1 = np.where(inside, 300.0, 3.0) + rng.random(shape)
    b1000 = np.where(inside, 60.0 + i, 1.0) + rng.random(shape)
    affine = make_affine((6.0,) * 3, (-80.0, -60.0, 0.0))
    return Volume(np.stack([t1, b1000]).astype(np.float32), affine, ("t1", "b1000"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for task, n in (("skeleton", 10), ("lesions", 2)):
        spec = NetworkSpec(filters=(4, 4, 4), n_classes=n)
        metadata = CheckpointMetadata.from_mapping(
            {
                "task": task, "classes": [str(i) for i in range(n)], "spacing_mm": (8, 8, 8),
                "patch": (16, 16, 16), "threshold": None if n > 2 else 0.4,
            }
        )  # fmt: skip
        torch.manual_seed(0)
        paths[task] = folder / f"{task}.safetensors"
        save_checkpoint(Checkpoint(spec, metadata, named_weights(build_network(spec))), paths[task])
    return paths


@pytest.fixture
def exams(tmp_path: Path) -> dict[str, dict[str, Path]]:
    found = {}
    for seed in (1, 2):
        folder = tmp_path / "exams" / f"exam_{seed}"
        write_exam(Exam(_images(seed)), folder)
        found[folder.name] = {name: folder / f"{name}.nii.gz" for name in ("t1", "b1000")}
    return found


def test_maps_are_those_of_the_main_job(
    tmp_path: Path, exams: dict[str, dict[str, Path]], weights: dict[str, Path]
) -> None:
    first, _ = predict_exams(exams, tmp_path / "out", weights=list(weights.values()))
    expected = segment_exam(
        _images(1),
        config=SegmentConfig(
            skeleton_weights=weights["skeleton"], lesion_weights=weights["lesions"]
        ),
    )
    found = read_nifti(first / "lesion_probability.nii.gz", channel="lesion_probability")
    np.testing.assert_array_equal(found.array, expected.lesion_probability.array)
    skeleton = read_nifti(first / "skeleton.nii.gz", channel="skeleton")
    np.testing.assert_array_equal(skeleton.array, expected.skeleton.array)
    lesions = read_nifti(first / "lesions.nii.gz", channel="lesions").array
    np.testing.assert_array_equal(lesions > 0, expected.lesion_probability.array >= 0.4)
    assert read_json(first / "prediction.json")["candidates"]["threshold"] == 0.4


def test_finished_exams_are_kept_and_others_made_anew(
    tmp_path: Path, exams: dict[str, dict[str, Path]], weights: dict[str, Path]
) -> None:
    only = [weights["lesions"]]
    folders = predict_exams(exams, tmp_path / "out", weights=only)
    before = [(f / "lesions.nii.gz").stat().st_mtime_ns for f in folders]
    predict_exams(exams, tmp_path / "out", weights=only)
    assert [(f / "lesions.nii.gz").stat().st_mtime_ns for f in folders] == before
    predict_exams(exams, tmp_path / "out", weights=only, candidates=CandidateConfig(threshold=0.9))
    assert [(f / "lesions.nii.gz").stat().st_mtime_ns for f in folders] != before
    assert not (folders[0] / "skeleton.nii.gz").exists()


def test_a_lost_mask_is_made_again(
    tmp_path: Path, exams: dict[str, dict[str, Path]], weights: dict[str, Path]
) -> None:
    first, _ = predict_exams(exams, tmp_path / "out", weights=[weights["lesions"]])
    before = (first / "lesions.nii.gz").read_bytes()
    (first / "lesions.nii.gz").unlink()
    predict_exams(exams, tmp_path / "out", weights=[weights["lesions"]])
    assert (first / "lesions.nii.gz").read_bytes() == before


@pytest.mark.parametrize("moves", [1, 2])
def test_killed_while_files_are_moved_it_goes_on(
    tmp_path: Path,
    exams: dict[str, dict[str, Path]],
    weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    moves: int,
) -> None:
    """As far as a kill would let it come: nothing after it is run, no record, no clearing up."""
    only, done = {"exam_1": exams["exam_1"]}, []
    move = cohort.move_into_place

    def killed(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target.name)
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(cohort, "move_into_place", killed)
        with pytest.raises(KeyboardInterrupt):
            predict_exams(only, tmp_path / "out", weights=[weights["lesions"]])
    assert len(done) == moves
    (folder,) = predict_exams(only, tmp_path / "out", weights=[weights["lesions"]])
    names = {p.name for p in folder.iterdir()}
    assert names == {"lesions.nii.gz", "lesion_probability.nii.gz", "prediction.json"}


def test_files_of_others_and_wrong_weights_are_refused(
    tmp_path: Path, exams: dict[str, dict[str, Path]], weights: dict[str, Path]
) -> None:
    mine = tmp_path / "out" / "exam_1" / "lesions.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"a reader's own")
    with pytest.raises(OutputError):
        predict_exams(exams, tmp_path / "out", weights=[weights["lesions"]])
    assert mine.read_bytes() == b"a reader's own"
    with pytest.raises(CheckpointError, match="a second time"):
        predict_exams(exams, tmp_path / "o", weights=[weights["lesions"]] * 2)
    with pytest.raises(CheckpointError, match="no weights"):
        predict_exams(exams, tmp_path / "o", weights=[])
    for odd in ({}, {"../out": exams["exam_1"]}):
        with pytest.raises(InputError, match="with names"):
            predict_exams(odd, tmp_path / "o", weights=[weights["lesions"]])


def test_the_command_predicts_the_exams_that_are_named(
    tmp_path: Path, exams: dict[str, dict[str, Path]], weights: dict[str, Path]
) -> None:
    arguments = ["predict", str(tmp_path / "exams"), "--weights", str(weights["lesions"])]
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out), "--only", "exam_2"]) == 0
    assert [p.name for p in out.iterdir()] == ["exam_2"]
    assert main([*arguments, "--out", str(out), "--only", "absent"]) == 1
    assert main(["predict", str(tmp_path / "none"), *arguments[2:], "--out", str(out)]) == 1

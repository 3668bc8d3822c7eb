from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from osteosap.config import StageConfig
from osteosap.errors import CheckpointError, ConfigError, TrainingError
from osteosap.exam import read_exam
from osteosap.inference.predict import SegmentConfig, segment_exam
from osteosap.models.checkpoint import load_checkpoint
from osteosap.models.networks import NetworkSpec
from osteosap.training.finetune_lesions import FinetuneLesionsConfig, finetune_lesions
from osteosap.training.pretrain_skeleton import PretrainSkeletonConfig, pretrain_skeleton
from osteosap.training.recipes import git_sha

RECIPES: dict[str, type[StageConfig]] = {
    "pretrain_skeleton": PretrainSkeletonConfig,
    "finetune_lesions": FinetuneLesionsConfig,
}
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(p for p in CONFIGS.glob("*.yaml") if not p.stem.startswith(("simulate_", "cohort_")))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_recipe_file_loads_and_its_patch_fits_its_network(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    config = RECIPES[values["recipe"]].from_yaml(path)
    assert isinstance(config, PretrainSkeletonConfig | FinetuneLesionsConfig)
    config.network.require_patch(config.patch)
    assert config.to_mapping()["recipe"] == values["recipe"]


def test_there_are_recipes_for_a_cpu_for_smoke_and_as_in_the_paper() -> None:
    names = {p.stem for p in FILES}
    assert {"skeleton_cpu", "skeleton_smoke", "skeleton_paper"} <= names
    assert {"lesions_cpu", "lesions_smoke", "lesions_paper_sap", "lesions_paper_baseline"} <= names


def test_a_lesion_recipe_is_not_taken_for_a_skeleton_recipe() -> None:
    path = next(p for p in FILES if p.stem == "lesions_cpu")
    with pytest.raises(ConfigError, match="recipe"):
        PretrainSkeletonConfig.from_yaml(path)


def _smoke(name: str, config: type[StageConfig]) -> StageConfig:
    path = next(p for p in FILES if p.stem == name)
    values = yaml.safe_load(path.read_text())
    values["loop"] |= {"device": "cpu", "precision": "float32"}
    return config.from_mapping(values)


@pytest.fixture(scope="module")
def skeleton_weights(tiny_exams: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = _smoke("skeleton_smoke", PretrainSkeletonConfig)
    assert isinstance(config, PretrainSkeletonConfig)
    out = tmp_path_factory.mktemp("skeleton")
    return pretrain_skeleton(config, tiny_exams[:2], tiny_exams[2:], out=out)


def test_skeleton_weights_describe_themselves(skeleton_weights: Path) -> None:
    checkpoint = load_checkpoint(skeleton_weights)
    metadata = checkpoint.metadata
    assert metadata.task == "skeleton"
    assert metadata.classes[4] == "pelvis"
    assert metadata.spacing_mm == (8.0, 8.0, 8.0)
    assert "simulated" in metadata.training_data
    assert (metadata.n_training_exams, metadata.n_validation_exams) == (2, 1)
    assert metadata.steps == 8
    assert metadata.recipe["recipe"] == "pretrain_skeleton"
    assert "cache" not in metadata.recipe
    assert "dice_merged" in metadata.validation
    assert checkpoint.spec.channels == ("t1", "b1000")


def test_lesions_are_learnt_from_the_skeleton_and_both_segment_an_exam(
    tiny_exams: list[Path], skeleton_weights: Path, tmp_path: Path
) -> None:
    config = _smoke("lesions_smoke", FinetuneLesionsConfig)
    assert isinstance(config, FinetuneLesionsConfig)
    path = finetune_lesions(
        config,
        tiny_exams[:1],
        tiny_exams[1:],
        out=tmp_path,
        skeleton_checkpoint=skeleton_weights,
    )
    metadata = load_checkpoint(path).metadata
    assert metadata.arm == "sap"
    assert metadata.initial_weights_sha256 == load_checkpoint(skeleton_weights).sha256
    assert metadata.threshold is not None
    exam = read_exam(tiny_exams[2])
    weights = SegmentConfig(
        skeleton_weights=skeleton_weights, lesion_weights=path, device="cpu", precision="float32"
    )
    result = segment_exam(exam.images, config=weights)
    assert result.skeleton.grid.same_as(exam.images.grid)


def test_the_baseline_starts_from_random_weights_and_is_repeatable(
    tiny_exams: list[Path], tmp_path: Path
) -> None:
    config = _smoke("lesions_smoke", FinetuneLesionsConfig)
    assert isinstance(config, FinetuneLesionsConfig)
    states = []
    for name in ("one", "two"):
        path = finetune_lesions(config, tiny_exams[:2], [], out=tmp_path / name)
        checkpoint = load_checkpoint(path)
        assert checkpoint.metadata.arm == "baseline"
        assert checkpoint.metadata.initial_weights_sha256 is None
        assert checkpoint.metadata.threshold == 0.5
        states.append(checkpoint.state)
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_what_cannot_be_trained_is_refused_before_the_first_step(
    tiny_exams: list[Path], tmp_path: Path
) -> None:
    config = _smoke("lesions_smoke", FinetuneLesionsConfig)
    assert isinstance(config, FinetuneLesionsConfig)
    with pytest.raises(TrainingError, match="no lesion in any of 1"):
        finetune_lesions(config, tiny_exams[2:], [], out=tmp_path)
    odd = config.model_copy(update={"patch": (30, 24, 32)})
    with pytest.raises(CheckpointError, match="multiples of 8"):
        finetune_lesions(odd, tiny_exams[:1], [], out=tmp_path)
    with pytest.raises(TrainingError, match="no exams"):
        pretrain_skeleton(
            PretrainSkeletonConfig(network=NetworkSpec(filters=(4, 8, 8))), [], [], out=tmp_path
        )


def test_the_commit_is_read_from_the_checkout_or_unknown(tmp_path: Path) -> None:
    assert git_sha(tmp_path) is None
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text("# pack\nabc123 refs/heads/main\n")
    assert git_sha(tmp_path) == "abc123"
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text("def456\n")
    assert git_sha(tmp_path) == "def456"


def test_nobody_is_on_both_sides(tiny_exams: list[Path], tmp_path: Path) -> None:
    config = _smoke("skeleton_smoke", PretrainSkeletonConfig)
    assert isinstance(config, PretrainSkeletonConfig)
    with pytest.raises(TrainingError, match="both trained and validated"):
        pretrain_skeleton(config, tiny_exams[:2], tiny_exams[1:], out=tmp_path)


def test_a_network_must_read_the_channels_that_are_prepared() -> None:
    with pytest.raises(ConfigError, match="channels"):
        FinetuneLesionsConfig.from_mapping({"input": {"channels": ["b1000", "t1"]}})

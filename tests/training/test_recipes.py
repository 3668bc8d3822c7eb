from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from osteosap.cli import main
from osteosap.errors import CheckpointError, ConfigError, OutputError, TrainingError
from osteosap.exam import read_exam
from osteosap.inference.predict import SegmentConfig, segment_exam
from osteosap.models.checkpoint import load_checkpoint
from osteosap.models.networks import NetworkSpec
from osteosap.training import finetune_lesions as finetune_module
from osteosap.training import recipes
from osteosap.training.arms import ARMS, PAPER_RATES, InitialWeights
from osteosap.training.cases import TrainingCase, find_cases
from osteosap.training.finetune_lesions import FinetuneLesionsConfig, finetune_lesions
from osteosap.training.pretrain_self_supervised import (
    PretrainSelfSupervisedConfig,
    pretrain_self_supervised,
)
from osteosap.training.pretrain_skeleton import PretrainSkeletonConfig, pretrain_skeleton
from osteosap.training.recipes import RecipeConfig, are_simulated, git_sha

RECIPES: dict[str, type[RecipeConfig]] = {
    "pretrain_skeleton": PretrainSkeletonConfig,
    "pretrain_self_supervised": PretrainSelfSupervisedConfig,
    "finetune_lesions": FinetuneLesionsConfig,
}
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(p for p in CONFIGS.glob("*.yaml") if not p.stem.startswith(("simulate_", "cohort_")))
FAST = {"device": "cpu", "precision": "float32", "tensorboard": False}


def recipe(name: str, **changes: object) -> dict[str, object]:
    """A recipe file's settings, made to run equally everywhere."""
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    values["loop"] |= FAST
    return values | changes


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_recipe_file_loads_and_its_patch_fits_its_network(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    config = RECIPES[values["recipe"]].from_yaml(path)
    config.network.require_patch(config.patch)
    assert config.to_mapping()["recipe"] == values["recipe"]
    assert type(config).from_mapping(config.to_mapping()) == config


def test_there_are_recipes_for_a_cpu_for_smoke_and_as_in_the_paper() -> None:
    names = {p.stem for p in FILES}
    for what in ("skeleton", "self_supervised", "lesions"):
        assert {f"{what}_{profile}" for profile in ("cpu", "smoke", "paper")} <= names
    assert "lesions_fair" in names


def test_the_paper_profile_holds_the_papers_numbers() -> None:
    lesions = FinetuneLesionsConfig.from_yaml(CONFIGS / "lesions_paper.yaml")
    skeleton = PretrainSkeletonConfig.from_yaml(CONFIGS / "skeleton_paper.yaml")
    alone = PretrainSelfSupervisedConfig.from_yaml(CONFIGS / "self_supervised_paper.yaml")
    assert {arm: lesions.rates_of(arm) for arm in ARMS} == PAPER_RATES
    rates = [PAPER_RATES[arm].encoder_learning_rate for arm in ARMS]
    assert rates == [1e-5, 5e-6, 2e-6]
    for config in (lesions, skeleton, alone):
        assert config.network.architecture == "swin_unetr"
        assert config.network.feature_size == 48
        assert config.patch == (96, 96, 96)
        assert (config.loop.batch_size, config.loop.weight_decay, config.loop.seed) == (2, 1e-5, 42)
    loop = lesions.loop
    assert loop.optimiser == "adam"
    assert loop.warmup_steps / loop.steps == 10 / 400
    assert loop.validate_every / loop.steps == 5 / 400
    assert lesions.sampling.background_ratio == 1.0
    for augmentation in (lesions.augmentation, skeleton.augmentation):
        assert (augmentation.flip, augmentation.rotate90) == ((0.5, 0.5, 0.5), 0.2)
        assert augmentation.intensity == (0.1, 0.1)  # each with its own, not both at once
        assert (augmentation.scale, augmentation.shift) == (0.1, 0.1)
    assert (skeleton.loop.optimiser, skeleton.learning_rate) == ("adamw", 1e-4)
    assert skeleton.loop.warmup_steps / skeleton.loop.steps == 50 / 400
    assert (alone.losses.reconstruction, alone.losses.rotation, alone.losses.contrast) == (1, 1, 1)


def test_the_fair_profile_is_the_cpu_profile_but_for_rates() -> None:
    fair = FinetuneLesionsConfig.from_yaml(CONFIGS / "lesions_fair.yaml").to_mapping()
    usual = FinetuneLesionsConfig.from_yaml(CONFIGS / "lesions_cpu.yaml").to_mapping()
    different = {name for name in fair if fair[name] != usual[name]}
    assert different <= {"encoder_learning_rate", "decoder_learning_rate", "rate_search"}


def test_a_lesion_recipe_is_not_taken_for_a_skeleton_recipe() -> None:
    path = next(p for p in FILES if p.stem == "lesions_cpu")
    with pytest.raises(ConfigError, match="recipe"):
        PretrainSkeletonConfig.from_yaml(path)


def skeleton_config() -> PretrainSkeletonConfig:
    return PretrainSkeletonConfig.from_mapping(recipe("skeleton_smoke"))


def lesion_config(**changes: object) -> FinetuneLesionsConfig:
    return FinetuneLesionsConfig.from_mapping(recipe("lesions_smoke", **changes))


@pytest.fixture(scope="module")
def cases(tiny_exams: list[Path]) -> list[TrainingCase]:
    return find_cases(tiny_exams[0].parent)


@pytest.fixture(scope="module")
def lists(cases: list[TrainingCase], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """CSV lists of the first two cases and of the last."""
    folder = tmp_path_factory.mktemp("lists")
    for name, side in (("train", cases[:2]), ("validation", cases[2:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "t1", "b1000", "skeleton", "lesions"])
            for case in side:
                writer.writerow([case.name, *case.images.values(), case.skeleton, case.lesions])
    return [str(folder / "train.csv"), str(folder / "validation.csv")]


@pytest.fixture(scope="module")
def weights(lists: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of all recipes and arms, each trained by its command."""
    root = tmp_path_factory.mktemp("weights")
    train, validation = lists

    def run(command: str, name: str, *more: str) -> None:
        path = root / f"{name}.yaml"
        values = recipe(f"{name.split(' ', maxsplit=1)[0]}_smoke", cache=str(root / "cache"))
        path.write_text(yaml.safe_dump(values))
        arguments = ["--config", str(path), "--train", train, "--validation", validation]
        code = main(["-q", "train", command, *arguments, "--out", str(root / name), *more])
        assert code == 0

    run("skeleton", "skeleton")
    run("self-supervised", "self_supervised")
    found = {n: root / n / f"{n}.safetensors" for n in ("skeleton", "self_supervised")}
    run("lesions", "lesions baseline")
    run("lesions", "lesions ssl", "--self-supervised", str(found["self_supervised"]))
    run("lesions", "lesions sap", "--skeleton", str(found["skeleton"]))
    return found | {arm: root / f"lesions {arm}" / "lesions.safetensors" for arm in ARMS}


def test_skeleton_weights_describe_themselves(weights: dict[str, Path]) -> None:
    checkpoint = load_checkpoint(weights["skeleton"])
    metadata = checkpoint.metadata
    assert metadata.task == "skeleton"
    assert metadata.classes[4] == "pelvis"
    assert metadata.spacing_mm == (8.0, 8.0, 8.0)
    assert metadata.training_data == "not described"
    assert (metadata.n_training_exams, metadata.n_validation_exams) == (2, 1)
    assert (metadata.n_training_people, metadata.n_validation_people) == (2, 1)
    assert metadata.steps == 8
    assert metadata.recipe["recipe"] == "pretrain_skeleton"
    assert "cache" not in metadata.recipe
    assert "dice_merged" in metadata.validation
    assert checkpoint.spec.channels == ("t1", "b1000")


def test_self_supervised_weights_are_an_encoder_and_scored_on_held_out_views(
    weights: dict[str, Path],
) -> None:
    checkpoint = load_checkpoint(weights["self_supervised"])
    metadata = checkpoint.metadata
    assert (metadata.task, metadata.arm, metadata.classes) == ("self_supervised", "ssl", ())
    prefixes = checkpoint.spec.layout.self_supervised
    assert all(name.startswith(prefixes) for name in checkpoint.state)
    scores = metadata.validation
    assert set(scores) >= {"reconstruction", "rotation", "contrast", "rotation_accuracy"}
    parts = [scores[name] or 0.0 for name in ("reconstruction", "rotation", "contrast")]
    assert scores["total"] == pytest.approx(sum(parts), abs=1e-3)
    log = (weights["self_supervised"].parent / "training.csv").read_text()
    assert "rotation_accuracy" in log.splitlines()[0]


def test_every_arm_says_what_it_started_from(weights: dict[str, Path]) -> None:
    started = {"baseline": None, "ssl": "self_supervised", "sap": "skeleton"}
    for arm, source in started.items():
        metadata = load_checkpoint(weights[arm]).metadata
        assert metadata.arm == arm
        expected = load_checkpoint(weights[source]).sha256 if source else None
        assert metadata.initial_weights_sha256 == expected
        assert metadata.threshold is not None
        assert "f2" in metadata.validation
        assert metadata.recipe["loop"]["steps"] == 8


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Equal but for steps of rate 1e-30."""
    return torch.allclose(one, two, rtol=0.0, atol=1e-20)


def test_arms_differ_only_in_what_they_start_from(
    weights: dict[str, Path], cases: list[TrainingCase], tmp_path: Path
) -> None:
    # rates that move nothing show the start
    still = {"encoder_learning_rate": 1e-30, "decoder_learning_rate": 1e-30, "half": False}
    config = lesion_config(**still, arms={}, cache=str(tmp_path / "cache"))
    states = {}
    for arm, initial in (
        ("baseline", InitialWeights()),
        ("ssl", InitialWeights(self_supervised=weights["self_supervised"])),
        ("sap", InitialWeights(skeleton=weights["skeleton"])),
    ):
        path = finetune_lesions(config, cases[:1], [], out=tmp_path / arm, initial=initial)
        states[arm] = load_checkpoint(path).state
    encoder = load_checkpoint(weights["self_supervised"]).state
    skeleton = load_checkpoint(weights["skeleton"]).state
    head = ("output_block.",)
    for name, tensor in states["ssl"].items():
        if name in encoder:
            assert same(tensor, encoder[name])
        elif not name.startswith(head):
            assert same(tensor, states["baseline"][name])
    for name, tensor in states["sap"].items():
        if not name.startswith(head):
            assert same(tensor, skeleton[name])
    for state in states.values():
        assert state["output_block.conv.conv.bias"].tolist() == pytest.approx([3.0, -3.0])


def test_each_arm_learns_at_the_rates_of_its_own(
    weights: dict[str, Path], cases: list[TrainingCase], tmp_path: Path
) -> None:
    ssl = {"encoder_learning_rate": 1e-30, "decoder_learning_rate": 1e-2}
    config = lesion_config(arms={"ssl": ssl}, half=False, cache=str(tmp_path / "cache"))
    initial = InitialWeights(self_supervised=weights["self_supervised"])
    path = finetune_lesions(config, cases[:1], [], out=tmp_path / "ssl", initial=initial)
    state, encoder = load_checkpoint(path).state, load_checkpoint(initial.self_supervised).state
    assert all(same(state[name], tensor) for name, tensor in encoder.items())
    path = finetune_lesions(config, cases[:1], [], out=tmp_path / "baseline")
    moved = load_checkpoint(path).state
    assert not same(moved["bottleneck.conv1.conv.weight"], state["bottleneck.conv1.conv.weight"])
    assert config.rates_of("baseline").encoder_learning_rate == config.encoder_learning_rate


def test_skeleton_and_lesion_weights_segment_an_exam(
    weights: dict[str, Path], tiny_exams: list[Path]
) -> None:
    exam = read_exam(tiny_exams[2])
    config = SegmentConfig(
        skeleton_weights=weights["skeleton"],
        lesion_weights=weights["sap"],
        device="cpu",
        precision="float32",
    )
    result = segment_exam(exam.images, config=config)
    assert result.skeleton.grid.same_as(exam.images.grid)


def test_the_baseline_is_repeatable(
    weights: dict[str, Path], cases: list[TrainingCase], tmp_path: Path
) -> None:
    path = finetune_lesions(lesion_config(), cases[:2], cases[2:], out=tmp_path)
    one, two = load_checkpoint(path).state, load_checkpoint(weights["baseline"]).state
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_threshold_that_finds_nothing_is_not_called_tuned(
    cases: list[TrainingCase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = lesion_config()
    short = config.model_copy(update={"loop": config.loop.model_copy(update={"steps": 2})})
    for f2 in (0.0, 0.4):
        scores = {"f2": f2, "threshold": 0.5}
        monkeypatch.setattr(
            finetune_module, "validate_lesions", lambda *_, s=scores, **__: (0.5, dict(s))
        )
        caplog.clear()
        with caplog.at_level("WARNING", logger="osteosap"):
            finetune_lesions(short, cases[:2], cases[2:], out=tmp_path / str(f2))
        assert ("0.5 is not tuned" in caplog.text) == (f2 == 0.0)


def test_weights_of_both_kinds_cannot_start_one_arm(
    weights: dict[str, Path], lists: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--skeleton", str(weights["skeleton"])]
    both += ["--self-supervised", str(weights["self_supervised"])]
    config = str(CONFIGS / "lesions_smoke.yaml")
    arguments = [
        "train",
        "lesions",
        "--config",
        config,
        "--train",
        lists[0],
        "--out",
        str(tmp_path),
    ]
    assert main([*arguments, *both]) == 1
    assert "both given" in capsys.readouterr().err
    swapped = ["--skeleton", str(weights["self_supervised"])]
    assert main([*arguments, *swapped]) == 1
    assert "expected 'skeleton'" in capsys.readouterr().err


@pytest.mark.parametrize("arm", ["sap", "ssl"])
@pytest.mark.parametrize("channels", [["b1000", "t1"], ["t1"]])
def test_a_start_that_reads_other_channels_than_are_prepared_is_refused(
    arm: str,
    channels: list[str],
    weights: dict[str, Path],
    cases: list[TrainingCase],
    tmp_path: Path,
) -> None:
    values = recipe("lesions_smoke")
    for block in ("network", "input"):
        values[block] |= {"channels": channels}  # type: ignore[operator]
    config = FinetuneLesionsConfig.from_mapping(values)
    with pytest.raises(CheckpointError, match=r"reads \('t1', 'b1000'\), the exams are prepared"):
        finetune_lesions(config, cases[:1], [], out=tmp_path, initial=_start(arm, weights))
    assert not list(tmp_path.iterdir())


def _start(arm: str, weights: dict[str, Path]) -> InitialWeights:
    if arm == "sap":
        return InitialWeights(skeleton=weights["skeleton"])
    return InitialWeights(self_supervised=weights["self_supervised"])


def test_images_prepared_otherwise_than_for_the_start_are_warned_of(
    weights: dict[str, Path],
    cases: list[TrainingCase],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    landmarks = {"t1": {"percentiles": [1, 99], "values": [10, 100]}}
    standard = {"n_exams": 3, "channels": landmarks}
    expected = {
        "alike": ({}, []),
        "spacing": ({"spacing_mm": [7.5] * 3}, ["spacing_mm was (8.0, 8.0, 8.0) in the pretrain"]),
        "scaling": ({"percentiles": [0, 99]}, ["percentiles was (1.0, 99.0) in the pretraining"]),
        "histogram": ({"standard": standard}, ["had another histogram standard"]),
    }
    for name, (changed, said) in expected.items():
        values = recipe("lesions_smoke")
        values["input"] |= changed  # type: ignore[operator]
        values["loop"] |= {"steps": 1, "select": None}  # type: ignore[operator]
        config = FinetuneLesionsConfig.from_mapping(values)
        caplog.clear()
        finetune_lesions(config, cases[:1], [], out=tmp_path / name, initial=_start("sap", weights))
        found = [line for line in caplog.messages if "pretraining" in line]
        assert len(found) == len(said), name
        assert all(part in line for part, line in zip(said, found, strict=True)), name


@pytest.mark.parametrize("kept", [True, False])
def test_the_state_is_removed_only_once_the_weights_are_written(
    kept: bool, cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lesion_config(loop={"steps": 4, "batch_size": 2, "save_every": 2, **FAST})
    config = config.model_copy(update={"loop": config.loop.model_copy(update={"keep_state": kept})})

    def full(*_: object, **__: object) -> None:
        raise OutputError("the disk is full", remedy="Free some space")

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "save_checkpoint", full)
        with pytest.raises(OutputError, match="disk is full"):
            finetune_lesions(config, cases[:1], [], out=tmp_path)
    assert (tmp_path / "state.pt").is_file()
    steps: list[str] = []

    def progress(text: str, _: float) -> None:
        steps.append(text)

    path = finetune_lesions(config, cases[:1], [], out=tmp_path, progress=progress)
    assert path.is_file()
    assert (tmp_path / "state.pt").exists() is kept
    assert sum(text.startswith("loss") for text in steps) == (0 if kept else 2)


@pytest.mark.slow
def test_a_finished_run_is_not_repeated_on_other_validation_exams(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    config = lesion_config(cache=str(tmp_path / "cache"))
    finetune_lesions(config, cases[:1], cases[1:2], out=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"validation\.exams changed"):
        finetune_lesions(config, cases[:1], cases[2:], out=tmp_path / "run")
    other = config.model_copy(update={"validation_overlap": 0.5})
    with pytest.raises(TrainingError, match=r"validation\.overlap was 0\.25, is 0\.5"):
        finetune_lesions(other, cases[:1], cases[1:2], out=tmp_path / "run")
    alone = {"cache": str(tmp_path / "cache"), "validation_patches": 4}
    unlabelled = PretrainSelfSupervisedConfig.from_mapping(recipe("self_supervised_smoke", **alone))
    pretrain_self_supervised(unlabelled, cases[:1], cases[1:2], out=tmp_path / "alone")
    with pytest.raises(TrainingError, match=r"validation\.exams changed"):
        pretrain_self_supervised(unlabelled, cases[:1], cases[2:], out=tmp_path / "alone")
    bones = PretrainSkeletonConfig.from_mapping(
        recipe("skeleton_smoke", cache=str(tmp_path / "cache"))
    )
    pretrain_skeleton(bones, cases[:1], cases[1:2], out=tmp_path / "bones")
    with pytest.raises(TrainingError, match=r"validation\.exams changed"):
        pretrain_skeleton(bones, cases[:1], cases[2:], out=tmp_path / "bones")


def test_what_cannot_be_trained_is_refused_before_the_first_step(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    config = lesion_config()
    with pytest.raises(TrainingError, match="no lesion in any of 1"):
        finetune_lesions(config, cases[2:], [], out=tmp_path)
    odd = config.model_copy(update={"patch": (30, 24, 32)})
    with pytest.raises(CheckpointError, match="multiples of 8"):
        finetune_lesions(odd, cases[:1], [], out=tmp_path)
    with pytest.raises(TrainingError, match="no exams"):
        pretrain_skeleton(
            PretrainSkeletonConfig(network=NetworkSpec(filters=(4, 8, 8))), [], [], out=tmp_path
        )


def test_self_supervision_refuses_what_it_cannot_learn_from(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    values = recipe("self_supervised_smoke")
    single = values | {"loop": values["loop"] | {"batch_size": 1}}  # type: ignore[operator]
    config = PretrainSelfSupervisedConfig.from_mapping(single)
    with pytest.raises(ConfigError, match="1 patch at a time"):
        pretrain_self_supervised(config, cases[:2], [], out=tmp_path)
    with pytest.raises(ConfigError, match="not square in rotation_plane"):
        PretrainSelfSupervisedConfig.from_mapping(values | {"views": {"rotation_plane": [0, 1]}})
    for hides in ({"rotate90": 0.2}, {"flip": [0.5, 0.0, 0.5]}):
        with pytest.raises(ConfigError, match="how far a view is turned"):
            PretrainSelfSupervisedConfig.from_mapping(values | {"augmentation": hides})


def test_the_commit_is_read_from_the_checkout_or_unknown(tmp_path: Path) -> None:
    assert git_sha(tmp_path) is None
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text("# pack\nabc123 refs/heads/main\n")
    assert git_sha(tmp_path) == "abc123"
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text("def456\n")
    assert git_sha(tmp_path) == "def456"


def test_nobody_is_on_both_sides(cases: list[TrainingCase], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="both trained and validated"):
        pretrain_skeleton(skeleton_config(), cases[:2], cases[1:], out=tmp_path)


def test_a_network_must_read_the_channels_that_are_prepared() -> None:
    with pytest.raises(ConfigError, match="channels"):
        FinetuneLesionsConfig.from_mapping({"input": {"channels": ["b1000", "t1"]}})


def test_only_what_the_simulator_made_is_called_simulated(tmp_path: Path) -> None:
    def case(name: str, content: str | None) -> TrainingCase:
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "exam.json").write_text(content)
        return TrainingCase(name, {"t1": tmp_path / name / "t1.nii.gz"})

    made = case("made", json.dumps({"simulated": True}))
    real, unknown = case("real", json.dumps({"simulated": False})), case("unknown", None)
    assert are_simulated([made])
    assert not are_simulated([made, real])
    assert not are_simulated([unknown])
    assert not are_simulated([case("broken", "{")])
    assert not are_simulated([])


def test_check_lists_the_exams_and_all_problems(
    lists: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "check", *lists, "--config", str(CONFIGS / "lesions_smoke.yaml")]) == 0
    assert "3 exams can be trained on" in capsys.readouterr().out
    rows = Path(lists[0]).read_text().splitlines()
    broken = tmp_path / "broken.csv"
    cells = rows[1].split(",")
    broken.write_text(
        "\n".join([rows[0], rows[1], ",".join(["other", *cells[1:3], "absent.nii.gz", ""])])
    )
    assert main(["train", "check", str(broken), "--needs", "lesions"]) == 1
    output = capsys.readouterr()
    assert "other" in output.out
    assert "1 exams cannot be trained on" in output.err
    assert main(["train", "check", lists[0], lists[0]]) == 1
    assert "both" in capsys.readouterr().err

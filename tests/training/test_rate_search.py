from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from osteosap.cli import main
from osteosap.errors import CheckpointError, ConfigError, TrainingError
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata, save_checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.training import rate_search
from osteosap.training.arms import ArmRates, InitialWeights, RateSearchConfig
from osteosap.training.cases import TrainingCase, find_cases
from osteosap.training.finetune_lesions import FinetuneLesionsConfig
from osteosap.training.rate_search import Trial, ranked, search_rates, trial_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FAST = {"device": "cpu", "precision": "float32", "tensorboard": False}


def rates(encoder: float, decoder: float) -> ArmRates:
    return ArmRates(encoder_learning_rate=encoder, decoder_learning_rate=decoder)


def trial(f2: float | None, dice: float | None = 0.1, **more: object) -> Trial:
    values = {
        "arm": "baseline",
        "encoder_learning_rate": 1e-3,
        "decoder_learning_rate": 1e-3,
        "in_grid": True,
        "is_paper": False,
        "outcome": "finished",
        "scores": {"f2": f2, "global_dice": dice},
        "seconds": 1.0,
    }
    return Trial(**(values | more))  # type: ignore[arg-type]


def config(tmp_path: Path, **search: object) -> FinetuneLesionsConfig:
    values = yaml.safe_load((CONFIGS / "lesions_smoke.yaml").read_text())
    values["loop"] |= FAST
    values["head_bias"] = [0.0, 0.0]  # finds something in a few steps
    values["cache"] = str(tmp_path / "cache")
    return FinetuneLesionsConfig.from_mapping(values | {"rate_search": search})


@pytest.fixture(scope="module")
def cases(tiny_exams: list[Path]) -> list[TrainingCase]:
    return find_cases(tiny_exams[0].parent)


def test_the_grid_holds_all_pairs_whose_encoder_is_not_the_faster() -> None:
    grid = RateSearchConfig(rates=(1e-3, 1e-5, 1e-4)).grid()
    assert grid == [
        rates(1e-5, 1e-5),
        rates(1e-5, 1e-4),
        rates(1e-4, 1e-4),
        rates(1e-5, 1e-3),
        rates(1e-4, 1e-3),
        rates(1e-3, 1e-3),
    ]
    for wrong in ([], [0.0], [1e-3, 1e-3]):
        with pytest.raises(ConfigError):
            RateSearchConfig.from_mapping({"rates": wrong})


def test_the_best_comes_first_ties_go_to_dice_and_then_to_the_gentler() -> None:
    best = trial(0.5)
    dice = trial(0.4, 0.3)
    gentle = trial(0.4, 0.2, decoder_learning_rate=1e-4, encoder_learning_rate=1e-5)
    middle = trial(0.4, 0.2, decoder_learning_rate=1e-4, encoder_learning_rate=1e-4)
    rough = trial(0.4, 0.2)
    nothing = trial(0.0, None)
    undefined = trial(None)
    collapsed = trial(None, outcome="collapsed", encoder_learning_rate=1e-6)
    order = [best, dice, gentle, middle, rough, nothing]
    found = ranked([collapsed, undefined, nothing, rough, middle, gentle, dice, best])
    assert found[:6] == order
    assert {t.outcome for t in found[6:]} == {"finished", "collapsed"}
    assert math.isnan(found[6].f2)
    assert math.isnan(found[7].f2)


def test_a_trial_has_a_whole_schedule_of_its_own() -> None:
    usual = FinetuneLesionsConfig.from_mapping(
        {
            "loop": {"steps": 900, "warmup_steps": 90, "validate_every": 100},
            "arms": {"baseline": {"encoder_learning_rate": 1.0, "decoder_learning_rate": 1.0}},
            "rate_search": {"steps": 300},
        }
    )
    short = trial_config(usual, rates(1e-5, 1e-4))
    assert (short.loop.steps, short.loop.warmup_steps, short.loop.validate_every) == (300, 30, 0)
    assert short.rates_of("baseline") == rates(1e-5, 1e-4)
    assert short.loop.seed == usual.loop.seed


@pytest.mark.slow
def test_a_search_keeps_divergence_as_a_result_and_goes_on_where_it_stopped(
    cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path, rates=[1e-3, 1e30], steps=6)
    out = tmp_path / "out"
    found = search_rates(settings, cases[:1], cases[1:2], out=out)
    assert [t.is_paper for t in found.trials].count(True) == 1
    assert len(found.trials) == 4
    assert found.best == rates(1e-3, 1e-3)
    broken = [t for t in found.trials if t.decoder_learning_rate == 1e30]
    assert [t.outcome for t in broken] == ["diverged", "diverged"]
    assert found.trials[-2:] == broken
    assert "not finite" in broken[0].remark or "loss is" in broken[0].remark

    rows = list(csv.DictReader((out / "rates_baseline.csv").read_text().splitlines()))
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4]
    table = json.loads((out / "rates_baseline.json").read_text())
    assert table["trials"][-1]["outcome"] != "finished"
    assert not list(out.rglob("*.safetensors"))

    monkeypatch.setattr(rate_search, "finetune_lesions", lambda *a, **k: pytest.fail("repeated"))
    again = search_rates(settings, cases[:1], cases[1:2], out=out)
    assert again == found
    with pytest.raises(TrainingError, match="another recipe"):
        search_rates(settings, cases[:2], cases[2:], out=out)


def test_the_recipe_of_a_search_holds_all_arms_that_were_searched(
    cases: list[TrainingCase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("osteosap"), "propagate", True)
    scores = {"f2": 0.3, "global_dice": 0.2}

    def run(self: object, pair: ArmRates, *_: object) -> Trial:
        better = pair == rates(1e-4, 1e-3)
        return rate_search._trial(
            {
                "outcome": "finished",
                "scores": scores | {"f2": 0.6 if better else 0.3},
                "seconds": 1.0,
                "remark": "",
            },
            self.config,  # type: ignore[attr-defined]
            self.initial.arm,  # type: ignore[attr-defined]
            pair,
        )

    monkeypatch.setattr(rate_search._Search, "run", run)
    weights = _skeleton(tmp_path / "skeleton.safetensors")
    settings = config(tmp_path, rates=[1e-4, 1e-3])
    for initial in (InitialWeights(), InitialWeights(skeleton=weights)):
        found = search_rates(settings, cases[:1], cases[1:2], out=tmp_path, initial=initial)
    assert "0.001, lies at the edge" in caplog.text
    recipe = FinetuneLesionsConfig.from_yaml(found.recipe)
    assert recipe.arms == {"baseline": rates(1e-4, 1e-3), "sap": rates(1e-4, 1e-3)}
    assert recipe.loop == settings.loop
    assert recipe.head_bias == settings.head_bias
    assert "left out" not in caplog.text
    other = config(tmp_path, rates=[1e-4, 1e-3], steps=7)
    search_rates(other, cases[:1], cases[1:2], out=tmp_path)
    assert set(FinetuneLesionsConfig.from_yaml(found.recipe).arms) == {"baseline"}
    assert "held rates of sap, searched with other settings: they are left out" in caplog.text


def _skeleton(path: Path) -> Path:
    spec = NetworkSpec(filters=(4, 8, 8), n_classes=2)
    metadata = CheckpointMetadata(
        task="skeleton", classes=("background", "bone"), spacing_mm=(8, 8, 8), patch=(16, 16, 16)
    )
    save_checkpoint(Checkpoint(spec, metadata, named_weights(build_network(spec))), path)
    return path


@pytest.mark.parametrize(("content", "said"), [(None, "no weight file"), (b"x", "cannot be read")])
def test_a_start_that_cannot_be_read_is_said_before_the_first_trial(
    content: bytes | None, said: str, cases: list[TrainingCase], tmp_path: Path
) -> None:
    weights = tmp_path / "absent.safetensors"
    if content is not None:
        weights.write_bytes(content)
    initial = InitialWeights(skeleton=weights)
    with pytest.raises(CheckpointError, match=said):
        search_rates(config(tmp_path), cases[:1], cases[1:2], out=tmp_path / "out", initial=initial)


def test_a_search_in_which_all_collapse_says_so_and_leaves_its_table(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    settings = config(tmp_path, rates=[1e-12], steps=5)
    asleep = settings.model_copy(update={"head_bias": (30.0, -30.0)})
    with pytest.raises(TrainingError, match=r"no pair of rates .*1e-12 collapsed"):
        search_rates(asleep, cases[:1], cases[1:2], out=tmp_path)
    rows = list(csv.DictReader((tmp_path / "rates_baseline.csv").read_text().splitlines()))
    assert [row["outcome"] for row in rows] == ["collapsed", "collapsed"]
    assert "background only" in rows[0]["remark"]
    assert not (tmp_path / "lesions_fair.yaml").exists()
    with pytest.raises(TrainingError, match="no exams to score"):
        search_rates(settings, cases[:1], [], out=tmp_path)


@pytest.mark.parametrize(("false_positives", "outcome"), [(0.0, "collapsed"), (2.0, "finished")])
def test_a_trial_that_predicts_no_lesion_in_any_exam_has_collapsed(
    cases: list[TrainingCase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    false_positives: float,
    outcome: str,
) -> None:
    scores = {"f2": 0.0, "sensitivity": 0.0, "false_positives_per_exam": false_positives}
    stored = SimpleNamespace(metadata=SimpleNamespace(validation=scores))
    monkeypatch.setattr(rate_search, "finetune_lesions", lambda *_, **__: tmp_path)
    monkeypatch.setattr(rate_search, "load_checkpoint", lambda _: stored)
    with pytest.raises(TrainingError, match=f"1e-12 {outcome}"):
        search_rates(config(tmp_path, rates=[1e-12]), cases[:1], cases[1:2], out=tmp_path)


def test_the_command_prints_the_table_and_the_recipe(
    tiny_exams: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["--config", tmp_path / "recipe.yaml", "--train", tiny_exams[0]]
    arguments += ["--validation", tiny_exams[1], "--out", tmp_path / "out"]
    code = main(["-q", "train", "rates", *map(str, arguments), "--rates", "1e-3", "--steps", "5"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "0.001" in printed.out
    assert "paper" in printed.out
    recipe = FinetuneLesionsConfig.from_yaml(tmp_path / "out" / "lesions_fair.yaml")
    assert recipe.arms["baseline"] == rates(1e-3, 1e-3)
    assert recipe.rate_search.steps == 5

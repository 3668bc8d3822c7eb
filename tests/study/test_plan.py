"""The plan of a study: every unit after what it needs, every profile whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from osteosap.cli import main
from osteosap.config import read_yaml
from osteosap.errors import ConfigError, InputError, OutputError
from osteosap.manifest import read_json
from osteosap.study import start
from osteosap.study.config import PROFILES, StudyConfig, load_profile
from osteosap.study.plan import make_plan, recipe_files
from osteosap.study.start import start_study
from osteosap.training.arms import PAPER_RATES
from osteosap.training.finetune_lesions import FinetuneLesionsConfig


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_makes_a_plan_whose_units_follow_what_they_need(profile: str) -> None:
    config = load_profile(profile)
    units = make_plan(config, data=None)
    names = [unit.name for unit in units]
    assert len(set(names)) == len(names)
    for place, unit in enumerate(units):
        assert {*unit.needs, *unit.after} <= set(names[:place]), unit.name
        assert unit.makes, unit.name
    trained = [n for n in names if n.split("_")[0] in config.arms and "fold" in n]
    assert len(trained) == len(config.arms) * len(config.test_folds)
    assert names[-1] == "report"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_starts_a_study_whose_recipes_are_read(profile: str, tmp_path: Path) -> None:
    start_study(tmp_path / "study", load_profile(profile), (), profile=profile, data=None)
    written = read_yaml(tmp_path / "study" / "recipes" / "lesions.yaml")
    recipe = FinetuneLesionsConfig.from_mapping(written)
    assert recipe.loop.seed == 42
    assert str(recipe.cache) == "store"


def test_exactly_the_tested_exams_are_scored() -> None:
    units = {unit.name: unit for unit in make_plan(load_profile("smoke"), data=None)}
    for name in ("scores_sap", "comparison"):
        command = units[name].command
        assert command[command.index("--cases") + 1] == "lists/test.json"
        assert "--allow-missing" not in command


def test_what_is_trained_and_scored_hangs_on_its_own_exams_alone() -> None:
    units = {unit.name: unit for unit in make_plan(load_profile("smoke"), data=None)}
    assert "lists/contents/test.json" in units["scores_sap"].reads
    assert "lists/contents/test_fold1.json" in units["predict_sap_fold1"].reads
    training = units["sap_fold1"]
    assert {"lists/contents/training_fold1.json", "lists/contents/tuning.json"} < {*training.reads}
    assert "lists/contents/test.json" not in training.reads
    assert "folds" not in training.needs
    assert training.folder == "runs/sap_fold1"


def test_a_study_killed_while_it_starts_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = load_profile("smoke"), tmp_path / "study"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(start, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            start_study(out, config, (), profile="smoke", data=None)
    (out / ".77-study.json").write_text("half a file")
    start_study(out, config, (), profile="smoke", data=None)
    assert (out / "recipes" / "lesions.yaml").is_file()


def test_simulated_exams_in_a_folder_of_ones_own_are_called_simulated(tmp_path: Path) -> None:
    for part in ("healthy", "patients"):
        (tmp_path / "data" / part / "one").mkdir(parents=True)
    record = tmp_path / "data" / "patients" / "one" / "exam.json"
    for content, simulated in (("{}", False), ('{"simulated": true}', True)):
        record.write_text(content)
        out = tmp_path / f"study_{simulated}"
        config = load_profile("smoke")
        start_study(out, config, (), profile="smoke", data=tmp_path / "data")
        assert read_json(out / "study.json")["simulated"] is simulated


def test_a_damaged_study_says_what_can_be_done(tmp_path: Path) -> None:
    start_study(tmp_path, load_profile("smoke"), (), profile="smoke", data=None)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(OutputError, match=r"study\.json cannot be read"):
        start_study(tmp_path, load_profile("smoke"), (), profile="smoke", data=None)


def test_a_plan_of_exams_that_are_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reproduce", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--plan"]
    assert main(arguments) == 1
    assert "healthy" in capsys.readouterr().err


def test_the_paper_profile_holds_the_papers_rates_and_folds() -> None:
    config = load_profile("paper")
    recipe = FinetuneLesionsConfig.from_mapping({**config.lesions, "recipe": "finetune_lesions"})
    for arm, rates in PAPER_RATES.items():
        assert recipe.rates_of(arm) == rates
    assert (config.n_folds, len(config.test_folds)) == (7, 6)
    assert recipe.network.architecture == "swin_unetr"
    assert recipe.patch == (96, 96, 96)
    assert recipe.loop.batch_size == 2


def test_only_what_the_arms_need_is_pretrained() -> None:
    config = load_profile("smoke")
    only = config.model_copy(update={"arms": ("baseline",)})
    names = {unit.name for unit in make_plan(only, data=None)}
    assert "self_supervised" not in names
    assert "skeleton" in names  # bones are named in any study
    assert "comparison" not in names
    searched = config.model_copy(update={"search_rates": True})
    units = {unit.name: unit for unit in make_plan(searched, data=None)}
    assert "rates_ssl" in units["ssl_fold1"].needs
    assert "runs/rates_ssl/lesions_fair.yaml" in units["ssl_fold1"].command


def test_exams_of_ones_own_are_not_simulated(tmp_path: Path) -> None:
    units = make_plan(load_profile("smoke"), data=tmp_path)
    assert units[0].name == "folds"
    assert str(tmp_path) in recipe_files(load_profile("smoke"), data=tmp_path)["recipes/folds.yaml"]
    with pytest.raises(ConfigError, match="no cohort"):
        make_plan(StudyConfig(), data=None)
    with pytest.raises(InputError, match="no folder"):
        start_study(tmp_path / "out", load_profile("smoke"), (), profile="smoke", data=tmp_path)


def test_wrong_settings_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tested_folds"):
        StudyConfig.from_mapping({"n_folds": 3, "tested_folds": [0]})
    with pytest.raises(ConfigError, match="no profile 'fast'"):
        load_profile("fast")
    wrong = load_profile("smoke").model_copy(update={"lesions": {"speed": 1}})
    with pytest.raises(ConfigError, match="speed"):
        start_study(tmp_path / "out", wrong, (), profile="smoke", data=None)
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        start_study(tmp_path / "mine", load_profile("smoke"), (), profile="smoke", data=None)


def test_a_plan_is_shown_without_doing_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    assert main(["reproduce", "--profile", "cpu", "--out", str(out), "--plan"]) == 0
    assert "minutes to go" in capsys.readouterr().out
    assert not out.exists()
    assert main(["reproduce", "--profile", "none", "--out", str(out)]) == 1
    assert main(["reproduce", "--out", str(out), "--slurm", "partition"]) == 1

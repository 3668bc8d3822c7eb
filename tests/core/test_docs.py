"""Documentation and code say the same."""

import json
import re
from urllib.parse import urlparse

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from osteosap import __version__, errors
from osteosap.cli import app
from osteosap.cohort import CohortConfig, CohortGroup
from osteosap.evaluation.config import EvaluateConfig
from osteosap.exam import ExamPaths
from osteosap.preprocess import PreprocessConfig
from osteosap.reporting.findings import Lesion
from osteosap.simulate import SimulationConfig
from osteosap.simulate.label_map.deformation import DeformationConfig
from osteosap.stage import STUDY
from osteosap.workflow import STAGES, RunConfig


def rows(text: str, header: str) -> list[list[str]]:
    """Cells of the table below a header line."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {header} |"):
            break
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def commands(group, prefix=("osteosap",)):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name)), command


@pytest.fixture(scope="module")
def reference(repository):
    folder = repository / "docs" / "reference"
    return {path.stem: path.read_text() for path in folder.glob("*.md")}


def test_the_table_of_stages_is_the_list_of_stages(reference):
    files = {STUDY: "STUDY", **ExamPaths.FILES}

    def cells(keys):
        return ", ".join(f"`{files[key]}`" for key in keys)

    expected = [
        [s.name, s.summary, cells(s.reads), cells((*s.writes, *s.may_write))] for s in STAGES
    ]
    assert rows(reference["stages"], "stage") == expected


def test_every_output_is_described_and_no_other(reference):
    described = [row[0].strip("`") for row in rows(reference["outputs"], "file")]
    assert sorted(described) == sorted(ExamPaths.FILES.values())


def test_every_column_of_the_lesion_table_is_described(reference):
    columns = Lesion(0, "", None, None, 0, 0, 0, None, None, None, None, (0, 0, 0)).to_row()
    described = [
        name.strip(" `")
        for row in rows(reference["outputs"], "column")
        for name in row[0].split(",")
    ]
    assert described == list(columns)


@pytest.mark.parametrize(
    ("config", "header"),
    [
        (SimulationConfig, "setting"),
        (DeformationConfig, "setting of `anatomy.deformation`"),
        (CohortConfig, "setting of the cohort"),
        (CohortGroup, "setting of a group"),
    ],
)
def test_every_setting_of_the_simulator_is_described_with_its_default(reference, config, header):
    def fields(model, prefix=""):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if inner is PreprocessConfig:  # described with the main job's settings
                yield [f"`{prefix}{name}`", "that of the main job"]
            elif isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, f"{prefix}{name}.")
            elif field.is_required():
                yield [f"`{prefix}{name}`", "required"]
            else:
                default = json.dumps(field.get_default(call_default_factory=True))
                yield [f"`{prefix}{name}`", f"`{default}`"]

    found = rows(reference["simulation-settings"], header)
    assert [row[:2] for row in found] == list(fields(config))
    assert all(row[2] for row in found)


def test_every_setting_is_described_with_its_default(reference):
    def flat(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"`{prefix}{key}`", f"`{json.dumps(value)}`"

    described = [tuple(row[:2]) for row in rows(reference["settings"], "setting")]
    assert described == list(flat(RunConfig().to_mapping()))


def test_every_setting_of_the_evaluation_is_described_with_its_default(reference):
    described = {row[0]: row[1] for row in rows(reference["settings"], "setting of the evaluation")}
    for name, value in EvaluateConfig().to_mapping().items():
        shown = described.pop(f"`{name}`")
        if name != "froc_thresholds":  # a long list, told in words
            assert shown == f"`{json.dumps(value)}`"
    assert described == {}


def test_every_command_is_described_with_its_options_and_no_other(reference):
    described = {}
    for row in rows(reference["commands"], "command"):
        name, _, options = re.match(r"`(osteosap( [a-z][a-z-]*)+)(.*)`", row[0]).groups()
        described[name] = set(re.findall(r"--[a-z-]+", options))
    real = {
        name: {o for p in command.params for o in p.opts if o.startswith("--")} - {"--help"}
        for name, command in commands(typer.main.get_command(app))
    }
    assert described == real


def test_every_error_is_described(reference):
    described = {row[0].strip("`") for row in rows(reference["errors"], "error")}
    assert described == set(errors.__all__) - {"OsteosapError"}


def test_links_between_pages_lead_somewhere(repository):
    pages = [*(repository / "docs").rglob("*.md"), *repository.glob("*.md")]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            inside = not urlparse(target).scheme
            if inside and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_the_layers_in_the_docs_are_those_that_are_checked(repository):
    import tomllib

    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    page = (repository / "docs" / "explanation" / "architecture.md").read_text()
    assert "\n".join(layers) in page


def test_the_citation_names_this_version_and_the_source_of_the_method(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert str(citation["version"]) == __version__
    assert citation["references"][0]["doi"] == "10.1016/j.jbo.2026.100745"


def test_the_readme_says_that_it_is_no_medical_device(repository):
    assert "Not a medical device" in (repository / "README.md").read_text()


def test_the_licence_is_whole(repository):
    text = (repository / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text

"""The report of a study: right numbers, the paper's beside them, no name of a patient."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from study_maker import ARMS, PEOPLE, SUBJECTS, Written

from osteosap.manifest import read_json
from osteosap.reporting import study_report

pytestmark = pytest.mark.slow  # two whole studies and their reports

FIGURES = {
    "boxes", "froc", "volume", "burden", "calibration", "features", "training",
    "example_1", "example_2", "example_3", "worst_missed", "worst_false",
}  # fmt: skip
PAPER_BONES = "0.90 0.90 0.94 0.93 0.80 0.90 0.67 0.70 0.83 0.85"
"""Merged, then by class in the order of SPEC 3."""
Summary = dict[str, Any]


class _Page(HTMLParser):
    """Tables by section (rows of cells, their pieces joined), links, places, tags that match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.captions: list[str] = []
        self._open: list[str] = []
        self._section = ""
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        self.ids |= {known["id"] or ""} if "id" in known else set()
        if tag in ("meta", "img"):
            self.sources += [known["src"] or ""] if tag == "img" else []
            return
        self._open.append(tag)
        if tag == "section":
            self._section = known.get("id") or ""
        elif tag == "a":
            self.links.append(known["href"] or "")
        elif tag == "table":
            self.tables.setdefault(self._section, []).append([])
        elif tag == "tr":
            self.tables[self._section][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self._section][-1][-1].append("")
        elif tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        if {"td", "th"} & set(self._open):
            row = self.tables[self._section][-1][-1]
            row[-1] = f"{row[-1]} {data.strip()}".strip()
        elif "figcaption" in self._open:
            self.captions[-1] += data


def _without_images(html: str) -> str:
    return re.sub(r"data:image/png;base64,[\w+/=]+", "", html)


def _summaries(study: Path) -> dict[str, Summary]:
    return {arm: read_json(study / f"scores/{arm}/evaluation.json")["summary"] for arm in ARMS}


def _median(*keys: str, digits: int = 3, unit: str = "") -> Callable[[Summary], str]:
    def make(summary: Summary) -> str:
        for key in keys:
            summary = summary[key]
        value, low, high = (f"{summary[k]:.{digits}f}" for k in ("median", "ci_low", "ci_high"))
        return f"{value} [{low}, {high}], n = {summary['n']}{unit}"

    return make


def _pooled(summary: Summary) -> str:
    found = summary["lesions_large"]
    value, low, high = (
        f"{found[f'sensitivity_pooled{end}']:.2f}" for end in ("", "_ci_low", "_ci_high")
    )
    return f"{value} [{low}, {high}], n = {found['n_reference']} lesions"


def _area(summary: Summary) -> str:
    found = summary["lesions_all"]["froc"]
    value, low, high = (f"{found[f'area{end}']:.2f}" for end in ("", "_ci_low", "_ci_high"))
    return f"{value} [{low}, {high}], n = {found['n_exams']}"


def _icc(summary: Summary) -> str:
    found = summary["burden"]["icc"]
    value, low, high = (f"{found[k]:.3f}" for k in ("value", "ci_low", "ci_high"))
    return f"{value} [{low}, {high}], n = {found['n']}"


def _mean_large(summary: Summary) -> str:
    return f"{summary['lesions_large']['false_positives_per_exam']['mean']:.2f} ["


ALL = "lesions_all"
TABLE: list[tuple[str, tuple[str, str, str], Callable[[Summary], str]]] = [
    ("Sensitivity, all", ("0.273", "0.427", "0.714"), _median(ALL, "sensitivity")),
    ("Precision", ("0.143", "0.200", "0.167"), _median(ALL, "precision")),
    ("False positives per", ("13", "9", "20"), _median(ALL, "false_positives_per_exam", digits=1)),
    ("F2", ("0.259", "0.312", "0.448"), _median(ALL, "f2")),
    ("Sensitivity, lesions", ("0.73", "0.81", "0.89"), _pooled),
    ("False positives ≥ 1 mL", ("1.30", "0.33", "0.46"), _mean_large),
    ("FROC area", ("2.96", "4.82", "7.10"), _area),
    ("Dice, d", ("0.560", "0.622", "0.662"), _median(ALL, "dice_detected", unit=" lesions")),
    ("Surface", ("0.665", "0.691", "0.775"), _median(ALL, "nsd_detected", unit=" lesions")),
    ("Dice per patient", ("0.131", "0.241", "0.442"), _median(ALL, "dice_mean_misses_as_0")),
    ("Global Dice", ("0.212", "0.333", "0.463"), _median("global_dice")),
    ("ICC", ("0.309", "0.608", "0.649"), _icc),
]
"""Start of a row's title, the paper's values (SPEC 7), ours as evaluation.json has it."""


@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_table_1_holds_the_evaluations_numbers_and_the_papers(
    kind: str, request: pytest.FixtureRequest
) -> None:
    written: Written = request.getfixturevalue(f"{kind}_report")
    summaries = _summaries(written.folder.parent)
    head, under, *rows = _Page(written.html).tables["table-1"][0]
    assert head[1:] == ["Baseline", "SSL", "SAP"]
    ours = "ours, simulated" if kind == "simulated" else "ours"
    assert under == [f"{ours} 95 % interval, n", "paper"] * 3
    assert len(rows) == len(TABLE)
    for row, (title, paper, make) in zip(rows, TABLE, strict=True):
        assert row[0].startswith(title)
        assert tuple(row[2::2]) == paper, title
        for cell, arm in zip(row[1::2], ARMS, strict=True):
            assert cell.startswith(make(summaries[arm])), (title, arm)
            in_markdown = cell.replace("],", "]")
            assert f"| {in_markdown} |" in written.markdown
    assert "not comparable" in written.html
    reason = "exams are simulated" if kind == "simulated" else "exams are not the paper's"
    assert reason in unescape(written.html)
    assert "dynunet" in written.html
    assert "instead of 96 x 96 x 96" in written.html
    assert "we test 6 exams, the paper 33 patients" in written.html


def test_the_mean_of_large_false_positives_has_an_interval_over_patients(
    simulated_report: Written,
) -> None:
    row = _Page(simulated_report.html).tables["table-1"][0][7]
    for cell, arm in zip(row[1::2], ARMS, strict=True):
        exams = read_json(simulated_report.folder.parent / f"scores/{arm}/evaluation.json")["exams"]
        counts = [exam["lesions"]["large"]["n_false_positives"] for exam in exams]
        mean, low, high, n = map(float, re.findall(r"[\d.]+", cell))
        assert mean == pytest.approx(np.mean(counts), abs=0.005)
        assert min(counts) <= low <= mean <= high <= max(counts)
        assert low < high
        assert n == len(counts)


def test_tests_bones_sites_and_worst_cases_are_those_of_the_scores(
    simulated_report: Written,
) -> None:
    study = simulated_report.folder.parent
    page = _Page(simulated_report.html)
    found = read_json(study / "comparison/comparison.json")["tests"]
    rows = page.tables["tests"][0][1:]
    assert len(rows) == len(found) == 33
    titles = {"baseline": "Baseline", "ssl": "SSL", "sap": "SAP"}
    for row, test in zip(rows, found, strict=True):
        p = ["< 0.001" if v < 0.001 else f"{v:.3f}" for v in (test["p"], test["p_bonferroni"])]
        assert row[1] == f"{titles[test['a']]} / {titles[test['b']]}"
        assert (row[5], row[6].rstrip(" *")) == tuple(p)
        assert row[7] == f"{test['effect']:+.2f}"
        assert str(test["n_a"]) in row[3]
    summaries = _summaries(study)
    dice = summaries["baseline"]["skeleton_dice"]
    bones = {row[0]: row[1:] for row in page.tables["bones"][0][1:]}
    for title, name, paper in (
        ("All bones merged", "merged", "0.90"),
        ("Lumbar spine", "lumbar_spine", "0.93"),
        ("Thoracic spine", "thoracic_spine", "0.94"),
    ):
        assert bones[title][0].startswith(f"{dice[name]['median']:.2f} [")
        assert bones[title][2] == paper
    assert bones["Lumbar spine"][1] == "0.30"  # the last validation
    assert " ".join(row[2] for row in bones.values()) == PAPER_BONES
    sites = page.tables["bones"][2][1:]
    assert [row[:2] for row in sites][:3] == [["a", t] for t in titles.values()]
    part = summaries["sap"]["by_site"]["b"]
    assert sites[-1][2:4] == ["3", f"{part['n_detected']} of {part['n_reference']}"]
    regions = summaries["sap"]["by_region"]["thoracic_spine"]
    thoracic = next(row for row in page.tables["bones"][1] if row[0] == "Thoracic spine")
    assert thoracic[-3] == f"{regions['n_detected']} of {regions['n_reference']}"
    assert thoracic[-1] == str(regions["n_false_positives"])


def test_the_worst_cases_are_the_worst(simulated_report: Written) -> None:
    rows = _Page(simulated_report.html).tables["worst"][0][1:]
    for arm in ARMS:
        path = simulated_report.folder.parent / f"scores/{arm}/evaluation.json"
        exams = {exam["exam"]: exam for exam in read_json(path)["exams"]}
        title = {"baseline": "Baseline", "ssl": "SSL", "sap": "SAP"}[arm]
        own = [r for r in rows if r[0] == title and r[1] == "most false positives"]
        counts = {n: e["lesions"]["all"]["n_false_positives"] for n, e in exams.items()}
        assert [int(r[7]) for r in own] == sorted(counts.values(), reverse=True)[:3]
        assert all(counts[r[2]] == int(r[7]) for r in own)
        missed = {
            name: sum(
                x["volume_ml"]
                for x in exam["lesion_rows"]
                if x["side"] == "reference" and x["outcome"] == "missed"
            )
            for name, exam in exams.items()
        }
        most = [r for r in rows if r[0] == title and r[1] == "most volume missed"]
        assert most[0][5].startswith(f"{max(missed.values()):.1f} of ")


def test_what_was_done_is_told(simulated_report: Written) -> None:
    page = _Page(simulated_report.html)
    arms, pretraining, folds, times = page.tables["done"]
    assert arms[3] == [
        "SAP", "encoder and decoder of the skeleton network; new head", "2e-06 / 1e-05",
        "2 of 2 finished", "300", "7", "0.5",
    ]  # fmt: skip
    assert [row[0] for row in pretraining[1:]] == ["Skeleton", "Self-supervised"]
    assert folds[1] == ["0", "1", "4", "tunes thresholds; never tested"]
    assert folds[2] == ["1", "3", "12", "tested in turn"]
    assert times[1] == ["fine-tuning, SAP", "1", "2 min"]
    distances = page.tables["features"][0]
    assert distances[1] == ["SSL encoder", "features", "5 / 5", "4.32", "2.1 / 2.2", "2.01"]
    assert "SSL 9.85 apart, 21.3 / 21.4 within; SAP 9.85 apart, 10.0 / 10.4" in re.sub(
        r"\s+", " ", simulated_report.html
    )


def test_pages_are_whole_and_link_to_nothing_outside(simulated_report: Written) -> None:
    page = _Page(simulated_report.html)
    folder = simulated_report.folder
    assert page.links
    assert all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"url\(|@import|src=\"http", simulated_report.html)
    drawn = {path.stem: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert set(drawn) == FIGURES
    start = "data:image/png;base64,"
    inside = [base64.b64decode(source.removeprefix(start)) for source in page.sources]
    assert sorted(inside) == sorted(drawn.values())
    linked = re.findall(r"\]\((\S+?)\)", simulated_report.markdown)
    assert {folder / link for link in linked} == set(simulated_report.paths[2:])
    assert simulated_report.paths[:2] == [folder / "study.html", folder / "study.md"]
    assert all(path.is_file() for path in simulated_report.paths)


@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_every_figure_shows_something_and_says_whose_exams(
    kind: str, request: pytest.FixtureRequest
) -> None:
    written: Written = request.getfixturevalue(f"{kind}_report")
    right, wrong = "SIMULATED examinations", "real examinations"
    if kind == "real":
        right, wrong = wrong, right
    assert set(written.words) == FIGURES
    for name, words in written.words.items():
        assert any(word.startswith(right) for word in words), name
        pixels = imread(io.BytesIO((written.folder / f"figures/{name}.png").read_bytes()))
        assert min(pixels.shape[:2]) > 80, name
        ink = np.abs(pixels[..., :3] - pixels[0, -1, :3]).max(axis=-1) > 0.2
        assert ink.mean() > 0.01, name
        assert ink.any(axis=1).mean() > 0.4, name  # all over it, not the stamp alone
    captions = _Page(written.html).captions
    assert len(captions) == len(FIGURES)
    assert all(caption.startswith(right) for caption in captions)
    assert written.markdown.startswith(f"# Study report, {right}\n")
    assert f"<h1>Study report, {right}</h1>" in written.html
    assert "Not a medical device" in written.html
    assert "Not a medical device" in written.markdown
    for text in (_without_images(written.html), written.markdown):
        assert wrong not in text
        assert ("SIMULATED DATA" in text) is (kind == "simulated")
        assert ("REAL DATA" in text) is (kind == "real")
        assert ("there is no patient" in text) is (kind == "simulated")


def test_the_lesions_of_all_arms_are_drawn(simulated_report: Written) -> None:
    pixels = imread(io.BytesIO((simulated_report.folder / "figures/example_2.png").read_bytes()))
    for colour in ((0.21, 0.82, 1.0), (1.0, 0.62, 0.12)):  # reference, prediction
        close = np.abs(pixels[..., :3] - colour).max(axis=-1) < 0.25
        below = close[int(0.1 * len(close)) : int(0.95 * len(close))]  # not the words
        assert below.sum() > 15
    assert [w for w in simulated_report.words["example_2"] if w in ("Baseline", "SSL", "SAP")]
    assert any("50th percentile: SAP Dice" in w for w in simulated_report.words["example_2"])


def test_no_name_of_a_patient_is_in_a_real_studys_report(real_report: Written) -> None:
    study = real_report.folder.parent
    texts = [_without_images(real_report.html), real_report.markdown, *real_report.told]
    texts += [word for words in real_report.words.values() for word in words]
    texts += [path.name for path in real_report.paths]
    texts += [p.read_bytes().decode("latin-1") for p in (real_report.folder / "figures").iterdir()]
    whole = "\n".join(texts).lower()
    parts = {part.lower() for name in PEOPLE for part in re.split(r"[_^\-]", name)}
    assert [part for part in sorted(parts) if part in whole] == []
    assert str(study.parent) not in whole
    rows = _Page(real_report.html).tables["worst"][0][1:]
    assert {row[2] for row in rows} <= {f"exam {n}" for n in range(1, 7)}
    table = (study / "scores/sap/evaluation.csv").read_text().splitlines()[1:]
    first = next(row for row in rows if row[0] == "SAP" and row[1] == "most false positives")
    name = table[int(first[2].split()[1]) - 1].split(",")[0]
    exams = {e["exam"]: e for e in read_json(study / "scores/sap/evaluation.json")["exams"]}
    assert exams[name]["lesions"]["all"]["n_false_positives"] == int(first[7])


def test_names_are_escaped_in_the_page_the_markdown_and_the_figures(
    simulated_report: Written,
) -> None:
    odd = SUBJECTS[2]
    assert "<b>2" not in _without_images(simulated_report.html)
    assert "sub &lt;b&gt;2&amp;|$x$" in simulated_report.html
    assert "| sub \\<b>2&\\|$x$ |" in simulated_report.markdown
    assert not re.search(r"(?<!\\)<[A-Za-z/!]", simulated_report.markdown)
    rows = [row[2] for row in _Page(simulated_report.html).tables["worst"][0]]
    assert odd in rows
    columns = {
        len(re.findall(r"(?<!\\)\|", line))
        for line in simulated_report.markdown.split("## Worst cases")[1].splitlines()
        if line.startswith("|") and not line.startswith("| Encoder") and "encoder |" not in line
    }
    assert {12} <= columns


def test_the_same_study_gives_the_same_bytes(
    simulated_report: Written, coarse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("froc", "volume", "burden", "calibration"):  # slow, and nothing random in them
        image = (simulated_report.folder / f"figures/{name}.png").read_bytes()
        monkeypatch.setitem(study_report._CHARTS, name, lambda _, image=image: image)
    paths = study_report.write_study_report(simulated_report.folder.parent, tmp_path / "again")
    assert len(paths) == len(simulated_report.paths)
    for path, other in zip(paths, simulated_report.paths, strict=True):
        assert path.read_bytes() == other.read_bytes(), path.name

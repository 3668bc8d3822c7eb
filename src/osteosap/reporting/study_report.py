"""The report of a study: one HTML page with everything inside, Markdown, and its figures.

Whatever of the study is missing is said in the report; only a folder that is no study is refused.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from osteosap import __version__
from osteosap.errors import OsteosapError
from osteosap.manifest import (
    move_into_place,
    replace_on_success,
    require_folder,
    require_own,
    write_bytes,
    write_text,
)
from osteosap.reporting import study_account as account
from osteosap.reporting import study_tables as tables
from osteosap.reporting.paper_results import CITATION, PAPER_FEATURES, PAPER_TABLE
from osteosap.reporting.study_boxes import box_figure
from osteosap.reporting.study_curves import features_figure, training_figure
from osteosap.reporting.study_figures import (
    burden_figure,
    calibration_figure,
    froc_figure,
    volume_figure,
)
from osteosap.reporting.study_pictures import Case, choose_examples, exam_picture
from osteosap.reporting.study_results import StudyResults, read_study
from osteosap.reporting.study_style import arm_colour

__all__ = ["write_study_report"]

Progress = Callable[[str, float], None]

_log = logging.getLogger(__name__)
_GENERATOR = "osteosap study report"
_PAGES = ("study.html", "study.md")
_CHARTS: dict[str, Callable[[StudyResults], bytes | None]] = {
    "boxes": box_figure,
    "froc": froc_figure,
    "volume": volume_figure,
    "burden": burden_figure,
    "calibration": calibration_figure,
    "features": features_figure,
    "training": training_figure,
}
_PICTURES = ("example_1", "example_2", "example_3", "worst_missed", "worst_false")

LIMITS = (
    "Not a medical device. Nothing here is a clinical evaluation, and nothing may be used for the "
    "diagnosis, treatment or follow-up of a patient.",
    "Intervals draw patients, not trainings: with one seed they say nothing about how much another "
    "training of the same arm would differ.",
    "Tests of detected lesions take them as independent, which lesions of one patient are not.",
    "Medians leave out exams for which a measure is undefined; n says how many count.",
    "Probabilities are a network's output, no calibrated chance of metastasis.",
)
"""What a reader must know about the numbers."""


@dataclass(frozen=True)
class _Picture:
    """A figure of one exam: file name, words beside it, bytes."""

    name: str
    title: str
    content: bytes


def write_study_report(
    study: Path, out: Path | None = None, *, progress: Progress | None = None
) -> list[Path]:
    """Write ``study.html``, ``study.md`` and ``figures/*.png``, all of them or none.

    Parameters
    ----------
    study
        Folder of ``osteosap reproduce``; whatever is there is shown.
    out
        Folder of the report; ``report`` in the study when left out. An earlier report there is
        replaced.
    progress
        Called with a line and the fraction done.

    Returns
    -------
    paths
        What was written, the page first.

    Raises
    ------
    InputError
        ``study`` is no study.
    OutputError
        ``out`` holds files of something else, or cannot be written.
    """
    target = study / "report" if out is None else out
    found = read_study(study)
    require_folder(target)
    require_own(target, (*_PAGES, "figures"), _own_files(target))
    tell = progress or _silent
    charts = {}
    for number, (name, draw) in enumerate(_CHARTS.items()):
        tell(f"figure {name}", 0.5 * number / len(_CHARTS))
        charts[name] = draw(found)
    remarks = list(found.remarks)
    pictures = list(_pictures(found, remarks, tell))
    files = {name: image for name, image in charts.items() if image}
    files |= {picture.name: picture.content for picture in pictures}
    content = _content(found, pictures, remarks)
    tell("pages", 0.97)
    links = {name: f"figures/{name}.png" for name in files}
    html, markdown = _html(content, files), _markdown(content, links)
    with replace_on_success(target) as aside:
        for name, image in files.items():
            write_bytes(aside / links[name], image)
        write_text(aside / "study.html", html)
        write_text(aside / "study.md", markdown)
        _replace(aside, target, ["study.html", *links.values(), "study.md"])
    tell("report", 1.0)
    return [target / name for name in _PAGES] + [target / links[name] for name in files]


def _replace(aside: Path, target: Path, names: Sequence[str]) -> None:
    """Move files into place one by one, so that no moment lacks one that a page shows.

    The page that needs no other file and marks the folder as ours goes first; figures that only an
    earlier report had go last.
    """
    for name in names:
        move_into_place(aside / name, target / name)
    for name in set(_own_files(target)) - set(names):
        (target / name).unlink(missing_ok=True)


def _silent(_line: str, _share: float) -> None:
    """No progress is told."""


def _own_files(target: Path) -> Sequence[str]:
    """Files that an earlier report may have written; none where there was none."""
    page = target / _PAGES[0]
    try:
        with page.open(encoding="utf-8") as file:
            is_ours = _GENERATOR in file.read(2000)
    except (OSError, ValueError):
        is_ours = False
    names = (*_CHARTS, *_PICTURES)
    return (*_PAGES, *(f"figures/{name}.png" for name in names)) if is_ours else ()


def _pictures(study: StudyResults, remarks: list[str], tell: Progress) -> Iterator[_Picture]:
    """Examples and worst cases of the featured arm; what cannot be drawn becomes a remark."""
    cases = _cases(study)
    if study.patients is None:
        return
    for number, (name, case) in enumerate(cases.items()):
        tell(f"picture {name}", 0.5 + 0.45 * number / len(cases))
        try:
            yield _Picture(
                name, f"{study.label(case.exam.name)}, {case.why}", exam_picture(study, case)
            )
        except (OsteosapError, OSError) as error:
            _log.warning("no picture %s: %s", name, type(error).__name__)  # a path may tell whose
            remarks.append(
                f"the picture '{case.why}' cannot be drawn: an image, map or prediction of that "
                "exam is missing or does not fit"
            )


def _cases(study: StudyResults) -> dict[str, Case]:
    arm = study.featured
    if arm is None:
        return {}
    cases = {f"example_{n}": case for n, case in enumerate(choose_examples(arm), start=1)}
    worst = tables.worst_exams(arm)
    if exams := worst["most volume missed"]:
        first = exams[0].missed[0]
        why = (
            f"most volume missed by {arm.title}; here the largest missed, {first.volume_ml:.1f} mL"
        )
        cases["worst_missed"] = Case(exams[0], why, first)
    if exams := worst["most false positives"]:
        first = exams[0].false[0]
        why = (
            f"most false positives of {arm.title} ({len(exams[0].false)}); here the largest, "
            f"{first.volume_ml:.1f} mL"
        )
        cases["worst_false"] = Case(exams[0], why, first)
    return cases


def _content(
    study: StudyResults, pictures: Sequence[_Picture], remarks: Sequence[str]
) -> dict[str, Any]:
    """Everything that the templates print."""
    not_comparable, remedy = account.comparability(study)
    return {
        "study": study,
        "generator": f"{_GENERATOR} {__version__}",
        "version": __version__,
        "title": f"Study report, {study.kind}",
        "remarks": remarks,
        "cards": account.cards(study),
        "facts": account.facts(study),
        "arms": account.arm_rows(study),
        "pretraining": account.pretraining_rows(study),
        "folds": account.fold_rows(study),
        "times": account.time_rows(study),
        "main": tables.main_rows(study),
        "more": tables.more_rows(study),
        "not_comparable": not_comparable,
        "rate_note": account.rate_note(study),
        "n_healthy": account.n_kept_aside(study),
        "remedy": remedy,
        "in_paper": {n: PAPER_TABLE[0].text(n) is not None for n in study.scores},
        "tests": tables.test_rows(study),
        "skeleton": tables.skeleton_rows(study),
        "features": tables.feature_rows(study),
        "paper_features": PAPER_FEATURES,
        "sites": tables.site_rows(study),
        "regions": tables.region_rows(study) if study.scores else [],
        "worst": tables.worst_rows(study),
        "examples": [p for p in pictures if p.name.startswith("example")],
        "worst_pictures": [p for p in pictures if p.name.startswith("worst")],
        "settings": next((arm.settings for arm in study.scores.values()), {}),
        "limits": LIMITS,
        "citation": CITATION,
        "colour": arm_colour,
        "nothing": tables.NOTHING,
    }


def _html(content: dict[str, Any], files: dict[str, bytes]) -> str:
    environment = _environment(autoescape=True)
    images = {
        name: "data:image/png;base64," + base64.b64encode(image).decode("ascii")
        for name, image in files.items()
    }
    sheets = [_source(environment, name) for name in ("report.css", "study.css")]
    return environment.get_template("study.html.j2").render(
        **content, images=images, stylesheet=Markup("\n".join(sheets))
    )


def _markdown(content: dict[str, Any], links: dict[str, str]) -> str:
    environment = _environment(autoescape=False, finalize=_cell)
    return environment.get_template("study.md.j2").render(**content, images=links)


def _environment(
    *, autoescape: bool, finalize: Callable[[Any], Any] | None = None
) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("osteosap.reporting"),
        autoescape=autoescape,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _cell(value: Any) -> Any:
    """Text that can neither break a table of Markdown nor start a tag of HTML."""
    if not isinstance(value, str):
        return value
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", value.replace("|", "\\|").replace("\n", " "))


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]

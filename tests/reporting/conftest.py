"""Two small studies and their reports, made once: of simulated exams, and as if of patients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from study_maker import PEOPLE, SUBJECTS, Written, make_study

from osteosap.reporting import study_pictures, study_style
from osteosap.reporting.study_report import write_study_report


def _write(study: Path) -> Written:
    """Write a report, coarse figures for speed."""
    written = Written(study / "report")
    plain = Figure.savefig

    def save(figure: Figure, *args: Any, **options: Any) -> None:
        found = [text.get_text() for text in figure.findobj(Text)]
        written.words[written.told[-1].split()[1]] = [text for text in found if text]
        plain(figure, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        patch.setattr(study_style, "DPI", 40)
        patch.setattr(study_pictures, "DPI", 40)
        paths = write_study_report(study, progress=lambda line, _: written.told.append(line))
    written.paths = paths
    return written


@pytest.fixture(scope="session")
def simulated_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of simulated people; the name of one needs escaping everywhere."""
    return make_study(tmp_path_factory.mktemp("simulated"), SUBJECTS, simulated=True)


@pytest.fixture(scope="session")
def real_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As if of patients: folders of exams bear names of people."""
    return make_study(tmp_path_factory.mktemp("real"), PEOPLE, simulated=False)


@pytest.fixture(scope="session")
def simulated_report(simulated_study: Path) -> Written:
    """Report of the simulated study."""
    return _write(simulated_study)


@pytest.fixture(scope="session")
def real_report(real_study: Path) -> Written:
    """Report of the study as if of patients."""
    return _write(real_study)


@pytest.fixture
def coarse() -> Iterator[None]:
    """Figures of few pixels, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_style, "DPI", 40)
        patch.setattr(study_pictures, "DPI", 40)
        yield

"""The report: complete, self-contained, honest, and robust to what is missing."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osteosap.errors import GeometryError
from osteosap.geometry import Grid, make_affine
from osteosap.reporting.content import ReportConfig, ReportContent
from osteosap.reporting.exam_report import render_report, write_report
from osteosap.reporting.findings import Lesion, measure_lesions, measurements
from osteosap.volume import Volume

GRID = Grid((30, 20, 60), make_affine((5.0, 5.0, 8.0), (-75.0, -50.0, -240.0)))
VOID = {"meta", "link", "img", "br", "input", "hr"}


class _Balance(HTMLParser):
    """Checks that every tag that opens also closes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _content(*, lesions: bool = True, adc: bool = True, **more: Any) -> ReportContent:
    t1 = np.zeros(GRID.shape, np.float32)
    t1[3:27, 3:17, 3:57] = 100.0
    channels = {"t1": t1, "b1000": t1 * 0.2} | ({"adc": t1 * 8} if adc else {})
    images = Volume(np.stack(list(channels.values())), GRID.affine, tuple(channels))
    skeleton = np.zeros(GRID.shape, np.uint8)
    skeleton[13:17, 6:10, 10:50] = 3
    mask = np.zeros(GRID.shape, np.int32)
    if lesions:
        mask[13:15, 7:9, 20:22] = 1
        mask[17:18, 7:9, 30:31] = 2
        mask[24:25, 12:14, 40:41] = 3
    values = images.channel("adc") if adc else None
    found = measure_lesions(mask, GRID, skeleton=skeleton, adc=values)
    return ReportContent(
        images=images,
        skeleton=Volume.single(skeleton, GRID.affine, "skeleton"),
        lesions=Volume.single(mask, GRID.affine, "lesions"),
        findings=tuple(found),
        measurements=measurements(found, mask, adc=values),
        **more,
    )


def _check(html: str) -> None:
    parser = _Balance()
    parser.feed(html)
    assert parser.open == []
    assert "not a medical device" in html
    assert "MET-RADS-P response category" in html
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", html)
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert not re.search(r"https?://|@import|url\(", html)


def test_a_full_report_shows_lesions_regions_and_what_was_done(tmp_path: Path) -> None:
    checksum = "0123456789abcdef" * 4
    content = _content(
        series=(
            {"name": "series 8", "role": "dwi", "reason": "b-values 50, 1000",
             "b_values_s_per_mm2": [50.0, 1000.0], "n_files": 40},
            {"name": "t1.nii.gz", "role": "t1", "reason": "named by its file"},
        ),
        preprocessing={
            "steps": [{"step": "stitch t1", "done": "2 stations", "scales": [1.0, None]}],
            "b1000": {"source": "acquired", "reason": "acquired at b = 1000"},
            "adc": None,
            "settings": {"deep": {"list": [], "rows": [{"a": 1}]}},
        },
        segmentation={"device": "cpu", "lesions": {"sha256": checksum, "validation": {"f2": None}}},
        versions={"osteosap": "0.1.0"},
        warnings=("stations differ by 12 %",),
        created="2026-01-02 03:04 UTC",
    )  # fmt: skip
    write_report(tmp_path / "report.html", content=content)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    _check(html)
    expected = ["series 8", "acquired at b = 1000", "stitch t1", "stations differ by 12 %"]
    for text in [*expected, "2026-01-02 03:04 UTC", checksum, "named by its file", "Lumbar spine"]:
        assert text in html
    assert html.count("data:image/png") == 2 + 3
    assert "5 mm outside it" in html
    assert "SIMULATED" not in html


def test_simulated_data_is_said_to_be_simulated() -> None:
    html = render_report(_content(simulated=True))
    assert "SIMULATED DATA" in html
    assert "there is no patient" in html


@pytest.mark.parametrize(("lesions", "adc"), [(False, True), (True, False), (False, False)])
def test_a_report_without_lesions_or_without_adc_is_whole(lesions: bool, adc: bool) -> None:
    html = render_report(_content(lesions=lesions, adc=adc))
    _check(html)
    assert ("No candidate above the threshold" in html) is not lesions
    assert ("no ADC in this exam" in html) is not adc


def test_text_from_the_study_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>"
    html = render_report(_content(warnings=(evil,), series=({"name": evil, "role": "other"},)))
    assert evil not in html
    assert "&lt;script&gt;" in html


def test_settings_limit_the_close_ups() -> None:
    html = render_report(_content(), config=ReportConfig(n_close_ups=1, title="Another title"))
    assert html.count("data:image/png") == 2 + 1
    assert "<h1>Another title</h1>" in html


def test_maps_of_another_grid_are_refused() -> None:
    content = _content()
    moved = make_affine((5.0, 5.0, 8.0), (0.0, 0.0, 0.0))
    other = ReportContent(
        images=content.images,
        skeleton=content.skeleton,
        lesions=Volume.single(content.lesions.array[0], moved, "lesions"),
        findings=content.findings,
        measurements=content.measurements,
    )
    with pytest.raises(GeometryError, match="different grids"):
        render_report(other)


def test_findings_survive_the_way_through_json() -> None:
    content = _content()
    again = [Lesion.from_row(row) for row in content.measurements["lesions"]]
    for one, other in zip(content.findings, again, strict=True):
        assert (one.id, one.region, one.met_rads_site, one.n_voxels) == (
            other.id, other.region, other.met_rads_site, other.n_voxels,
        )  # fmt: skip
        assert one.volume_ml == pytest.approx(other.volume_ml, abs=1e-4)
        assert one.centroid_ras_mm == pytest.approx(other.centroid_ras_mm, abs=0.1)


def test_a_report_of_a_part_of_the_body_or_a_patient_says_what_to_mind() -> None:
    learnt = {"lesions": {"training_data": "simulated whole-body MRI"}}
    page = render_report(content=_content(simulated=False, segmentation=learnt))
    assert "not a whole body" in page
    assert "learnt from simulated examinations only" in page
    simulated = render_report(content=_content(simulated=True, segmentation=learnt))
    assert "learnt from simulated examinations only" not in simulated

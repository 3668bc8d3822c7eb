"""Figures and section of image quality: what is drawn, and what is left out."""

import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from osteosap.geometry import make_affine
from osteosap.preprocess.quality import assess
from osteosap.reporting.content import ReportContent
from osteosap.reporting.exam_report import render_report
from osteosap.reporting.findings import measure_lesions, measurements
from osteosap.reporting.quality_figures import adc_chart, before_after, overlay, seam_chart
from osteosap.volume import Volume

SHAPE = (60, 40, 160)
SPACING = (6.0, 6.0, 6.0)
SEAMS = [
    {"channel": "t1", "pair": [1, 2], "overlap_mm": 40.0, "mismatch_before": 0.3,
     "mismatch_after": 0.01},
    {"channel": "t1", "pair": [2, 3], "overlap_mm": 40.0, "mismatch_before": None,
     "mismatch_after": 0.02},
    {"channel": "dwi", "pair": [1, 2], "overlap_mm": 40.0, "mismatch_before": 0.4,
     "mismatch_after": 0.33},
    {"channel": "dwi", "pair": [2, 3], "overlap_mm": 0.0, "mismatch_before": None,
     "mismatch_after": None},
]  # fmt: skip
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


def _pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    return np.asarray(imread(io.BytesIO(png)))[..., :3]


def _blue(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 2] > 0.7) & (pixels[..., 0] < 0.45)


def _orange(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] > 0.7) & (pixels[..., 1] > 0.4) & (pixels[..., 2] < 0.3)


def _body() -> np.ndarray:
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    disc = ((i - 30) / 22) ** 2 + ((j - 20) / 14) ** 2 < 1
    return np.asarray(disc & (k > 8) & (k < 152))


def _pictures(*, shift: int = 0) -> dict[str, np.ndarray]:
    """Planes of a block; the DWI lies ``shift`` voxels to the front before registration."""
    body = np.where(_body(), 100.0, 0.0).astype(np.float32)
    moved = np.roll(body, shift, axis=1)
    pictures: dict[str, np.ndarray] = {}
    for name, (before, after) in {
        "t1": (body, body), "low": (moved, body), "dwi": (moved * 0.2, body * 0.2),
    }.items():  # fmt: skip
        for when, array in (("before", before), ("after", after)):
            pictures[f"{name}_{when}_cor"] = array[:, 20]
            pictures[f"{name}_{when}_sag"] = array[30]
    pictures["spacing_mm_cor"] = pictures["spacing_mm_sag"] = np.array([6.0, 6.0], np.float32)
    pictures["stations_mm"] = np.array([[0, 360], [300, 660], [600, 960]], np.float32)
    return pictures


def _images(*, adc: bool = True) -> Volume:
    rng = np.random.default_rng(0)
    body, i = _body(), np.arange(SHAPE[0])[:, None, None]
    t1 = np.where(body, np.where(np.abs(i - 30) < 15, 300.0, 550.0), 0.0)
    t1 = np.abs(t1 + rng.normal(0, 8, SHAPE))
    b1000 = np.abs(np.where(body, 40.0, 0.0) + rng.normal(0, 4, SHAPE))
    channels = {"t1": t1, "b1000": b1000}
    if adc:
        channels["adc"] = np.where(body, 1450.0 * rng.normal(1, 0.1, SHAPE), 0.0)
    stacked = np.stack(list(channels.values())).astype(np.float32)
    return Volume(stacked, make_affine(SPACING, (0.0, 0.0, 0.0)), tuple(channels))


def _content(images: Volume, **more: Any) -> ReportContent:
    skeleton = np.zeros(SHAPE, np.uint8)
    skeleton[27:33, 12:16, 30:120] = 3
    mask = np.zeros(SHAPE, np.int32)
    found = measure_lesions(mask, images.grid, skeleton=skeleton)
    return ReportContent(
        images=images,
        skeleton=Volume.single(skeleton, images.affine, "skeleton"),
        lesions=Volume.single(mask, images.affine, "lesions"),
        findings=tuple(found),
        measurements=measurements(found, mask),
        **more,
    )


def _section(html: str) -> str:
    parser = _Balance()
    parser.feed(html)
    assert parser.open == []
    assert not re.search(r"https?://|@import|url\(", html)
    start = html.index('<section id="quality">')
    return html[start : html.index("</section>", start)]


def test_before_and_after_stand_side_by_side_with_their_stations() -> None:
    pixels = _pixels(before_after(_pictures(), "t1", title="T1"))
    height, width = pixels.shape[:2]
    assert width / height == pytest.approx((2 * 360 + 2 * 240 + 4 * 43) / 960, rel=0.1)
    bars = _blue(pixels)
    columns = np.flatnonzero(bars[: height // 2].sum(axis=0) > 0.1 * height)
    assert np.unique(columns // 20).size >= 4  # bars beside each picture
    without = {k: v for k, v in _pictures().items() if k != "stations_mm"}
    assert not _blue(_pixels(before_after(without, "t1", title="T1"))).any()


def test_one_station_has_no_bars() -> None:
    pictures = _pictures() | {"stations_mm": np.array([[0, 960]], np.float32)}
    assert not _blue(_pixels(before_after(pictures, "dwi", title="b1000"))).any()


def test_pictures_that_were_not_kept_give_no_figure() -> None:
    assert before_after({}, "t1", title="T1") is None
    assert overlay({}) is None
    pictures = _pictures()
    del pictures["low_before_sag"]
    assert overlay(pictures) is None
    assert overlay(pictures, plane="cor") is not None
    pictures["low_before_cor"] = pictures["low_before_cor"][1:]
    assert overlay(pictures, plane="cor") is None


def test_edges_of_the_dwi_are_drawn_where_the_dwi_lies() -> None:
    """Three voxels to the front before registration; anterior is on the left of the page."""
    pictures = _pictures(shift=3)
    pixels = _pixels(overlay(pictures))
    quarter = pixels.shape[1] // 4
    upper_before, upper_after = pixels[:, :quarter], pixels[:, quarter : 2 * quarter]
    middle = slice(pixels.shape[0] // 2, int(0.8 * pixels.shape[0]))
    rows = [np.flatnonzero(_orange(p[middle]).any(axis=0)) for p in (upper_before, upper_after)]
    scale = quarter / (240.0 + 0.045 * 480.0)  # pixels in a mm
    assert rows[0].min() - rows[1].min() == pytest.approx(-18.0 * scale, abs=4)
    assert np.ptp(rows[1]) == pytest.approx(28 * 6.0 * scale, abs=8)


def test_a_short_body_is_not_drawn_in_two_parts() -> None:
    pictures = {k: v[..., :60] if "_cor" in k or "_sag" in k else v for k, v in _pictures().items()}
    pictures |= {k: v for k, v in _pictures().items() if k.startswith("spacing")}
    short, long = _pixels(overlay(pictures)), _pixels(overlay(_pictures()))
    assert short.shape[1] / short.shape[0] < 0.75 * long.shape[1] / long.shape[0]


def test_black_pictures_can_be_drawn() -> None:
    black = {k: np.zeros_like(v) if "_mm" not in k else v for k, v in _pictures().items()}
    assert before_after(black, "t1", title="T1") is not None
    assert not _orange(_pixels(overlay(black))).any()


def test_seams_are_drawn_for_the_channels_that_have_them() -> None:
    both, one = seam_chart(SEAMS, limits={"t1": 0.05, "dwi": 0.25}), seam_chart(SEAMS[:2])
    assert both is not None
    assert one is not None
    assert both != seam_chart(SEAMS)  # the limits are drawn
    assert seam_chart([]) is None
    assert seam_chart(SEAMS[3:]) is None


def test_the_adc_of_each_tissue_that_was_found_is_drawn() -> None:
    edges = list(np.arange(0.0, 3050.0, 50.0))
    tissue = {"counts": [1] * 60, "median": 450.0, "n_voxels": 60, "expected": [200.0, 900.0]}
    one = _pixels(adc_chart({"edges_um2_per_s": edges, "marrow": tissue}))
    two = _pixels(adc_chart({"edges_um2_per_s": edges, "marrow": tissue, "muscle": tissue}))
    assert two.shape[0] > one.shape[0]
    assert adc_chart({}) is None
    assert adc_chart({"edges_um2_per_s": edges}) is None
    wrong_unit = tissue | {"median": 0.45, "counts": [60] + [0] * 59}
    assert adc_chart({"edges_um2_per_s": edges, "marrow": wrong_unit}) is not None


def test_the_same_pictures_give_the_same_bytes() -> None:
    assert overlay(_pictures()) == overlay(_pictures())
    assert seam_chart(SEAMS) == seam_chart(SEAMS)


def test_the_report_shows_every_check_with_its_verdict_and_every_figure() -> None:
    images = _images()
    quality = assess(images, _body(), record={"seams": SEAMS}).to_mapping()
    quality = json.loads(json.dumps(quality))  # as it comes from the record on disk
    content = _content(images, preprocessing={"quality": quality}, snapshots=_pictures())
    section = _section(render_report(content))
    for check in quality["checks"]:
        assert (check["name"] in section) is (check["name"] != "ADC of marrow-like tissue")
    assert "DWI stations 1 and 2 differ by 33.0% where they overlap" in section
    assert "look here" in section
    assert "as expected" in section
    assert "not measured" in section
    assert "1 of 9" in section  # bones of the skeleton map
    assert section.count("data:image/png") == 2 + 2 + 3
    assert "All seams" in section


def test_the_marrow_of_the_skeleton_map_replaces_what_only_looks_like_marrow() -> None:
    images = _images()
    quality = assess(images, _body()).to_mapping()
    assert "ADC of marrow-like tissue" in [c["name"] for c in quality["checks"]]
    section = _section(render_report(_content(images, preprocessing={"quality": quality})))
    assert "ADC of marrow of spine and pelvis (skeleton map)" in section
    assert "ADC of marrow-like tissue" not in section


def test_the_section_is_whole_without_adc_and_without_seams() -> None:
    images = _images(adc=False)
    quality = assess(images, _body()).to_mapping()
    section = _section(render_report(_content(images, preprocessing={"quality": quality})))
    assert section.count("<tr>") == 1 + len(quality["checks"]) + 1  # head and bones
    assert "no ADC map" in section
    assert "data:image/png" not in section


def test_the_section_is_whole_with_pictures_alone() -> None:
    section = _section(render_report(_content(_images(adc=False), snapshots=_pictures())))
    assert section.count("data:image/png") == 2 + 3
    assert "Bones in the skeleton map" in section


def test_an_exam_of_which_nothing_was_kept_has_no_section() -> None:
    assert 'id="quality"' not in render_report(_content(_images(adc=False)))


def test_numbers_of_the_quality_record_are_not_repeated_under_what_was_done() -> None:
    images = _images()
    quality = assess(images, _body(), record={"seams": SEAMS}).to_mapping()
    html = render_report(_content(images, preprocessing={"quality": quality, "seams": SEAMS}))
    done = html[html.index('<section id="done">') :]
    assert "mismatch" not in done
    assert "edges um2" not in done


def test_text_of_a_quality_record_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>"
    check = {"topic": "adc", "name": evil, "value": evil, "expected": evil,
             "verdict": "look", "note": evil}  # fmt: skip
    html = render_report(_content(_images(), preprocessing={"quality": {"checks": [check]}}))
    assert evil not in html

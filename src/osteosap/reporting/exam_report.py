"""The report of one exam: a single HTML page with everything inside, for a reader.

No script, font or image is loaded from anywhere; the page can be archived and opened offline.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from osteosap import __version__
from osteosap.anatomy import REGIONS, UNASSIGNED
from osteosap.exam import Exam
from osteosap.manifest import write_text
from osteosap.preprocess.quality import Check, QualityConfig, assess_skeleton
from osteosap.reporting.content import LIMITS, ReportConfig, ReportContent
from osteosap.reporting.figures import (
    ADC_WINDOW_UM2_PER_S,
    b1000_projections,
    body_height_mm,
    display_windows,
    exam_panel,
    lesion_close_up,
    region_colour,
)
from osteosap.reporting.findings import DISCLAIMER
from osteosap.reporting.quality_figures import adc_chart, before_after, overlay, seam_chart

WHOLE_BODY_MM = 800.0
"""Below this height the report warns that it is no whole-body examination."""

__all__ = ["render_report", "write_report"]

NOTHING = "\N{EN DASH}"
"""Shown where there is no value."""


def write_report(path: Path, *, content: ReportContent, config: ReportConfig | None = None) -> None:
    """Write the report as one self-contained HTML file, whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    GeometryError
        The maps are on another grid than the images.
    """
    write_text(path, render_report(content, config=config))


def render_report(content: ReportContent, *, config: ReportConfig | None = None) -> str:
    """The report's HTML.

    Parameters
    ----------
    content
        What to show; works without lesions and without ADC.
    config
        Settings.
    """
    settings = config or ReportConfig()
    for volume in (content.skeleton, content.lesions):
        content.images.grid.require_same(volume.grid, what=f"images and {volume.channels[0]}")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("osteosap.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, words=_words, colour=region_colour)
    environment.tests["rows"] = _is_rows
    environment.globals.update(
        dict_without=_without,
        scalars=lambda record: {k: v for k, v in record.items() if _is_plain(v)},
        not_scalars=lambda record: {k: v for k, v in record.items() if not _is_plain(v)},
        stylesheet=Markup(_template_text(environment, "report.css")),
    )
    return environment.get_template("report.html.j2").render(
        title=settings.title,
        content=content,
        disclaimer=DISCLAIMER,
        limits=LIMITS,
        version=__version__,
        cards=_cards(content),
        notes=_notes(content),
        regions=_regions(content),
        figures=_figures(content, settings),
        close_ups=_close_ups(content, settings),
        is_wide=_is_wide(content),
        min_volume_ml=content.measurements["settings"]["min_volume_ml"],
        adc_window=ADC_WINDOW_UM2_PER_S,
        quality=_quality(content),
    )


def _notes(content: ReportContent) -> list[str]:
    """What to mind before reading: warnings of the run, partial coverage, simulated training."""
    notes = list(content.warnings)
    height_mm = body_height_mm(content.images)
    if height_mm < WHOLE_BODY_MM:
        notes.insert(
            0,
            f"the images cover {height_mm / 10:.0f} cm from head to foot, not a whole body: the "
            "networks name bones by their surroundings, so regions may be wrong",
        )
    trained_on = str(content.segmentation.get("lesions", {}).get("training_data", ""))
    if not content.simulated and trained_on.startswith("simulated"):
        notes.append(
            "the lesion network learnt from simulated examinations only: what it finds or misses "
            "in a patient has not been evaluated"
        )
    return notes


def _cards(content: ReportContent) -> list[dict[str, str]]:
    """Summary numbers, each with its unit and one line of explanation."""
    summary = content.measurements
    limit = summary["settings"]["min_volume_ml"]
    adc = summary["adc_um2_per_s"]
    sites = [name for name in summary["regions"] if name != UNASSIGNED]
    spacing = " x ".join(_number(s) for s in content.images.spacing_mm)
    adc_note = "no ADC in this exam" if "adc" not in content.images.channels else "no lesion voxel"
    if adc:
        n_voxels = int(np.count_nonzero(content.lesions.array))
        adc_note = (
            f"over {adc['n_voxels']} of {n_voxels} lesion voxels, those with ADC > 0; "
            f"middle half {adc['p25']:.0f} to {adc['p75']:.0f}"
        )
    n_unassigned = summary["regions"].get(UNASSIGNED, {}).get("n_candidates", 0)
    return [
        {"label": "Candidates", "value": str(summary["n_candidates"]), "unit": "",
         "note": f"in {len(sites)} of {len(REGIONS)} regions, {n_unassigned} unassigned"},
        {"label": f"At least {limit:g} mL", "value": str(summary["n_large"]), "unit": "",
         "note": f"a sphere of {_sphere_mm(limit):.0f} mm; taken as measurable"},
        {"label": "Burden", "value": f"{summary['burden_ml']:.1f}", "unit": "mL",
         "note": f"{summary['burden_large_ml']:.1f} mL in lesions of at least {limit:g} mL"},
        {"label": "Median ADC", "value": f"{adc['median']:.0f}" if adc else NOTHING,
         "unit": "µm²/s" if adc else "", "note": adc_note},
        {"label": "Coverage", "value": f"{body_height_mm(content.images) / 10:.0f}", "unit": "cm",
         "note": f"head to foot; voxels of {spacing} mm"},
    ]  # fmt: skip


def _sphere_mm(volume_ml: float) -> float:
    """Diameter of a sphere."""
    return float((6000.0 * volume_ml / np.pi) ** (1 / 3))


def _regions(content: ReportContent) -> list[dict[str, Any]]:
    """One row a region, with the volume of bone found there, and one for what has none."""
    voxels = np.bincount(content.skeleton.array[0].ravel(), minlength=len(REGIONS) + 1)
    bone_ml = voxels * content.images.grid.voxel_volume_ml
    rows: list[dict[str, Any]] = [
        {"name": r.name, "title": r.title, "site": r.met_rads_site, "bone_ml": float(bone_ml[r.id])}
        for r in REGIONS
    ]
    rows.append({"name": UNASSIGNED, "title": "Unassigned", "site": None, "bone_ml": None})
    for row in rows:
        here = [x for x in content.findings if x.region == row["name"]]
        found = content.measurements["regions"].get(row["name"], {})
        row["n_candidates"] = len(here)
        row["n_large"] = found.get("n_large", 0)
        row["volume_ml"] = found.get("volume_ml", 0.0)
        row["largest_ml"] = max((x.volume_ml for x in here), default=None)
    return rows


def _figures(content: ReportContent, settings: ReportConfig) -> dict[str, str]:
    exam = Exam(content.images, content.skeleton, content.lesions)
    projections = b1000_projections(
        content.images,
        content.lesions.array[0],
        findings=content.findings,
        n_numbered=settings.n_numbered,
    )
    return {"projections": _inline(projections), "panel": _inline(exam_panel(exam, maps="slice"))}


def _quality(content: ReportContent) -> dict[str, Any] | None:
    """What the section on image quality shows; None where preprocessing left nothing for it."""
    record = content.preprocessing.get("quality") or {}
    if not record and not content.snapshots:
        return None
    checks = [Check(**row) for row in record.get("checks", ())]
    expected = content.preprocessing.get("settings", {}).get("quality") or {}
    config = QualityConfig.from_mapping(expected)
    for found in assess_skeleton(content.images, content.skeleton.array[0], config=config):
        if found.topic == "adc" and found.verdict != "unknown":  # bones know marrow better
            checks = [c for c in checks if c.name != "ADC of marrow-like tissue"]
        after = [n for n, c in enumerate(checks) if c.topic == found.topic]
        checks.insert(after[-1] + 1 if after else len(checks), found)
    seams, limits = record.get("seams", ()), record.get("limits", {})
    pictures = content.snapshots
    figures = {
        "t1": before_after(pictures, "t1", title="T1"),
        "overlay": overlay(pictures),
        "seams": seam_chart(seams, limits=limits),
        "adc": adc_chart(record.get("adc", {})),
        "b1000": before_after(pictures, "dwi", title="DWI, high b"),
        "low": before_after(pictures, "low", title="DWI, lowest b"),
        "overlay_cor": overlay(pictures, plane="cor"),
    }
    return {
        "checks": checks,
        "n_look": sum(c.verdict == "look" for c in checks),
        "seams": seams,
        "figures": {name: image and _inline(image) for name, image in figures.items()},
    }


def _is_wide(content: ReportContent) -> bool:
    """Whether the exam is no taller than wide (a pelvis only), so that projections need a row."""
    width, depth, height = content.images.grid.shape * np.asarray(content.images.spacing_mm)
    return bool(width + depth > height)


def _close_ups(content: ReportContent, settings: ReportConfig) -> list[dict[str, Any]]:
    largest = sorted(content.findings, key=lambda x: -x.volume_ml)[: settings.n_close_ups]
    lesions, windows = content.lesions.array[0], display_windows(content.images)
    return [
        {
            "lesion": x,
            "image": _inline(lesion_close_up(content.images, lesions, x, windows=windows)),
        }
        for x in largest
    ]


def _inline(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def _template_text(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _number(value: Any) -> str:
    """A value of a record for reading: four digits, short checksums, a dash for nothing."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    text = str(value)
    is_checksum = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return f"{text[:16]}…" if is_checksum else text


def _words(key: str) -> str:
    """A key of a record for reading."""
    text = str(key)
    for suffix, unit in (
        ("_s_per_mm2", " (s/mm²)"), ("_um2_per_s", " (µm²/s)"), ("_mm", " (mm)"), ("_ml", " (mL)"),
    ):  # fmt: skip
        if text.endswith(suffix):
            text = text.removesuffix(suffix) + unit
    return text.replace("_", " ").replace("sha256", "SHA-256")


def _is_rows(value: Any) -> bool:
    """Whether a value of a record is a list of mappings."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(item, Mapping) for item in value)
    )


def _is_plain(value: Any) -> bool:
    """Whether a value of a record fits on one line."""
    return not isinstance(value, Mapping) and not _is_rows(value)


def _without(record: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in keys}

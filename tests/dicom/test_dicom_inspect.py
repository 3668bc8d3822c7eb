"""What ``osteosap inspect`` says of a study, whether it can be processed or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
import typer
from dicom_studies import edit, files_of, make_images, station_affine, to_enhanced
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from osteosap.cli.inspect import inspect
from osteosap.dicom import DicomWriterConfig, inspect_study, read_study, write_study
from osteosap.errors import StudyError

Change = Callable[[Path], None]


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and what is printed."""
    app = typer.Typer()
    app.command()(inspect)
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_inspect_says_what_read_study_reads(study: Path) -> None:
    found, reading = inspect_study(study), read_study(study)
    assert found.problem is None
    assert found.series == reading.series
    assert found.warnings == reading.warnings
    assert found.plan == (
        "t1: series 2, 3 (2 stations)",
        "diffusion: b 0, 50, 1000 s/mm2 from series 4, 5 (2 stations)",
        "b1000: acquired (b 1000)",
        "adc: fitted from b 0, 50, 1000",
    )
    dwi = found.series[-1]
    assert (dwi.n_files, dwi.n_images, dwi.n_stations, dwi.plane) == (18, 18, 1, "axial")
    assert dwi.geometry == "10x8x6 voxels of 3x2x5 mm"


def test_frames_of_enhanced_files_are_counted_beside_the_files(study: Path) -> None:
    for series in sorted(study.glob("*_dwi")):
        to_enhanced(sorted(series.glob("*.dcm")), series / "enhanced.dcm")
    code, text = run(study)
    assert code == 0
    assert "1 (18 frames)" in " ".join(text.split())


def test_the_scanners_map_is_used_where_there_is_one_b_value(tmp_path: Path) -> None:
    images = make_images(b_values=[800.0], adc=True)
    write_study(images, tmp_path / "s", config=DicomWriterConfig())
    plan = inspect_study(tmp_path / "s").plan
    assert "adc of the scanner: series 6, 7 (2 stations), used as it is" in plan
    assert any(line.startswith("b1000: none near 1000 was acquired (b 800)") for line in plan)


def without(kind: str) -> Change:
    def change(study: Path) -> None:
        for path in files_of(study, kind):
            path.unlink()

    return change


def one_b_value(study: Path) -> None:
    for path in files_of(study, "dwi"):
        if pydicom.dcmread(path).DiffusionBValue != 1000:
            path.unlink()


def two_studies(study: Path) -> None:
    edit(files_of(study, "t1"), lambda d: setattr(d, "StudyInstanceUID", "1.2.3"))


def truncated(study: Path) -> None:
    path = files_of(study, "dwi")[4]
    path.write_bytes(path.read_bytes()[:-50])


def missing_slice(study: Path) -> None:
    files_of(study, "t1")[2].unlink()


def only_ct(study: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.Modality, dataset.SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.2"

    edit(study.rglob("*.dcm"), change)


def two_planes(study: Path) -> None:
    def turn(dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    edit(files_of(study, "t1")[:3], turn)
    edit(files_of(study, "t1")[-3:], turn)


@pytest.mark.parametrize(
    ("change", "said", "n_series"),
    [
        (without("t1"), "no T1-weighted series", 3),
        (without("dwi"), "no diffusion series", 3),
        (one_b_value, "one b-value only (1000 s/mm2)", 5),
        (two_studies, "images of 2 studies", 5),
        (truncated, "truncated", 5),
        (missing_slice, "1 missing", 5),
        (only_ct, "no MR series", 5),
        (two_planes, "2 orientations in one series (3 and 3 images)", 5),
    ],
)
def test_a_study_that_cannot_be_processed_is_shown_with_the_error_of_run(
    study: Path, change: Change, said: str, n_series: int
) -> None:
    change(study)
    with pytest.raises(StudyError) as caught:
        read_study(study)
    found = inspect_study(study)
    assert said in str(caught.value)
    assert found.problem == str(caught.value)
    assert len(found.series) == n_series
    assert found.plan == ()
    code, text = run(study)
    assert code == 1
    flat = " ".join(text.split())
    assert f"error: {caught.value}" in flat
    assert "localizer" in flat


def test_the_json_holds_the_table_the_plan_and_the_problem(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert run(study, "--json", path)[0] == 0
    content = json.loads(path.read_text())
    assert set(content) == {"series", "plan", "warnings", "problem"}
    assert [s["role"] for s in content["series"]] == ["localizer", "t1", "t1", "dwi", "dwi"]
    assert content["problem"] is None
    without("t1")(study)
    assert run(study, "--json", path)[0] == 1
    assert "no T1" in json.loads(path.read_text())["problem"]


def test_rules_of_the_user_are_applied(study: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("rules: [{role: other, series: [2], reason: moved}]")
    code, text = run(study, "--rules", own)
    assert code == 0
    assert "moved" in text
    assert "t1: series 3 (1 station)" in text
    assert "applies to no image" not in text


def test_a_rule_of_the_user_that_decides_about_nothing_is_said(study: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("rules: [{role: dwi, series: [77]}, {role: t1, series: [2]}]")
    code, text = run(study, "--rules", own)
    assert code == 0
    assert "rule 1 of your rules (role dwi) applies to no image" in text
    assert "rule 2" not in text


def test_no_patient_is_named_in_the_table(study: Path, tmp_path: Path) -> None:
    def name(dataset: Dataset) -> None:
        dataset.PatientName, dataset.PatientID = "Oakenshield^Thorin", "X77123"
        dataset.SeriesDescription = f"Thorin {dataset.SeriesDescription}"

    edit(study.rglob("*.dcm"), name)
    path = tmp_path / "found.json"
    _, text = run(study, "--json", path)
    everything = (text + path.read_text()).lower()
    assert "t1_tse" in everything
    assert not any(w in everything for w in ("oakenshield", "thorin", "x77123"))


def test_a_folder_of_nifti_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no folder"):
        inspect_study(tmp_path / "nothing")
    with pytest.raises(StudyError, match="no DICOM file"):
        inspect_study(tmp_path)
    (tmp_path / "t1.nii.gz").write_bytes(b"x")
    with pytest.raises(StudyError, match="NIfTI images") as caught:
        inspect_study(tmp_path)
    assert "osteosap run" in caught.value.remedy


def test_a_gap_between_stations_is_said(tmp_path: Path) -> None:
    images = make_images([station_affine(0), station_affine(2)])
    write_study(images, tmp_path / "s", config=DicomWriterConfig())
    warnings = inspect_study(tmp_path / "s").warnings
    assert len(warnings) == 2
    assert all("(25 mm, between series" in w for w in warnings)
    assert any(w.startswith("T1: no image shows the body between 75 and 100 mm") for w in warnings)


def test_the_reason_for_every_series_of_a_mixed_study_is_shown(study: Path) -> None:
    shutil.copytree(study / "002_t1", study / "again")

    def again(dataset: Dataset) -> None:
        dataset.SeriesInstanceUID += ".1"
        dataset.SOPInstanceUID += ".1"
        dataset.SeriesNumber = 30

    edit((study / "again").iterdir(), again)
    code, text = run(study)
    flat = " ".join(text.replace("│", " ").split())
    assert code == 0
    assert "series 2+3" in flat
    assert "serves better" in flat

"""A small study as ``osteosap reproduce`` leaves it, its scores made by the real commands."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osteosap.cli import main
from osteosap.folds import Folds, write_folds
from osteosap.geometry import make_affine
from osteosap.reporting import study_report
from osteosap.volume import Volume, write_nifti

ARMS = ("baseline", "ssl", "sap")
CHANCES = {"baseline": 0.35, "ssl": 0.6, "sap": 0.95}
"""Of finding a lesion."""
QUICK = {"resamples": 40, "froc_thresholds": [0.1, 0.3, 0.5, 0.7, 0.9]}
"""Settings of the evaluation."""
CHARTS = frozenset(study_report._CHARTS)
SHAPE = (26, 14, 40)
AFFINE = make_affine((8.0, 8.0, 10.0), (-104.0, -56.0, -200.0))
PLACES = ((6, 5, 8), (12, 7, 16), (18, 5, 24), (10, 8, 32))


PEOPLE = (
    "Abelard_Jeanne_19610304", "Brunnhilde-Okafor", "Czerny^Teodor", "Dragomirescu", "Eszterhazy",
    "Fitzwilliam_MRN0042", "Grzegorz_Lovelace",
)  # fmt: skip
SUBJECTS = ("subject_0", "subject_1", "sub <b>2&|$x$", *(f"subject_{n}" for n in range(3, 7)))


@dataclass
class Written:
    """A report, and the words of its figures by name, as matplotlib drew them."""

    folder: Path
    paths: list[Path] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    words: dict[str, list[str]] = field(default_factory=dict)

    @property
    def html(self) -> str:
        """The page."""
        return (self.folder / "study.html").read_text(encoding="utf-8")

    @property
    def markdown(self) -> str:
        """The same as Markdown."""
        return (self.folder / "study.md").read_text(encoding="utf-8")


def make_study(
    root: Path, names: Sequence[str], *, simulated: bool, arms: Sequence[str] = ARMS
) -> Path:
    """A study of ``names``, all tested but the first, which tunes; logs, features, times too."""
    study = root / "study"
    data = study / "cohort/patients/all" if simulated else root / "data/patients"
    for number, name in enumerate(names):
        _write_exam(data / name, number, simulated=simulated)
        for arm in arms if number else ():
            _write_prediction(study, data, name, arm, number)
        own = study / "lists/patients" / name
        own.mkdir(parents=True)
        for file in sorted((data / name).iterdir()):
            (own / file.name).symlink_to(os.path.relpath(file, own))
    score(study, arms)
    tested = list(names[1:])
    folds = Folds(((names[0],), tuple(tested[::2]), tuple(tested[1::2])), 0, 42)
    write_folds(folds, study / "folds.json", lesions=dict.fromkeys(names, len(PLACES)))
    for arm in arms:
        for fold in (1, 2):
            _write_run(study / "runs" / f"{arm}_fold{fold}", arm, fold)
    _write_run(study / "runs/skeleton", "", 0)
    if "ssl" in arms:
        _write_run(study / "runs/self_supervised", "", 0)
    _write_features(study / "features")
    _write_unit(study / "units", "sap_fold1", 90.0)
    content = {
        "profile": "tiny",
        "data": "simulated" if simulated else "exams",
        "data_folder": None if simulated else str(data.parent),
        "simulated": simulated,
        "arms": list(arms),
        "seeds": [42],
        "config": {},
        "config_hash": "0123456789abcdef0123456789abcdef",
        "versions": {"osteosap": "9.9"},
    }
    (study / "study.json").write_text(json.dumps(content))
    return study


def score(study: Path, arms: Sequence[str], **settings: Any) -> None:
    """Write ``scores`` and ``comparison`` by the commands that a study runs."""
    for folder in ("scores", "comparison"):
        shutil.rmtree(study / folder, ignore_errors=True)
    config = study / "recipes/evaluation.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps(QUICK | settings))
    common = ["--reference", f"{study}/lists/patients", "--allow-missing", "--config", str(config)]
    for arm in arms:
        places = ["--prediction", f"{study}/predictions/{arm}", "--out", f"{study}/scores/{arm}"]
        assert main(["evaluate", *places, *common]) == 0
    if len(arms) > 1:
        methods = [f"{arm}={study}/predictions/{arm}" for arm in arms]
        assert main(["compare-methods", *methods, "--out", f"{study}/comparison", *common]) == 0


def draw_only(patch: pytest.MonkeyPatch, names: Iterable[str] = (), *, pictures: bool) -> None:
    """Leave out figures that a test is not about: they take time."""
    for name in CHARTS - set(names):
        patch.setitem(study_report._CHARTS, name, lambda _: None)
    if not pictures:
        patch.setattr(study_report, "exam_picture", lambda *_: b"picture")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its place."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def copy_study(study: Path, target: Path) -> Path:
    """A copy to spoil, its links leading where they led."""
    shutil.copytree(study, target, symlinks=True, ignore=shutil.ignore_patterns("report"))
    for link in target.glob("lists/patients/*/*"):
        source = study / link.relative_to(target)
        link.unlink()
        link.symlink_to(source.resolve())
    return target


def edit(path: Path, **changes: Any) -> None:
    """Other values in a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _write(array: np.ndarray, path: Path, name: str) -> None:
    write_nifti(Volume.single(array, AFFINE, name), path / f"{name}.nii.gz")


def _truth(number: int) -> np.ndarray:
    """Four lesions: large ones (5 mL) and single voxels (0.6 mL), other ones in every exam."""
    truth = np.zeros(SHAPE, np.int32)
    for lesion, (i, j, k) in enumerate(PLACES, start=1):
        size = 1 + (5 * number >> lesion & 1)
        truth[i : i + size, j : j + size, k : k + size] = lesion
    return truth


def _write_exam(folder: Path, number: int, *, simulated: bool) -> None:
    rng = np.random.default_rng(number)
    truth = _truth(number)
    t1 = np.zeros(SHAPE, np.float32)
    t1[2:-2, 2:-2, 1:-1] = 300.0
    t1[truth > 0] = 100.0
    b1000 = np.where(t1 > 0, 40.0 + 5.0 * rng.standard_normal(SHAPE), 0.0).astype(np.float32)
    b1000[truth > 0] = 200.0
    skeleton = np.zeros(SHAPE, np.uint8)
    skeleton[5:20, 4:10, 2:20], skeleton[5:20, 4:10, 20:38] = 3, 2
    for array, name in ((t1, "t1"), (b1000, "b1000"), (skeleton, "skeleton"), (truth, "lesions")):
        _write(array, folder, name)
    if simulated:
        record = {"seed": number, "config": {"site": "ab"[number % 2]}}
        (folder / "exam.json").write_text(json.dumps(record))


def _write_prediction(study: Path, data: Path, name: str, arm: str, number: int) -> None:
    rng = np.random.default_rng([number, *map(ord, arm)])
    probability = np.zeros(SHAPE, np.float32)
    truth = _truth(number)
    for lesion in range(1, len(PLACES) + 1):
        if rng.random() < CHANCES[arm]:
            found = np.roll(truth == lesion, int(rng.random() < 0.5), axis=0)
            probability[found] = rng.uniform(0.55, 0.95)
    for _ in range(1 + rng.poisson(2)):
        i, j, k = (int(rng.integers(3, size - 4)) for size in SHAPE)
        probability[i : i + 2, j : j + int(rng.integers(1, 3)), k] = rng.uniform(0.3, 0.9)
    folder = study / "predictions" / arm / name
    _write(probability, folder, "lesion_probability")
    _write((probability >= 0.5).astype(np.int32), folder, "lesions")
    if arm == ARMS[0]:
        skeleton = np.zeros(SHAPE, np.uint8)
        skeleton[5:19, 4:10, 2:20], skeleton[5:20, 4:9, 20:38] = 3, 2
        _write(skeleton, folder, "skeleton")


def _write_run(folder: Path, arm: str, fold: int) -> None:
    folder.mkdir(parents=True)
    steps = range(0, 300, 100)
    losses = [f"{step},{1.0 / (1 + step + fold)},0.5" for step in steps]
    (folder / "training.csv").write_text("\n".join(["step,loss,contrast", *losses, "300"]) + "\n")
    metrics = ("f2",) if arm else ("dice_merged", "dice_lumbar_spine", "total")
    rows = [f"{step},{m},{0.1 + step / 1000}" for step in steps for m in metrics]
    (folder / "validation.csv").write_text("\n".join(["step,metric,value", *rows]) + "\n")
    rates = {"encoder_learning_rate": 2e-6, "decoder_learning_rate": 1e-5}
    told = {
        "metadata": {
            "recipe": {"arms": {arm: rates}, "learning_rate": 1e-4},
            "steps": 300, "threshold": 0.5, "n_training_exams": 7, "n_validation_exams": 1,
            "patch": [32, 32, 32], "spacing_mm": [8.0, 8.0, 8.0],
        },
        "spec": {"architecture": "dynunet"},
    }  # fmt: skip
    header = json.dumps({"__metadata__": {"osteosap": json.dumps(told)}}).encode()
    name = "lesions" if arm else folder.name
    (folder / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def _write_features(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(5)
    rows = ["encoder,patch,kind,exam,tsne_1,tsne_2"]
    distances = {
        "n_lesion": 5, "n_background": 5, "centroid_distance": 4.321, "within_lesion": 2.1,
        "within_background": 2.2, "ratio": 2.01,
    }  # fmt: skip
    for encoder in ("sap", "ssl"):
        for patch, (x, y) in enumerate(rng.normal(size=(10, 2))):
            kind = "lesion" if patch < 5 else "background"
            rows.append(f"{encoder},{patch},{kind},0,{x:.4f},{y:.4f}")
    (folder / "features.csv").write_text("\n".join(rows) + "\n")
    encoders = {name: {"features": distances, "tsne": distances} for name in ("sap", "ssl")}
    content = {"simulated": True, "encoders": encoders}
    (folder / "features.json").write_text(json.dumps(content))


def _write_unit(folder: Path, name: str, seconds: float) -> None:
    folder.mkdir()
    record = {"name": name, "seconds": seconds, "started": "2026-11-25T08:08:02"}
    (folder / f"{name}.json").write_text(json.dumps(record))

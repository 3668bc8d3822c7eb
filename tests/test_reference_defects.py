"""One test a defect of the released reference scripts; each fails if we had the defect.

See docs/explanation/reference-defects.md for the table.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform
from torch import nn

from osteosap.anatomy import N_CLASSES, REGIONS
from osteosap.errors import CheckpointError, GeometryError, TrainingError
from osteosap.evaluation.matching import match_lesions
from osteosap.evaluation.metrics import detect, score_lesions
from osteosap.exam import Exam, write_exam
from osteosap.geometry import Grid, make_affine
from osteosap.inference.prepare import InputConfig
from osteosap.inference.sliding import WindowConfig, predict_probabilities
from osteosap.models import networks
from osteosap.models.checkpoint import (
    Checkpoint,
    CheckpointMetadata,
    load_checkpoint,
    restore_network,
    save_checkpoint,
)
from osteosap.models.foreign import read_foreign
from osteosap.models.networks import NetworkSpec, build_network, head_of, named_weights
from osteosap.models.transfer import parameter_groups, transfer_skeleton
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.cases import find_cases, require_cases
from osteosap.training.data import TrainingExam, prepare_exam
from osteosap.training.loop import LoopConfig, fit
from osteosap.training.patches import PatchStream
from osteosap.training.sampler import LesionSampler, LesionSamplingConfig
from osteosap.training.validation import validate_lesions
from osteosap.volume import Volume

CHANNELS = ("t1", "b1000")
PATCH = (16, 16, 16)
CPU = WindowConfig(device="cpu", precision="float32")
SMALL = NetworkSpec(filters=(4, 8, 8))
EVERY = [
    NetworkSpec(filters=(4, 8, 8, 8), deep_supervision=1),
    NetworkSpec(architecture="swin_unetr", feature_size=12),
    NetworkSpec(architecture="segresnet", initial_filters=8, blocks=(1, 1)),
]


def _write_cases(root: Path, n: int) -> Path:
    """Exam folders: a body of 24 x 20 x 32 voxels of 8 mm in air, two lesions in each."""
    shape = (32, 28, 40)
    affine = make_affine((8.0,) * 3, (-120.0, -100.0, 50.0))
    for number in range(n):
        rng = np.random.default_rng(number)
        images = 5.0 * rng.random((2, *shape), dtype=np.float32)
        images[:, 4:28, 4:24, 4:36] += 100.0 + 20.0 * rng.random((24, 20, 32), dtype=np.float32)
        skeleton = np.zeros(shape, np.uint8)
        skeleton[12:20, 8:16, 6:34] = 4
        lesions = np.zeros(shape, np.int32)
        lesions[13:16, 9:12, 8:11], lesions[15:18, 11:14, 25:29] = 1, 2
        images[1][lesions > 0] += 300.0
        exam = Exam(
            Volume(images, affine, CHANNELS),
            Volume.single(skeleton, affine, "skeleton"),
            Volume.single(lesions, affine, "lesions"),
        )
        write_exam(exam, root / f"exam_{number}")
    return root


def _exam(n_lesions: int = 2) -> TrainingExam:
    """A body that fills its grid, lesions of 4 voxels a side."""
    shape = (40, 24, 32)
    rng = np.random.default_rng(0)
    images = (0.2 * rng.random((2, *shape))).astype(np.float16)
    lesions = np.zeros(shape, np.int32)
    for number in range(1, n_lesions + 1):
        lesions[4:8, 4:8, 8 * number : 8 * number + 4] = number
    images[:, lesions > 0] = 0.9
    return TrainingExam(images, np.ones(shape, bool), None, lesions, Grid(shape, np.eye(4)))


def _stream() -> PatchStream:
    exams = [_exam(), _exam(0)]
    config = LesionSamplingConfig(background_ratio=1.0)
    return PatchStream(
        exams,
        LesionSampler(exams, PATCH, config=config, seed=3),
        reference="lesions",
        patch=PATCH,
        augmentation=AugmentationConfig(),
        seed=3,
    )


def _skeleton(spec: NetworkSpec) -> Checkpoint:
    spec = NetworkSpec.from_mapping(spec.to_mapping() | {"n_classes": N_CLASSES})
    metadata = CheckpointMetadata(
        task="skeleton",
        classes=("background", *(r.name for r in REGIONS)),
        spacing_mm=(4, 4, 4),
        patch=(64, 64, 64),
    )
    return Checkpoint(spec, metadata, named_weights(build_network(spec)))


class _Evil:
    """Its pickle creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


class _BrightIsLesion(nn.Module):
    """Calls a voxel lesion where b1000 is above a half; counts what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.windows = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.windows += images.shape[0]
        logit = 20.0 * (images[:, 1] - 0.5)
        return torch.stack([-logit, logit], dim=1)


def test_background_patches_are_drawn_anew_in_every_epoch() -> None:
    stream = _stream()
    batch = 4
    steps = stream.sampler.epoch_length // batch
    epochs = []
    for epoch in range(3):
        drawn = [
            place
            for step in range(epoch * steps, (epoch + 1) * steps)
            for _, place in stream.places(step, batch_size=batch)
        ]
        background = {(p.exam, p.start) for p in drawn if not p.lesion}
        assert len([p for p in drawn if p.lesion]) == 2
        assert background
        epochs.append(background)
    assert not epochs[0] & epochs[1]
    assert not epochs[1] & epochs[2]


@pytest.mark.parametrize("spec", EVERY, ids=lambda s: s.architecture)
def test_the_head_is_really_initialised_anew(spec: NetworkSpec) -> None:
    skeleton = _skeleton(spec)
    network = build_network(spec)
    before = head_of(network, spec).weight.detach().clone()
    transfer_skeleton(network, spec, skeleton=skeleton, head_bias=(3.0, -3.0))
    head = head_of(network, spec)
    name = next(n for n, w in named_weights(network).items() if w is head.weight)
    assert not torch.isclose(head.weight, before).any()
    assert not torch.isclose(head.weight, skeleton.state[name][:2]).any()
    assert head.bias is not None
    assert head.bias.tolist() == [3.0, -3.0]


def test_no_argument_is_passed_that_the_installed_monai_does_not_take() -> None:
    class Current(nn.Module):
        def __init__(self, in_channels: int) -> None:
            super().__init__()

    class Former(Current):
        def __init__(self, img_size: tuple[int, ...], in_channels: int) -> None:
            super().__init__(in_channels)

    for kind in (Current, Former):
        assert isinstance(networks._construct(kind, in_channels=2, img_size=(96, 96, 96)), kind)
    spec = EVERY[1]
    network = build_network(spec).train()
    assert network(torch.rand(1, 2, 64, 32, 32)).shape == (1, 2, 64, 32, 32)  # fine-tuning
    with torch.inference_mode():
        restored = restore_network(_skeleton(spec))(torch.rand(1, 2, 64, 32, 32))  # inference
    assert restored.shape == (1, N_CLASSES, 64, 32, 32)


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "it-ran"
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": _Evil(target)}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="refused"):
        read_foreign(path)
    (tmp_path / "run").mkdir()
    path.rename(tmp_path / "run" / "state.pt")  # what a run is resumed from
    network = build_network(SMALL)
    groups = parameter_groups(network, SMALL, encoder_rate=1e-3, decoder_rate=1e-3)
    with pytest.raises(TrainingError):
        fit(network, groups, stream=_stream(), config=_loop(), out=tmp_path / "run")
    assert not target.exists()
    pickle.loads(pickle.dumps(_Evil(target)))
    assert target.exists()


def test_a_checkpoint_that_does_not_fit_is_an_error_and_not_a_count(tmp_path: Path) -> None:
    complete = _skeleton(SMALL)
    lost = "upsamples.0.transp_conv.conv.weight"
    for state in (
        {n: t for n, t in complete.state.items() if n != lost},
        complete.state | {lost: torch.zeros(1)},
        complete.state | {"extra": torch.zeros(1)},
    ):
        checkpoint = Checkpoint(complete.spec, complete.metadata, state)
        save_checkpoint(checkpoint, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError):
            restore_network(load_checkpoint(tmp_path / "w.safetensors"))
    short = {n: t for n, t in complete.state.items() if n != lost}
    start = Checkpoint(complete.spec, complete.metadata, short)
    network = build_network(SMALL)
    with pytest.raises(CheckpointError, match="1 missing"):
        transfer_skeleton(network, SMALL, skeleton=start, head_bias=(3.0, -3.0))
    more = complete.state | {"extra": torch.zeros(1)}
    start = Checkpoint(complete.spec, complete.metadata, more)
    report = transfer_skeleton(network, SMALL, skeleton=start, head_bias=(3.0, -3.0))
    assert report.unexpected == ("extra",)
    assert "1 not used" in report.describe()


def test_what_is_cut_out_keeps_its_place_in_the_world(tmp_path: Path) -> None:
    """The reference saves patches with the affine of the whole volume; we save none, and the crop
    to the body that is saved has an affine of its own."""
    (case,) = find_cases(_write_cases(tmp_path, 1))
    assert case.lesions is not None
    whole = nib.load(case.lesions)
    prepared = prepare_exam(case, InputConfig(spacing_mm=(8.0, 8.0, 8.0), margin_mm=8.0))
    assert prepared.grid.shape != whole.shape
    for number in (1, 2):
        voxels = [
            np.argwhere(np.asarray(a) == number).mean(0) for a in (whole.dataobj, prepared.lesions)
        ]
        first, second = (
            nib.affines.apply_affine(affine, v)
            for affine, v in zip((whole.affine, prepared.grid.affine), voxels, strict=True)
        )
        np.testing.assert_allclose(first, second, atol=0.1)
    lesions, b1000 = np.asarray(prepared.lesions) > 0, np.asarray(prepared.images)[1]
    assert b1000[lesions].min() > 0.95  # the images lie where the grid says they do
    assert b1000[prepared.body & ~lesions].mean() < 0.8


def _turn(path: Path, codes: str) -> None:
    """The same image in another orientation."""
    image = nib.load(path)
    turn = ornt_transform(nib.io_orientation(image.affine), axcodes2ornt(codes))
    nib.save(image.as_reoriented(turn), path)


def test_grids_and_orientations_are_checked(tmp_path: Path) -> None:
    folder = _write_cases(tmp_path, 2)
    config = InputConfig(spacing_mm=(8.0, 8.0, 8.0))
    for path in (folder / "exam_1").glob("*.nii.gz"):
        _turn(path, "PIL")
    upright, turned = (prepare_exam(c, config) for c in find_cases(folder))
    assert upright.grid.same_as(turned.grid)
    assert np.array_equal(np.asarray(upright.lesions), np.asarray(turned.lesions))
    image = nib.load(folder / "exam_0" / "b1000.nii.gz")
    moved = image.affine.copy()
    moved[:3, 3] += 40.0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), folder / "exam_0" / "b1000.nii.gz")
    cases = find_cases(folder)
    with pytest.raises(TrainingError, match="exam_0"):
        require_cases(cases, needs="lesions", channels=CHANNELS)
    with pytest.raises(GeometryError):
        prepare_exam(cases[0], config)


def test_validation_is_of_whole_exams() -> None:
    exam = _exam()
    far = np.asarray(exam.images).copy()
    far[1, 32:36, 16:20, 24:28] = 0.9  # bright, no lesion, in no lesion's patch
    clean = validate_lesions(_BrightIsLesion(), [exam], patch=PATCH, windows=CPU)[1]
    seen = TrainingExam(far, exam.body, None, exam.lesions, exam.grid)
    scores = validate_lesions(_BrightIsLesion(), [seen], patch=PATCH, windows=CPU)[1]
    assert (clean["sensitivity"], clean["false_positives_per_exam"]) == (1.0, 0.0)
    assert (scores["sensitivity"], scores["false_positives_per_exam"]) == (1.0, 1.0)
    assert scores["f2"] < clean["f2"] == 1.0
    healthy = TrainingExam(far, exam.body, None, np.zeros_like(exam.lesions), exam.grid)
    both = validate_lesions(_BrightIsLesion(), [exam, healthy], patch=PATCH, windows=CPU)[1]
    assert both["false_positives_per_exam"] == 1.5  # two bright places that were lesions, one new


def test_windows_of_air_are_not_computed() -> None:
    body = np.zeros((16, 16, 128), bool)
    body[..., :16] = True
    network = _BrightIsLesion()
    images = np.random.default_rng(0).random((2, *body.shape), dtype=np.float32)
    predict_probabilities(
        network,
        images,
        body=body,
        n_classes=2,
        patch=PATCH,
        config=CPU.model_copy(update={"overlap": 0.0}),
    )
    assert network.windows == 1


def test_the_files_of_every_case_are_checked(tmp_path: Path) -> None:
    folder = _write_cases(tmp_path, 4)
    (folder / "exam_2" / "b1000.nii.gz").unlink()
    image = nib.load(folder / "exam_3" / "t1.nii.gz")
    broken = np.asarray(image.dataobj).copy()
    broken[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(broken, image.affine), folder / "exam_3" / "t1.nii.gz")
    with pytest.raises(TrainingError) as error:
        require_cases(find_cases(folder), needs="lesions", channels=CHANNELS)
    assert "exam_2" in str(error.value)
    assert "exam_3" in str(error.value)
    assert "exam_0" not in str(error.value)
    assert "exam_1" not in str(error.value)


def _loop(**values: Any) -> LoopConfig:
    base = {"steps": 6, "batch_size": 2, "warmup_steps": 2, "save_every": 2, "device": "cpu"}
    return LoopConfig.from_mapping(base | {"precision": "float32", "tensorboard": False} | values)


class _KilledError(Exception):
    pass


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    steps: list[float] = []

    def train(out: Path, stop: float | None = None) -> torch.Tensor:
        def progress(_text: str, done: float) -> None:
            steps.append(done)
            if stop is not None and done >= stop:
                raise _KilledError

        torch.manual_seed(0)
        network = build_network(SMALL)
        groups = parameter_groups(network, SMALL, encoder_rate=1e-3, decoder_rate=3e-3)
        fit(network, groups, stream=_stream(), config=_loop(), out=out, progress=progress)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    expected = train(tmp_path / "whole")
    with pytest.raises(_KilledError):
        train(tmp_path / "stopped", stop=0.8)
    steps.clear()
    assert torch.equal(train(tmp_path / "stopped"), expected)
    assert steps == pytest.approx([5 / 6, 1.0])  # on from the fourth, which was saved


def test_results_are_evaluated() -> None:
    reference = np.zeros((20, 20, 20), np.int32)
    reference[2:5, 2:5, 2:5], reference[10:14, 10:14, 10:14] = 1, 2
    prediction = np.zeros_like(reference)
    prediction[2:5, 2:5, 2:5], prediction[16:18, 2:4, 2:4] = (
        1,
        2,
    )  # one found, one missed, one false
    scores = score_lesions(match_lesions(reference, prediction), 0.1)
    detection = detect(*scores)
    assert (detection.sensitivity, detection.n_false_positives) == (0.5, 1)
    assert detection.f2 == pytest.approx(0.5)


def test_every_defect_of_the_page_has_its_test(repository: Path) -> None:
    page = (repository / "docs" / "explanation" / "reference-defects.md").read_text()
    named = [
        line.split("`")[-2]
        for line in page.splitlines()
        if line.startswith("| ") and "test_" in line
    ]
    tests = [n for n in globals() if n.startswith("test_") and "every_defect" not in n]
    assert sorted(named) == sorted(tests)

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import osteosap
from osteosap.errors import CheckpointError
from osteosap.models.checkpoint import (
    Checkpoint,
    CheckpointMetadata,
    describe,
    is_ours,
    load_checkpoint,
    load_into,
    restore_network,
    save_checkpoint,
    sha256_of,
)
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.summary import rows_of_checkpoint
from osteosap.models.transfer import encoder_state

SHIPPED = sorted((Path(osteosap.__file__).parent / "models" / "weights").glob("*.safetensors"))
SPEC = NetworkSpec(filters=(4, 8, 8), n_classes=2)
METADATA = CheckpointMetadata(
    task="lesions",
    classes=("background", "lesion"),
    spacing_mm=(4.0, 4.0, 4.0),
    patch=(16, 16, 16),
    threshold=0.4,
    training_data="simulated",
)


def _checkpoint(spec: NetworkSpec = SPEC) -> Checkpoint:
    return Checkpoint(spec, METADATA, named_weights(build_network(spec)))


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = _checkpoint()
    path = tmp_path / "new" / "lesions.safetensors"
    digest = save_checkpoint(written, path, half=False)
    read = load_checkpoint(path)
    assert (read.spec, read.metadata) == (SPEC, METADATA)
    assert read.sha256 == digest == sha256_of(path)
    assert set(read.state) == set(written.state)
    assert all(torch.equal(read.state[n], written.state[n]) for n in read.state)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_half_precision_halves_the_file_and_is_read_as_float32(tmp_path: Path) -> None:
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    checkpoint = _checkpoint()
    save_checkpoint(checkpoint, full, half=False)
    save_checkpoint(checkpoint, half, half=True)
    assert half.stat().st_size < 0.7 * full.stat().st_size
    state = load_checkpoint(half).state
    assert all(t.dtype == torch.float32 for t in state.values())
    assert all(torch.allclose(state[n], checkpoint.state[n], atol=1e-3) for n in state)


def test_a_restored_network_computes_what_the_trained_one_did(tmp_path: Path) -> None:
    network = build_network(SPEC).eval()
    path = tmp_path / "w.safetensors"
    save_checkpoint(Checkpoint(SPEC, METADATA, named_weights(network)), path, half=False)
    restored = restore_network(load_checkpoint(path))
    images = torch.rand(1, 2, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(network(images), restored(images))
    assert not restored.training


def test_a_description_names_classes_spacing_and_training_data(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(_checkpoint(), path)
    text = describe(load_checkpoint(path))
    assert text["classes"] == ["background", "lesion"]
    assert text["spacing_mm"] == [4.0, 4.0, 4.0]
    assert text["training_data"] == "simulated"
    assert text["n_weights"] > 0
    assert len(text["sha256"]) == 64


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weight file"):
        load_checkpoint(tmp_path / "absent.safetensors")
    path = tmp_path / "w.safetensors"
    save_checkpoint(_checkpoint(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 a pickle of somebody else")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="no osteosap description"):
        load_checkpoint(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"osteosap": '{"format": 99}'})
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"osteosap": "[1"})
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_the_shipped_weights_load_and_say_what_they_are(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    restore_network(checkpoint)
    rows = dict(rows_of_checkpoint(checkpoint))
    assert rows["task"] == path.stem
    assert rows["channels"] == "t1, b1000"
    assert "4 x 4 x 4 mm" in rows["grid"]
    assert "simulated" in rows["training data"]
    assert "never trained" not in rows


def test_there_are_shipped_weights_for_both_tasks() -> None:
    assert [p.stem for p in SHIPPED] == ["lesions", "skeleton"]


def test_files_of_osteosap_are_told_from_others(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    assert not is_ours(path)
    save_file({"weight": torch.zeros(3)}, path)
    assert not is_ours(path)
    path.write_bytes(b"\x80\x02 a pickle")
    assert not is_ours(path)
    save_checkpoint(_checkpoint(), path)
    assert is_ours(path)


def test_a_self_supervised_file_has_no_classes_and_is_no_network_to_predict_with(
    tmp_path: Path,
) -> None:
    values = METADATA.to_mapping() | {"task": "self_supervised", "classes": [], "threshold": None}
    metadata = CheckpointMetadata.from_mapping(values)
    state = encoder_state(build_network(SPEC), SPEC)
    path = tmp_path / "encoder.safetensors"
    save_checkpoint(Checkpoint(SPEC, metadata, state), path, half=False)
    read = load_checkpoint(path)
    assert set(read.state) == set(state)
    assert dict(rows_of_checkpoint(read))["classes"] == "none (an encoder alone)"
    with pytest.raises(CheckpointError, match="encoder alone"):
        restore_network(read)
    wrong = CheckpointMetadata.from_mapping(values | {"classes": ["background", "lesion"]})
    save_checkpoint(Checkpoint(SPEC, wrong, state), path)
    with pytest.raises(CheckpointError, match="2 classes for 0 outputs"):
        load_checkpoint(path)


def test_as_many_class_names_as_outputs_are_required(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(_checkpoint(NetworkSpec(filters=(4, 8, 8), n_classes=5)), path)
    with pytest.raises(CheckpointError, match="2 classes for 5 outputs"):
        load_checkpoint(path)


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    checkpoint = _checkpoint()
    first = next(iter(checkpoint.state))
    checkpoint.state[first] = torch.full_like(checkpoint.state[first], 1e6)
    with pytest.raises(CheckpointError, match="not finite"):
        save_checkpoint(checkpoint, tmp_path / "w.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_loading_counts_what_fits_and_leaves_the_network_alone_when_too_little_does() -> None:
    network = build_network(SPEC)
    before = {n: w.detach().clone() for n, w in named_weights(network).items()}
    other = named_weights(build_network(NetworkSpec(filters=(4, 8, 12), n_classes=2)))
    with pytest.raises(CheckpointError, match="of another shape"):
        load_into(network, other)
    assert all(torch.equal(before[n], w) for n, w in named_weights(network).items())
    report = load_into(network, other | {"extra": torch.zeros(1)}, minimum_fraction=0.1)
    assert 0 < report.fraction < 1
    assert report.unexpected == ("extra",)
    assert len(report.matched) + len(report.reshaped) == len(before)
    assert f"{len(report.matched)} of {len(before)}" in report.describe()
    assert report.parameters == sum(w.numel() for w in before.values())
    assert report.parameters_matched == sum(before[n].numel() for n in report.matched)
    assert 0 < report.parameters_matched < report.parameters
    assert "extra" in report.examples()

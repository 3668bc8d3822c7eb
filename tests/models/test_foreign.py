from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from osteosap.cli import main
from osteosap.errors import CheckpointError, ConfigError
from osteosap.models.checkpoint import load_checkpoint, restore_network, save_checkpoint
from osteosap.models.foreign import CLASSES, ImportConfig, import_foreign, read_foreign
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.summary import rows_of_import

SWIN = NetworkSpec(architecture="swin_unetr", feature_size=12, n_classes=10)
SPECS = {
    "swin": SWIN,
    "dynunet": NetworkSpec(filters=(4, 8, 8, 12), n_classes=10, deep_supervision=2),
    "plain_dynunet": NetworkSpec(filters=(4, 8, 8), n_classes=10, residual=False),
    "segresnet": NetworkSpec(
        architecture="segresnet", initial_filters=8, blocks=(1, 2, 1), n_classes=10
    ),
}
SKELETON = ImportConfig(task="skeleton", spacing_mm=(2, 2, 2), patch=(64, 64, 64), monai="1.6")


def _state(spec: NetworkSpec = SWIN, prefix: str = "module.") -> dict[str, torch.Tensor]:
    """The state dict of a network, as DataParallel gives it."""
    torch.manual_seed(7)
    return {f"{prefix}{n}": t for n, t in build_network(spec).state_dict().items()}


def _settings(**values: Any) -> ImportConfig:
    return ImportConfig.from_mapping(SKELETON.to_mapping() | values)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_tensor_of_a_data_parallel_pickle_is_matched_and_the_network_computes_the_same(
    spec: NetworkSpec, tmp_path: Path
) -> None:
    network = build_network(spec).eval()
    content = {"epoch": 3, "state_dict": nn.DataParallel(network).state_dict()}
    torch.save(content, tmp_path / "authors.pt")
    imported = import_foreign(tmp_path / "authors.pt", SKELETON)
    assert imported.report.fraction == 1.0
    assert not imported.report.unexpected
    assert imported.report.parameters_matched == sum(p.numel() for p in network.parameters())
    save_checkpoint(imported.checkpoint, tmp_path / "ours.safetensors", half=False)
    restored = restore_network(load_checkpoint(tmp_path / "ours.safetensors"))
    images = torch.rand(1, 2, 64, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(images), restored(images))


@pytest.mark.slow
def test_the_authors_layout_at_feature_size_48_is_matched_in_full(tmp_path: Path) -> None:
    spec = NetworkSpec(architecture="swin_unetr", feature_size=48, n_classes=10)
    network = build_network(spec).eval()
    torch.save(nn.DataParallel(network).state_dict(), tmp_path / "authors.pt")
    imported = import_foreign(tmp_path / "authors.pt", SKELETON)
    assert (len(imported.report.matched), imported.report.fraction) == (159 - 8, 1.0)
    restored = restore_network(imported.checkpoint)
    images = torch.rand(1, 2, 64, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(images), restored(images))
    lesions = _settings(task="lesions", new_head=True)
    report = import_foreign(tmp_path / "authors.pt", lesions).report
    assert (len(report.matched), report.fraction) == (159 - 8 - 2, 1.0)


@pytest.mark.parametrize(
    ("wrap", "container"),
    [
        (lambda s: s, ""),
        (lambda s: {"state_dict": s, "epoch": 4}, "state_dict"),
        (lambda s: {"model": s, "optimizer": {"state": {}}}, "model"),
        (lambda s: {"network": {"model_state_dict": s}}, "network.model_state_dict"),
        (lambda s: {"network_weights": s, "scale": torch.ones(1)}, "network_weights"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.model.", "_orig_mod."])
def test_tensors_are_found_under_the_keys_and_prefixes_that_programs_use(
    wrap: Callable[[Any], Any], container: str, prefix: str, tmp_path: Path
) -> None:
    spec = SPECS["segresnet"]
    torch.save(wrap(_state(spec, prefix)), tmp_path / "w.pth")
    assert read_foreign(tmp_path / "w.pth").container == container
    report = import_foreign(tmp_path / "w.pth", SKELETON).report
    assert (report.fraction, report.unexpected) == (1.0, ())


def test_safetensors_of_others_and_half_precision_are_read(tmp_path: Path) -> None:
    state = {n: t.half() if t.is_floating_point() else t for n, t in _state().items()}
    save_file(state, tmp_path / "w.bin")
    checkpoint = import_foreign(tmp_path / "w.bin", SKELETON).checkpoint
    assert all(t.dtype == torch.float32 for t in checkpoint.state.values())
    assert torch.equal(
        checkpoint.state["out.conv.conv.bias"].half(), state["module.out.conv.conv.bias"]
    )


def _older(name: str) -> str:
    return name.replace("mlp.linear", "mlp.fc")


def _autoencoder(name: str) -> str:
    """As ``monai.networks.nets.swin_unetr.filter_swinunetr`` expects names."""
    return "encoder." + name.removeprefix("swinViT.").replace(".0.", ".0.0.", 1)


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: "module." + _older(n.removeprefix("swinViT.")),  # MONAI's model_swinvit.pt
        lambda n: "module." + n.replace("swinViT", "swin_vit"),
        lambda n: _autoencoder(n) if "layers" in n else n.replace("swinViT", "encoder"),
    ],
)
def test_self_supervised_swin_transformers_are_imported_as_encoders(
    rename: Callable[[str], str], tmp_path: Path
) -> None:
    spec = NetworkSpec.from_mapping(SWIN.to_mapping() | {"channels": ["ct"]})
    own = {n: t for n, t in _state(spec, "").items() if n.startswith("swinViT.")}
    state = {rename(n): t for n, t in own.items()}
    assert not set(state) & set(own) or "encoder" in str(list(state))
    extra = {"module.rotation_head.weight": torch.zeros(4, 192), "encoder.norm.bias": torch.ones(2)}
    torch.save({"state_dict": state | extra}, tmp_path / "model_swinvit.pt")
    imported = import_foreign(tmp_path / "model_swinvit.pt", _settings(task="self_supervised"))
    given = imported.checkpoint.state
    assert imported.report.fraction == 1.0
    heads = {n.removeprefix("module.") for n in extra}
    assert set(imported.report.unexpected) == heads
    assert "rotation_head.weight" in dict(rows_of_import(imported))["not used"]
    assert {n.split(".")[0] for n in given} == {"swinViT"}
    first = "swinViT.patch_embed.proj.weight"
    floats = [n for n, t in own.items() if t.is_floating_point() and n != first]
    assert sorted(given) == sorted([*floats, first])
    assert all(torch.equal(given[n], own[n]) for n in floats)
    assert torch.allclose(given[first], own[first].expand(-1, 2, -1, -1, -1) / 2)
    with pytest.raises(CheckpointError, match="an encoder alone"):
        import_foreign(tmp_path / "model_swinvit.pt", SKELETON)


def test_of_a_whole_network_the_encoder_is_taken_and_the_rest_is_named(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "whole.pt")
    imported = import_foreign(tmp_path / "whole.pt", _settings(task="self_supervised"))
    taken, left = imported.checkpoint.state, imported.report.unexpected
    assert {n.split(".")[0] for n in taken} == {"swinViT"}
    assert {n.split(".")[0] for n in left} >= {"encoder1", "decoder1", "out"}
    assert set(taken) | set(left) == set(named_weights(build_network(SWIN)))


class _Evil:
    """Its pickle creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "beside"])
def test_a_malicious_pickle_is_refused_and_never_run(how: str, tmp_path: Path) -> None:
    target, path = tmp_path / "it-ran", tmp_path / "evil.pt"
    evil = _Evil(target)
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif how == "beside":
        torch.save({"state_dict": _state(SPECS["segresnet"]), "hook": evil}, path)
    else:
        torch.save({"a": evil}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match="is refused: it holds more than tensors"):
        read_foreign(path)
    with pytest.raises(CheckpointError, match="could run any code"):
        import_foreign(path, SKELETON)
    assert main(["model", "describe", str(path)]) == 1
    assert not target.exists()
    pickle.loads(pickle.dumps(evil))  # the test can fail: unpickling does create the file
    assert target.exists()


def test_files_without_a_state_dict_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(CheckpointError, match="no weight file"):
        read_foreign(path)
    for content in (b"", b"PK\x03\x04 broken", b"\x80\x02 broken", b"text, no weights at all"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_foreign(path)
    torch.save({"epoch": 1, "lr": 0.1}, path)
    with pytest.raises(CheckpointError, match=r"no state dict \(keys epoch, lr"):
        read_foreign(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match=r"no state dict \(a list"):
        read_foreign(path)
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"does not know \(first: fc\.weight"):
        import_foreign(path, SKELETON)
    torch.save({"a.x": torch.zeros(2), "module.a.x": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"both called 'a\.x'"):
        import_foreign(path, SKELETON)


def test_too_little_that_fits_is_an_error_unless_the_threshold_is_lowered(tmp_path: Path) -> None:
    state = _state()
    lost = [n for n in state if "decoder1." in n]
    for name in lost:
        del state[name]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=rf"{len(lost)} missing.*decoder1.*at least 100%"):
        import_foreign(tmp_path / "w.pt", SKELETON)
    imported = import_foreign(tmp_path / "w.pt", _settings(minimum_fraction=0.9))
    assert sorted(f"module.{n}" for n in imported.report.missing) == sorted(lost)
    assert imported.checkpoint.metadata.untrained == imported.report.missing
    with pytest.raises(CheckpointError, match="never trained"):
        restore_network(imported.checkpoint)


def test_tensors_inside_our_modules_that_ours_do_not_have_show_another_network(
    tmp_path: Path,
) -> None:
    state = _state() | {"module.swinViT.layers1c.0.conv1.conv.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "swin_unetr_v2.pt")
    with pytest.raises(CheckpointError, match="computes something else"):
        import_foreign(tmp_path / "swin_unetr_v2.pt", SKELETON)


def test_another_number_of_classes_needs_a_new_head_which_is_not_used_for_prediction(
    tmp_path: Path,
) -> None:
    spec = NetworkSpec.from_mapping(SWIN.to_mapping() | {"n_classes": 14})
    state = _state(spec)
    torch.save(state, tmp_path / "abdomen.pt")
    with pytest.raises(CheckpointError, match="head knows 14 classes, expected 10"):
        import_foreign(tmp_path / "abdomen.pt", SKELETON)
    imported = import_foreign(tmp_path / "abdomen.pt", _settings(new_head=True))
    metadata = imported.checkpoint.metadata
    assert imported.report.fraction == 1.0
    assert metadata.untrained == ("out.conv.conv.weight", "out.conv.conv.bias")
    with pytest.raises(CheckpointError, match="never trained"):
        restore_network(imported.checkpoint)


def test_classes_in_another_order_are_brought_to_ours(tmp_path: Path) -> None:
    state = _state()
    torch.save(state, tmp_path / "w.pt")
    theirs = CLASSES["skeleton"][::-1]
    imported = import_foreign(tmp_path / "w.pt", _settings(file_classes=list(theirs)))
    bias = state["module.out.conv.conv.bias"]
    assert torch.equal(imported.checkpoint.state["out.conv.conv.bias"], bias.flip(0))
    with pytest.raises(CheckpointError, match="the file's order"):
        import_foreign(tmp_path / "w.pt", _settings(file_classes=["background", "bone"]))


@pytest.mark.parametrize(
    ("version", "merging"),
    [("0.9", "monai_1_4"), ("1.3.2", "monai_1_4"), ("1.5", "complete"), ("1.10", "complete")],
)
def test_a_swin_unetr_computes_as_with_the_monai_it_was_trained_with(
    version: str, merging: str, tmp_path: Path
) -> None:
    torch.save(_state(), tmp_path / "w.pt")
    assert import_foreign(tmp_path / "w.pt", _settings(monai=version)).checkpoint.spec.merging == (
        merging
    )
    with pytest.raises(CheckpointError, match=r"from MONAI 1\.5 on"):
        import_foreign(tmp_path / "w.pt", _settings(monai=""))


def test_an_imported_file_says_where_it_comes_from(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "authors.pt")
    metadata = import_foreign(tmp_path / "authors.pt", SKELETON).checkpoint.metadata
    assert metadata.origin["file"] == "authors.pt"
    assert len(metadata.origin["sha256"]) == 64
    assert (metadata.spacing_mm, metadata.patch) == ((2.0, 2.0, 2.0), (64, 64, 64))
    assert metadata.threshold is None
    with pytest.raises(ConfigError, match="task"):
        _settings(task="liver")


def test_importing_does_not_disturb_the_random_numbers_of_the_caller(tmp_path: Path) -> None:
    torch.save(_state(SPECS["segresnet"]), tmp_path / "w.pt")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    import_foreign(tmp_path / "w.pt", SKELETON)
    assert torch.equal(torch.rand(3), expected)


def test_the_command_line_imports_describes_and_explains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "authors.pt", tmp_path / "new" / "skeleton.safetensors"
    torch.save({"state_dict": _state(), "epoch": 7}, source)
    assert main(["model", "describe", str(source)]) == 0
    text = capsys.readouterr().out
    assert "swin_unetr, feature_size 12, 2 channels, 10 classes" in text
    assert "epoch (int)" in text
    assert main(["model", "describe", str(source), "--tensors"]) == 0
    assert "module.out.conv.conv.weight" in capsys.readouterr().out
    command = ["model", "import", str(source), "--out", str(target), "--task", "skeleton"]
    assert main([*command, "--spacing", "2"]) == 1
    assert "version of MONAI it was trained with" in capsys.readouterr().err
    command += ["--monai", "1.6"]
    assert main([*command, "--spacing", "2", "--channels", "b1000,t1"]) == 0
    text = capsys.readouterr().out
    assert "151 of 151 matched (100.0%)" in text
    assert "taken to be b1000, t1" in text
    assert main(["model", "describe", str(target)]) == 0
    text = capsys.readouterr().out
    assert "swin_unetr, feature size 12" in text
    assert "authors.pt" in text
    assert main([*command, "--spacing", "2", "--file-channels", "t1,dixon"]) == 1
    assert "expected b1000 as well" in capsys.readouterr().err
    assert main([*command, "--spacing", "wide"]) == 1
    assert "spacing_mm" in capsys.readouterr().err

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import nn

from osteosap.errors import CheckpointError
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata
from osteosap.models.merging import ORDERS, PatchMerging
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.models.transfer import encoder_state, transfer_encoder

OLD = NetworkSpec(architecture="swin_unetr", feature_size=12, merging="monai_1_4")
NEW = NetworkSpec(architecture="swin_unetr", feature_size=12)


def _neighbours(order: str) -> list[list[int]]:
    """Voxels of a 2 x 2 x 2 block that its one joined voxel reads, in order."""
    merging = PatchMerging(1, lambda _: nn.Identity(), order=order)
    block = torch.arange(8.0).reshape(1, 2, 2, 2, 1)
    with torch.no_grad():
        merging.reduction.weight.copy_(torch.eye(8)[:2])
        first = merging(block).flatten().tolist()
        merging.reduction.weight.copy_(torch.eye(8)[4:6])
        fifth = merging(block).flatten().tolist()
    return [[int(v) for v in first], [int(v) for v in fifth]]


def test_all_eight_neighbours_are_joined_and_formerly_six() -> None:
    assert len(set(ORDERS["complete"])) == 8
    assert len(set(ORDERS["monai_1_4"])) == 6
    assert _neighbours("complete") == [[0, 4], [6, 5]]
    assert _neighbours("monai_1_4") == [[0, 4], [5, 2]]


def test_odd_sides_are_padded_with_zeros() -> None:
    merged = PatchMerging(2)(torch.rand(1, 3, 4, 5, 2))
    assert merged.shape == (1, 2, 2, 3, 4)
    with pytest.raises(ValueError, match="expected 3"):
        PatchMerging(2, spatial_dims=2)


def test_the_network_computes_what_monai_itself_builds() -> None:
    """Whichever version is installed: with ``img_size`` it is one before 1.5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older versions import themselves in deprecated ways
        from monai.networks.nets import SwinUNETR

    older = "img_size" in inspect.signature(SwinUNETR).parameters
    settings = {"in_channels": 2, "out_channels": 2, "feature_size": 12}
    images = torch.rand(1, 2, 64, 32, 32)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        theirs = SwinUNETR(**settings, **({"img_size": (96,) * 3} if older else {})).eval()
        expected = theirs(images)
        results = {}
        for spec in (OLD, NEW):
            ours = build_network(spec).eval()
            ours.load_state_dict(theirs.state_dict())
            results[spec.merging] = ours(images)
    own, other = ("monai_1_4", "complete") if older else ("complete", "monai_1_4")
    assert torch.equal(results[own], expected)
    assert not torch.allclose(results[other], expected, atol=1e-3)


def test_weights_of_the_other_kind_are_refused_as_a_start() -> None:
    network = build_network(NEW)
    metadata = CheckpointMetadata(
        task="self_supervised", classes=(), spacing_mm=(4, 4, 4), patch=(64, 64, 64)
    )
    old = Checkpoint(OLD, metadata, encoder_state(build_network(OLD), OLD))
    with pytest.raises(CheckpointError, match=r"as 'monai_1_4', this one as 'complete'"):
        transfer_encoder(network, NEW, pretrained=old)
    assert set(named_weights(network)) == set(named_weights(build_network(OLD)))

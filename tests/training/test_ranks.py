from __future__ import annotations

import csv
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from small_run import groups, loop, network, run_ranks, stream, weights

from osteosap.errors import ConfigError
from osteosap.training.cases import find_cases
from osteosap.training.devices import Launch, find_launch, start_fabric, sum_over_ranks
from osteosap.training.loop import fit
from osteosap.training.recipes import RecipeConfig, load_sides

VALUES = {"steps": 12, "batch_size": 4, "background_weight": 0.3, "workers": 1}


def _losses(out: Path) -> list[float]:
    with (out / "training.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def _weights(out: Path, rank: int) -> torch.Tensor:
    tensor: torch.Tensor = torch.load(out / f"weights-{rank}.pt", weights_only=True)
    return tensor


def _said(out: Path, rank: int) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((out / f"rank-{rank}.json").read_text())
    return said


def _gradients(out: Path) -> torch.Tensor:
    """Those of the first step, from Adam's mean of them."""
    optimiser = torch.load(out / "state.pt", weights_only=True)["optimiser"]
    return torch.cat([part["exp_avg"].flatten() for part in optimiser["state"].values()])


def _on_one_and_two(folder: Path, **values: Any) -> tuple[Path, Path]:
    folders = folder / "one", folder / "two"
    for world_size, out in enumerate(folders, start=1):
        out.mkdir()
        run_ranks(out, world_size=world_size, values=VALUES | values)
    return folders


@pytest.mark.parametrize("batch_dice", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_have_the_gradient_of_one(tmp_path: Path, batch_dice: bool) -> None:
    one, two = _on_one_and_two(tmp_path, steps=1, batch_dice=batch_dice)
    expected = _gradients(one)
    assert expected.norm() > 0.01
    assert (_gradients(two) - expected).norm() < 1e-4 * expected.norm()
    assert torch.equal(_weights(two, 0), _weights(two, 1))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_to_rounding(tmp_path: Path) -> None:
    one, two = _on_one_and_two(tmp_path)
    assert torch.equal(_weights(two, 0), _weights(two, 1))
    np.testing.assert_allclose(_losses(two), _losses(one), rtol=1e-4)
    # Adam turns rounding into a full step wherever a gradient is near 0
    moved = (_weights(one, 0) - weights(network())).norm()
    assert (_weights(two, 0) - _weights(one, 0)).norm() < 0.1 * moved


@pytest.mark.parametrize("batch_size", [4, 10])  # 10: epochs end within a step
def test_every_lesion_is_drawn_once_an_epoch_over_all_processes(
    tmp_path: Path, batch_size: int
) -> None:
    # 1 + 2 + 3 lesions and as much background: 12 patches an epoch
    steps = 36 // batch_size + (36 % batch_size > 0)
    run_ranks(tmp_path, world_size=2, values=VALUES | {"steps": steps, "batch_size": batch_size})
    drawn = [_said(tmp_path, rank)["drawn"] for rank in (0, 1)]
    assert all(len(part) == steps * batch_size // 2 for part in drawn)
    lesions = {(e, n) for e in range(3) for n in range(1, e + 2)}
    for epoch in range(3):
        seen = Counter(
            (exam, lesion)
            for part in drawn
            for step, position, exam, lesion in part
            if lesion and (step * batch_size + position) // 12 == epoch
        )
        assert seen == Counter(lesions)


@pytest.mark.slow
def test_only_the_first_process_logs(tmp_path: Path) -> None:
    run_ranks(tmp_path, world_size=2, values=VALUES | {"steps": 2})
    logs = [_said(tmp_path, rank)["log"] for rank in (0, 1)]
    assert any("is kept so that more steps can follow" in line for line in logs[0])
    assert logs[1] == []


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_tells_how_far_the_exams_are(
    first: bool, tiny_exams: list[Path], tmp_path: Path
) -> None:
    told: list[str] = []
    load_sides(
        RecipeConfig.from_mapping({"input": {"spacing_mm": [8.0] * 3}}),
        (find_cases(tiny_exams[0].parent), []),
        needs="images",
        out=tmp_path,
        fabric=cast("Fabric", SimpleNamespace(is_global_zero=first, rank_zero_first=nullcontext)),
        progress=lambda text, _: told.append(text),
    )
    assert bool(told) is first


def test_a_collapse_stops_all_processes_also_those_that_see_no_foreground(tmp_path: Path) -> None:
    # a batch of 2 over 2 processes: each step at least one of them has background only
    values = {"steps": 40, "batch_size": 2, "n_exams": 1, "blind": True}
    run_ranks(tmp_path, world_size=2, values=values | {"collapse_after": 0.3, "collapse_window": 4})
    for rank in (0, 1):
        error = _said(tmp_path, rank).get("error", "")
        assert "background only" in error
        assert "collapsed" in error


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(tmp_path: Path) -> None:
    run_ranks(tmp_path, world_size=2, values=VALUES)
    run_ranks(tmp_path, world_size=1, values=VALUES | {"steps": 14})
    assert len(_losses(tmp_path)) == 14
    said = _said(tmp_path, 0)
    assert {step for step, *_ in said["drawn"]} == {12, 13}
    assert any("going on from step 12" in line for line in said["log"])


@pytest.mark.parametrize("background_weight", [1.0, 0.3])
def test_micro_batches_learn_what_a_whole_batch_learns(
    tmp_path: Path, background_weight: float
) -> None:
    found = []
    for accumulate in (1, 2):
        model = network()
        config = loop(
            steps=5,
            batch_size=4,
            accumulate=accumulate,
            batch_dice=False,
            background_weight=background_weight,
            final_background_weight=background_weight,
        )
        out = tmp_path / str(accumulate)
        fit(model, groups(model), stream=stream(), config=config, out=out)
        found.append((weights(model), _losses(out)))
    np.testing.assert_allclose(
        found[1][1], found[0][1], rtol=1e-4 if background_weight == 1 else 0.02
    )
    moved = (found[0][0] - weights(network())).norm()
    share = 0.02 if background_weight == 1.0 else 0.2
    assert (found[1][0] - found[0][0]).norm() < share * moved


def test_a_process_gets_its_share_of_each_batch_and_the_same_patches() -> None:
    patches = stream()
    whole = patches.batch(5, 6)
    parts = [
        next(iter(patches.batches(5, 6, batch_size=6, workers=w, rank=w, world_size=3)))
        for w in range(3)
    ]
    for number in range(6):
        part = parts[number % 3]
        assert torch.equal(part[0][number // 3], whole[0][number])
        assert torch.equal(part[1][number // 3], whole[1][number])


def test_the_launcher_is_recognised() -> None:
    assert find_launch({}) == Launch("alone", 1, 1)
    assert find_launch({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}) == Launch(
        "torchrun", 4, 2
    )
    slurm = {"SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3"}
    assert find_launch(slurm | {"SLURM_NTASKS_PER_NODE": "2"}) == Launch("slurm", 2, 3)
    with pytest.raises(ConfigError, match="6 processes on 3 nodes, with --ntasks-per-node None"):
        find_launch(slurm)
    assert find_launch({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}).by == "alone"
    with pytest.raises(ConfigError, match="started alone"):
        find_launch({"SLURM_NTASKS": "2"})
    with pytest.raises(ConfigError, match="5 processes on 2 nodes"):
        find_launch({"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "2"})
    with pytest.raises(ConfigError, match="5 processes, 2 on this node"):
        find_launch({"RANK": "0", "WORLD_SIZE": "5", "LOCAL_WORLD_SIZE": "2"})


def test_settings_that_do_not_fit_what_was_started_are_refused() -> None:
    with pytest.raises(ConfigError, match="ask for 2 devices, but 1 were started"):
        start_fabric(loop(devices=2))
    with pytest.raises(ConfigError, match="ask for 3 nodes"):
        start_fabric(loop(nodes=3))
    with pytest.raises(ConfigError, match="no multiple of accumulate 2"):
        loop(batch_size=3, accumulate=2)


def test_alone_sums_over_processes_are_the_numbers_themselves() -> None:
    values = torch.ones(3, requires_grad=True)
    assert sum_over_ranks(values) is values
    assert start_fabric(loop()).world_size == 1


@pytest.mark.slow
def test_validation_is_divided_over_processes_and_brought_together(tmp_path: Path) -> None:
    for world_size in (1, 2):
        out = tmp_path / str(world_size)
        out.mkdir()
        run_ranks(out, world_size=world_size, values={"steps": 4, "validated": True})
    said = [_said(tmp_path / where, rank) for where, rank in (("1", 0), ("2", 0), ("2", 1))]
    assert [one["predicted"] for one in said] == [3, 2, 1]
    assert said[0]["scores"] == said[1]["scores"] == said[2]["scores"]
    assert said[0]["scores"]["sensitivity"] == 1.0
    assert said[0]["scores"]["f2_at_0.5"] < 1.0

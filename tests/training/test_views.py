from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import ConfigError
from osteosap.training.views import ViewsConfig, make_views

SHAPE = (2, 16, 16, 12)


def patch(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(SHAPE, dtype=np.float32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_the_unchanged_view_is_the_patch_turned_as_told(seed: int) -> None:
    images = patch()
    views = make_views(images, config=ViewsConfig(), generator=np.random.default_rng(seed))
    for whole, turns in zip(views.whole, views.turns, strict=True):
        assert torch.equal(torch.rot90(whole, -int(turns), (1, 2)), images)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.6]))
def test_blocks_cover_no_more_than_allowed(seed: int, cover: float) -> None:
    config = ViewsConfig(max_cover=cover)
    views = make_views(patch(), config=config, generator=np.random.default_rng(seed))
    share = (views.changed != views.whole).any(dim=1).float().mean(dim=(1, 2, 3))
    assert float(share.max()) <= cover


def test_blocks_often_come_close_to_what_is_allowed_and_differ_between_views() -> None:
    shares = []
    for seed in range(60):
        views = make_views(patch(), config=ViewsConfig(), generator=np.random.default_rng(seed))
        assert not torch.equal(views.changed[0], views.changed[1])
        changed = (views.changed != views.whole).any(dim=1).float().mean(dim=(1, 2, 3))
        shares += changed.tolist()
    assert max(shares) > 0.27
    assert 0.1 < float(np.mean(shares)) < 0.2  # uniform from 0 to 0.3


def test_a_block_is_between_a_twentieth_and_a_quarter_of_a_side() -> None:
    config = ViewsConfig(tries=1, swapped=0.0)
    sides = []
    for seed in range(100):
        views = make_views(
            torch.zeros(1, 40, 40, 40), config=config, generator=np.random.default_rng(seed)
        )
        for changed in views.changed:
            hit = np.argwhere(changed[0].numpy() > 0)
            if len(hit):
                sides += (np.ptp(hit, axis=0) + 1).tolist()
    assert (min(sides), max(sides)) == (2, 10)
    with pytest.raises(ConfigError, match="min_side"):
        ViewsConfig.from_mapping({"min_side": 0.3})


def test_swapped_blocks_keep_all_values_and_cut_ones_do_not() -> None:
    swapped = ViewsConfig(swapped=1.0)
    cut = ViewsConfig(swapped=0.0)
    images = patch()
    for seed in range(10):
        views = make_views(images, config=swapped, generator=np.random.default_rng(seed))
        assert torch.equal(views.changed.flatten().sort()[0], views.whole.flatten().sort()[0])
    views = make_views(images, config=cut, generator=np.random.default_rng(3))
    assert not torch.equal(views.changed.flatten().sort()[0], views.whole.flatten().sort()[0])


def test_equal_generators_give_equal_views_and_the_patch_stays_as_it_is() -> None:
    images = patch()
    before = images.clone()
    one, two = (
        make_views(images, config=ViewsConfig(), generator=np.random.default_rng(7))
        for _ in range(2)
    )
    assert torch.equal(one.changed, two.changed)
    assert torch.equal(images, before)
    other = make_views(images, config=ViewsConfig(), generator=np.random.default_rng(8))
    assert not torch.equal(one.changed, other.changed)


def test_every_number_of_quarter_turns_is_drawn_equally_often() -> None:
    generator = np.random.default_rng(0)
    turns = torch.cat(
        [make_views(patch(), config=ViewsConfig(), generator=generator).turns for _ in range(300)]
    )
    assert (torch.bincount(turns, minlength=4).float() / 600 - 0.25).abs().max() < 0.06


def test_the_plane_of_rotation_is_a_setting_of_two_axes() -> None:
    images = torch.from_numpy(np.random.default_rng(1).random((1, 8, 4, 8), dtype=np.float32))
    config = ViewsConfig(rotation_plane=(0, 2))
    for seed in range(8):
        views = make_views(images, config=config, generator=np.random.default_rng(seed))
        turned = torch.rot90(images, int(views.turns[0]), (1, 3))
        assert torch.equal(views.whole[0], turned)
    for wrong in ((1, 1), (0, 3)):
        with pytest.raises(ConfigError, match="rotation_plane"):
            ViewsConfig.from_mapping({"rotation_plane": wrong})

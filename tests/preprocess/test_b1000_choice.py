import numpy as np
import pytest

from osteosap.errors import GeometryError, VolumeError
from osteosap.exam import StationImage
from osteosap.geometry import make_affine
from osteosap.preprocess.b1000 import b_values_for_adc, choose_b1000, choose_group
from osteosap.preprocess.config import PreprocessConfig
from osteosap.preprocess.groups import (
    collect_dwi_groups,
    complete_group,
    maps_of,
    select_stations,
)
from osteosap.volume import Volume

CONFIG = PreprocessConfig()


def image(kind, *, b=None, group="", z_mm=0.0, slices=4, value=None, source=""):
    array = np.random.default_rng(0).random((1, 6, 5, slices)).astype(np.float32)
    if value is not None:
        array[:] = value
    affine = make_affine((5.0, 5.0, 5.0), (0.0, 0.0, z_mm))
    return StationImage(Volume(array, affine, (kind,)), kind, b, group, source or f"{group}-{b}")


def groups_of(**b_values):
    images = [image("dwi", b=float(b), group=g) for g, bs in b_values.items() for b in bs]
    return collect_dwi_groups(images)[0]


@pytest.mark.parametrize(
    ("b_values", "source", "b"),
    [
        ((0, 50, 1000), "acquired", 1000),
        ((50, 950), "acquired", 950),
        ((0, 990, 1040), "acquired", 990),
        ((1000,), "acquired", 1000),
        ((50, 900), "computed", 1000),
        ((0, 100, 400, 800), "computed", 1000),
        ((100, 500, 1400), "computed", 1000),
        ((0, 500), "computed", 1000),
        ((800,), "nearest", 800),
        ((1200,), "nearest", 1200),
    ],
)
def test_b1000_is_acquired_else_computed_else_the_nearest(b_values, source, b):
    choice = choose_b1000(b_values, config=CONFIG)
    assert (choice.source, choice.b_value_s_per_mm2) == (source, b)
    assert choice.reason


@pytest.mark.parametrize("b_values", [(0,), (0, 50), (50, 400), (600,), (1400,)])
def test_b_values_that_give_no_sound_b1000_are_refused_by_name(b_values):
    with pytest.raises(VolumeError, match="/".join(map(str, b_values))):
        choose_b1000(b_values, config=CONFIG)


def test_the_reason_says_whether_b1000_lies_within_or_beyond_the_acquired_values():
    assert "extrapolated" in choose_b1000((0, 800), config=CONFIG).reason
    assert "interpolated" in choose_b1000((0, 1400), config=CONFIG).reason


def test_low_b_values_are_left_out_of_the_fit_only_if_two_others_remain():
    avoid = PreprocessConfig(min_b_for_adc_s_per_mm2=50)
    assert b_values_for_adc((0, 100, 800), config=CONFIG) == (0, 100, 800)
    assert b_values_for_adc((0, 100, 800), config=avoid) == (100, 800)
    assert b_values_for_adc((0, 800), config=avoid) == (0, 800)
    assert b_values_for_adc((800,), config=avoid) == ()


@pytest.mark.parametrize(
    ("groups", "winner"),
    [
        ({"a": (0, 100, 400, 800), "b": (50, 1000)}, "b"),
        ({"a": (100, 500, 1400), "b": (0, 100, 400, 800)}, "b"),
        ({"a": (100, 500, 1400), "b": (0, 500, 800)}, "b"),
        ({"a": (0, 800), "b": (0, 900)}, "a"),
    ],
)
def test_the_dwi_protocol_with_b1000_then_most_b_values_then_b0_is_taken(groups, winner):
    best, why = choose_group(groups_of(**groups), config=CONFIG)
    assert best.name == winner
    assert "of 2 DWI protocols" in why


def test_a_protocol_that_covers_far_more_wins_over_a_small_one_with_b1000():
    images = [
        image("dwi", b=b, group="body", z_mm=z, slices=20)
        for b in (50.0, 800.0)
        for z in (0.0, 90.0)
    ]
    images += [image("dwi", b=b, group="spot", slices=6) for b in (0.0, 1000.0)]
    best, why = choose_group(collect_dwi_groups(images)[0], config=CONFIG)
    assert best.name == "body"
    assert "covers the most" in why


def test_repetitions_are_averaged_and_b_values_missing_at_a_station_are_left_out():
    images = [image("dwi", b=50.0, value=2.0), image("dwi", b=50.0, value=4.0)]
    images += [image("dwi", b=800.0), image("dwi", b=1000.0)]
    images += [image("dwi", b=b, z_mm=15.0) for b in (50.0, 1000.0)]
    (group,), warnings = collect_dwi_groups(images)
    assert group.b_values == (50.0, 1000.0)
    assert len(group.stations) == 2
    np.testing.assert_allclose(group.stations[0][0].array, 3.0)
    assert "800" in warnings[0]


def test_stations_that_share_no_b_value_are_refused():
    images = [image("dwi", b=50.0), image("dwi", b=1000.0, z_mm=15.0)]
    with pytest.raises(GeometryError, match="none of the b-values 50, 1000"):
        collect_dwi_groups(images)


def test_of_two_t1_series_over_the_same_region_the_larger_is_used_and_the_other_named():
    long = [image("t1", group="long", z_mm=z, source="series 3") for z in (0.0, 15.0, 30.0)]
    short = [image("t1", group="short", z_mm=15.0, source="series 9")]
    chosen, warnings = select_stations(short + long, "t1")
    assert {i.group for i in chosen} == {"long"}
    assert len(chosen) == 3
    assert "series 9" in warnings[0]


def test_t1_stations_that_came_as_separate_series_are_joined():
    images = [image("t1", group=f"g{n}", z_mm=15.0 * n) for n in range(4)]
    chosen, warnings = select_stations(images, "t1")
    assert len(chosen) == 4
    assert warnings == ()


def stations_of(*described, b_values=(50.0, 1000.0)):
    """DWI of groups at heights: ("a", 0.0) is a station of 20 mm of group a from -2.5 mm up."""
    images = [image("dwi", b=b, group=g, z_mm=z) for g, z in described for b in b_values]
    return collect_dwi_groups(images)[0]


def test_a_station_of_another_protocol_completes_the_one_chosen_and_is_named():
    groups = stations_of(("a", 0.0), ("a", 15.0), ("legs", 30.0), ("legs", 15.0))
    best = next(g for g in groups if g.name == "a")
    group, warnings = complete_group(best, groups)
    assert len(group.stations) == 3
    assert group.protocols == ("a", "legs")
    assert "completed by stations of 'legs'" in warnings[0]


def test_a_station_that_lacks_a_b_value_or_lies_apart_is_lost_with_the_share():
    apart = stations_of(("a", 0.0), ("legs", 200.0))
    lacking = (*stations_of(("a", 0.0)), *stations_of(("legs", 20.0), b_values=(50.0, 800.0)))
    for groups in (apart, lacking):
        group, warnings = complete_group(groups[0], groups)
        assert len(group.stations) == 1
        assert "50% of their extent" in warnings[0]
        assert "lesions there are not looked for" in warnings[0]


def test_a_b_value_the_best_protocol_does_not_have_is_left_behind():
    groups = (
        *stations_of(("a", 0.0)),
        *stations_of(("legs", 15.0), b_values=(0.0, 50.0, 1000.0)),
    )
    group, _ = complete_group(groups[0], groups)
    assert [len(s) for s in group.stations] == [2, 2]


def test_a_repetition_at_the_same_place_adds_nothing_and_is_no_loss():
    groups = stations_of(("a", 0.0), ("again", 0.0))
    group, warnings = complete_group(groups[0], groups)
    assert (len(group.stations), warnings) == (1, ())


def test_a_t1_station_beyond_a_gap_is_left_out_with_the_share():
    near = [image("t1", group="near", z_mm=z, source="series 3") for z in (0.0, 15.0)]
    far = [image("t1", group="far", z_mm=100.0, source="series 9")]
    chosen, warnings = select_stations([*near, *far], "t1")
    assert {i.group for i in chosen} == {"near"}
    assert "series 9 is left out: a gap parts it from series 3; 36%" in warnings[0]


def test_scanner_maps_of_another_protocol_are_not_taken():
    groups = stations_of(("a", 0.0), ("b", 0.0))
    maps = {g: image("adc", group=g, source=g) for g in ("a", "b", "unknown")}
    maps["elsewhere"] = image("adc", group="elsewhere", z_mm=60.0)
    for order in (1, -1):
        images = list(maps.values())[::order]
        assert maps_of(groups[0], groups, images) == [maps["a"]]
        assert maps_of(groups[1], groups, images) == [maps["b"]]
        without = [i for i in images if i.group != "a"]
        assert maps_of(groups[0], groups, without) == [maps["unknown"]]
    assert maps_of(groups[0], groups, [maps["b"], maps["elsewhere"]]) == []

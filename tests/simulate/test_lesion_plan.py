import numpy as np
import pytest

from osteosap.simulate.disease.plan import (
    LARGEST_COUNT,
    PROFILES,
    STATES,
    draw_count,
    draw_plans,
    site_weights,
)

MANY = draw_plans((5, 1), 3000, timepoints=1)


def test_volumes_have_the_papers_median_and_a_quarter_of_at_least_1_ml() -> None:
    volumes = np.array([plan.volumes_ml[0] for plan in MANY])
    assert np.median(volumes) == pytest.approx(0.5, rel=0.06)
    assert (volumes >= 1.0).mean() == pytest.approx(0.25, abs=0.03)


def test_most_patients_have_a_few_lesions_and_a_few_have_dozens() -> None:
    counts = np.array([draw_count(np.random.default_rng([seed, 1])) for seed in range(2000)])
    assert 3 <= np.median(counts) <= 8
    assert 0.2 < (counts <= 2).mean() < 0.45
    assert 0.25 < (counts > 10).mean() < 0.55
    assert 0.03 < (counts > 36).mean() < 0.15
    assert counts.min() == 1
    assert counts.max() <= LARGEST_COUNT


def test_sites_and_states_come_with_their_weights() -> None:
    for names, weights in (
        ([p.site for p in MANY], site_weights(len(MANY))),
        ([p.state for p in MANY], STATES),
    ):
        total = sum(weights.values())
        for name, weight in weights.items():
            assert names.count(name) / len(names) == pytest.approx(weight / total, abs=0.03), name


def test_the_first_time_point_does_not_depend_on_how_many_follow() -> None:
    alone = draw_plans((9, 2), 30, timepoints=1)
    followed = draw_plans((9, 2), 30, timepoints=4)
    for one, other in zip(alone, followed, strict=False):
        assert (one.site, one.state) == (other.site, other.state)
        assert one.volumes_ml[0] == pytest.approx(other.volumes_ml[0])
        assert one.adc_um2_per_s[0] == other.adc_um2_per_s[0]
        np.testing.assert_array_equal(one.rotation, other.rotation)


def test_a_lesion_does_not_depend_on_how_many_others_there_are() -> None:
    few, many = (draw_plans((9, 2), n, timepoints=1) for n in (12, 20))
    for one, other in zip(few, many, strict=False):
        assert one.volumes_ml == other.volumes_ml
        assert one.seed == other.seed


def test_every_course_does_what_it_says() -> None:
    plans = draw_plans((3, 3), 400, timepoints=4, profile="mixed response")
    seen = {plan.course for plan in plans}
    assert seen == {"responding", "stable", "progressing", "new", "vanished"}
    for plan in plans:
        v, adc = plan.volumes_ml, plan.adc_um2_per_s
        if plan.course == "responding":
            assert v[0] > v[-1] > 0
            assert adc[-1] > adc[0]
        elif plan.course == "progressing":
            assert v[0] < v[-1]
        elif plan.course == "new":
            assert v[0] == 0 < v[-1]
        elif plan.course == "vanished":
            assert v[0] > 0 == v[-1]
        else:
            assert max(v) / min(v) < 1.3


def test_a_profile_can_be_set() -> None:
    for name, shares in PROFILES.items():
        plans = draw_plans((4, 1), 500, timepoints=2, profile=name)
        progressing = sum(plan.course == "progressing" for plan in plans[:500]) / 500
        assert progressing == pytest.approx(shares["progressing"] / (1 - shares["new"]), abs=0.07)


def test_no_lesion_is_no_plan() -> None:
    assert draw_plans((1, 1), 0, timepoints=3) == ()


def test_men_with_few_lesions_have_them_in_spine_and_pelvis() -> None:
    few, many = site_weights(1), site_weights(40)
    assert 0.7 < few["spine"] + few["pelvis"] < 0.9
    assert 0.18 < many["rib"] < 0.32
    for weights in (few, site_weights(7), many):
        assert sum(weights.values()) == pytest.approx(1.0)

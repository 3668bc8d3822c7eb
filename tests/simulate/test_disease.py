"""Disease on a body of two boxes: a 'vertebra' with a disc below, a 'rib', in muscle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.body import Body, BonePlace
from osteosap.simulate.disease.lesions import SOFT, draw_voxel, find_places
from osteosap.simulate.disease.lookalikes import LOOKALIKES, paint_lookalikes
from osteosap.simulate.disease.painting import Disease, paint_diffuse, paint_disease
from osteosap.simulate.disease.plan import LesionPlan, draw_plans
from osteosap.simulate.person import Person
from osteosap.simulate.tissue import T

SHAPE = (60, 40, 50)
GRID = Grid(SHAPE, make_affine((2.0, 2.0, 2.0), (-59.0, -39.0, -49.0)))


def box_body(*, age_years: float = 70.0) -> Body:
    person = Person.draw(np.random.default_rng(1), sex="male", age_years=age_years)
    bones = (BonePlace("L3", 3, "spine"), BonePlace("rib 7 left", 0, "rib"))
    body = Body.empty(person, GRID, bones)
    body.tissue[...] = T.MUSCLE
    for number, box in enumerate(
        ((slice(8, 38), slice(5, 35), slice(12, 38)), (slice(44, 54), slice(4, 36), slice(20, 30)))
    ):
        body.tissue[box] = T.MARROW
        body.bone[box] = number + 1
        body.skeleton[box] = bones[number].class_id
        body.marrow_fat[box] = 0.45
    body.tissue[8:38, 5:35, 8:12] = T.DISC
    return body


def smooth_noise(seed: int = 0) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 3.0)
    return (field / field.std()).astype(np.float32)


NOISE = smooth_noise()


def paint(plans: tuple[LesionPlan, ...], *, timepoint: int = 0) -> tuple[Body, Disease]:
    body = box_body()
    disease = paint_disease(
        body, plans, timepoint=timepoint, noise=NOISE, seed=(3,), lookalikes=0.0
    )
    return body, disease


def plans_here(n: int, *, seed: int = 1, timepoints: int = 1) -> tuple[LesionPlan, ...]:
    """Plans moved to the sites that the boxes have."""
    drawn = draw_plans((seed, 12), n, timepoints=timepoints, profile="mixed response")
    return tuple(replace(p, site="rib" if p.site == "rib" else "spine") for p in drawn)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500), st.integers(1, 12), st.integers(0, 2))
def test_lesions_are_single_pieces_in_bone_or_broken_out_and_never_touch(
    seed: int, n: int, timepoint: int
) -> None:
    before = box_body()
    body, disease = paint(plans_here(n, seed=seed, timepoints=3), timepoint=timepoint)
    allowed = (before.bone > 0) | np.isin(before.tissue, SOFT)
    assert allowed[disease.lesions > 0].all()
    assert (body.tissue[disease.lesions > 0] == T.LESION).all()
    assert not (disease.lesions[before.tissue == T.DISC]).any()
    everywhere = np.ones((3, 3, 3), bool)
    _, pieces = ndimage.label(disease.lesions > 0, everywhere)
    assert pieces == len(disease.truth)


def test_the_truth_table_agrees_with_the_voxels() -> None:
    _, disease = paint(plans_here(8))
    counts = np.bincount(disease.lesions.ravel())
    assert len(disease.truth) == np.count_nonzero(counts[1:]) > 4
    for one in disease.truth:
        assert one.volume_ml == pytest.approx(counts[one.id] * GRID.voxel_volume_ml)
        middle = np.argwhere(disease.lesions == one.id).mean(axis=0)
        np.testing.assert_allclose(one.centre_mm, middle * 2.0 + GRID.affine[:3, 3], atol=1e-6)


def test_volumes_are_what_was_planned_within_a_voxel_or_a_tenth() -> None:
    plans = plans_here(8)
    _, disease = paint(plans)
    planned = {p.id: p.volumes_ml[0] for p in plans}
    for one in disease.truth:
        tolerance = max(GRID.voxel_volume_ml, 0.11 * planned[one.id])
        assert one.volume_ml == pytest.approx(planned[one.id], abs=tolerance)


def test_a_lesion_keeps_its_number_and_its_core_over_time() -> None:
    plans = plans_here(10, timepoints=3)
    maps = [paint(plans, timepoint=t)[1] for t in range(3)]
    wanted = {p.id: p for p in plans}
    for number in wanted:
        masks = [m.lesions == number for m in maps]
        present = [mask for mask in masks if mask.any()]
        for small, large in ((a, b) for a in present for b in present if a.sum() <= b.sum()):
            assert large[small].all()  # the smaller lies in the larger
    for time, disease in enumerate(maps):
        for one in disease.truth:
            assert wanted[one.id].volumes_ml[time] > 0
    gone = [p for p in plans if p.volumes_ml[2] == 0]
    assert all(not (maps[2].lesions == p.id).any() for p in gone)


def test_a_lesion_that_no_bone_can_hold_is_left_out() -> None:
    (plan,) = plans_here(1)
    body, disease = paint((replace(plan, volumes_ml=(500.0,)),))
    assert disease.truth == ()
    assert not (body.tissue == T.LESION).any()


def test_only_lesions_that_break_out_leave_their_bone() -> None:
    plan = replace(plans_here(1)[0], site="rib", volumes_ml=(6.0,))
    bone = box_body().bone > 0
    for breaks_out in (False, True):
        _, disease = paint((replace(plan, breaks_out=breaks_out),))
        assert disease.truth
        assert bool((disease.lesions[~bone] > 0).any()) == breaks_out


def test_a_sclerotic_lesion_holds_more_mineral_than_a_viable_one_and_a_mixed_one_varies() -> None:
    plan = replace(plans_here(1)[0], volumes_ml=(4.0,), site="spine")
    means, spreads = {}, {}
    for state, mineral in (("viable", 0.1), ("sclerotic", 0.9), ("mixed", 0.9)):
        _, disease = paint((replace(plan, state=state, mineral=(mineral,)),))
        values = disease.mineral[disease.lesions > 0]
        means[state], spreads[state] = values.mean(), values.std()
        assert not disease.mineral[disease.lesions == 0].any()
    assert means["viable"] < means["mixed"] < means["sclerotic"]
    assert spreads["mixed"] > 2 * spreads["sclerotic"]


def test_look_alikes_lie_in_marrow_leave_lesions_alone_and_are_on_record() -> None:
    body = box_body(age_years=85.0)
    taken = np.zeros(SHAPE, bool)
    taken[20:30] = True
    truth = paint_lookalikes(
        body, places=find_places(body), taken=taken, noise=NOISE, seed=(1,), rate=12.0
    )
    kinds = {kind.tissue for kind in LOOKALIKES}
    changed = np.isin(body.tissue, list(kinds)) & (box_body().tissue == T.MARROW)
    assert not changed[taken].any()
    assert len(truth) > 5
    assert {one.kind for one in truth} <= {kind.name for kind in LOOKALIKES}
    assert all(one.volume_ml > 0 for one in truth)
    named = sum(one.volume_ml for one in truth)
    assert changed.sum() * GRID.voxel_volume_ml == pytest.approx(named, rel=1e-6)


def test_endplate_changes_lie_at_the_disc() -> None:
    body = box_body(age_years=85.0)
    endplate = [k for k in LOOKALIKES if k.where == "endplate" and k.tissue != T.DISC]
    paint_lookalikes(
        body,
        places=find_places(body),
        taken=np.zeros(SHAPE, bool),
        noise=NOISE,
        seed=(2,),
        rate=20.0,
    )
    where = np.argwhere(np.isin(body.tissue, [T.ENDPLATE_OEDEMA, T.ENDPLATE_FAT]))
    assert endplate
    assert len(where)
    assert (where[:, 2] - 11).min() * 2.0 <= 4.0  # some touch the endplate
    assert np.median(where[:, 2] - 11) * 2.0 < 15.0


def test_the_size_of_a_rare_finding_does_not_hang_on_its_being_there() -> None:
    volumes = []
    for seed in range(250):
        body = box_body(age_years=60.0)
        truth = paint_lookalikes(
            body,
            places=find_places(body),
            taken=np.zeros(SHAPE, bool),
            noise=np.zeros(SHAPE, np.float32),
            seed=(seed,),
            rate=0.5,
        )
        volumes += [one.volume_ml for one in truth if one.kind == "haemangioma"]
    radii = (np.array(volumes) * 3000 / (4 * np.pi)) ** (1 / 3)
    near = np.abs(np.log(radii / 6.0)) < 0.175  # half an SD around the median
    assert len(radii) > 30
    assert 0.2 < near.mean() < 0.6


def test_a_place_hardly_depends_on_the_spacing() -> None:
    def places_at(spacing: float) -> np.ndarray:
        n = round(60 / spacing)
        index = (np.argwhere(np.ones((n, n, n), bool)) + 0.5) * spacing
        inside = np.linalg.norm(index - 30.0, axis=1) < 25.0
        voxels = np.floor(index[inside] / spacing).astype(np.int64)
        return np.array(
            [
                (draw_voxel(voxels, np.random.default_rng(seed)) + 0.5) * spacing
                for seed in range(200)
            ]
        )

    apart = np.linalg.norm(places_at(2.0) - places_at(3.0), axis=1)
    assert np.median(apart) < 3.0
    spread = places_at(2.0).std(axis=0)
    np.testing.assert_allclose(spread, 25.0 / np.sqrt(5), rtol=0.15)  # as of a uniform ball


def test_old_people_have_more_degenerative_findings_than_young_ones() -> None:
    counts = {}
    for age in (25.0, 85.0):
        total = 0
        for seed in range(40):
            body = box_body(age_years=age)
            truth = paint_lookalikes(
                body,
                places=find_places(body),
                taken=np.zeros(SHAPE, bool),
                noise=NOISE,
                seed=(seed,),
            )
            total += sum("endplate" in one.kind or "fracture" in one.kind for one in truth)
        counts[age] = total
    assert counts[85.0] > 2 * counts[25.0]


def test_diffuse_disease_fills_much_of_the_marrow_and_counts_its_parts() -> None:
    body = box_body()
    disease = paint_diffuse(body, noise=NOISE, rng=np.random.default_rng(0))
    share = (disease.lesions > 0).sum() / (box_body().bone > 0).sum()
    assert 0.3 < share < 1.0
    _, parts = ndimage.label(disease.lesions > 0, np.ones((3, 3, 3)))
    assert parts == len(disease.truth) == disease.lesions.max()
    assert all(one.state == "diffuse" for one in disease.truth)


def test_the_same_seed_paints_the_same_voxels() -> None:
    first, second = (paint(plans_here(6))[1] for _ in range(2))
    assert first.lesions.tobytes() == second.lesions.tobytes()
    assert first.mineral.tobytes() == second.mineral.tobytes()
    assert first.truth == second.truth

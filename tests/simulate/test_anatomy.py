from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from osteosap.errors import ConfigError
from osteosap.simulate.anatomy.bones import build_bones
from osteosap.simulate.anatomy.build import body_grid, build_body
from osteosap.simulate.anatomy.envelope import skin_surface
from osteosap.simulate.anatomy.head import skull_bones
from osteosap.simulate.anatomy.marrow import set_marrow_fat
from osteosap.simulate.anatomy.spine import build_vertebrae, canal_path
from osteosap.simulate.anatomy.trunk import Trunk
from osteosap.simulate.body import Body
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Canvas, Lattice
from osteosap.simulate.tissue import T

SPACING = (6.0, 6.0, 6.0)
PEOPLE = {
    "young man": (1, "male", 24.0),
    "old man": (2, "male", 82.0),
    "young woman": (3, "female", 26.0),
    "old woman": (4, "female", 80.0),
}

# Bone volumes (mL) that an adult may have: the BodyParts3D man (77, 336, 243, 827, 323, 156, 57,
# 99 mL), less a third for small women, more for tall men. The femur is cut at the knee.
ADULT_ML = {
    1: (35, 110), 2: (180, 450), 3: (130, 330), 4: (480, 1100), 5: (550, 1250), 6: (200, 460),
    7: (95, 230), 8: (32, 85), 9: (50, 140),
}  # fmt: skip
# Organs (mL): around the reference adults of ICRP 89, with free variation.
ORGAN_ML = {
    T.LIVER: (900, 2700), T.SPLEEN: (60, 420), T.KIDNEY: (130, 420), T.LUNG: (1800, 5500),
    T.PANCREAS: (20, 150), T.THYROID: (6, 45), T.SALIVARY: (15, 110), T.EYE: (6, 22),
    T.CSF: (90, 600), T.CORD: (12, 60), T.DISC: (35, 220),
}  # fmt: skip


def make(seed: int, sex: str, age: float, spacing: float = 6.0) -> Body:
    rng = np.random.default_rng(seed)
    person = Person.draw(rng, sex=sex, age_years=age)  # type: ignore[arg-type]
    return build_body(person, body_grid(person, (spacing,) * 3), seed=seed)


@pytest.fixture(scope="module")
def bodies() -> dict[str, Body]:
    return {name: make(*who) for name, who in PEOPLE.items()}


def volumes(body: Body) -> np.ndarray:
    return np.bincount(body.tissue.ravel(), minlength=len(T)) * body.grid.voxel_volume_ml


@pytest.mark.parametrize("name", PEOPLE)
def test_every_bone_class_has_the_volume_of_an_adult(bodies: dict[str, Body], name: str) -> None:
    body = bodies[name]
    found = np.bincount(body.skeleton.ravel(), minlength=10) * body.grid.voxel_volume_ml
    for class_id, (low, high) in ADULT_ML.items():
        assert low < found[class_id] < high, (class_id, found[class_id])


@pytest.mark.parametrize("name", PEOPLE)
def test_every_organ_has_the_volume_of_an_adult(bodies: dict[str, Body], name: str) -> None:
    found = volumes(bodies[name])
    for tissue, (low, high) in ORGAN_ML.items():
        assert low < found[tissue] < high, (tissue.name, found[tissue])
    brain = found[T.BRAIN_WHITE] + found[T.BRAIN_GREY]
    assert 950 < brain < 1750


def test_organs_of_the_other_sex_are_absent(bodies: dict[str, Body]) -> None:
    male = (T.PROSTATE, T.SEMINAL_VESICLE, T.TESTIS, T.PENIS)
    female = (T.UTERUS, T.OVARY, T.BREAST)
    for name, body in bodies.items():
        found = volumes(body)
        own, other = (female, male) if "woman" in name else (male, female)
        assert all(found[t] > 0 for t in own), name
        assert not any(found[t] for t in other), name


@pytest.mark.parametrize("name", PEOPLE)
def test_the_maps_of_a_body_agree(bodies: dict[str, Body], name: str) -> None:
    body = bodies[name]
    bone = body.bone > 0
    classes = np.array([0, *(b.class_id for b in body.bones)])[body.bone]
    np.testing.assert_array_equal(classes, body.skeleton)
    assert set(np.unique(body.tissue[bone])) <= {T.MARROW, T.CORTEX}
    assert not np.isin(body.tissue[~bone], (T.MARROW,)).any()
    assert (body.marrow_fat[~bone] == 0).all()
    assert (body.cortex[~bone] == 0).all()
    assert body.marrow_fat[bone].min() > 0.1
    assert body.cortex.max() <= 1.0


@pytest.mark.parametrize("name", PEOPLE)
def test_no_bone_lies_outside_the_skin(bodies: dict[str, Body], name: str) -> None:
    body = bodies[name]
    trunk, vertebrae = Trunk(body.person), build_vertebrae(body.person)
    bones = build_bones(
        body.person, trunk, vertebrae, rng=np.random.default_rng([PEOPLE[name][0], 101])
    )
    solids = [b.shapes for b in [*bones, *skull_bones(body.person)] if b.site != "rib"]
    depth = skin_surface(trunk, solids).on(Canvas(body.grid).axes)
    assert (depth[body.bone > 0] < 0.5).mean() > 0.999
    alone = body.bone > 0
    assert not (alone & ~ndimage.binary_opening(body.tissue > 0)).sum() > 0.002 * alone.sum()


@pytest.mark.parametrize("name", PEOPLE)
def test_paired_bones_are_balanced_but_not_mirror_images(
    bodies: dict[str, Body], name: str
) -> None:
    body = bodies[name]
    counts = np.bincount(body.bone.ravel(), minlength=len(body.bones) + 1)[1:]
    size = {b.name: int(n) for b, n in zip(body.bones, counts, strict=True)}
    differ = False
    for bone in ("femur", "hip bone", "humerus", "scapula", "clavicle"):
        right, left = size[f"{bone} right"], size[f"{bone} left"]
        assert 0.75 < right / left < 1.33, (bone, right, left)
        differ |= right != left
    assert differ


def test_the_bones_stand_where_they_belong(bodies: dict[str, Body]) -> None:
    for body in bodies.values():
        affine = body.grid.affine
        centre = {
            c: affine[:3, :3] @ np.argwhere(body.skeleton == c).mean(0) + affine[:3, 3]
            for c in range(1, 10)
        }
        heights = [centre[c][2] for c in (1, 2, 3, 4, 5)]
        assert heights == sorted(heights, reverse=True)
        assert centre[9][1] > centre[2][1] + 60  # the sternum before the spine
        assert centre[7][1] < centre[9][1]  # the blades behind it


@pytest.mark.parametrize("name", PEOPLE)
def test_the_canal_is_free_of_bone_from_skull_to_sacrum(bodies: dict[str, Body], name: str) -> None:
    body = bodies[name]
    path = canal_path(body.person, build_vertebrae(body.person))
    steps = np.linspace(0, len(path) - 2, 400)  # the sac ends at the last but one
    line = np.stack([np.interp(steps, range(len(path)), c) for c in path.T], axis=1)
    index = np.rint((line - body.grid.affine[:3, 3]) / np.array(SPACING)).astype(int)
    inside = body.tissue[tuple(index.T)]
    assert (body.bone[tuple(index.T)] == 0).all()
    assert np.isin(inside, (T.CSF, T.CORD, T.NERVE, T.BRAIN_WHITE, T.BRAIN_GREY)).all()


def test_the_anatomy_hardly_depends_on_the_spacing() -> None:
    fine, coarse = (make(5, "male", 60.0, spacing) for spacing in (3.5, 5.5))
    a, b = volumes(fine), volumes(coarse)
    for tissue in (T.LIVER, T.LUNG, T.KIDNEY, T.MUSCLE, T.SPLEEN, T.STOMACH):
        assert b[tissue] == pytest.approx(a[tissue], rel=0.1), tissue.name
    assert [p.name for p in fine.bones] == [p.name for p in coarse.bones]
    for first, second in zip(
        (fine.bone > 0).any(axis=(0, 1)).nonzero(), (coarse.bone > 0).any(axis=(0, 1)).nonzero(),
        strict=True,
    ):  # fmt: skip
        top = fine.grid.affine[2, 3] + 3.5 * first[-1], coarse.grid.affine[2, 3] + 5.5 * second[-1]
        assert top[0] == pytest.approx(top[1], abs=6.0)


def test_same_seed_same_bytes_and_another_seed_another_body(bodies: dict[str, Body]) -> None:
    again, other = make(*PEOPLE["old man"]), make(7, "male", 82.0)
    first = bodies["old man"]
    for name in ("tissue", "skeleton", "bone", "marrow_fat", "cortex"):
        assert getattr(again, name).tobytes() == getattr(first, name).tobytes(), name
    assert other.tissue.tobytes() != first.tissue.tobytes()


def marrow_of(body: Body, site: str) -> float:
    of_site = np.array([False, *(b.site == site for b in body.bones)])[body.bone]
    return float(body.marrow_fat[of_site].mean())


def test_marrow_is_fattier_in_the_old_and_in_the_limbs(bodies: dict[str, Body]) -> None:
    for sex in ("man", "woman"):
        young, old = bodies[f"young {sex}"], bodies[f"old {sex}"]
        for site in ("spine", "pelvis", "femur", "humerus"):
            assert marrow_of(old, site) > marrow_of(young, site) + 0.04, (sex, site)
        for body in (young, old):
            assert marrow_of(body, "spine") < marrow_of(body, "pelvis") < marrow_of(body, "forearm")


def test_lumbar_marrow_of_the_young_has_the_measured_fat_fraction(
    bodies: dict[str, Body],
) -> None:
    """Men in their twenties: 32.0 +- 8.0 %, women 27.2 +- 6.0 % (Baum et al. 2018)."""
    for name, mean, spread in (("young man", 0.32, 0.08), ("young woman", 0.272, 0.06)):
        body = bodies[name]
        lumbar = (body.skeleton == 3) & (body.cortex < 0.2)
        assert body.marrow_fat[lumbar].mean() == pytest.approx(mean, abs=2 * spread)


def test_the_femur_is_red_below_a_yellow_head_and_above_a_yellow_shaft(
    bodies: dict[str, Body],
) -> None:
    body = bodies["young man"]
    index = 1 + next(i for i, b in enumerate(body.bones) if b.name == "femur right")
    inside = body.bone == index
    levels = np.flatnonzero(inside.any(axis=(0, 1)))
    fat = np.array([body.marrow_fat[..., k][inside[..., k]].mean() for k in levels])
    depth = (levels[-1] - levels) * SPACING[2]
    red = fat[(depth > 50) & (depth < 95)].mean()
    assert red < fat[depth < 12].mean() - 0.1
    assert red < fat[depth > 200].mean() - 0.1


def test_marrow_can_be_set_on_a_body_from_elsewhere(bodies: dict[str, Body]) -> None:
    """Only the bone map, the sites and the person count, not how the body was made."""
    source = bodies["old man"]
    bare = Body.empty(source.person, source.grid, source.bones)
    bare.bone[...] = source.bone
    set_marrow_fat(bare, rng=np.random.default_rng(1))
    assert ((bare.marrow_fat > 0) == (source.bone > 0)).all()
    empty = Body.empty(source.person, source.grid, source.bones)
    set_marrow_fat(empty, rng=np.random.default_rng(1))
    assert not empty.marrow_fat.any()


def test_traps_lie_beside_bone(bodies: dict[str, Body]) -> None:
    """Ganglia, nodes and slow veins within 12 mm of bone: bright on b1000, and no lesion."""
    for body in bodies.values():
        near = ndimage.binary_dilation(body.bone > 0, iterations=2)
        for tissue in (T.NERVE, T.VEIN):
            assert (near & (body.tissue == tissue)).sum() > 20, tissue.name
        assert (near & (body.tissue == T.NODE)).any()


def test_muscle_is_in_compartments_with_more_fat_between_them_in_the_old(
    bodies: dict[str, Body],
) -> None:
    shares = []
    for body in (bodies["young man"], bodies["old man"]):
        low, high = body.person.place([(0, 90, 520), (0, 90, 700)])[:, 2]
        z = body.grid.affine[2, 3] + SPACING[2] * np.arange(body.grid.shape[2])
        thigh = body.tissue[:, :, (z > low) & (z < high)]
        muscle = (thigh == T.MUSCLE).sum()
        shares.append(muscle / (muscle + (thigh == T.FAT).sum()))
    assert 0.9 > shares[0] > shares[1] > 0.3


def test_a_person_is_described_in_plain_numbers() -> None:
    person = Person.draw(np.random.default_rng(3), sex="female", age_years=47.0)
    told = person.describe()
    assert told["sex"] == "female"
    assert told["age_years"] == 47.0
    assert told["bmi_kg_per_m2"] == pytest.approx(person.weight_kg / person.height_m**2, abs=0.1)
    assert all(isinstance(v, float | str) for v in told.values())


def test_people_vary_like_adults() -> None:
    people = [Person.draw(np.random.default_rng(k)) for k in range(300)]
    by_sex = {s: [p for p in people if p.sex == s] for s in ("male", "female")}
    assert min(len(v) for v in by_sex.values()) > 100
    heights = {s: np.mean([p.height_m for p in v]) for s, v in by_sex.items()}
    assert heights["male"] - heights["female"] == pytest.approx(0.13, abs=0.03)
    assert all(18 <= p.age_years <= 90 and 17.9 <= p.bmi <= 40.1 for p in people)
    red = np.corrcoef([p.age_years for p in people], [p.red_marrow for p in people])[0, 1]
    assert red < -0.7


def test_fixing_sex_or_age_changes_nothing_else_of_the_draw() -> None:
    free = Person.draw(np.random.default_rng(11))
    same = Person.draw(np.random.default_rng(11), sex=free.sex, age_years=free.age_years)
    assert same.describe() == free.describe()


@pytest.mark.parametrize(("sex", "age"), [("other", 40.0), ("male", 12.0), ("female", 120.0)])
def test_an_impossible_person_is_refused(sex: str, age: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Person.draw(np.random.default_rng(0), sex=sex, age_years=age)  # type: ignore[arg-type]


def test_a_lattice_returns_a_linear_field_exactly_at_any_spacing() -> None:
    lattice = Lattice(np.full(3, -20.0), np.full(3, 20.0), 5.0)
    x, y, z = Canvas(lattice.canvas.grid).mesh((slice(None),) * 3)
    lattice.values = (2 * x - y + 0.5 * z).astype(np.float32)
    axes = [np.arange(-19, 19, s, dtype=np.float32) for s in (1.0, 3.0, 2.5)]
    expected = 2 * axes[0][:, None, None] - axes[1][None, :, None] + 0.5 * axes[2]
    np.testing.assert_allclose(lattice.on(axes), expected, atol=1e-4)


@pytest.mark.parametrize("name", PEOPLE)
def test_the_grid_holds_the_body_but_for_the_knees_and_broad_arms(
    bodies: dict[str, Body], name: str
) -> None:
    tissue = bodies[name].tissue
    for face in (tissue[:, 0], tissue[:, -1], tissue[..., -1]):
        assert not face.any()
    assert tissue[..., 0].any()
    sides = (tissue[0] > 0).mean() + (tissue[-1] > 0).mean()
    assert sides < 0.1

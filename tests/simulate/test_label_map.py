import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from osteosap.errors import InputError, OsteosapError
from osteosap.simulate import SimulationConfig
from osteosap.simulate.body import Body
from osteosap.simulate.label_map.deformation import (
    Deformation,
    DeformationConfig,
    look_up,
    squared_distance,
)
from osteosap.simulate.label_map.names import BONES, ENVELOPES, TISSUES_OF, VERTEBRAE, meaning_of
from osteosap.simulate.label_map.source import LabelMap, build_body_from_labels, read_label_map
from osteosap.simulate.person import Person
from osteosap.simulate.tissue import T
from osteosap.simulated_study import exam_hash, simulate_to_folder

STIFF = DeformationConfig(scale_spread=0.0, displacement=((250.0, 0.0),))
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = (-119.0, -69.0, 1.0)
NAMES = {
    1: "body", 2: "lumbar_spine", 3: "sacrum", 4: "hip", 5: "femur_left", 6: "femur_right",
    7: "intervertebral_discs", 8: "spinal_cord", 9: "liver", 10: "colon",
}  # fmt: skip
Ids = npt.NDArray[np.uint8]


def small_person() -> Ids:
    """The middle of a person, of boxes, tubes and a ball, on a grid of 2 mm."""
    shape = (120, 70, 200)
    x, y, z = (AFFINE[d, 3] + 2.0 * i for d, i in enumerate(np.indices(shape)))
    ids = np.zeros(shape, np.uint8)
    ids[(x / 100) ** 2 + (y / 55) ** 2 < 1] = 1
    ids[(x - 30) ** 2 + (y - 12) ** 2 + (z - 320) ** 2 < 34**2] = 9
    ids[((x + 45) ** 2 + (y - 15) ** 2 < 15**2) & (z > 220)] = 10
    for k in range(5):
        above = z - 200 - 36 * k
        ids[(np.abs(x) < 20) & (y > -40) & (y < -4) & (above > 6) & (above < 36)] = 2
        ids[(np.abs(x) < 18) & (y > -24) & (y < -6) & (above > 0) & (above < 6)] = 7
    ids[(np.abs(x) < 6) & (y > -36) & (y < -26) & (z > 206) & (z < 390)] = 8
    ids[(np.abs(x) < 24) & (y > -36) & (y < -10) & (z > 166) & (z < 200)] = 3
    ids[(np.abs(x) > 26) & (np.abs(x) < 80) & (np.abs(y) < 20) & (z > 150) & (z < 200)] = 4
    for side, label in ((1, 6), (-1, 5)):
        ids[((x - side * 50) ** 2 + y**2 < 14**2) & (z < 148)] = label
    return ids


@pytest.fixture(scope="module")
def ids() -> Ids:
    return small_person()


Writer = Callable[..., tuple[Path, Path]]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def both(
        array: npt.ArrayLike, legend: object = None, affine: object = AFFINE
    ) -> tuple[Path, Path]:
        image = nib.Nifti1Image(np.asarray(array), None)
        image.header.set_sform(np.asarray(affine, dtype=float), code=1)
        image.header.set_qform(None, code=0)
        nib.save(image, tmp_path / "labels.nii.gz")
        text = (
            legend if isinstance(legend, str) else json.dumps(NAMES if legend is None else legend)
        )
        (tmp_path / "legend.json").write_text(text)
        return tmp_path / "labels.nii.gz", tmp_path / "legend.json"

    return both


@pytest.fixture(scope="module")
def source(ids: Ids, tmp_path_factory: pytest.TempPathFactory) -> LabelMap:
    folder = tmp_path_factory.mktemp("labels")
    nib.save(nib.Nifti1Image(ids, AFFINE), folder / "labels.nii.gz")
    (folder / "legend.json").write_text(json.dumps(NAMES))
    return read_label_map(folder / "labels.nii.gz", folder / "legend.json")


def build(source: LabelMap, spacing: float, seed: int = 3, *, stiff: bool = False) -> Body:
    person = Person.draw(np.random.default_rng(1))
    size = (spacing, spacing, spacing)
    return build_body_from_labels(
        source, size, seed=seed, person=person, config=STIFF if stiff else None
    )


def volume(body: Body, class_id: int) -> float:
    return float((body.skeleton == class_id).sum() * body.grid.voxel_volume_ml)


def centre(body: Body, place: str) -> npt.NDArray[np.float64]:
    index = next(i for i, b in enumerate(body.bones) if b.name == place)
    voxels = np.argwhere(body.bone == index + 1)
    assert len(voxels), place
    return np.asarray(voxels.mean(0) * body.grid.spacing_mm + body.grid.affine[:3, 3])


def test_an_undeformed_body_keeps_the_volumes_of_the_map(ids: Ids, source: LabelMap) -> None:
    for spacing, relative in ((2.0, 0.03), (3.1, 0.08)):
        body = build(source, spacing, stiff=True)
        for class_id, labels in ((3, [2]), (4, [3, 4]), (5, [5, 6])):
            wanted = np.isin(ids, labels).sum() * 0.008
            assert volume(body, class_id) == pytest.approx(wanted, rel=relative), class_id


def test_vertebrae_are_told_apart_by_the_discs_between_them(source: LabelMap) -> None:
    body = build(source, 3.0, stiff=True)
    heights = [centre(body, f"L{n}")[2] for n in range(1, 6)]
    np.testing.assert_allclose(np.diff(heights), -36.0, atol=2.0)


def test_without_discs_vertebrae_share_the_height_of_the_spine(ids: Ids, write: Writer) -> None:
    merged = np.where(ids == 7, 2, ids)
    body = build(read_label_map(*write(merged)), 4.0, stiff=True)
    heights = [centre(body, f"L{n}")[2] for n in range(1, 6)]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] - heights[-1] == pytest.approx(4 * 36.0, rel=0.15)


def test_one_label_of_two_bones_becomes_a_left_and_a_right_one(source: LabelMap) -> None:
    body = build(source, 4.0, stiff=True)
    assert centre(body, "hip bone right")[0] == pytest.approx(53.0, abs=2.0)
    assert centre(body, "hip bone left")[0] == pytest.approx(-53.0, abs=2.0)
    assert centre(body, "femur right")[0] > 0 > centre(body, "femur left")[0]


def test_the_sacrum_counts_as_pelvis_and_the_discs_as_no_bone(source: LabelMap) -> None:
    body = build(source, 3.0, stiff=True)
    sacrum = next(i for i, b in enumerate(body.bones) if b.name == "sacrum")
    assert set(np.unique(body.skeleton[body.bone == sacrum + 1])) == {4}
    disc = body.tissue == T.DISC
    assert disc.any()
    assert not body.bone[disc].any()
    assert not body.marrow_fat[disc].any()


def test_bones_have_a_shell_and_marrow_within(source: LabelMap) -> None:
    body = build(source, 2.0, stiff=True)
    femur = body.skeleton == 5
    inner = ndimage.distance_transform_edt(femur, sampling=2.0) > 9.0
    rim = femur & ~ndimage.binary_erosion(femur)
    assert (body.tissue[inner] == T.MARROW).all()
    assert body.cortex[inner].max() < 0.05
    assert body.cortex[rim].mean() > 0.3
    assert not body.cortex[~femur & (body.bone == 0)].any()


def test_every_seed_is_another_body_and_the_same_seed_the_same(source: LabelMap) -> None:
    first, again, other = (build(source, 5.0, seed=s) for s in (3, 3, 4))
    for name in ("tissue", "skeleton", "bone", "cortex", "marrow_fat"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.tissue.tobytes() != other.tissue.tobytes()


def test_bodies_are_sampled_without_changing_the_map(source: LabelMap) -> None:
    before = source.parts.tobytes()
    build(source, 5.0)
    assert source.parts.tobytes() == before
    with pytest.raises(ValueError, match="read-only"):
        source.parts[0, 0, 0] = 1


def test_the_anatomy_hardly_depends_on_the_spacing(source: LabelMap) -> None:
    fine, coarse = build(source, 2.5), build(source, 5.0)
    for class_id in (3, 4, 5):
        assert volume(coarse, class_id) == pytest.approx(volume(fine, class_id), rel=0.08)
    np.testing.assert_allclose(centre(coarse, "L3"), centre(fine, "L3"), atol=2.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_deformation_never_folds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert Deformation.draw(rng, DeformationConfig()).lowest_jacobian(step_mm=12.0) > 0.25
    wild = DeformationConfig(displacement=((120.0, 60.0),))
    drawn = Deformation.draw(rng, wild)
    assert drawn.amplitudes_mm[0] < 60.0
    assert drawn.lowest_jacobian(step_mm=12.0) > 0.0


def test_a_deformation_moves_places_by_about_what_is_asked() -> None:
    drawn = Deformation.draw(np.random.default_rng(5), DeformationConfig(scale_spread=0.0))
    axes = [np.arange(-400, 400, 40, dtype=np.float32)] * 3
    moved = drawn.back(axes)[0] - axes[0][:, None, None]
    assert 6.0 < moved.std() < 11.0  # 8 mm and 3 mm


def test_a_deformed_body_has_the_volumes_that_the_scale_makes(ids: Ids, source: LabelMap) -> None:
    for seed in range(3):
        rng = np.random.default_rng([seed, 101])
        factor = float(np.prod(Deformation.draw(rng, DeformationConfig()).scale))
        body = build(source, 2.1, seed=seed)
        for class_id, labels in ((3, [2]), (4, [3, 4])):  # the femur is cut by the lower face
            wanted = factor * np.isin(ids, labels).sum() * 0.008
            assert volume(body, class_id) == pytest.approx(wanted, rel=0.04), class_id


def test_fat_lies_under_the_skin_and_muscle_below_it(source: LabelMap) -> None:
    body = build(source, 3.0, stiff=True)
    outside = body.tissue == T.AIR
    rim = ndimage.binary_dilation(outside, iterations=1) & ~outside
    rim[:, :, [0, -1]] = False
    assert np.isin(body.tissue[rim], (T.SKIN, T.FAT)).all()
    depth = ndimage.distance_transform_edt(~outside, sampling=3.0)
    muscle, fat = (np.median(depth[body.tissue == t]) for t in (T.MUSCLE, T.FAT))
    assert fat < muscle


def test_no_speck_of_body_floats_in_the_air(source: LabelMap) -> None:
    body = build(source, 3.0)
    _, count = ndimage.label(body.tissue != T.AIR, np.ones((3, 3, 3)))
    assert count == 1


def test_a_map_without_an_outline_gets_one_with_a_warning(
    ids: Ids, write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    bare = np.where(ids == 1, 0, ids)
    with caplog.at_level(logging.WARNING):
        source = read_label_map(*write(bare))
    assert "outline" in caplog.text
    assert source.envelope == ""
    body = build(source, 4.0, stiff=True)
    # around the middle of the thighs' bones there is muscle, then fat
    k = body.tissue.shape[2] // 8
    row = body.tissue[:, int(np.argwhere(body.skeleton[:, :, k] == 5)[:, 1].mean()), k]
    assert {T.AIR, T.FAT, T.MUSCLE, T.MARROW} <= set(row.tolist())


def test_a_label_of_the_skin_alone_is_filled(ids: Ids, source: LabelMap, write: Writer) -> None:
    inside = ndimage.binary_erosion(np.pad(ids > 0, ((0, 0), (0, 0), (2, 2)), "edge"), iterations=2)
    shell = np.where((ids == 1) & inside[:, :, 2:-2], 0, ids)
    found = read_label_map(*write(shell))
    air = found.parts.shape == source.parts.shape and (found.parts < 2) == (source.parts < 2)
    assert np.mean(air) > 0.999


def test_unknown_names_are_reported_and_become_muscle(
    ids: Ids, write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    legend = {**NAMES, 9: "mystery_organ"}
    with caplog.at_level(logging.WARNING):
        source = read_label_map(*write(ids, legend))
    assert "mystery_organ" in caplog.text
    assert source.unknown == ("mystery_organ",)
    body, known = (
        build(source, 4.0, stiff=True),
        build(read_label_map(*write(ids)), 4.0, stiff=True),
    )
    liver = known.tissue == T.LIVER
    assert liver.any()
    assert (body.tissue[liver] == T.MUSCLE).all()


def test_the_three_forms_of_a_legend_mean_the_same(
    ids: Ids, source: LabelMap, write: Writer
) -> None:
    forms = (
        {"labels": {str(k): {"name": v} for k, v in NAMES.items()}, "source": "somewhere"},
        {v: k for k, v in NAMES.items()},
    )
    for legend in forms:
        assert read_label_map(*write(ids, legend)).parts.tobytes() == source.parts.tobytes()


def test_axes_stored_in_another_order_give_the_same_map(
    ids: Ids, source: LabelMap, write: Writer
) -> None:
    turned = np.transpose(ids[::-1, ::-1], (2, 0, 1))
    affine = np.zeros((4, 4))
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (0, 0, 2), (-2, 0, 0), (0, -2, 0)
    affine[:, 3] = [AFFINE[0, 3] + 2 * 119, AFFINE[1, 3] + 2 * 69, AFFINE[2, 3], 1]
    found = read_label_map(*write(turned, affine=affine))
    assert found.parts.tobytes() == source.parts.tobytes()


def test_an_oblique_map_of_thick_slices_is_brought_onto_an_even_grid(
    ids: Ids, source: LabelMap, write: Writer
) -> None:
    angle = np.deg2rad(5.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 2.0, 4.0])
    affine[:3, 3] = turn @ AFFINE[:3, 3] + [10.0, 20.0, 31.0]
    body = build(read_label_map(*write(ids[:, :, ::2], affine=affine)), 3.0, stiff=True)
    reference = build(source, 3.0, stiff=True)
    for class_id in (3, 4, 5):
        assert volume(body, class_id) == pytest.approx(volume(reference, class_id), rel=0.06)


def test_a_map_of_larger_numbers_is_read(ids: Ids, source: LabelMap, write: Writer) -> None:
    spread = np.where(ids > 0, ids.astype(np.int32) * 100, 0)
    found = read_label_map(*write(spread, {k * 100: v for k, v in NAMES.items()}))
    assert found.parts.tobytes() == source.parts.tobytes()
    assert found.sex is None


def _without(*names: str) -> dict[int, str]:
    """A legend in which labels are called liver instead."""
    return {k: "liver" if v in names else v for k, v in NAMES.items()}


@pytest.mark.parametrize(
    ("legend", "words"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "names no label"),
        ({}, "names no label"),
        ({"1": 2.5}, "expected a number and a name"),
        ({k: v for k, v in NAMES.items() if k != 9}, "does not name: 9"),
        (_without("lumbar_spine"), "no label of: spine"),
        (_without("hip"), "no label of: pelvis"),
        (_without("femur_left", "femur_right"), "no label of: femur"),
    ],
)
def test_a_legend_that_lacks_what_is_needed_is_refused(
    ids: Ids, write: Writer, legend: object, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_label_map(*write(ids, legend))


def test_maps_that_are_no_label_maps_are_refused(ids: Ids, write: Writer) -> None:
    halves = ids.astype(np.float32)
    halves[0, 0, 0] = 0.5
    broken = ids.astype(np.float32)
    broken[0, 0, 0] = np.nan
    flat = np.diag([2.0, 2.0, 0.0, 1.0])
    cases = (
        (halves, AFFINE, "0.5"),
        (broken, AFFINE, "NaN"),
        (ids[:, :, 50], AFFINE, "2 axes"),
        (np.zeros_like(ids), AFFINE, "empty"),
        (-ids.astype(np.int16), AFFINE, "expected 0 to 65535"),
        (ids, flat, "affine"),
    )
    for array, affine, words in cases:
        with pytest.raises(OsteosapError, match=words) as caught:
            read_label_map(*write(array, affine=affine))
        assert caught.value.remedy


def test_missing_files_are_named(ids: Ids, write: Writer, tmp_path: Path) -> None:
    labels, legend = write(ids)
    with pytest.raises(InputError, match="no file"):
        read_label_map(tmp_path / "none.nii.gz", legend)
    with pytest.raises(InputError, match="no legend"):
        read_label_map(labels, tmp_path / "none.json")


def test_names_are_understood_with_sides_cases_and_numbers() -> None:
    vertebra, rib, hip = (meaning_of(n) for n in ("vertebrae_L1", "rib_left_4", "Hip-Left"))
    assert vertebra is not None
    assert (vertebra.place, vertebra.class_id, vertebra.site) == ("L1", 3, "spine")
    assert rib is not None
    assert (rib.place, rib.site, rib.class_id) == ("rib 4 left", "rib", 0)
    assert hip is not None
    assert (hip.place, hip.side, hip.paired) == ("hip bone left", "left", False)
    kidney = meaning_of("kidney_right")
    assert kidney is not None
    assert kidney.tissue == T.KIDNEY
    assert meaning_of("lung_upper_lobe_left") == meaning_of("lungs")
    for unknown in ("vertebrae_L9", "flux_capacitor", "left"):
        assert meaning_of(unknown) is None


def test_squared_distances_agree_with_an_exact_transform() -> None:
    feature = np.random.default_rng(0).uniform(size=(14, 11, 17)) > 0.995
    assert feature.any()
    exact = np.rint(ndimage.distance_transform_edt(~feature) ** 2)
    found = squared_distance(feature, 6)
    near = exact <= 36
    np.testing.assert_array_equal(found[near], exact[near])
    assert (found[~near] == 37).all()


def test_looking_up_equals_indexing() -> None:
    rng = np.random.default_rng(0)
    table, ids = rng.integers(0, 255, 256, np.uint8), rng.integers(0, 255, (5, 6, 7), np.uint8)
    np.testing.assert_array_equal(look_up(table, ids), table[ids])
    np.testing.assert_array_equal(look_up(table > 9, ids), (table > 9)[ids])


def test_the_page_on_own_anatomy_lists_every_name(repository: Path) -> None:
    page = (repository / "docs" / "how-to" / "own-anatomy.md").read_text()
    names = [*BONES, *ENVELOPES, *(n for names in TISSUES_OF.values() for n in names)]
    assert [n for n in names if f"`{n}`" not in page] == []


@pytest.mark.slow
def test_the_atlas_becomes_a_body_with_all_its_bones(test_data: Path) -> None:
    folder = test_data / "bodyparts3d"
    source = read_label_map(folder / "bp3d_male_labels_2mm.nii.gz", folder / "legend.json")
    assert source.unknown == ()
    assert source.sex == "male"
    body = build(source, 6.0)
    present = {body.bones[i - 1].name for i in np.unique(body.bone) if i}
    ribs = {f"rib {n} {side}" for n in range(1, 13) for side in ("left", "right")}
    assert set(VERTEBRAE) | ribs <= present
    heights = [centre(body, place)[2] for place in VERTEBRAE]
    assert heights == sorted(heights, reverse=True)
    assert all(volume(body, c) > 20 for c in range(1, 10))
    for trap in (T.NODE, T.NERVE, T.BRAIN_GREY, T.BRAIN_WHITE, T.SPLEEN, T.TESTIS):
        assert (body.tissue == trap).any(), trap
        assert not body.bone[body.tissue == trap].any()


def test_a_label_map_is_simulated_to_a_folder_that_does_not_name_its_files(
    ids: Ids, write: Writer, tmp_path: Path
) -> None:
    labels, legend = write(ids)
    secret = labels.rename(labels.with_name("DOE_JOHN.nii.gz"))
    coarse = {"spacing_mm": (12.0, 12.0, 12.0)}
    values = {
        "seed": 3,
        "lesions": 1,
        "anatomy": {"labels": secret, "legend": legend},
        "body_spacing_mm": (6.0, 6.0, 6.0),
        "scanner": {"stations": {"count": 1}, "t1": coarse, "dwi": coarse},
    }
    config = SimulationConfig.from_mapping(values)
    simulate_to_folder(config, tmp_path / "out", formats=["nifti"])
    marker = (tmp_path / "out" / "exam.json").read_text()
    assert "DOE" not in marker
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    assert json.loads(marker)["config"]["anatomy"]["labels_sha256"] == digest
    before = exam_hash(config)
    write(np.where(ids == ids.max(), 0, ids))  # another map under another name
    other = {**values, "anatomy": {"labels": labels, "legend": legend}}
    assert exam_hash(SimulationConfig.from_mapping(other)) != before
    labels.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        exam_hash(SimulationConfig.from_mapping(other))

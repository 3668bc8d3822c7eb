import numpy as np
import pytest
from scipy import ndimage

from osteosap.errors import ConfigError
from osteosap.geometry import resample
from osteosap.simulate import SimulatedExam, SimulationConfig, simulate_exam
from osteosap.simulate.scanner.sites import SITES
from osteosap.simulate.tissue import TISSUES, T, TissueTable


def test_same_seed_gives_the_same_voxels_and_another_seed_another_body(
    coarse: SimulationConfig, patient: SimulatedExam
) -> None:
    same = simulate_exam(coarse)
    other = simulate_exam(again(coarse, seed=8), acquire=False)
    assert patient.tissue.array.tobytes() == same.tissue.array.tobytes()
    for ours, theirs in zip(patient.stations, same.stations, strict=True):
        np.testing.assert_array_equal(ours.volume.array, theirs.volume.array)
    assert other.tissue.array.tobytes() != patient.tissue.array.tobytes()


def test_the_bones_stand_where_they_belong(patient: SimulatedExam) -> None:
    assert patient.exam.skeleton is not None
    skeleton, affine = patient.exam.skeleton.array[0], patient.exam.skeleton.affine
    centre = {c: affine[:3, :3] @ np.argwhere(skeleton == c).mean(0) + affine[:3, 3]
              for c in range(1, 10)}  # fmt: skip
    heights = [centre[c][2] for c in (1, 2, 3, 4, 5)]
    assert heights == sorted(heights, reverse=True)
    assert centre[9][1] > centre[2][1] + 60  # sternum before thoracic spine
    assert centre[7][1] < centre[9][1]  # scapulae behind it
    for paired in (5, 6, 7, 8):
        x = (np.argwhere(skeleton == paired) @ affine[:3, :3].T + affine[:3, 3])[:, 0]
        right, left = (x > 0).sum(), (x < 0).sum()
        assert 0.8 < right / left < 1.25


def test_lesions_lie_in_bone_or_break_out_of_it_and_never_touch(patient: SimulatedExam) -> None:
    assert patient.exam.lesions is not None
    assert patient.exam.skeleton is not None
    lesions = patient.exam.lesions.array[0]
    near_bone = ndimage.binary_dilation(
        np.isin(patient.tissue.array[0], (T.MARROW, T.CORTEX))
        | (patient.exam.skeleton.array[0] > 0),
        iterations=3,
    )
    assert near_bone[lesions > 0].all()
    _, merged = ndimage.label(lesions > 0, np.ones((3, 3, 3)))
    assert merged >= len(patient.lesions)
    for instance in range(1, len(patient.lesions) + 1):
        grown = ndimage.binary_dilation(lesions == instance, np.ones((3, 3, 3)))
        assert set(np.unique(lesions[grown])) <= {0, instance}


def test_the_truth_table_agrees_with_the_voxels(patient: SimulatedExam) -> None:
    assert patient.exam.lesions is not None
    lesions = patient.exam.lesions
    counts = np.bincount(lesions.array.ravel())
    assert len(patient.lesions) == np.count_nonzero(counts[1:]) > 0
    for lesion in patient.lesions:
        voxel_ml = lesions.grid.voxel_volume_ml
        assert lesion.volume_ml == pytest.approx(counts[lesion.id] * voxel_ml)


def test_a_healthy_person_has_no_lesion(coarse: SimulationConfig) -> None:
    healthy = simulate_exam(again(coarse, lesions=0), acquire=False)
    assert healthy.lesions == ()
    assert healthy.exam.lesions is not None
    assert not healthy.exam.lesions.array.any()


@pytest.mark.slow
def test_a_viable_lesion_is_dark_on_t1_and_bright_on_b1000_against_marrow() -> None:
    fine = SimulationConfig(seed=11, lesions=12, body_spacing_mm=(3.0, 3.0, 3.0))
    exam = simulate_exam(fine, acquire=False)
    assert exam.exam.lesions is not None
    tissue = exam.tissue.array[0]
    t1, b1000 = exam.exam.images.channel("t1"), exam.exam.images.channel("b1000")
    viable = [one.id for one in exam.lesions if one.state == "viable"]
    lesion, marrow = np.isin(exam.exam.lesions.array[0], viable), tissue == T.MARROW
    assert np.median(t1[lesion]) < 0.85 * np.median(t1[marrow])
    assert np.median(b1000[lesion]) > 1.5 * np.median(b1000[marrow])
    for organ in (T.BRAIN_WHITE, T.SPLEEN, T.TESTIS):  # as bright as a lesion, outside bone
        assert np.median(b1000[tissue == organ]) > np.median(b1000[lesion]) * 0.7


def test_the_adc_of_noise_free_images_is_the_adc_that_was_put_in(patient: SimulatedExam) -> None:
    tissue = patient.tissue.array[0]
    adc = patient.exam.images.channel("adc")[tissue == T.SPLEEN]
    book = next(t.adc_um2_per_s for t in TISSUES if t.id == T.SPLEEN)
    assert adc.mean() == pytest.approx(book, rel=0.25)


def test_the_tissue_table_has_one_row_an_id_in_order() -> None:
    assert [t.id for t in TISSUES] == list(T)
    drawn = TissueTable.draw(np.random.default_rng(0), spread=0.0)
    np.testing.assert_allclose(drawn.t1_ms, [t.t1_ms for t in TISSUES])


@pytest.mark.slow
def test_a_varied_protocol_changes_the_images_but_not_the_body(
    coarse: SimulationConfig, patient: SimulatedExam
) -> None:
    varied = simulate_exam(again(coarse, vary_protocol=True))
    assert varied.tissue.array.tobytes() == patient.tissue.array.tobytes()
    assert varied.stations[0].volume.array.tobytes() != patient.stations[0].volume.array.tobytes()


def again(config: SimulationConfig, **changes: object) -> SimulationConfig:
    """The same person with other settings, laid over the site as a file's would be."""
    return SimulationConfig.from_mapping({**config.model_dump(exclude_unset=True), **changes})


def test_another_scan_finds_the_same_person_elsewhere(
    coarse: SimulationConfig, patient: SimulatedExam
) -> None:
    other = simulate_exam(again(coarse, scan=1), acquire=False)
    assert other.tissue.array.tobytes() == patient.tissue.array.tobytes()
    assert other.person == patient.person
    moved = other.tissue.affine @ np.linalg.inv(patient.tissue.affine)
    turn = moved[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)  # rigid
    assert np.abs(moved[:3, 3]).max() > 1.0
    for one, two in zip(patient.lesions, other.lesions, strict=True):
        expected = moved @ [*one.centre_mm, 1.0]
        np.testing.assert_allclose(two.centre_mm, expected[:3], atol=1e-6)


@pytest.mark.slow
def test_the_images_of_a_posed_person_lie_where_the_truth_says(coarse: SimulationConfig) -> None:
    quiet = {
        **coarse.model_dump(exclude_unset=True)["scanner"],
        "stations": {"count": 1, "shift_mm": 0.0, "gain": 0.0},
        "artefacts": {"dwi_shift_mm": 0.0, "bias": 0.0, "breathing_ghost": 0.0},
    }
    exam = simulate_exam(again(coarse, scan=2, scanner=quiet))
    acquired = next(image.volume for image in exam.stations if image.kind == "t1")
    truth = exam.exam.images.channel("t1")
    known = resample(truth, exam.exam.images.grid, acquired.grid)
    inside = known > 50
    correlation = np.corrcoef(known[inside], acquired.array[0][inside])[0, 1]
    assert correlation > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("site", list(SITES))
def test_every_site_scans_the_same_person_its_own_way(
    coarse: SimulationConfig, patient: SimulatedExam, site: str
) -> None:
    exam = simulate_exam(SimulationConfig(seed=7, lesions=10, site=site, body_spacing_mm=(5,) * 3))
    assert exam.tissue.array.tobytes() == patient.tissue.array.tobytes()
    values = {i.b_value_s_per_mm2 for i in exam.stations if i.kind == "dwi"}
    assert values == set(SITES[site].scanner.dwi.b_values_s_per_mm2)
    spacing = exam.stations[0].volume.spacing_mm
    assert spacing == pytest.approx(SITES[site].scanner.t1.spacing_mm)
    assert exam.config.sequence == SITES[site].sequence


def test_settings_lie_over_those_of_the_site() -> None:
    config = SimulationConfig.from_mapping(
        {"site": "b", "scanner": {"dwi": {"snr": 9.0}}, "sequence": {"dwi_te_ms": 80.0}}
    )
    site = SITES["b"]
    assert config.scanner.dwi.snr == 9.0
    assert config.scanner.dwi.spacing_mm == site.scanner.dwi.spacing_mm
    assert config.scanner.stations == site.scanner.stations
    assert config.sequence.dwi_te_ms == 80.0
    assert config.sequence.field_strength_t == 3.0
    assert SimulationConfig.from_mapping(config.to_mapping()) == config


def test_a_lesion_keeps_its_number_over_time_and_changes_as_its_course_says(
    coarse: SimulationConfig,
) -> None:
    changes = {"lesions": 12, "timepoints": 2, "profile": "mixed response"}
    first, second = (
        simulate_exam(again(coarse, timepoint=t, **changes), acquire=False) for t in (0, 1)
    )
    before, after = ({one.id: one for one in exam.lesions} for exam in (first, second))
    assert len(before) >= 10
    for number, one in before.items():
        if one.course == "vanished":
            continue
        assert after[number].bone == one.bone
        if one.course == "responding":
            assert after[number].volume_ml <= one.volume_ml
            assert after[number].adc_um2_per_s > one.adc_um2_per_s
    assert {after[n].course for n in after.keys() - before.keys()} <= {"new"}


def test_the_truth_holds_the_adc_that_the_noise_free_map_shows(patient: SimulatedExam) -> None:
    assert patient.exam.lesions is not None
    adc, lesions = patient.exam.images.channel("adc"), patient.exam.lesions.array[0]
    for one in patient.lesions:
        assert one.adc_um2_per_s == pytest.approx(np.median(adc[lesions == one.id]), abs=0.1)


@pytest.mark.slow
def test_a_patient_is_an_elderly_man_and_a_healthy_person_is_drawn() -> None:
    patients = [simulate_exam(tiny(seed=s)).person for s in range(3)]
    assert all(p["sex"] == "male" and p["age_years"] >= 48 for p in patients)
    sexes = {simulate_exam(tiny(seed=s, lesions=0)).person["sex"] for s in range(8)}
    assert sexes == {"male", "female"}
    assert simulate_exam(tiny(sex="female", age_years=30.0)).person["age_years"] == 30.0


def tiny(**values: object) -> SimulationConfig:
    scanner = {
        "stations": {"count": 1},
        "t1": {"spacing_mm": (12.0,) * 3},
        "dwi": {"spacing_mm": (12.0,) * 3},
    }
    return SimulationConfig.from_mapping(
        {"body_spacing_mm": (10.0,) * 3, "scanner": scanner, **values}
    )


def test_diffuse_disease_is_an_option() -> None:
    exam = simulate_exam(tiny(diffuse=True), acquire=False)
    assert exam.lesions
    assert {one.state for one in exam.lesions} == {"diffuse"}


def test_metal_is_signal_free_and_has_no_bone(coarse: SimulationConfig) -> None:
    exam = simulate_exam(again(coarse, implant="hip_prosthesis"), acquire=False)
    metal = exam.tissue.array[0] == T.METAL
    assert metal.any()
    assert exam.exam.skeleton is not None
    assert not exam.exam.skeleton.array[0][metal].any()
    assert exam.exam.images.channel("t1")[metal].max() < 1.0


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"timepoint": 3}, "time point 3 of 1"),
        ({"diffuse": True, "timepoints": 2}, "one time point"),
        ({"site": "d"}, "site"),
        ({"scanner": {"t1": {"speed": 3}}}, "scanner.t1.speed"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        SimulationConfig.from_mapping(values)

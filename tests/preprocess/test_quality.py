"""The quality report: what it measures against a phantom and the simulator, and what it says."""

import json

import numpy as np
import pytest

from osteosap.geometry import make_affine
from osteosap.preprocess.quality import (
    QualityConfig,
    assess,
    assess_skeleton,
    chain_record,
)
from osteosap.preprocess.quality_measures import body_ends, find_tissues, measure_noise, thin
from osteosap.simulate import SimulationConfig, simulate_exam
from osteosap.simulate.tissue import T
from osteosap.volume import Volume

SPACING = (5.0, 5.0, 5.0)
SHAPE = (90, 60, 240)
SIGMA = 5.0


def ellipse(x, y, a, b, *, at=0.0):
    return ((x - at) / a) ** 2 + (y / b) ** 2 < 1


def person():
    """Trunk with a rim of fat and a spine of marrow, head, neck and two legs; 1.2 m in mm."""
    i, j, k = (np.arange(n) - (n - 1) / 2 for n in SHAPE)
    x, y = 5.0 * i[:, None, None], 5.0 * j[None, :, None]
    z = 5.0 * (k[None, None, :] - k[0])
    trunk = ellipse(x, y, 190, 115) & (z > 350) & (z <= 920)
    inner = ellipse(x, y, 160, 85) & (z > 350) & (z <= 920)
    crown = np.sqrt(np.clip(1 - ((z - 1060) / 120) ** 2, 0, 1))
    head = ellipse(x / np.maximum(crown, 0.01), y / np.maximum(crown, 0.01), 75, 95) & (z > 940)
    neck = ellipse(x, y, 60, 60) & (z > 920) & (z <= 1010)
    legs = (ellipse(x, y, 75, 80, at=-85) | ellipse(x, y, 75, 80, at=85)) & (z > 20) & (z <= 350)
    thighs = (ellipse(x, y, 55, 60, at=-85) | ellipse(x, y, 55, 60, at=85)) & (z > 20) & (z <= 350)
    spine = ellipse(x, y + 35.0, 22, 20) & (z > 350) & (z <= 920)
    body = trunk | head | neck | legs
    muscle = (inner | thighs | head | neck) & ~spine
    return body, muscle, spine


def exam(*, adc=True, adc_scale=1.0, fat_b1000=15.0, noise=SIGMA, seed=0, blank_air=False):
    rng = np.random.default_rng(seed)
    body, muscle, spine = person()
    t1 = np.where(body, 550.0, 0.0)
    t1[muscle], t1[spine] = 300.0, 380.0
    b1000 = np.where(body, fat_b1000, 0.0)
    b1000[muscle], b1000[spine] = 40.0, 70.0
    diffusion = np.where(body, 1000.0, 0.0)
    diffusion[muscle], diffusion[spine] = 1450.0, 450.0
    t1 = np.hypot(t1 + rng.normal(0, 10, SHAPE), rng.normal(0, 10, SHAPE))
    b1000 = np.hypot(b1000 + rng.normal(0, noise, SHAPE), rng.normal(0, noise, SHAPE))
    if blank_air:
        b1000[~body] = 0.0
    channels = {"t1": t1, "b1000": b1000}
    if adc:
        channels["adc"] = adc_scale * diffusion * rng.normal(1.0, 0.1, SHAPE) * body
    stacked = np.stack(list(channels.values())).astype(np.float32)
    images = Volume(stacked, make_affine(SPACING, (0.0, 0.0, 0.0)), tuple(channels))
    return images, body, spine


RECORD = {
    "seams": [
        {"channel": "t1", "pair": [1, 2], "mismatch_before": 0.24, "mismatch_after": 0.012},
        {"channel": "t1", "pair": [2, 3], "mismatch_before": 0.11, "mismatch_after": 0.021},
        {"channel": "dwi", "pair": [1, 2], "mismatch_before": 0.5, "mismatch_after": 0.12},
    ],
    "alignment": {"shift_mm": [4.1, 0.0, 5.2], "accepted": [True, True, True]},
    "registration": {
        "shift_mm": [1.2, 2.0, 3.4],
        "displacement_mm": [4.0, 6.5, 5.0],
        "rigid_accepted": [True, True, False],
        "bspline_accepted": [True, True, True],
    },
}


def find(report, name):
    (check,) = [c for c in report.checks if c.name.startswith(name)]
    return check


def cut(images, low, high):
    return Volume(images.array[..., low:high], images.affine, images.channels)


def test_a_sound_exam_raises_no_warning_and_every_line_is_known():
    images, body, _ = exam()
    report = assess(images, body, record=RECORD)
    assert report.warnings == ()
    assert {c.verdict for c in report.checks} == {"ok"}
    assert {c.topic for c in report.checks} == {
        "coverage", "seams", "alignment", "registration", "adc", "noise",
    }  # fmt: skip
    assert find(report, "Seams of T1").value == "2.1% at worst (stations 2 and 3, 11.0% before)"
    assert find(report, "Shift of T1").value == "5.2 mm at most (station 3 of 3); 3 of 3 accepted"
    assert find(report, "Shift of DWI").value == "3.4 mm at most (station 3 of 3); 2 of 3 accepted"
    assert find(report, "Distortion").value == "6.5 mm at most (station 2 of 3); 3 of 3 accepted"


def test_adc_noise_and_fat_are_measured_as_they_were_made():
    images, body, _ = exam()
    report = assess(images, body, record=RECORD)
    assert report.adc["muscle"]["median"] == pytest.approx(1450, rel=0.02)
    assert report.adc["marrow"]["median"] == pytest.approx(450, rel=0.05)
    edges = report.adc["edges_um2_per_s"]
    for tissue in ("muscle", "marrow"):
        drawn = report.adc[tissue]
        assert sum(drawn["counts"]) == drawn["n_voxels"]
        assert len(drawn["counts"]) == len(edges) - 1
        peak = edges[int(np.argmax(drawn["counts"]))]
        assert abs(peak - drawn["median"]) < 150
    assert float(find(report, "Muscle over noise").value) == pytest.approx(40 / SIGMA, rel=0.15)
    assert float(find(report, "Fat over muscle").value) == pytest.approx(15 / 40, rel=0.2)


def test_length_and_ends_of_the_body_are_those_of_the_phantom():
    images, body, _ = exam()
    ends = body_ends(body, images.channel("b1000"), SPACING)
    assert ends.extent_mm == pytest.approx(1155, abs=25)
    assert (ends.has_head, ends.head_closes, ends.has_legs) == (True, True, True)
    trunk = body_ends(body[:, :, 80:170], images.channel("b1000")[:, :, 80:170], SPACING)
    assert (trunk.has_head, trunk.has_legs) == (False, False)
    assert trunk.extent_mm == 450.0
    chin = body_ends(body[:, :, :215], images.channel("b1000")[:, :, :215], SPACING)
    assert (chin.has_head, chin.head_closes) == (True, False)
    nothing = body_ends(np.zeros_like(body), images.channel("b1000"), SPACING)
    assert nothing.extent_mm == 0.0


def test_legs_that_touch_are_still_two():
    body = np.zeros((60, 30, 20), bool)
    x, y = np.meshgrid(5.0 * np.arange(60) - 147.5, 5.0 * np.arange(30) - 72.5, indexing="ij")
    body |= (ellipse(x, y, 70, 60, at=-70) | ellipse(x, y, 70, 60, at=70))[:, :, None]
    assert body_ends(body, np.ones(body.shape), SPACING).has_legs
    arm = ellipse(x, y, 90, 60) | ellipse(x, y, 20, 30, at=125)
    body[:] = arm[:, :, None]
    assert not body_ends(body, np.ones(body.shape), SPACING).has_legs


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"adc_scale": 1e-3}, "ADC of muscle", ("1.45", "1100 to 1900", "check the unit")),
        ({"adc_scale": 1e3}, "ADC of muscle", ("1100 to 1900", "check the unit")),
        ({"adc_scale": 0.4}, "ADC of marrow", ("200 to 900", "b-values", "fat suppression")),
        ({"adc_scale": 2.5}, "ADC of marrow", ("200 to 900", "b-values", "diffuse marrow")),
        ({"fat_b1000": 150.0}, "Fat over muscle", ("as bright as muscle", "was not suppressed")),
        ({"noise": 60.0}, "Muscle over noise", ("times the noise", "number of averages")),
    ],
)
def test_a_fault_is_named_with_its_value_and_what_to_do(change, name, words):
    images, body, _ = exam(**change)
    check = find(assess(images, body), name)
    assert check.verdict == "look"
    assert all(word in check.note for word in words)


def test_what_is_cut_off_is_named():
    images, body, _ = exam()
    report = assess(cut(images, 80, 170), body[..., 80:170], record=RECORD)
    said = " ".join(report.warnings)
    for words in ("show 450 mm of the body", "looks like no head", "expected two thighs"):
        assert words in said
    gone = np.array(images.array)
    gone[1, :, :, :40] = 0.0  # the DWI misses the lowest station
    short = Volume(gone, images.affine, images.channels)
    assert "the DWI ends 175 mm (feet)" in " ".join(assess(short, body).warnings)


def test_seams_and_movements_outside_the_expected_are_named_by_station():
    images, body, _ = exam()
    record = {
        "seams": [
            *RECORD["seams"],
            {"channel": "t1", "pair": [3, 4], "mismatch_before": 0.2, "mismatch_after": 0.09},
        ],
        "alignment": {"shift_mm": [12.5, 0.0], "accepted": [False, True]},
        "registration": {"shift_mm": [1.0, 18.0], "displacement_mm": [None, 25.0]},
    }
    said = assess(images, body, record=record).warnings
    assert [w.split(",")[0] for w in said] == [
        "T1 stations 3 and 4 differ by 9.0% where they overlap",
        "shift of T1 stations: 12.5 mm in station 1",
        "shift of DWI to T1: 18.0 mm in station 2",
        "distortion of DWI (B-spline): 25.0 mm in station 2",
    ]
    loose = QualityConfig(
        max_t1_mismatch=0.2,
        max_station_shift_mm=20,
        max_registration_shift_mm=20,
        max_displacement_mm=30,
    )
    assert assess(images, body, record=record, config=loose).warnings == ()


def test_one_station_may_be_recorded_as_a_plain_number():
    images, body, _ = exam()
    record = {"registration": {"shift_mm": 3.25, "accepted": True}}
    check = find(assess(images, body, record=record), "Shift of DWI")
    assert check.value == "3.2 mm at most (station 1 of 1); 1 of 1 accepted"


def test_what_was_not_done_is_unknown_with_the_reason_and_no_warning():
    images, body, _ = exam(adc=False)
    steps = [{"step": "registration", "done": "off in the settings"}]
    report = assess(images, body, record=chain_record(steps, ()))
    unknown = {c.name: c.note for c in report.checks if c.verdict == "unknown"}
    assert unknown["Shift of DWI to T1"] == "off in the settings"
    assert "one station" in unknown["Seams of T1"]
    assert "no ADC map" in unknown["ADC"]
    assert report.warnings == ()
    assert report.adc == {}


def test_the_chain_is_read_by_the_names_of_its_steps():
    steps = [{"step": "align t1 stations", "shift_mm": [3.0]}, {"step": "body mask"}]
    seams = [{"channel": "t1", "pair": [1, 2], "mismatch_after": 0.01}]
    record = chain_record(steps, seams)
    assert record["alignment"]["shift_mm"] == [3.0]
    assert record["seams"] == seams
    assert record["registration"] == {}


def test_an_exam_without_contrast_is_not_measured_and_breaks_nothing():
    flat = np.ones((2, 20, 20, 6), np.float32)
    images = Volume(flat, make_affine(SPACING, (0.0, 0.0, 0.0)), ("t1", "b1000"))
    for body in (np.ones((20, 20, 6), bool), np.zeros((20, 20, 6), bool)):
        report = assess(images, body)
        assert find(report, "Muscle over noise").verdict == "unknown"
        json.dumps(report.to_mapping(), allow_nan=False)


def test_noise_is_found_in_soft_tissue_where_the_air_is_blank():
    images, body, _ = exam(blank_air=True)
    b1000 = images.channel("b1000")
    tissues = find_tissues(images.channel("t1"), b1000, body, SPACING)
    noise = measure_noise(b1000, body, tissues.soft, SPACING)
    assert noise.method == "differences in soft tissue"
    assert noise.sigma == pytest.approx(SIGMA, rel=0.15)
    assert "at most (differences" in find(assess(images, body), "Muscle over noise").value


def test_the_skeleton_map_gives_the_marrow_of_bones_and_says_which_are_absent():
    images, body, spine = exam()
    skeleton = np.where(spine, 3, 0).astype(np.uint8)
    skeleton[:2, :2, :4] = np.arange(4, 8)  # less than 1 mL each
    bones, adc = assess_skeleton(images, skeleton)
    assert bones.verdict == "look"
    assert bones.value == "1 of 9"
    assert "cervical spine, thoracic spine, pelvis with sacrum, femur" in bones.note
    assert adc.name == "ADC of marrow of spine and pelvis (skeleton map)"
    assert adc.verdict == "ok"
    assert float(adc.value.split()[0]) == pytest.approx(450, rel=0.03)
    whole = assess(images, body, skeleton=skeleton)
    assert find(whole, "Bones in the skeleton").value == "1 of 9"
    assert find(whole, "ADC of marrow of spine").verdict == "ok"


def test_the_report_is_json_and_the_same_for_the_same_exam():
    images, body, _ = exam()
    one = json.dumps(assess(images, body, record=RECORD).to_mapping(), allow_nan=False)
    assert one == json.dumps(assess(images, body, record=RECORD).to_mapping(), allow_nan=False)
    read = json.loads(one)
    assert read["seams"] == RECORD["seams"]
    assert read["warnings"] == []
    assert read["ends"]["has_legs"] is True


def test_thinning_keeps_about_three_millimetres():
    step = thin((1.0, 2.0, 5.0))
    assert [s.step for s in step] == [3, 2, 1]


@pytest.mark.parametrize("site", ["a", "c"])
def test_tissues_of_a_simulated_person_are_mostly_what_they_are_taken_for(site):
    config = SimulationConfig(seed=4, lesions=6, site=site, body_spacing_mm=(5.0, 5.0, 5.0))
    made = simulate_exam(config, acquire=False)
    tissue, rng = made.tissue.array[0], np.random.default_rng(1)
    clean = made.exam.images
    noisy = np.array(clean.array)
    for n, sigma in ((0, 12.0), (1, 5.0)):
        parts = rng.normal(0, sigma, (2, *tissue.shape))
        noisy[n] = np.hypot(noisy[n] + parts[0], parts[1])
    images, body = Volume(noisy, clean.affine, clean.channels), tissue != T.AIR
    found = find_tissues(images.channel("t1"), images.channel("b1000"), body, images.spacing_mm)
    assert (tissue[found.muscle] == T.MUSCLE).mean() > 0.7
    assert (tissue[found.marrow] == T.MARROW).mean() > 0.5
    report = assess(images, body)
    adc = clean.channel("adc")
    for name, kind in (("muscle", T.MUSCLE), ("marrow", T.MARROW)):
        true = np.median(adc[tissue == kind])
        assert report.adc[name]["median"] == pytest.approx(true, rel=0.3)
    ends = report.ends
    assert (ends["has_head"], ends["head_closes"], ends["has_legs"]) == (True, True, True)
    assert {c.name for c in report.checks if c.verdict == "look"} == set()

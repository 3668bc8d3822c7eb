"""Nyul standardisation: landmarks of a cohort, and what it does to single exams."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import ConfigError, VolumeError
from osteosap.preprocess.standardise import (
    Landmarks,
    Standard,
    StandardConfig,
    apply_standard,
    fit_standard,
)
from osteosap.simulate import SimulationConfig, simulate_exam
from osteosap.simulate.tissue import T
from osteosap.volume import Volume

ONE = StandardConfig(channels=("t1",))
SHAPE = (20, 20, 20)


def volume(array, name="t1"):
    return Volume.single(array.astype(np.float32), np.eye(4), name)


def phantom(seed=0, *, gain=1.0, offset=0.0):
    """Three tissues with spread in a body, air of exactly 0 around it."""
    rng = np.random.default_rng(seed)
    array = rng.choice([60.0, 200.0, 400.0], size=SHAPE, p=[0.25, 0.4, 0.35])
    array = gain * (array + rng.normal(0, 12.0, SHAPE)) + offset
    body = np.zeros(SHAPE, bool)
    body[3:-3, 3:-3] = True
    return np.where(body, array, 0.0).astype(np.float32), body


def fitted(*phantoms):
    return fit_standard(((volume(a), b) for a, b in phantoms), ONE)


def spread(values):
    return float(np.std(values) / np.mean(values))


@pytest.fixture(scope="module")
def exams():
    """Three sites and another person at one: noise of the scanner, gains of no meaning."""
    rng, made = np.random.default_rng(3), []
    for site, seed, gain in (("a", 1, 0.6), ("b", 1, 2.5), ("c", 1, 1.0), ("b", 2, 1.6)):
        config = SimulationConfig(seed=seed, lesions=0, site=site, body_spacing_mm=(5.0, 5.0, 5.0))
        exam = simulate_exam(config, acquire=False)
        tissue, channels = exam.tissue.array[0], []
        for name, noise in (("t1", 15.0), ("b1000", 6.0)):
            clean = exam.exam.images.channel(name)
            parts = rng.normal(0, noise, (2, *clean.shape)).astype(np.float32)
            channels.append(np.hypot(clean + parts[0], parts[1]) * np.float32(gain))
        both = Volume(np.stack(channels), exam.tissue.affine, ("t1", "b1000"))
        made.append((both, np.not_equal(tissue, T.AIR), tissue))
    return made


@pytest.mark.parametrize("name", ["t1", "b1000"])
def test_muscle_and_marrow_look_alike_over_sites_that_the_standard_has_and_has_not_seen(
    exams, name
):
    standard = fit_standard((images, body) for images, body, _ in exams[:3])
    assert standard.n_exams == 3
    before, after = {}, {}
    for images, body, tissue in exams:
        array = images.channel(name)
        mapped = apply_standard(array, body, standard.channels[name])
        for kind in (T.MUSCLE, T.MARROW):
            before.setdefault(kind, []).append(np.median(array[tissue == kind]))
            after.setdefault(kind, []).append(np.median(mapped[tissue == kind]))
    for kind, raw in before.items():
        assert spread(raw) > 0.35
        assert spread(after[kind]) < 0.15


def test_landmarks_are_the_percentiles_of_one_exam_stretched_to_the_scale():
    array, body = phantom()
    marks = fitted((array, body)).channels["t1"]
    raw = np.percentile(array[body].astype(float), marks.percentiles)
    expected = 10.0 + (raw - raw[0]) / (raw[-1] - raw[0]) * 90.0
    assert marks.values == pytest.approx(expected)
    mapped = apply_standard(array, body, marks)
    assert np.percentile(mapped[body], marks.percentiles) == pytest.approx(marks.values, rel=1e-3)


def test_the_median_histogram_of_a_cohort_maps_to_itself():
    standard = fitted(*[phantom(seed) for seed in range(3)]).channels["t1"]
    share = np.linspace(0.0, 100.0, 8001)  # whole percents fall on voxels
    array = np.interp(share, standard.percentiles, standard.values).reshape(9, 7, 127)
    assert apply_standard(array, np.ones(array.shape, bool), standard) == pytest.approx(array)


def test_one_odd_exam_does_not_move_the_standard():
    plain = fitted(*[phantom(seed) for seed in range(4)]).channels["t1"]
    odd = np.where(phantom()[1], np.random.default_rng(9).exponential(50.0, SHAPE), 0.0)
    mixed = fitted(*[phantom(seed) for seed in range(4)], (odd, phantom()[1])).channels["t1"]
    assert mixed.values == pytest.approx(plain.values, abs=1.0)


@settings(max_examples=25, deadline=None)
@given(gain=st.floats(0.01, 100.0), offset=st.floats(0.0, 500.0))
def test_gain_and_offset_of_the_scanner_do_not_matter(gain, offset):
    standard = fitted(phantom(1), phantom(2)).channels["t1"]
    plain, body = phantom(3, offset=50.0)
    other = np.where(body, gain * plain + offset, 0.0)
    mapped = apply_standard(plain, body, standard)
    assert apply_standard(other, body, standard) == pytest.approx(mapped, abs=0.05)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), levels=st.integers(2, 40))
def test_the_mapping_never_falls_even_where_landmarks_coincide(seed, levels):
    rng = np.random.default_rng(seed)
    array = 1.0 + rng.integers(0, levels, SHAPE) ** 2.0  # many equal voxels: equal percentiles
    array[0, 0, :2] = (0.2, 10.0 * levels**2)  # beyond both ends
    standard = fitted(phantom(1)).channels["t1"]
    mapped = apply_standard(array, np.ones(SHAPE, bool), standard)
    order = np.argsort(array, axis=None)
    assert np.diff(mapped.ravel()[order]).min() >= -1e-4
    assert mapped.min() >= 0.0
    assert mapped.dtype == np.float32


def test_beyond_the_ends_the_mapping_goes_on_in_a_straight_line_down_to_zero():
    standard = Landmarks(percentiles=(1.0, 50.0, 99.0), values=(10.0, 40.0, 100.0))
    array = np.linspace(100.0, 300.0, 8000).reshape(SHAPE)
    body = np.ones(SHAPE, bool)
    ends = np.percentile(array, (1, 50, 99))
    array[0, 0, 0], array[-1, -1, -1] = 1.0, 400.0
    mapped = apply_standard(array, body, standard)
    slope = 60.0 / (ends[2] - ends[1])
    assert mapped[-1, -1, -1] == pytest.approx(100.0 + slope * (400.0 - ends[2]), rel=1e-2)
    assert mapped[0, 0, 0] == 0.0


def test_air_and_what_lies_outside_the_field_of_view_stay_zero_and_do_not_count():
    array, body = phantom()
    cut = array.copy()
    cut[:, :, 10:] = 0.0  # the DWI ends here, the body does not
    standard = fitted(phantom(1)).channels["t1"]
    mapped = apply_standard(cut, body, standard)
    assert (mapped[:, :, 10:] == 0).all()
    assert (mapped[~body] == 0).all()
    shown = body.copy()
    shown[:, :, 10:] = False
    assert np.array_equal(mapped, apply_standard(cut, shown, standard))


def test_exams_are_read_one_at_a_time():
    alive = []

    def stream():
        for seed in range(3):
            alive.append(seed)
            yield volume(phantom(seed)[0]), phantom(seed)[1]
            assert alive == list(range(seed + 1))

    assert fit_standard(stream(), ONE).n_exams == 3


def test_a_standard_survives_json_and_foreign_text_is_refused():
    standard = fitted(phantom(1), phantom(2))
    assert Standard.from_json(standard.to_json()) == standard
    values = json.loads(standard.to_json())
    for text, found in (
        ("not json", "is not JSON"),
        ("[1]", "holds a list"),
        (json.dumps(values | {"n_exams": 0}), "n_exams"),
        (json.dumps(values | {"colour": 1}), "colour"),
    ):
        with pytest.raises(ConfigError, match=found):
            Standard.from_json(text)
    values["channels"]["t1"]["values"][3] = -1.0
    with pytest.raises(ConfigError, match="expected them to rise"):
        Standard.from_mapping(values)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"percentiles": (50.0, 10.0)}, "rising"),
        ({"percentiles": (1.0,)}, "two or more"),
        ({"scale": (0.0, 1.0)}, "0 < lower end"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, found):
    with pytest.raises(ConfigError, match=found):
        StandardConfig.from_mapping(setting)


def test_images_without_a_histogram_are_refused_with_the_number_of_the_exam():
    array, body = phantom()
    marks = fitted((array, body)).channels["t1"]
    holed = array.copy()
    holed[5, 5, 5] = np.nan
    for image, mask, found in (
        (holed, body, "1 values that are NaN"),
        (array, np.zeros_like(body), "no signal inside the body mask"),
        (np.zeros_like(array), body, "no signal inside the body mask"),
        (np.where(body, 7.0, 0.0), body, "both 7"),
        (array, body[:-1], "its body mask"),
    ):
        with pytest.raises(VolumeError, match=found):
            apply_standard(image, mask, marks)
        with pytest.raises(VolumeError, match="'t1' of exam 2"):
            fitted((array, body), (image, mask))
    with pytest.raises(VolumeError, match="no exam"):
        fitted()
    with pytest.raises(VolumeError, match="no channel 't1'"):
        fit_standard([(volume(array, "b1000"), body)], ONE)

import numpy as np
import pytest
from scanner_phantoms import box_body, healthy

from osteosap.errors import ConfigError
from osteosap.simulate.disease.painting import Disease
from osteosap.simulate.relaxation import fat_relaxation_ms, table_at
from osteosap.simulate.signals import SequenceConfig, Signals, simulate_signals
from osteosap.simulate.tissue import FAT_T1_MS, FAT_T2_MS, TISSUES, T, TissueTable

BOOK = TissueTable.draw(np.random.default_rng(0), spread=0.0)
PD_ONE = TissueTable(
    np.ones_like(BOOK.proton_density), BOOK.t1_ms, BOOK.t2_ms, BOOK.adc_um2_per_s,
    BOOK.fat_fraction,
)  # fmt: skip
SITE = (8, 8, 8)  # a voxel inside the box


def row(tissue: T) -> tuple[float, float, float]:
    entry = next(t for t in TISSUES if t.id == tissue)
    return entry.t1_ms, entry.t2_ms, entry.fat_fraction


def signals_of(tissue: T, *, disease: Disease | None = None, **sequence: object) -> Signals:
    """Signals of a muscle box whose one corner voxel row is another tissue."""
    body = box_body((20, 20, 20), margin=4)
    body.tissue[8, 8, 8] = tissue
    texture = np.zeros(body.grid.shape, np.float32)
    return simulate_signals(
        body,
        disease or healthy(body),
        PD_ONE,
        texture=texture,
        config=SequenceConfig.from_mapping(dict(sequence)),
    )


def tse(t1: float, t2: float, tr: float = 550.0, te: float = 10.0) -> float:
    return float((1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def mix(tissue: T, weight: object) -> float:
    t1, t2, fat = row(tissue)
    return (1 - fat) * weight(t1, t2) + fat * weight(FAT_T1_MS, FAT_T2_MS)  # type: ignore[operator]


def test_spin_echo_t1_is_the_equation_relative_to_muscle() -> None:
    for tissue in (T.LIVER, T.FAT, T.CSF):
        expected = mix(tissue, tse) / mix(T.MUSCLE, tse)
        assert signals_of(tissue).t1[SITE] == pytest.approx(expected, rel=1e-4), tissue.name


def test_gradient_echo_is_the_ernst_equation_and_fat_cancels_water_out_of_phase() -> None:
    def ernst(t1: float, t2: float, te: float) -> float:
        e1, flip = np.exp(-7.0 / t1), np.deg2rad(15.0)
        return float(np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-te / (0.5 * t2)))

    hz = 3.4 * 1.5 * 42.577
    for te, sign in ((1e3 / hz, 1.0), (0.5e3 / hz, -1.0)):
        values = {}
        for tissue in (T.PANCREAS, T.MUSCLE):  # a tenth of pancreas is fat
            t1, t2, fat = row(tissue)
            water = (1 - fat) * ernst(t1, t2, te)
            values[tissue] = abs(water + sign * fat * ernst(FAT_T1_MS, FAT_T2_MS, te))
        found = signals_of(T.PANCREAS, t1_sequence="gre", gre_te_ms=te).t1[SITE]
        assert found == pytest.approx(values[T.PANCREAS] / values[T.MUSCLE], rel=1e-3)


def test_diffusion_keeps_water_and_unsuppressed_fat_apart() -> None:
    maps = signals_of(T.PANCREAS).diffusion
    t1, t2, fat = row(T.PANCREAS)
    decay = np.exp(-68.0 / t2) * (1 - np.exp(-6000.0 / t1))
    assert maps.water[SITE] == pytest.approx((1 - fat) * decay, rel=1e-4)
    whole = np.exp(-68.0 / FAT_T2_MS) * (1 - np.exp(-6000.0 / FAT_T1_MS))
    assert maps.fat[SITE] == pytest.approx(fat * whole, rel=1e-4)
    b1000 = maps.image(1000.0, fat_left=0.1)[SITE]
    adc = BOOK.adc_um2_per_s[T.PANCREAS]
    by_hand = maps.water[SITE] * np.exp(-adc * 1e-3) + 0.1 * maps.fat[SITE] * np.exp(-0.019)
    assert b1000 == pytest.approx(by_hand, rel=1e-4)
    assert maps.image(0.0)[SITE] == pytest.approx(maps.water[SITE])


def test_stir_costs_water_what_inversion_leaves_it() -> None:
    plain, stir = signals_of(T.SPLEEN), signals_of(T.SPLEEN, fat_suppression="stir")
    t1 = row(T.SPLEEN)[0]
    inversion = FAT_T1_MS * np.log(2 / (1 + np.exp(-6000 / FAT_T1_MS)))
    factor = abs(1 - 2 * np.exp(-inversion / t1) + np.exp(-6000 / t1)) / (1 - np.exp(-6000 / t1))
    found = stir.diffusion.water[SITE] / plain.diffusion.water[SITE]
    assert found == pytest.approx(factor, rel=1e-4)
    assert 0.3 < factor < 0.8


def test_a_lesion_mixes_tumour_into_marrow_and_sclerosis_takes_signal_away() -> None:
    body = box_body((20, 20, 20), margin=4)
    values = []
    for mineral in (0.0, 1.0):
        disease = healthy(body)
        disease.lesions[SITE] = 1
        disease.infiltration[SITE], disease.adc_um2_per_s[SITE] = 0.8, 1000.0
        disease.mineral[SITE] = mineral
        values.append(signals_of(T.LESION, disease=disease))
    viable, sclerotic = values
    marrow = BOOK.adc_um2_per_s[T.MARROW]
    expected = 0.8 * 1000 + 0.2 * marrow
    assert viable.diffusion.adc_um2_per_s[SITE] == pytest.approx(expected, rel=1e-4)
    decay = np.exp(-68.0 / FAT_T2_MS) * (1 - np.exp(-6000.0 / FAT_T1_MS))
    share = 0.2 * 0.4 + 0.8 * 0.03  # fat of marrow that is left, and of tumour
    assert viable.diffusion.fat[SITE] == pytest.approx(share * decay, rel=1e-4)
    for name in ("water", "fat"):
        part, whole = (getattr(s.diffusion, name)[SITE] for s in (sclerotic, viable))
        assert part == pytest.approx(0.1 * whole, rel=1e-3)
    assert sclerotic.t1[SITE] == pytest.approx(0.1 * viable.t1[SITE], rel=1e-3)


def test_three_tesla_has_the_measured_ratios_and_fluids_keep_theirs() -> None:
    high = table_at(BOOK, 3.0)
    assert high.t1_ms[T.LIVER] / BOOK.t1_ms[T.LIVER] == pytest.approx(809 / 586)
    assert high.t2_ms[T.LIVER] / BOOK.t2_ms[T.LIVER] == pytest.approx(34 / 46)
    assert high.t1_ms[T.BRAIN_WHITE] / BOOK.t1_ms[T.BRAIN_WHITE] == pytest.approx(1084 / 884)
    half = table_at(BOOK, 1.5 * 2**0.5)
    assert half.t1_ms[T.LIVER] / BOOK.t1_ms[T.LIVER] == pytest.approx((809 / 586) ** 0.5)
    assert fat_relaxation_ms(3.0) == pytest.approx((382, 68), rel=0.01)
    assert fat_relaxation_ms(1.5) == (FAT_T1_MS, FAT_T2_MS)
    assert high.t1_ms[T.CSF] == BOOK.t1_ms[T.CSF]
    assert table_at(BOOK, 1.5) is BOOK


def test_a_field_strength_beyond_the_sources_is_refused() -> None:
    with pytest.raises(ConfigError, match="field_strength_t"):
        SequenceConfig.from_mapping({"field_strength_t": 7.0})


def test_cortex_gives_no_diffusion_signal_and_texture_changes_signal_by_five_per_cent() -> None:
    body = box_body((20, 20, 20), margin=4)
    body.cortex[SITE] = 1.0
    texture = np.zeros(body.grid.shape, np.float32)
    texture[9, 9, 9] = 1.0
    found = simulate_signals(body, healthy(body), BOOK, texture=texture, config=SequenceConfig())
    assert found.diffusion.water[SITE] == 0.0
    ratio = found.diffusion.water[9, 9, 9] / found.diffusion.water[10, 10, 10]
    assert ratio == pytest.approx(1.05, rel=1e-4)

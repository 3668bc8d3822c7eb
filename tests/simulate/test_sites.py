import numpy as np
import pytest
from scanner_phantoms import box_body, healthy

from osteosap.simulate.scanner.acquire import scan
from osteosap.simulate.scanner.protocol import ArtefactConfig, ScannerConfig
from osteosap.simulate.scanner.sites import SITES, vary
from osteosap.simulate.signals import SequenceConfig, simulate_signals
from osteosap.simulate.tissue import TissueTable


def test_three_sites_differ_in_field_dialect_sequence_and_b_values() -> None:
    assert set(SITES) == {"a", "b", "c"}
    assert [SITES[n].sequence.field_strength_t for n in "abc"] == [1.5, 3.0, 1.5]
    assert [SITES[n].dialect for n in "abc"] == ["siemens", "philips", "ge"]
    assert [SITES[n].sequence.t1_sequence for n in "abc"] == ["tse", "tse", "gre"]
    b_values = [SITES[n].scanner.dwi.b_values_s_per_mm2 for n in "abc"]
    assert len(set(b_values)) == 3
    assert 1000.0 not in b_values[2]
    assert len({SITES[n].scanner.dwi.spacing_mm for n in "abc"}) == 3


@pytest.mark.parametrize("name", sorted(SITES))
def test_every_site_makes_an_exam(name: str) -> None:
    site = SITES[name]
    body = box_body((30, 26, 70), spacing=5.0, margin=4)
    signals = simulate_signals(
        body, healthy(body), TissueTable.draw(np.random.default_rng(0)),
        texture=np.zeros(body.grid.shape, np.float32), config=site.sequence,
    )  # fmt: skip
    found = scan(body, signals, sequence=site.sequence, config=site.scanner,
                 rng=np.random.default_rng(0))  # fmt: skip
    n = site.scanner.stations.count
    assert len(found.images) == n * (1 + len(site.scanner.dwi.b_values_s_per_mm2))
    assert found.images[0].volume.spacing_mm == pytest.approx(site.scanner.t1.spacing_mm)
    assert all(np.isfinite(i.volume.array).all() for i in found.images)


def test_variation_stays_around_the_protocol_and_follows_the_seed() -> None:
    site = SITES["a"]
    drawn = [vary(site.sequence, site.scanner, np.random.default_rng(s)) for s in range(60)]
    assert drawn[3] == vary(site.sequence, site.scanner, np.random.default_rng(3))
    snr = np.array([scanner.dwi.snr for _, scanner in drawn])
    assert np.median(snr) == pytest.approx(site.scanner.dwi.snr, rel=0.15)
    assert 0.1 < np.log(snr).std() < 0.4
    assert {scanner.stations.count for _, scanner in drawn} == {4, 5, 6}
    for sequence, scanner in drawn:
        assert sequence.t1_tr_ms == pytest.approx(site.sequence.t1_tr_ms, rel=0.11)
        assert scanner.dwi.b_values_s_per_mm2 == site.scanner.dwi.b_values_s_per_mm2


def test_what_is_off_stays_off_when_a_protocol_is_varied() -> None:
    ideal = ScannerConfig(artefacts=ArtefactConfig.none())
    _, scanner = vary(SequenceConfig(), ideal, np.random.default_rng(0))
    assert scanner.artefacts == ideal.artefacts


def test_a_protocol_survives_its_file() -> None:
    for site in SITES.values():
        assert ScannerConfig.from_mapping(site.scanner.to_mapping()) == site.scanner
        assert SequenceConfig.from_mapping(site.sequence.to_mapping()) == site.sequence

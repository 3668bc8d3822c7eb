from itertools import pairwise

import numpy as np
import pytest
from scanner_phantoms import box_body, grid_of, healthy, ideal, plain_signals

from osteosap.exam import StationImage
from osteosap.geometry import Grid
from osteosap.simulate.body import Body
from osteosap.simulate.scanner.acquire import DWI_SCALE, T1_SCALE, Scan, scan
from osteosap.simulate.scanner.lattice import Pose, axes_of
from osteosap.simulate.scanner.protocol import ScannerConfig, StationConfig
from osteosap.simulate.scanner.stations import station_slabs
from osteosap.simulate.signals import DiffusionMaps, SequenceConfig, Signals, simulate_signals
from osteosap.simulate.tissue import T, TissueTable

SEQUENCE = SequenceConfig()


def acquire(
    body: Body,
    signals: Signals,
    config: ScannerConfig,
    *,
    sequence: SequenceConfig = SEQUENCE,
    pose: Pose | None = None,
    seed: int = 0,
) -> Scan:
    return scan(body, signals, sequence=sequence, config=config,
                rng=np.random.default_rng(seed), pose=pose)  # fmt: skip


def image_of(found: Scan, kind: str, b: float | None = None) -> tuple[np.ndarray, Grid]:
    station = next(i for i in found.images if i.kind == kind and i.b_value_s_per_mm2 == b)
    return station.volume.array[0], station.volume.grid


def centre_of(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Centre of mass in mm."""
    axes = axes_of(grid)
    return np.array([
        array.sum(axis=tuple(o for o in range(3) if o != d)) @ axes[d] / array.sum()
        for d in range(3)
    ])  # fmt: skip


def random_signals(body: Body) -> Signals:
    rng = np.random.default_rng(5)
    t1, water = (rng.uniform(size=body.grid.shape).astype(np.float32) for _ in range(2))
    return Signals(t1, DiffusionMaps(water, 0 * water, 0 * water))


def blob(body: Body, voxel: tuple[int, int, int]) -> Signals:
    """A cube of signal around one voxel."""
    field = np.zeros(body.grid.shape, np.float32)
    field[tuple(slice(v - 1, v + 2) for v in voxel)] = 1.0
    return Signals(field, DiffusionMaps(field, 0 * field, 0 * field))


def test_without_artefacts_an_image_is_the_average_over_its_voxels() -> None:
    body = box_body()
    signals = random_signals(body)
    found = acquire(body, signals, ideal(spacing=(6.0, 6.0, 9.0)))
    for kind, b, field, scale in (
        ("t1", None, signals.t1, T1_SCALE),
        ("dwi", 0.0, signals.diffusion.water, DWI_SCALE),
    ):
        array, _ = image_of(found, kind, b)
        blocks = field.reshape(20, 2, 18, 2, 20, 3).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(array, blocks * scale, rtol=1e-4)


def test_partial_volume_keeps_the_mean_whatever_the_voxel() -> None:
    body = box_body()
    signals = random_signals(body)
    array, grid = image_of(acquire(body, signals, ideal(spacing=(5.0, 4.0, 7.0))), "t1")
    signal = array.sum() * grid.voxel_volume_ml / T1_SCALE
    assert signal == pytest.approx(signals.t1.sum() * body.grid.voxel_volume_ml, rel=1e-4)


def test_interpolation_changes_the_lattice_not_the_mean() -> None:
    body = box_body()
    config = ideal(spacing=(3.0, 3.0, 6.0))
    config = config.model_copy(update={"t1": config.t1.model_copy(update={"interpolation": 2.0})})
    array, grid = image_of(acquire(body, plain_signals(body), config), "t1")
    assert grid.spacing_mm == (3.0, 3.0, 6.0)
    assert grid.shape[:2] == body.grid.shape[:2]
    assert array[14:26, 14:22].mean() == pytest.approx(T1_SCALE, rel=0.02)
    edge = array[6:9, 18, 5] / T1_SCALE  # half the lines of k-space: a soft edge that rings
    assert edge.max() > 1.01 or array[:, 18, 5].max() > 1.03 * T1_SCALE


def test_every_b_value_decays_with_the_adc_that_was_put_in() -> None:
    body = box_body()
    found = acquire(body, plain_signals(body, adc=1400.0), ideal(b_values=(50.0, 400.0, 900.0)))
    inside = [image_of(found, "dwi", b)[0][20, 18, 5] for b in (50.0, 400.0, 900.0)]
    assert np.log(inside[0] / inside[2]) / 850e-6 == pytest.approx(1400.0, rel=1e-3)
    assert np.log(inside[0] / inside[1]) / 350e-6 == pytest.approx(1400.0, rel=1e-3)


def test_muscle_has_the_snr_that_was_set_and_all_b_values_the_same_noise() -> None:
    body = box_body((50, 50, 60), margin=5)
    config = ideal(b_values=(0.0, 1000.0))
    config = config.model_copy(
        update={
            "t1": config.t1.model_copy(update={"snr": 40.0}),
            "dwi": config.dwi.model_copy(update={"snr": 25.0, "averages": 3}),
        }
    )
    found = acquire(body, plain_signals(body, adc=1000.0), config)
    t1 = image_of(found, "t1")[0][7:-7, 7:-7]
    b0, b1000 = (image_of(found, "dwi", b)[0][7:-7, 7:-7] for b in (0.0, 1000.0))
    assert t1.mean() / t1.std() == pytest.approx(40.0, rel=0.05)
    assert b0.mean() / b0.std() == pytest.approx(25.0, rel=0.05)
    assert b1000.std() == pytest.approx(b0.std(), rel=0.06)


def test_a_point_lands_where_the_pose_says_on_both_sequences() -> None:
    body = box_body()
    voxel = (26, 12, 41)
    pose = Pose((2.5, -2.0, 3.0), (7.0, -4.0, 11.0))
    found = acquire(body, blob(body, voxel), ideal(spacing=(3.0, 3.0, 3.0)), pose=pose)
    expected = (found.affine @ body.grid.affine @ [*voxel, 1])[:3]
    for kind, b in (("t1", None), ("dwi", 0.0)):
        array, grid = image_of(found, kind, b)
        off_diagonal = grid.affine[:3, :3] - np.diag(np.diag(grid.affine[:3, :3]))
        assert not off_diagonal.any()
        np.testing.assert_allclose(centre_of(array, grid), expected, atol=0.3)


def test_a_translation_moves_the_lattice_with_the_body() -> None:
    body = box_body()
    signals = random_signals(body)
    moved = acquire(body, signals, ideal(), pose=Pose(translation_mm=(4.0, 5.0, 6.5)))
    still = acquire(body, signals, ideal())
    a, b = image_of(moved, "t1"), image_of(still, "t1")
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    np.testing.assert_allclose(a[1].affine[:3, 3] - b[1].affine[:3, 3], (4.0, 5.0, 6.5))


def test_the_truth_tells_the_shift_of_station_and_diffusion() -> None:
    body = box_body((40, 36, 90))
    config = ideal(spacing=(3.0, 3.0, 3.0), n_stations=1, dwi_shift_mm=3.0)
    config = config.model_copy(
        update={"stations": config.stations.model_copy(update={"shift_mm": 3.0})}
    )
    found = acquire(body, blob(body, (20, 18, 45)), config, seed=3)
    middle = (body.grid.affine @ [20, 18, 45, 1])[:3]
    for truth, key in zip(found.stations, (("t1", None), ("dwi", 0.0)), strict=True):
        assert truth.kind == key[0]
        shown = centre_of(*image_of(found, *key)) - middle
        np.testing.assert_allclose(shown, truth.shift_mm, atol=0.02)
    assert found.stations[0].shift_mm != found.stations[1].shift_mm


def test_a_shifted_station_differs_from_its_neighbour_by_no_more_than_was_allowed() -> None:
    body = box_body((16, 16, 90), margin=3)
    config = ideal(n_stations=5)
    config = config.model_copy(
        update={"stations": config.stations.model_copy(update={"shift_mm": 1.5})}
    )
    shifts = np.array([s.shift_mm for s in acquire(body, plain_signals(body), config).stations])
    assert np.abs(shifts).max() <= 3.0  # two SDs: 6 mm between stations
    assert np.unique(shifts[:5, 0]).size == 5
    np.testing.assert_array_equal(shifts[:5], shifts[5:])  # T1 and DWI without a move between


def test_water_is_carried_where_the_truth_says_and_its_signal_is_kept() -> None:
    body = box_body((40, 60, 40), margin=8)
    body.tissue[16:24, 26:34, 18:24] = T.GAS  # bends the field beside it
    field = np.zeros(body.grid.shape, np.float32)
    voxel = (20, 30, 27)
    field[19:22, 29:32, 26:29] = 1.0
    signals = Signals(field, DiffusionMaps(field, 0 * field, 0 * field))
    stir = SEQUENCE.model_copy(update={"fat_suppression": "stir"})
    config = ideal(spacing=(3.0, 3.0, 3.0), off_resonance=1.0)
    for polarity in (1, -1):
        turned = config.model_copy(
            update={"dwi": config.dwi.model_copy(update={"phase_polarity": polarity})}
        )
        found = acquire(body, signals, turned, sequence=stir)
        array, grid = image_of(found, "dwi", 0.0)
        place = (body.grid.affine @ [*voxel, 1])[:3]
        truth = found.stations[1]
        assert truth.displacement_mm is not None
        told = truth.displacement_mm.on([place[d : d + 1] for d in range(3)]).item()
        ppm = truth.field_ppm.on([place[d : d + 1] for d in range(3)]).item()
        # 63.9 Hz a ppm, 28 Hz a pixel of 3 mm
        assert told == pytest.approx(polarity * ppm * 63.87 / 28.0 * 3.0, rel=1e-3)
        assert abs(told) > 3.0
        shown = centre_of(array, grid) - place
        assert shown[1] == pytest.approx(told, abs=0.25 * abs(told) + 0.5)
        np.testing.assert_allclose(shown[[0, 2]], 0.0, atol=0.6)
        assert array.sum() == pytest.approx(field.sum() * DWI_SCALE, rel=0.01)


def test_t1_is_not_carried_by_the_field_of_a_body_without_metal() -> None:
    body = box_body((40, 60, 40), margin=8)
    body.tissue[16:24, 26:34, 18:24] = T.GAS
    signals = random_signals(body)
    ill, well = (acquire(body, signals, ideal(off_resonance=f)) for f in (1.0, 0.0))
    np.testing.assert_array_equal(image_of(ill, "t1")[0], image_of(well, "t1")[0])


def test_the_eddy_shift_grows_with_b_and_towards_the_ends_of_a_station() -> None:
    body = box_body((30, 40, 80), margin=8)
    found = acquire(
        body, plain_signals(body, adc=0.0), ideal(b_values=(0.0, 500.0, 1000.0), eddy_mm=4.0)
    )
    eddy = found.stations[1].eddy_mm
    assert abs(eddy[1000.0]) == pytest.approx(4.0)
    assert eddy[500.0] == pytest.approx(eddy[1000.0] / 2)
    assert eddy[0.0] == 0.0
    rest, grid = image_of(found, "dwi", 0.0)
    for b in (500.0, 1000.0):
        array, _ = image_of(found, "dwi", b)
        y = axes_of(grid)[1]
        for k, along in ((0, -1.0), (rest.shape[2] // 2, 0.0), (rest.shape[2] - 1, 1.0)):
            before, after = ((a[15, :, k] @ y) / a[15, :, k].sum() for a in (rest, array))
            assert after - before == pytest.approx(eddy[b] * along, abs=0.15)


def test_fat_comes_back_where_the_field_is_off_and_is_shown_by_its_chemical_shift() -> None:
    body = box_body((30, 60, 60), margin=8, tissue=T.FAT)
    signals = plain_signals(body, fat=1.0)
    held = image_of(acquire(body, signals, ideal(off_resonance=0.0, station_end_ppm=1e-6)),
                    "dwi", 0.0)[0]  # fmt: skip
    failed = image_of(acquire(body, signals, ideal(station_end_ppm=3.0)), "dwi", 0.0)[0]
    middle, end = held.shape[2] // 2, held.shape[2] - 1
    assert held.max() < 0.01 * DWI_SCALE
    assert failed[:, :, end].max() > 0.5 * DWI_SCALE
    assert failed[:, :, middle].max() < 0.01 * DWI_SCALE
    residual = ideal()
    residual = residual.model_copy(
        update={"dwi": residual.dwi.model_copy(update={"residual_fat": 0.1})}
    )
    array, grid = image_of(acquire(body, signals, residual), "dwi", 1000.0)
    shift = centre_of(array, grid)[1] - centre_of(signals.t1, body.grid)[1]
    assert shift == pytest.approx(-3.4 * 63.87 / 28.0 * 3.0, abs=0.3)
    peak = 0.1 * DWI_SCALE * np.exp(-0.019)
    assert np.percentile(array[array > 0], 60) == pytest.approx(peak, rel=0.02)


def test_stir_leaves_the_same_fat_everywhere() -> None:
    body = box_body((30, 60, 60), margin=8, tissue=T.FAT)
    stir = SEQUENCE.model_copy(update={"fat_suppression": "stir"})
    config = ideal(station_end_ppm=3.0)
    found = acquire(body, plain_signals(body, fat=1.0), config, sequence=stir)
    assert image_of(found, "dwi", 0.0)[0].max() == 0.0


def test_the_ghost_of_diffusion_lies_half_the_field_of_view_away() -> None:
    body = box_body((20, 60, 20), margin=4)
    found = acquire(body, blob(body, (10, 12, 10)), ideal(spacing=(3.0,) * 3, epi_ghost=0.2))
    array, _ = image_of(found, "dwi", 0.0)
    assert array[10, 42, 10] == pytest.approx(0.2 * array[10, 12, 10], rel=1e-4)
    assert not image_of(found, "t1")[0][10, 42, 10]


def test_all_b_values_of_a_station_share_gain_and_bias_and_the_truth_tells_them() -> None:
    body = box_body((30, 40, 60), margin=8)
    config = ideal(b_values=(0.0, 1000.0), n_stations=2, bias=0.2, surface_bias=0.4)
    config = config.model_copy(
        update={"stations": config.stations.model_copy(update={"gain": 0.3})}
    )
    found = acquire(body, plain_signals(body, adc=1000.0), config)
    for index in (0, 1):
        stations = [i for i in found.images if i.kind == "dwi"][index::2]
        low, high = (s.volume.array[0] for s in stations)
        inside = low > 0.3 * low.max()
        np.testing.assert_allclose((high / np.maximum(low, 1))[inside], np.exp(-1.0), rtol=1e-3)
        truth = [s for s in found.stations if s.kind == "dwi"][index]
        bias = truth.bias.on(axes_of(stations[0].volume.grid))
        np.testing.assert_allclose(
            low[10:20, 12:28], (truth.gain * bias * DWI_SCALE)[10:20, 12:28], rtol=1e-3
        )
    gains = [s.gain for s in found.stations]
    assert np.unique(gains).size == 4


def test_images_come_t1_first_then_by_b_value_and_station() -> None:
    body = box_body((16, 16, 90), margin=3)
    found = acquire(body, plain_signals(body), ideal(b_values=(50.0, 900.0), n_stations=3))
    order = [(i.kind, i.b_value_s_per_mm2) for i in found.images]
    assert order == [("t1", None)] * 3 + [("dwi", 50.0)] * 3 + [("dwi", 900.0)] * 3
    for first in (0, 3, 6):
        heights = [i.volume.affine[2, 3] for i in found.images[first : first + 3]]
        assert heights == sorted(heights)
    assert all(i.group == "simulated DWI" for i in found.images[3:])


@pytest.mark.parametrize(("n_stations", "b_values"), [(1, (0.0, 1000.0)), (2, (800.0,))])
def test_one_station_and_a_single_b_value_are_exams_too(
    n_stations: int, b_values: tuple[float, ...]
) -> None:
    body = box_body((16, 16, 60), margin=3)
    found = acquire(body, plain_signals(body), ideal(b_values=b_values, n_stations=n_stations))
    assert len(found.images) == n_stations * (1 + len(b_values))
    if n_stations == 1:
        assert image_of(found, "t1")[1].shape[2] == 30


def everything(body: Body, seed: int) -> list[StationImage]:
    signals = simulate_signals(
        body, healthy(body), TissueTable.draw(np.random.default_rng(0)),
        texture=np.zeros(body.grid.shape, np.float32), config=SEQUENCE,
    )  # fmt: skip
    return acquire(body, signals, ScannerConfig(), seed=seed).images


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones() -> None:
    body = box_body((24, 20, 60), margin=4)
    first, again, other = (everything(body, seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        assert a.volume.array.tobytes() == b.volume.array.tobytes()
        assert a.volume.array.tobytes() != c.volume.array.tobytes()
        assert np.isfinite(a.volume.array).all()
        assert a.volume.array.min() >= 0


def test_what_is_drawn_does_not_hang_on_the_voxels() -> None:
    fine, coarse = box_body((24, 20, 60), margin=4), box_body((12, 10, 30), margin=2, spacing=6.0)
    a, b = (acquire(body, plain_signals(body), ScannerConfig()).stations for body in (fine, coarse))
    for one, two in zip(a, b, strict=True):
        assert one.gain == two.gain
        assert one.shift_mm == two.shift_mm


def test_stations_cover_the_body_and_overlap() -> None:
    grid = Grid((10, 10, 250), np.diag([5.0, 5.0, 4.0, 1.0]))
    slabs = station_slabs(grid, StationConfig(count=5, overlap_mm=40.0))
    assert slabs[0].start == 0
    assert slabs[-1].stop == 250
    for below, above in pairwise(slabs):
        assert (below.stop - above.start) * 4.0 >= 40.0


def test_more_stations_than_slices_still_cover_the_body() -> None:
    slabs = station_slabs(grid_of((4, 4, 3)), StationConfig(count=6, overlap_mm=40.0))
    assert min(s.start for s in slabs) == 0
    assert max(s.stop for s in slabs) == 3
    assert all(s.stop > s.start for s in slabs)

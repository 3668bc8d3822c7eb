import numpy as np
import pytest
from scipy import ndimage

from osteosap.geometry import Grid, make_affine
from osteosap.preprocess import muscle
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.bias import BiasConfig
from osteosap.preprocess.bias_field import correct_bias
from osteosap.preprocess.field_spline import _solved
from osteosap.preprocess.muscle import biases_in_muscle
from osteosap.volume import Volume

SHAPE, SPACING = (84, 64, 36), (4.0, 4.0, 5.0)
MUSCLE, FAT, BRAIN = 1, 2, 3
T1 = {0: 2.0, MUSCLE: 300.0, FAT: 700.0, BRAIN: 310.0}
DWI = {0: 1.0, MUSCLE: 200.0, FAT: 10.0, BRAIN: 500.0}
ADC = {0: 0.0, MUSCLE: 1400.0, FAT: 200.0, BRAIN: 800.0}


def grid_at(z_mm):
    return Grid(SHAPE, make_affine(SPACING, (-166.0, -126.0, z_mm)))


def labels(x, y, z):
    """A trunk of muscle under fat; something that looks like muscle on T1 but not on DWI."""
    radius = np.hypot(x / 155, y / 110)
    found = np.where(radius < 1, FAT, 0)
    found[radius < 0.9] = MUSCLE
    found[((x - 70) / 50) ** 2 + (y / 60) ** 2 + ((z - 250) / 60) ** 2 < 1] = BRAIN
    return found


def of(values, tissue):
    return np.vectorize(values.get, otypes=[np.float32])(tissue)


def places(grid):
    return np.stack(
        np.meshgrid(
            *[o + s * np.arange(n) for o, s, n in
              zip(grid.affine[:3, 3], SPACING, grid.shape, strict=True)],
            indexing="ij",
        )
    )  # fmt: skip


def pushed(y, z, z_mm, mm):
    """Where EPI shows a height y, one way at one end of a station and the other at the other."""
    return y + mm * np.sin(y / 60) * np.cos((z - z_mm) / 80)


def steepness(y, z, z_mm, mm):
    """Sum of the squares of the slopes of what :func:`pushed` adds."""
    across = mm / 60 * np.cos(y / 60) * np.cos((z - z_mm) / 80)
    along = mm / 80 * np.sin(y / 60) * np.sin((z - z_mm) / 80)
    return across**2 + along**2


def station(z_mm, seed, *, mm=0.0, surface=0.0, loss=0.0):
    """Lowest b, ADC, coils and alignment of one DWI station; signal is conserved by the push.

    ``surface`` is by how much the logarithm of the coils' field is higher at the skin, ``loss`` by
    how much that of the signal falls with the steepness of the push.
    """
    grid = grid_at(z_mm)
    x, y, z = places(grid)
    source = y.copy()
    for _ in range(50):
        source = source + 0.7 * (y - pushed(source, z, z_mm, mm))
    stretch = 1 + mm / 60 * np.cos(source / 60) * np.cos((z - z_mm) / 80)
    tissue = labels(x, source, z)
    a, b, c = np.random.default_rng(seed).uniform(-1, 1, 3)
    field = np.exp(0.25 * (a * np.sin(x / 120) + b * np.cos(z / 110) + c * y / 110))
    field *= np.exp(surface * np.exp(-120 * np.clip(1 - np.hypot(x / 155, y / 110), 0, 1) / 40))
    image = of(DWI, tissue) * field / stretch
    image = image * np.exp(-loss * steepness(source, z, z_mm, mm))
    noisy = image + np.random.default_rng(seed + 9).normal(scale=4.0, size=SHAPE)
    lowest = Volume.single(np.abs(noisy).astype(np.float32), grid.affine, "dwi")
    move = np.zeros((3, *SHAPE), np.float32)
    move[1] = pushed(y, z, z_mm, mm) - y
    alignment = DwiAlignment(np.eye(4), move, grid)
    return lowest, of(ADC, tissue), alignment, tissue, field


def target():
    grid = Grid((84, 64, 70), make_affine(SPACING, (-166.0, -126.0, 0.0)))
    tissue = labels(*places(grid))
    return Volume.single(of(T1, tissue), grid.affine, "t1"), tissue > 0


def variation(values):
    return values.std() / values.mean()


def left_in_muscle(stations, *, aligned=True):
    lowest, adcs, alignments, tissues, truths = zip(*stations, strict=True)
    used = alignments if aligned else [None] * len(stations)
    found = biases_in_muscle(lowest, adcs, used, target(), config=BiasConfig())
    assert not any(f.reason for f in found)
    pairs = []
    for volume, tissue, truth, field in zip(lowest, tissues, truths, found, strict=True):
        inside = tissue == MUSCLE
        left = truth / field.on(volume.grid)
        pairs.append((variation(truth[inside]), variation(left[inside])))
    return np.array(pairs)


@pytest.mark.parametrize("mm", [0.0, 12.0], ids=["undistorted", "distorted"])
def test_the_coils_are_found_under_pile_up_and_beside_other_tissue(mm):
    before, after = left_in_muscle([station(0.0, 1, mm=mm), station(150.0, 2, mm=mm)]).T
    assert (after < 0.4 * before).all()


def test_coils_on_the_skin_are_found_by_the_depth_below_it(monkeypatch):
    stations = [station(0.0, 1, surface=0.8), station(150.0, 2, surface=0.8)]
    right = left_in_muscle(stations)
    monkeypatch.setattr(muscle, "_depth", lambda *_: lambda points: np.zeros(len(points), "f4"))
    wrong = left_in_muscle(stations)
    assert (right[:, 1] < 0.3 * right[:, 0]).all()
    assert right[:, 1].mean() < 0.8 * wrong[:, 1].mean()


def test_the_level_of_muscle_is_what_is_left_without_the_field():
    (lowest, adc, alignment, tissue, _), other = station(0.0, 1), station(150.0, 2)
    found = biases_in_muscle(
        [lowest, other[0]], [adc, other[1]], [alignment, other[2]], target(), config=BiasConfig()
    )
    left = lowest.array[0] / found[0].on(lowest.grid)
    assert found[0].level == pytest.approx(np.log(np.median(left[tissue == MUSCLE])), abs=0.02)


def found_in(stations):
    lowest, adcs, alignments, _, _ = zip(*stations, strict=True)
    return biases_in_muscle(lowest, adcs, alignments, target(), config=BiasConfig())


@pytest.mark.parametrize("loss", [0.5, 1.6], ids=["site a", "site b"])
def test_the_factor_of_a_loss_is_found(loss):
    found = found_in([station(z, s, mm=24.0, loss=loss) for z, s in ((0.0, 1), (150.0, 2))])
    assert [f.loss_factor for f in found] == pytest.approx([loss, loss], abs=0.2)


def test_no_signal_is_made_up_for_more_than_twice():
    found = found_in([station(z, s, mm=24.0, loss=8.0) for z, s in ((0.0, 1), (150.0, 2))])
    assert found[0].log_left.min() == pytest.approx(np.log(0.5))


def test_signal_lost_where_the_field_is_steep_is_set_apart_and_made_up_for(monkeypatch):
    stations = [station(z, seed, mm=24.0, loss=3.0) for z, seed in ((0.0, 1), (150.0, 2))]
    found = found_in(stations)
    for (lowest, _, _, tissue, truth), field in zip(stations, found, strict=True):
        inside = ndimage.binary_erosion(tissue == MUSCLE, iterations=2)
        share = (field.with_loss_on(lowest.grid) / field.on(lowest.grid))[inside]
        assert 0.5 < share.min() < 0.8
        assert share.max() <= 1
        made_up = correct_bias(lowest, field).array[0][inside]
        assert variation(made_up) < 0.7 * variation((lowest.array[0] / truth)[inside])
    right = left_in_muscle(stations)
    monkeypatch.setattr(muscle, "MOST_STEEP", 0.0)
    wrong = left_in_muscle(stations)
    assert right[:, 1].mean() < 0.7 * wrong[:, 1].mean()


@pytest.mark.slow
def test_where_no_signal_is_lost_none_is_made_up_for():
    for f in found_in([station(z, seed, mm=24.0) for z, seed in ((0.0, 1), (150.0, 2))]):
        assert 0 <= f.loss_factor < 0.3
    for f in found_in([station(z, seed) for z, seed in ((0.0, 1), (150.0, 2))]):
        assert f.loss_factor == 0


def test_the_factor_of_losses_is_one_and_not_below_0():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 4))
    for truth in (0.7, -0.7):
        right = rows @ [1.0, truth, 2.0, truth]
        found = _solved(rows.T @ rows, rows.T @ right, [1, 3])
        assert found[1] == found[3]
        if truth > 0:
            np.testing.assert_allclose(found, [1.0, truth, 2.0, truth], atol=1e-9)
        else:
            assert found[1] == 0
            best = np.linalg.lstsq(rows[:, [0, 2]], right, rcond=None)[0]
            np.testing.assert_allclose(found[[0, 2]], best, atol=1e-9)


def test_an_overlap_tells_the_field_where_a_station_shows_no_muscle(monkeypatch):
    stations = [list(station(0.0, 1)), list(station(100.0, 2))]
    stations[0][1] = stations[0][1].copy()
    stations[0][1][:, :, 20:] = 3000.0  # the ADC of water: no muscle in all that is shared
    right = left_in_muscle(stations)
    monkeypatch.setattr(muscle, "find_overlaps", lambda *_, **__: [])
    wrong = left_in_muscle(stations)
    assert right[0, 1] < 0.8 * wrong[0, 1]


@pytest.mark.slow
def test_without_the_displacement_pile_up_is_taken_for_coils():
    stations = [station(0.0, 1, mm=12.0), station(150.0, 2, mm=12.0)]
    right, wrong = left_in_muscle(stations), left_in_muscle(stations, aligned=False)
    assert right[:, 1].mean() < 0.5 * wrong[:, 1].mean()


def test_a_station_without_muscle_says_so():
    good, dark = station(0.0, 1), station(150.0, 2)
    no_muscle = np.zeros_like(dark[1])
    found = biases_in_muscle(
        [good[0], dark[0]], [good[1], no_muscle], [None, None], target(), config=BiasConfig()
    )
    assert found[0].reason == ""
    assert "needed for a bias field" in found[1].reason


def test_undone_is_the_inverse_of_points_and_conserves_signal():
    _, _, alignment, _, _ = station(0.0, 1, mm=12.0)
    grid = grid_at(0.0)
    undone = alignment.undone(grid)
    points, density = undone.points, undone.density
    seen = places(grid).reshape(3, -1).T
    inside = undone.single & (np.abs(seen[:, 1]) < 90)
    assert inside.sum() > 0.6 * len(seen)
    np.testing.assert_allclose(alignment.points(points)[inside], seen[inside], atol=0.6)
    y, z = points[:, 1], points[:, 2]
    known = 1 + 12 / 60 * np.cos(y / 60) * np.cos(z / 80)
    np.testing.assert_allclose(density[inside], known[inside], atol=0.02)
    np.testing.assert_allclose(alignment.density(points)[inside], density[inside], atol=0.02)
    steep = steepness(y, z, 0.0, 12.0)
    np.testing.assert_allclose(undone.steepness[inside], steep[inside], atol=0.005)


def test_undone_without_a_displacement_is_the_inverse_motion():
    rigid = np.eye(4)
    rigid[:3, 3] = 3.0, -2.0, 5.0
    grid = Grid((3, 4, 5), make_affine((2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))
    undone = DwiAlignment(rigid).undone(grid)
    assert (undone.density == 1).all()
    assert (undone.steepness == 0).all()
    assert undone.single.all()
    np.testing.assert_allclose(undone.points[0], [-3.0, 2.0, -5.0])


def test_pile_up_is_read_where_the_place_lies_once_it_is_moved():
    _, _, alignment, _, _ = station(0.0, 1, mm=12.0)
    rigid = np.eye(4)
    rigid[:3, 3] = 0.0, 40.0, 10.0
    moved = DwiAlignment(rigid, alignment.displacement_mm, alignment.displacement_grid)
    places = np.array([[0.0, y, z] for y in (-60.0, 0.0, 30.0) for z in (40.0, 90.0)])
    np.testing.assert_allclose(moved.density(places), alignment.density(places + rigid[:3, 3]))
    known = 1 + 12 / 60 * np.cos((places[:, 1] + 40) / 60) * np.cos((places[:, 2] + 10) / 80)
    np.testing.assert_allclose(moved.density(places), known, atol=0.02)
    assert (DwiAlignment(rigid).density(places) == 1).all()

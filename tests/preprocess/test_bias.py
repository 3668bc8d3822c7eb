import numpy as np
import pytest
from scipy import ndimage

from osteosap.errors import ConfigError
from osteosap.geometry import Grid, make_affine
from osteosap.preprocess.bias import BiasConfig, estimate_bias, estimate_biases
from osteosap.preprocess.bias_field import correct_bias
from osteosap.preprocess.field_spline import FieldSpline
from osteosap.preprocess.overlaps import Overlap, find_overlaps
from osteosap.simulate import SimulationConfig, simulate_exam
from osteosap.simulate.tissue import T
from osteosap.volume import Volume

SPACING = (5.0, 5.0, 6.0)
MUSCLE, FAT, BONE, ORGAN = 300.0, 520.0, 430.0, 380.0


def world(grid):
    index = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    place = np.tensordot(grid.affine[:3, :3], np.stack(index), axes=1)
    return place + grid.affine[:3, 3].reshape(3, 1, 1, 1)


def tissue(grid):
    """A trunk in air: fat under the skin, muscle, a bone, an organ at one height; 0 is air."""
    x, y, z = world(grid)
    radius = np.hypot(x / 150, y / 95)
    image = np.where(radius < 1, FAT, 0.0)
    image[radius < 0.85] = MUSCLE
    image[np.hypot(x, y + 45) < 22] = BONE
    image[((x - 60) / 45) ** 2 + (y / 45) ** 2 + ((z - 140) / 60) ** 2 < 1] = ORGAN
    return image


def coils(grid, seed=0, strength=0.3):
    """Smooth shading, another one for another seed."""
    x, y, z = world(grid)
    a, b, c, d = np.random.default_rng(seed).uniform(-1, 1, 4)
    log_field = a * np.sin(x / 130) + b * np.cos(z / 110) + c * y / 100 + d * x * z / 30000
    return np.exp(strength * log_field)


def station(z_mm=0.0, *, seed=0, gain=1.0, slices=36, spacing=SPACING, matrix=None):
    affine = make_affine(spacing, (-170.0, -115.0, z_mm))
    if matrix is not None:
        affine[:3, :3] = matrix @ affine[:3, :3]
        affine[:3, 3] = matrix @ affine[:3, 3]
    shape = (round(340 / spacing[0]) + 1, round(230 / spacing[1]) + 1, slices)
    grid = Grid(shape, affine)
    truth, field = tissue(grid), coils(grid, seed)
    draws = np.random.default_rng(seed).normal(scale=5.0, size=(2, *shape))
    image = gain * np.hypot(truth * field + draws[0], draws[1])
    return Volume.single(image.astype(np.float32), affine, "t1"), truth, field


def variation(values):
    return float(values.std() / values.mean())


def reduction(truth, before, after, kind):
    """Share of the variation of a uniform tissue that is gone."""
    where = truth == kind
    return 1 - variation(after[where]) / variation(before[where])


def test_a_known_field_is_removed_from_every_tissue():
    volume, truth, field = station(seed=3)
    found = estimate_bias(volume)
    assert found.reason == ""
    left = field / found.on(volume.grid)
    for kind in (MUSCLE, FAT, BONE, ORGAN):
        assert reduction(truth, field, left, kind) > 0.75


def test_the_level_of_the_tissue_stays():
    volume, truth, _ = station(seed=3, gain=7.0)
    corrected = correct_bias(volume, estimate_bias(volume))
    inside = truth > 0
    change = np.log(corrected.array[0][inside] / volume.array[0][inside])
    assert abs(change.mean()) < 0.01
    assert corrected.array.dtype == np.float32
    assert corrected.channels == ("t1",)


def test_contrast_between_tissues_stays():
    volume, truth, _ = station(seed=3)
    corrected = correct_bias(volume, estimate_bias(volume)).array[0]
    ratio = np.median(corrected[truth == FAT]) / np.median(corrected[truth == MUSCLE])
    assert ratio == pytest.approx(FAT / MUSCLE, rel=0.03)


def test_an_image_without_bias_is_left_nearly_as_it_is():
    volume, truth, _ = station()
    clean = Volume.single((truth + 1.0).astype(np.float32), volume.affine, "t1")
    field = estimate_bias(clean).on(clean.grid)[truth > 0]
    assert np.percentile(np.abs(field - 1), 95) < 0.03


def test_stations_of_different_gain_share_one_histogram():
    drawn = [station(150.0 * n, seed=n + 1, gain=g) for n, g in enumerate((0.5, 2.0, 1.0))]
    fields = estimate_biases([volume for volume, _, _ in drawn])
    for (volume, truth, field), found in zip(drawn, fields, strict=True):
        left = field / found.on(volume.grid)
        assert reduction(truth, field, left, MUSCLE) > 0.7
        assert reduction(truth, field, left, FAT) > 0.6


def test_the_order_of_stations_does_not_matter():
    volumes = [station(150.0 * n, seed=n + 1)[0] for n in range(2)]
    forth = estimate_biases(volumes)
    back = estimate_biases(volumes[::-1])[::-1]
    for a, b in zip(forth, back, strict=True):
        np.testing.assert_allclose(a.log_field, b.log_field, atol=1e-5)


def test_the_gain_does_not_change_the_field():
    volume, _, _ = station(seed=3)
    louder = Volume(volume.array * np.float32(12.5), volume.affine, volume.channels)
    np.testing.assert_allclose(
        estimate_bias(volume).log_field, estimate_bias(louder).log_field, atol=1e-3
    )


def test_an_oblique_station_is_corrected_as_well():
    angle = np.deg2rad(20.0)
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    volume, truth, field = station(seed=3, matrix=tilt)
    found = estimate_bias(volume)
    left = field / found.on(volume.grid)
    assert reduction(truth, field, left, MUSCLE) > 0.7
    straight = Grid((20, 20, 10), make_affine((8.0, 8.0, 8.0), (-80.0, -80.0, 40.0)))
    there = found.on(straight)
    index = np.round(np.linalg.inv(volume.affine) @ np.append(straight.affine[:3, 3], 1.0))
    here = found.on(volume.grid)[tuple(index[:3].astype(int))]
    assert there[0, 0, 0] == pytest.approx(here, rel=0.02)


def test_a_fine_and_a_coarse_station_get_the_same_field():
    coarse, _, _ = station(seed=3)
    fine, truth, field = station(seed=3, spacing=(2.5, 2.5, 3.0), slices=71)
    at = estimate_bias(coarse).on(fine.grid)
    assert reduction(truth, field, field / at, MUSCLE) > 0.7
    assert reduction(truth, field, field / estimate_bias(fine).on(fine.grid), MUSCLE) > 0.7


def test_outside_its_station_a_field_continues_without_a_step():
    volume, _, _ = station(seed=3)
    found = estimate_bias(volume)
    larger = volume.grid.affine.copy()
    larger[2, 3] -= 60.0
    i, j, k = volume.grid.shape
    values = found.on(Grid((i, j, k + 20), larger))
    assert np.abs(np.diff(np.log(values), axis=2)).max() < 0.05
    assert (values[:, :, 0] != 1).any()


def test_saturated_fat_does_not_flatten_the_field():
    volume, truth, field = station(seed=3)
    top = np.percentile(volume.array[0][truth == FAT], 50)
    clipped = Volume(np.minimum(volume.array, np.float32(top)), volume.affine, ("t1",))
    left = field / estimate_bias(clipped).on(volume.grid)
    assert reduction(truth, field, left, MUSCLE) > 0.6


def test_a_mask_says_what_counts_as_tissue():
    volume, truth, field = station(seed=3)
    array = volume.array.copy()
    array[0, :12, :8] = 4000.0  # something bright that is no tissue
    spoilt = Volume(array, volume.affine, ("t1",))
    left = field / estimate_bias(spoilt, mask=truth > 0).on(volume.grid)
    assert reduction(truth, field, left, MUSCLE) > 0.7


def test_metal_voids_and_nan_do_not_drive_the_fit():
    volume, truth, field = station(seed=3)
    x, y, z = world(volume.grid)
    array = volume.array.copy()
    array[0, (x + 60) ** 2 + y**2 + (z - 60) ** 2 < 30**2] = 0.0
    holes = Volume(array, volume.affine, ("t1",))
    left = field / estimate_bias(holes, mask=truth > 0).on(volume.grid)
    assert reduction(truth, field, left, MUSCLE) > 0.7
    array[0, 30:33, 20:23, 10] = np.nan
    field_with_nan = estimate_bias(holes, mask=truth > 0)
    assert np.isfinite(field_with_nan.log_field).all()


@pytest.mark.parametrize(
    ("value", "why"), [(0.0, "no signal"), (5.0, "constant")], ids=["zero-filled", "constant"]
)
def test_a_station_without_tissue_is_left_as_it_is_with_the_reason(value, why):
    good, truth, field = station(seed=3)
    dark = Volume(np.full_like(good.array, value), good.affine, good.channels)
    first, second = estimate_biases([dark, good])
    assert why in first.reason
    assert not first.log_field.any()
    assert correct_bias(dark, first) is dark
    assert reduction(truth, field, field / second.on(good.grid), MUSCLE) > 0.7


def test_too_little_tissue_gives_a_flat_field_and_says_how_much():
    volume, _, _ = station(slices=1)
    mask = np.zeros(volume.array.shape[1:], bool)
    mask[30:40, 20:30] = True
    found = estimate_bias(volume, mask=mask)
    assert found.reason == "100 tissue voxels of 6 mm, 300 needed for a bias field"
    assert (found.on(volume.grid) == 1).all()


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_few_slices_are_enough(slices):
    volume, truth, field = station(seed=3, slices=slices)
    found = estimate_bias(volume)
    assert found.reason == ""
    assert reduction(truth, field, field / found.on(volume.grid), MUSCLE) > 0.6


def test_flipping_the_station_flips_its_field():
    volume, _, _ = station(seed=3, slices=35)
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = volume.array.shape[1] - 1
    mirrored = Volume(volume.array[:, ::-1].copy(), volume.affine @ flip, volume.channels)
    here = estimate_bias(volume).on(volume.grid)
    there = estimate_bias(mirrored).on(volume.grid)
    inside = ndimage.binary_erosion(tissue(volume.grid) > 0)
    assert np.abs(np.log(here / there))[inside].max() < 0.02


def test_n4_is_there_for_those_who_want_it():
    volume, truth, field = station(seed=3)
    config = BiasConfig(
        method="n4", spacing_mm=10.0, control_point_mm=150.0, n4_iterations=(20, 20)
    )
    left = field / estimate_bias(volume, config=config).on(volume.grid)
    assert reduction(truth, field, left, MUSCLE) > 0.3


def test_the_field_of_dwi_is_stiffer():
    volume, truth, field = station(seed=3)
    config = BiasConfig()
    soft, stiff = (estimate_bias(volume, config=c) for c in (config, config.for_dwi()))
    bend = [np.abs(np.diff(f.log_field, 2, axis=0)).mean() for f in (soft, stiff)]
    assert bend[1] < bend[0]
    assert reduction(truth, field, field / stiff.on(volume.grid), MUSCLE) > 0.5


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="method"):
        BiasConfig.from_mapping({"method": "n3"})
    with pytest.raises(ConfigError, match="control_point_mm"):
        BiasConfig.from_mapping({"control_point_mm": 0.0})


@pytest.mark.slow
def test_the_coils_of_a_simulated_t1_leave_less_than_half_of_their_shading_in_muscle():
    exam = simulate_exam(SimulationConfig(seed=11, lesions=0, body_spacing_mm=(5.0, 5.0, 5.0)))
    images = [i.volume for i in exam.stations if i.kind == "t1"]
    truth = [t for t in exam.acquisition if t.kind == "t1"]
    before, after, weight = [], [], []
    for volume, found, known in zip(images, estimate_biases(images), truth, strict=True):
        x, y, z = world(volume.grid)
        place = np.stack([x, y, z]) - np.reshape(known.shift_mm, (3, 1, 1, 1))
        body = np.linalg.inv(exam.tissue.affine)
        at = np.tensordot(body[:3, :3], place, axes=1) + body[:3, 3].reshape(3, 1, 1, 1)
        shown = ndimage.map_coordinates(exam.tissue.array[0], at, order=0) == T.MUSCLE
        if shown.sum() < 2000:
            continue
        bias = known.bias.on([x[:, 0, 0], y[0, :, 0], z[0, 0, :]])
        before.append(variation(bias[shown]))
        after.append(variation((bias / found.on(volume.grid))[shown]))
        weight.append(shown.sum())
    assert np.average(after, weights=weight) < 0.5 * np.average(before, weights=weight)


def test_a_price_on_slopes_holds_a_station_of_little_tissue_flatter():
    full, truth, _ = station(seed=3)
    few = np.zeros(truth.shape, bool)
    few[25:40, 10:35, 5:30] = truth[25:40, 10:35, 5:30] > 0
    free, held = (
        estimate_biases([full, full], masks=[truth > 0, few], config=BiasConfig(slope_stiffness=s))
        for s in (0.0, 0.1)
    )
    spreads = [[f.on(full.grid)[few].std() for f in fields] for fields in (free, held)]
    assert spreads[1][1] < 0.6 * spreads[0][1]
    assert spreads[1][0] > 0.6 * spreads[0][0]


def two_that_overlap():
    """Two stations, the upper end of the lower one without tissue that counts; their overlap."""
    lower, upper = station(0.0, seed=1), station(150.0, seed=2)
    masks = [volume_truth[1] == MUSCLE for volume_truth in (lower, upper)]
    masks[0][:, :, 24:] = False
    volumes = [lower[0], upper[0]]
    both = Grid((*lower[0].grid.shape[:2], 61), lower[0].affine)
    return volumes, masks, find_overlaps(volumes, both), (lower, upper)


def test_where_a_station_has_no_tissue_its_neighbour_tells_the_field():
    volumes, masks, overlaps, stations = two_that_overlap()
    assert len(overlaps) == 1
    left = []
    for some in ((), overlaps):
        config = BiasConfig(overlap_weight=0.5)
        fields = estimate_biases(volumes, masks=masks, overlaps=some, config=config)
        logs = [
            np.log(truth_field[2] / found.on(volume.grid))
            for truth_field, found, volume in zip(stations, fields, volumes, strict=True)
        ]
        differ = logs[0][:, :, 26:] - logs[1][:, :, 1:11]  # 150 mm are 25 slices
        there = stations[0][1][:, :, 26:] == MUSCLE
        left.append((differ[there].std(), logs[0][:, :, 26:][there].std()))
    assert left[1][0] < 0.6 * left[0][0]
    assert left[1][1] < 0.8 * left[0][1]


@pytest.mark.parametrize(
    "config",
    [BiasConfig(overlap_weight=0.0), BiasConfig(overlap_weight=0.0).for_muscle(),
     BiasConfig(method="n4", n4_iterations=(5,))],
    ids=["t1", "muscle", "n4"],
)  # fmt: skip
def test_overlaps_can_be_left_out(config):
    volumes, masks, overlaps, _ = two_that_overlap()
    alone = estimate_biases(volumes, masks=masks, config=config)
    weightless = estimate_biases(volumes, masks=masks, overlaps=overlaps, config=config)
    for one, other in zip(alone, weightless, strict=True):
        np.testing.assert_allclose(one.log_field, other.log_field, atol=0.01)
        assert other.compared == 0


def three_that_overlap():
    drawn = [station(150.0 * n, seed=n + 1, gain=g) for n, g in enumerate((0.5, 2.0, 1.0))]
    whole = Grid((*drawn[0][0].grid.shape[:2], 86), drawn[0][0].affine)
    return drawn, find_overlaps([volume for volume, _, _ in drawn], whole)


def test_an_overlap_with_a_station_that_gets_no_field_is_left_out():
    drawn, overlaps = three_that_overlap()
    volumes, masks = [d[0] for d in drawn], [d[1] > 0 for d in drawn]
    assert [o.stations for o in overlaps] == [(0, 1), (1, 2)]
    masks[0][:] = False
    found = estimate_biases(volumes, masks=masks, overlaps=overlaps)
    moved = [Overlap((0, 1), overlaps[1].points, overlaps[1].log_ratio)]
    rest = estimate_biases(volumes[1:], masks=masks[1:], overlaps=moved)
    assert found[0].reason
    assert found[1].compared > 100
    for one, other in zip(found[1:], rest, strict=True):
        np.testing.assert_array_equal(one.log_field, other.log_field)


def test_the_order_of_stations_that_overlap_does_not_matter():
    drawn, overlaps = three_that_overlap()
    volumes = [d[0] for d in drawn]
    forth = estimate_biases(volumes, overlaps=overlaps)
    turned = [
        Overlap((2 - o.stations[0], 2 - o.stations[1]), o.points, o.log_ratio) for o in overlaps
    ]
    back = estimate_biases(volumes[::-1], overlaps=turned)
    for one, other in zip(forth, back[::-1], strict=True):
        np.testing.assert_allclose(one.log_field, other.log_field, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True], ids=["along", "oblique"])
@pytest.mark.parametrize("patterned", [False, True], ids=["spline", "with a pattern"])
def test_rows_at_the_centres_of_voxels_are_those_of_the_field(turned, patterned):
    c, s = np.cos(0.3), np.sin(0.3)
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, -1.0]]) if turned else None
    volume, truth, _ = station(seed=3, slices=20, matrix=matrix)
    pattern = np.hypot(*world(volume.grid)[:2]).astype(np.float32) / 100 if patterned else None
    spline = FieldSpline(
        np.log(np.maximum(volume.array[0], 1.0)),
        truth > 0,
        volume.grid,
        control_point_mm=100.0,
        max_voxels=2000,
        stiffness=0.001,
        pattern=pattern,
    )
    spline.coefficients = np.random.default_rng(0).normal(size=len(spline.coefficients))
    points = world(volume.grid).reshape(3, -1).T[::7]
    np.testing.assert_allclose(
        spline.rows_at(points) @ spline.coefficients, spline.whole().reshape(-1)[::7], atol=1e-5
    )


def test_a_place_where_two_stations_show_different_things_hardly_counts():
    volumes, masks, overlaps, _ = two_that_overlap()
    (o,) = overlaps
    wrong = o.log_ratio.copy()
    wrong[::5] += 3.0
    config = BiasConfig(overlap_weight=0.5)
    right, odd = (
        estimate_biases(
            volumes, masks=masks, overlaps=[Overlap(o.stations, o.points, ratio)], config=config
        )
        for ratio in (o.log_ratio, wrong)
    )
    for one, other in zip(right, odd, strict=True):
        assert np.abs(one.log_field - other.log_field).max() < 0.1


def test_a_strong_field_that_an_overlap_confirms_is_not_flattened():
    drawn, _ = three_that_overlap()
    volumes = []
    for (volume, truth, field), strength in zip(drawn, (0.1, 0.1, 1.0), strict=True):
        weaker = truth * field**strength + 1.0
        volumes.append(Volume.single(weaker.astype(np.float32), volume.affine, "t1"))
    lit = [field**strength for (_, _, field), strength in zip(drawn, (0.1, 0.1, 1.0), strict=True)]
    whole = Grid((*volumes[0].grid.shape[:2], 86), volumes[0].affine)
    overlaps = find_overlaps(volumes, whole)
    config = BiasConfig(most_over_median=1.0)
    alone, held = (
        estimate_biases(volumes, overlaps=some, config=config)[2] for some in ((), overlaps)
    )
    muscle = drawn[2][1] == MUSCLE
    left = [variation((lit[2] / f.on(volumes[2].grid))[muscle]) for f in (alone, held)]
    assert left[1] < 0.3 * left[0]

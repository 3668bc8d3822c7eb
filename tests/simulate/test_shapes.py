import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.shapes import (
    Box,
    Canvas,
    Ellipsoid,
    EllipticCylinder,
    NoiseField,
    RoundCone,
    Triangle,
)

GRID = Grid((60, 60, 60), make_affine((1.0, 1.0, 1.0), (-29.5, -29.5, -29.5)))
A, B, C = (np.array(v, dtype=float) for v in ((-8, 0, 0), (8, 0, 0), (0, 10, 3)))


def volume_of(*shapes: object, grid: Grid = GRID) -> float:
    _, distance = Canvas(grid).distance(list(shapes))  # type: ignore[arg-type]
    return float((distance < 0).sum() * grid.voxel_volume_ml * 1000)


def test_a_sphere_has_the_volume_of_a_sphere() -> None:
    sphere = Ellipsoid(np.zeros(3), np.full(3, 12.0))
    assert volume_of(sphere) == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)


def test_a_capsule_has_the_volume_of_a_cylinder_and_a_sphere() -> None:
    expected = np.pi * 25 * 16 + 4 / 3 * np.pi * 125
    assert volume_of(RoundCone(A, B, 5.0, 5.0)) == pytest.approx(expected, rel=0.04)


def test_a_drum_has_the_volume_of_an_elliptic_cylinder() -> None:
    drum = EllipticCylinder(np.zeros(3), np.eye(3), 10.0, 7.0, 6.0)
    assert volume_of(drum) == pytest.approx(np.pi * 70 * 12, rel=0.03)


def test_the_distance_to_a_plate_is_exact_over_its_face_and_beyond_its_edge() -> None:
    plate = Triangle(*(np.array(v, dtype=float) for v in ((0, 0, 0), (10, 0, 0), (0, 10, 0))), 1.0)
    x, y, z = (np.array([v], dtype=np.float32) for v in (2.0, 2.0, 4.0))
    assert plate.distance(x, y, z)[0] == pytest.approx(3.0, abs=1e-4)
    x, y, z = (np.array([v], dtype=np.float32) for v in (-3.0, 5.0, 0.0))
    assert plate.distance(x, y, z)[0] == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        RoundCone(A, B, 6.0, 3.0),
        Ellipsoid(C, np.array([9.0, 5.0, 3.0]), np.linalg.qr(np.vander([1.0, 2, 3]))[0]),
        EllipticCylinder(C, np.linalg.qr(np.vander([1.0, 2, 4]))[0], 9.0, 5.0, 4.0, waist=1.0),
        Box(C, np.linalg.qr(np.vander([1.0, 3, 4]))[0], np.array([8.0, 4.0, 6.0])),
        Triangle(A, B, C, 2.0),
    ],
)
def test_nothing_of_a_shape_lies_outside_its_bounds(shape: RoundCone) -> None:
    canvas = Canvas(GRID)
    everywhere = shape.distance(*canvas.mesh((slice(None), slice(None), slice(None)))) < 0
    lo, hi = shape.bounds()
    where = np.argwhere(everywhere) - 29.5
    assert (where >= lo - 1e-3).all()
    assert (where <= hi + 1e-3).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(-40, 40), st.floats(-40, 40), st.floats(2, 15))
def test_a_shape_partly_or_wholly_off_the_canvas_is_cut_not_an_error(
    x: float, z: float, radius: float
) -> None:
    sphere = Ellipsoid(np.array([x, 0.0, z]), np.full(3, radius))
    assert volume_of(sphere) <= 4 / 3 * np.pi * radius**3 * 1.2 + 5


def test_a_noise_field_has_unit_variance_and_does_not_depend_on_the_spacing() -> None:
    lo, hi = np.full(3, -100.0), np.full(3, 100.0)
    field = NoiseField(np.random.default_rng(0), 10.0, lo, hi)
    fine = np.arange(-90, 90, 2, dtype=np.float32)
    values = field.on([fine, fine, fine])
    assert values.std() == pytest.approx(1.0, abs=0.08)
    np.testing.assert_allclose(field.on([fine[::3]] * 3), values[::3, ::3, ::3], atol=1e-4)

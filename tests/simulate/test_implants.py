import numpy as np
import pytest
from scanner_phantoms import BONES, box_body, ideal, plain_signals

from osteosap.errors import InputError
from osteosap.simulate.body import Body, BonePlace
from osteosap.simulate.implants import ImplantKind, paint_implant
from osteosap.simulate.scanner.acquire import scan
from osteosap.simulate.shapes import Canvas, RoundCone
from osteosap.simulate.signals import SequenceConfig
from osteosap.simulate.tissue import T

KINDS: tuple[ImplantKind, ...] = ("hip_prosthesis", "spine_screws")


def instrumentable(names: tuple[str, ...] = ("L2", "L3", "L4")) -> Body:
    """A box with a right femur and vertebrae, painted as capsules."""
    body = box_body((60, 50, 100), spacing=4.0, margin=4)
    bones = (*[BonePlace(n, 3, "spine") for n in names], BONES[1])
    body = Body(**{**vars(body), "bones": bones})
    canvas = Canvas(body.grid)
    parts = []
    for index in range(len(names)):
        z = 60.0 + 38.0 * index
        parts.append(
            (index + 1, 3, RoundCone(np.array([0, -50.0, z]), np.array([0, 5.0, z]), 14, 18))
        )
    femur = [
        RoundCone(np.array([50.0, 0, -20]), np.array([85.0, 0, -50]), 22, 16),
        RoundCone(np.array([85.0, 0, -50]), np.array([75.0, 0, -190]), 16, 13),
    ]
    parts += [(len(names) + 1, 5, shape) for shape in femur]
    for index, class_id, shape in parts:
        box, distance = canvas.distance([shape])
        inside = distance < 0
        body.tissue[box][inside] = T.MARROW
        body.bone[box][inside], body.skeleton[box][inside] = index, class_id
        body.marrow_fat[box][inside] = 0.5
    return body


@pytest.mark.parametrize("kind", KINDS)
def test_metal_takes_the_place_of_bone_and_the_truth_goes_with_it(kind: ImplantKind) -> None:
    body, before = instrumentable(), instrumentable()
    paint_implant(body, kind, rng=np.random.default_rng(0))
    metal = body.tissue == T.METAL
    volume_ml = metal.sum() * body.grid.voxel_volume_ml
    assert 3.0 < volume_ml < 150.0
    for name in ("skeleton", "bone", "marrow_fat", "cortex"):
        assert not getattr(body, name)[metal].any(), name
    assert before.skeleton[metal].any()
    lost = (before.skeleton > 0) & (body.skeleton == 0)
    assert 0 < lost.sum() < 0.6 * (before.skeleton > 0).sum()
    changed = before.tissue != body.tissue
    assert set(np.unique(body.tissue[changed])) <= {T.METAL, T.TENDON}


def test_a_prosthesis_replaces_head_and_stem_of_one_femur() -> None:
    body = instrumentable()
    paint_implant(body, "hip_prosthesis", rng=np.random.default_rng(1))
    where = np.argwhere(body.tissue == T.METAL) * 4.0 + body.grid.affine[:3, 3]
    assert where[:, 0].min() > 0
    top = where[where[:, 2] > -30]
    np.testing.assert_allclose(top.mean(axis=0)[:2], (50.0, 0.0), atol=14.0)
    assert np.ptp(where[:, 2]) > 100.0
    head = np.argwhere(body.bone == 4) * 4.0 + body.grid.affine[:3, 3]
    assert np.linalg.norm(head - (50.0, 0.0, -20.0), axis=1).min() > 14.0  # resected


def test_screws_run_in_pairs_through_at_least_two_vertebrae() -> None:
    body, before = instrumentable(), instrumentable()
    paint_implant(body, "spine_screws", rng=np.random.default_rng(0))
    metal = body.tissue == T.METAL
    x = np.argwhere(metal)[:, 0] * 4.0 + body.grid.affine[0, 3]
    assert (x > 3).sum() == pytest.approx((x < -3).sum(), rel=0.3)
    assert len(np.unique(before.bone[metal & (before.bone > 0)])) >= 2


def test_one_mask_of_the_whole_lumbar_spine_can_be_instrumented() -> None:
    body = instrumentable()
    for index in (1, 2, 3):
        body.bone[body.bone == index] = 1
    body.bone[body.bone == 4] = 2
    merged = Body(**{**vars(body), "bones": (BonePlace("lumbar spine", 3, "spine"), BONES[1])})
    paint_implant(merged, "spine_screws", rng=np.random.default_rng(0))
    heights = np.argwhere(merged.tissue == T.METAL)[:, 2]
    assert np.ptp(heights) * 4.0 > 30.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_without_the_bone_is_refused(kind: ImplantKind) -> None:
    with pytest.raises(InputError, match="femur" if kind == "hip_prosthesis" else "vertebrae"):
        paint_implant(box_body(), kind, rng=np.random.default_rng(0))


def test_the_same_seed_paints_the_same_metal() -> None:
    first, again = instrumentable(), instrumentable()
    for body in (first, again):
        paint_implant(body, "hip_prosthesis", rng=np.random.default_rng(4))
    assert first.tissue.tobytes() == again.tissue.tobytes()


def dark_voxels(body: Body, *, dephasing_ms: float = 15.0, **sequence: float | str) -> list[int]:
    """Voxels of T1 and of b = 0 where metal or its field has taken the signal."""
    signals = plain_signals(body)
    signals.t1[body.tissue == T.METAL] = 0.0
    signals.diffusion.water[body.tissue == T.METAL] = 0.0
    config = ideal(spacing=(4.0, 4.0, 4.0), off_resonance=1.0, dephasing_ms=dephasing_ms)
    found = scan(body, signals, sequence=SequenceConfig.from_mapping(dict(sequence)),
                 config=config, rng=np.random.default_rng(0))  # fmt: skip
    inside = signals.t1 > 0
    dark = []
    for image in found.images[:2]:
        values = image.volume.array[0][inside]
        dark.append(int((values < 0.3 * np.median(values)).sum()))
    return dark


def test_the_void_of_metal_is_small_on_t1_and_large_on_diffusion() -> None:
    body = instrumentable()
    paint_implant(body, "spine_screws", rng=np.random.default_rng(0))
    metal = int((body.tissue == T.METAL).sum())
    t1, diffusion = dark_voxels(body)
    assert 0.3 * metal < t1 < 10 * metal
    assert diffusion > 2 * t1
    assert dark_voxels(body, t1_sequence="gre")[0] > 1.2 * t1  # no echo brings it back
    assert dark_voxels(body, dephasing_ms=0.0)[1] < diffusion


def test_signal_piles_up_at_the_rim_of_metal_on_t1() -> None:
    body = instrumentable()
    paint_implant(body, "spine_screws", rng=np.random.default_rng(0))
    config = ideal(spacing=(4.0, 4.0, 4.0), off_resonance=1.0)
    found = scan(body, plain_signals(body), sequence=SequenceConfig(), config=config,
                 rng=np.random.default_rng(0))  # fmt: skip
    t1 = found.images[0].volume.array[0]
    assert t1.max() > 1.3 * np.median(t1[t1 > 0])

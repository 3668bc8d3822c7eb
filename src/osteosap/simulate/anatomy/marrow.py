"""Red and yellow marrow: the fat fraction of every bone by site, age and sex.

Red marrow holds about 40 % fat, yellow about 80 % [1]_. In the lumbar spine the fat fraction is
near 0.32 in men and 0.27 in women in their twenties and rises with age [2]_; women overtake men
after about sixty [3]_. With age red marrow recedes towards the axial skeleton and the proximal
femur and humerus, while epiphyses, trochanter and tubercle are yellow in every adult [1]_. How
patchy it is, and the fat around the basivertebral vein, are ours. A person's ``red_marrow``
(0 to 1) carries the age and the individual.

References
----------
.. [1] Vogler and Murphy 1988, Radiology 168:679 (doi 10.1148/radiology.168.3.3043546).
.. [2] Baum et al. 2018, Front Endocrinol 9:141 (doi 10.3389/fendo.2018.00141).
.. [3] Griffith et al. 2012, J Magn Reson Imaging 36:225 (doi 10.1002/jmri.23619).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.body import BODY_HI, BODY_LO, Body
from osteosap.simulate.shapes import Canvas, Field, Lattice, NoiseField

__all__ = ["RED_SHARE", "YELLOW_FAT", "set_marrow_fat"]

RED_SHARE = {
    "spine": 1.0, "sternum": 0.98, "pelvis": 0.85, "rib": 0.85, "scapula": 0.65, "clavicle": 0.6,
    "skull": 0.5, "femur": 0.8, "humerus": 0.7, "forearm": 0.0, "hand": 0.0, "leg": 0.0,
}  # fmt: skip
"""Share of red marrow at a site of a young adult; of long bones where it is reddest."""

YELLOW_FAT = 0.86
STEP_MM = 4.0
RED_FAT_SPAN = 0.64  # a wholly red voxel of a young adult: 0.22
REACH_MM = {"femur": (22.0, 70.0, 170.0), "humerus": (16.0, 55.0, 120.0)}
"""Depth below the top of a long bone: end of the yellow epiphysis, reddest, and where red ends."""


def set_marrow_fat(body: Body, *, rng: np.random.Generator) -> None:
    """Fill ``body.marrow_fat`` in place, for any source of anatomy.

    Patchy, by site, age and sex: it reads only the bone map, the bones' sites and the person.

    Parameters
    ----------
    body
        Its ``bone``, ``bones``, ``grid`` and ``person`` must be set.
    rng
        Source of the patches; as many numbers are drawn whatever the grid.
    """
    canvas = Canvas(body.grid)
    patches = _patches(body, canvas, rng)
    personal = rng.normal(0, 0.04, len(body.bones) + 1)
    young = _young(body)
    for index, box in enumerate(ndimage.find_objects(body.bone)):
        if box is None:
            continue
        place = body.bones[index]
        inside = body.bone[box] == index + 1
        axes = [canvas.axes[d][box[d]] for d in range(3)]
        at = np.nonzero(inside)
        red = np.full(len(at[0]), RED_SHARE.get(place.site, 0.3), dtype=np.float32)
        if place.site in REACH_MM:
            red *= _proximal(inside, axes[2], place.site, young)[at[2]]
        share = red * (0.40 + 0.60 * young + personal[index])
        share += 0.6 * np.sqrt(red) * patches[box][at]
        fat = YELLOW_FAT - RED_FAT_SPAN * np.clip(share, 0, 1)
        if place.site == "spine":
            fat += _around_vein(np.stack([a[i] for a, i in zip(axes, at, strict=True)]))
        body.marrow_fat[box][at] = np.clip(fat, 0.15, 0.95)


def _patches(body: Body, canvas: Canvas, rng: np.random.Generator) -> Field:
    """Coarse and fine patches (I, J, K), computed on a lattice fixed in space where bone is."""
    fields = [NoiseField(rng, mm, BODY_LO, BODY_HI) for mm in (24.0, 9.0)]
    out = np.zeros(body.bone.shape, dtype=np.float32)
    found = body.bone.any(axis=(1, 2)), body.bone.any(axis=(0, 2)), body.bone.any(axis=(0, 1))
    if not found[0].any():
        return out
    ends = [np.flatnonzero(f)[[0, -1]] for f in found]
    box = tuple(slice(int(a), int(b) + 1) for a, b in ends)
    axes = [canvas.axes[d][box[d]] for d in range(3)]
    low = [np.floor((a[0] - BODY_LO[d]) / STEP_MM) for d, a in enumerate(axes)]
    high = [np.ceil((a[-1] - BODY_LO[d]) / STEP_MM) for d, a in enumerate(axes)]
    lattice = Lattice(
        BODY_LO + STEP_MM * np.array(low), BODY_LO + STEP_MM * np.array(high), STEP_MM
    )
    coarse, fine = (f.on(lattice.canvas.axes) for f in fields)
    lattice.values = 0.13 * coarse + 0.06 * fine
    out[box] = lattice.on(axes)
    return out


def _young(body: Body) -> float:
    """0 (old) to 1 (young): the person's red marrow, lowered in women past the menopause."""
    person = body.person
    late = np.clip((person.age_years - 52.0) / 10.0, 0.0, 1.0) if person.sex == "female" else 0.0
    return float(np.clip(person.red_marrow - 0.16 * late, 0.0, 1.0))


def _proximal(
    inside: npt.NDArray[np.bool_], z: npt.NDArray[np.float32], site: str, young: float
) -> Field:
    """Profile of red marrow down a long bone (K,): a yellow cap, red, then a yellow shaft."""
    levels = np.flatnonzero(inside.any(axis=(0, 1)))
    depth = z[levels[-1]] - z
    cap, reddest, end = REACH_MM[site]
    end = reddest + (end - reddest) * (0.35 + 0.65 * young)
    knots = [0.0, cap, 0.6 * cap + 0.4 * reddest, reddest, end]
    profile = np.interp(depth, knots, [0.06, 0.15, 0.75, 0.9, 0.0])
    return np.asarray(profile, dtype=np.float32)


def _around_vein(points: Field) -> Field:
    """More fat behind the middle of the vertebral body, where the basivertebral vein leaves it.

    ``points`` (3, N) are all voxels of a vertebra; its body is the front of the bone.
    """
    x, y, z = points
    body = y > y.max() - 26.0
    centre = points[:, body].mean(axis=1)
    u = ((x - centre[0]) / 9.0) ** 2 + ((y - centre[1] + 9.0) / 8.0) ** 2
    return np.asarray(0.22 * np.exp(-u - ((z - centre[2]) / 4.5) ** 2), dtype=np.float32)

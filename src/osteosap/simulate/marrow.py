"""Red and yellow marrow: the fat fraction of every bone by site, age and sex.

Red marrow holds about 40 % fat, yellow about 80 % (Vogler and Murphy 1988, Radiology 168:679,
doi 10.1148/radiology.168.3.3043546). With age red marrow recedes towards the axial skeleton and the
proximal femur and humerus. A person's ``red_marrow`` (0 to 1) says how far.
"""

from __future__ import annotations

import numpy as np

from osteosap.simulate.body import BODY_HI, BODY_LO, Body
from osteosap.simulate.shapes import Canvas, NoiseField

__all__ = ["RED_SHARE", "set_marrow_fat"]

RED_SHARE = {
    "spine": 0.85, "pelvis": 0.75, "sternum": 0.9, "rib": 0.6, "scapula": 0.6, "clavicle": 0.5,
    "skull": 0.4, "femur": 0.35, "humerus": 0.35, "forearm": 0.0, "hand": 0.0,
}  # fmt: skip
"""Share of red marrow at a site of the reference adult; long bones: over the whole bone."""

PROXIMAL_MM = {"femur": (60.0, 140.0), "humerus": (40.0, 100.0)}
"""Depth below the top of the bone at which red marrow begins to give way, and where it ends."""


def set_marrow_fat(body: Body, *, rng: np.random.Generator) -> None:
    """Fill ``body.marrow_fat`` in place: patchy, by site and by the person's ``red_marrow``."""
    canvas = Canvas(body.grid)
    patch = NoiseField(rng, 26.0, BODY_LO, BODY_HI).on(canvas.axes)
    share_of = np.array([0.0] + [RED_SHARE.get(b.site, 0.3) for b in body.bones], np.float32)
    red = share_of[body.bone]
    for index, bone in enumerate(body.bones, start=1):
        if bone.site not in PROXIMAL_MM:
            continue
        inside = body.bone == index
        levels = np.flatnonzero(inside.any(axis=(0, 1)))
        if levels.size == 0:
            continue
        upper, lower = PROXIMAL_MM[bone.site]
        z = canvas.axes[2]
        depth = z[levels[-1]] - z
        profile = np.clip((lower - depth) / (lower - upper), 0.0, 1.0).astype(np.float32)
        red *= np.where(inside, 0.15 + 1.2 * profile, np.float32(1.0))
    share = np.clip(red * (0.55 + 0.6 * body.person.red_marrow) + 0.10 * patch * red, 0, 1)
    body.marrow_fat[...] = np.where(body.bone > 0, 0.86 - 0.50 * share, 0.0)

"""How far the simulator's bodies are from a real one: the BodyParts3D man, label by label.

Ten drawn men are aligned to the atlas by the similarity (rotation, translation, one scale) that
brings the centroids of their bones together. Then, per structure: its volume, how far its centroid
is off, and the mean distance between the two surfaces. Both are cut at the knee, where the
simulator's field of view ends. Prints a table and writes it as JSON.

The atlas is one man, the drawn men are many: distances of a few millimetres to two centimetres are
the variation that was asked for. Atlas: BodyParts3D, (c) The Database Center for Life Science,
CC BY-SA 2.1 Japan. It is measured here, and no part of it is in the project.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage, spatial

from osteosap.anatomy import REGIONS
from osteosap.manifest import software_versions
from osteosap.simulate.anatomy.build import body_grid, build_body
from osteosap.simulate.body import Body
from osteosap.simulate.person import Person
from osteosap.simulate.tissue import T

ATLAS = Path(__file__).resolve().parents[1] / "../shared/data/bodyparts3d"
LABELS = "bp3d_male_labels_2mm.nii.gz"
KNEE_MM = 402.0  # the atlas is cut here, near the lower end of the simulator's field of view
FIRST_SEED = 500

# Name, ids in the atlas, ids in our tissue map; the nine classes come from the skeleton map.
ORGANS = (
    ("brain", (30,), (T.BRAIN_WHITE, T.BRAIN_GREY)),
    ("lungs", (47,), (T.LUNG,)),
    ("liver", (32,), (T.LIVER,)),
    ("spleen", (33,), (T.SPLEEN,)),
    ("kidneys", (34, 35), (T.KIDNEY,)),
    ("stomach", (39,), (T.STOMACH,)),
    ("pancreas", (37,), (T.PANCREAS,)),
    ("discs", (19,), (T.DISC,)),
    ("bladder", (42,), (T.URINE,)),
    ("prostate", (43,), (T.PROSTATE,)),
    ("testes", (44,), (T.TESTIS,)),
)
SITES = (("ribs", (11,), "rib"), ("skull with mandible", (13, 14), "skull"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--atlas", type=Path, default=ATLAS)
    parser.add_argument("--bodies", type=int, default=10)
    parser.add_argument("--spacing", type=float, default=3.0, help="of our bodies, mm")
    options = parser.parse_args()
    if not (options.atlas / LABELS).is_file():
        sys.exit(f"No atlas at {options.atlas} ({LABELS}): pass its folder with --atlas")
    atlas = atlas_points(options.atlas / LABELS)
    bodies = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.bodies):
        bodies.append(compare(atlas, ours(seed, options.spacing)))
        print(f"seed {seed}: scale {bodies[-1]['scale']:.3f}", file=sys.stderr, flush=True)
    content = {
        "what": "drawn men against the BodyParts3D man (CC BY-SA 2.1 Japan)",
        "simulated": True,
        "seeds": [FIRST_SEED, FIRST_SEED + options.bodies - 1],
        "spacing_mm": options.spacing,
        "versions": software_versions(),
        "structures": {name: summary(name, atlas, bodies) for name in atlas},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "anatomy_atlas.json").write_text(json.dumps(content, indent=1) + "\n")
    print(markdown(content))


def atlas_points(path: Path) -> dict[str, dict]:
    image = nib.load(path)
    labels = np.asarray(image.dataobj)
    level = image.affine[2, 2] * np.arange(labels.shape[2]) + image.affine[2, 3]
    labels = labels * (level > KNEE_MM)
    found = {r.name: (r.id,) if r.id != 4 else (4, 10) for r in REGIONS}
    found |= {name: ids for name, ids, _ in (*SITES, *ORGANS)}
    return {name: measured(np.isin(labels, ids), image.affine) for name, ids in found.items()}


def ours(seed: int, spacing: float) -> dict[str, dict]:
    person = Person.draw(np.random.default_rng(seed), sex="male")
    body = build_body(person, body_grid(person, (spacing,) * 3), seed=seed)
    masks = {r.name: body.skeleton == r.id for r in REGIONS}
    masks |= {name: of_site(body, site) for name, _, site in SITES}
    masks |= {name: np.isin(body.tissue, ids) for name, _, ids in ORGANS}
    masks["bladder"] = largest(masks["bladder"])
    masks["discs"] |= np.isin(body.tissue, (T.TENDON,)) & ndimage.binary_dilation(masks["discs"])
    return {name: measured(mask, body.grid.affine) for name, mask in masks.items()}


def of_site(body: Body, site: str) -> np.ndarray:
    return np.array([False, *(b.site == site for b in body.bones)])[body.bone]


def largest(mask: np.ndarray) -> np.ndarray:
    labels, n = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if n else mask


def measured(mask: np.ndarray, affine: np.ndarray) -> dict:
    """Volume (mL), centroid (mm) and surface voxels (N, 3; mm) of a mask."""
    if not mask.any():
        sys.exit("A structure is missing: the label map does not hold what its legend says")
    edge = mask & ~ndimage.binary_erosion(mask)
    points = np.argwhere(edge) @ affine[:3, :3].T + affine[:3, 3]
    centre = np.argwhere(mask).mean(0) @ affine[:3, :3].T + affine[:3, 3]
    volume = mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000.0
    return {"volume_ml": float(volume), "centre": centre, "surface": points}


def compare(atlas: dict[str, dict], body: dict[str, dict]) -> dict:
    bones = [r.name for r in REGIONS]
    scale, rotation, shift = similarity(
        np.array([body[b]["centre"] for b in bones]), np.array([atlas[b]["centre"] for b in bones])
    )
    out: dict = {"scale": float(scale)}
    for name, target in atlas.items():
        moved = scale * body[name]["surface"] @ rotation.T + shift
        centre = scale * body[name]["centre"] @ rotation.T + shift
        there = spatial.cKDTree(target["surface"]).query(moved)[0]
        back = spatial.cKDTree(moved).query(target["surface"])[0]
        out[name] = {
            "volume_ml": body[name]["volume_ml"],
            "centroid_mm": float(np.linalg.norm(centre - target["centre"])),
            "offset_mm": [round(float(v), 1) for v in centre - target["centre"]],
            "surface_mm": float((there.mean() + back.mean()) / 2),
        }
    return out


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that carry points (N, 3) onto others (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    scale = float((s * np.diag(flip)).sum() / (a**2).sum())
    return scale, rotation, target.mean(0) - scale * source.mean(0) @ rotation.T


def summary(name: str, atlas: dict[str, dict], bodies: list[dict]) -> dict:
    volumes = [b[name]["volume_ml"] for b in bodies]
    return {
        "atlas_ml": round(atlas[name]["volume_ml"], 1),
        "median_ml": round(float(np.median(volumes)), 1),
        "range_ml": [round(min(volumes), 1), round(max(volumes), 1)],
        "centroid_mm_median": round(float(np.median([b[name]["centroid_mm"] for b in bodies])), 1),
        "offset_mm_median": np.median([b[name]["offset_mm"] for b in bodies], axis=0).tolist(),
        "surface_mm_median": round(float(np.median([b[name]["surface_mm"] for b in bodies])), 1),
    }


def markdown(content: dict) -> str:
    """The table for the docs."""
    first, last = content["seeds"]
    lines = [
        f"| structure | atlas (mL) | ours, median (range) of {last - first + 1} men (mL) "
        "| centroid off (mm) | surface distance (mm) |",
        "|---|---|---|---|---|",
    ]
    for name, row in content["structures"].items():
        low, high = row["range_ml"]
        lines.append(
            f"| {name.replace('_', ' ')} | {row['atlas_ml']:.0f} | {row['median_ml']:.0f} "
            f"({low:.0f}-{high:.0f}) | {row['centroid_mm_median']:.1f} "
            f"| {row['surface_mm_median']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

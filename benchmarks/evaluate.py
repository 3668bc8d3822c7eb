"""Time and memory of scoring lesion masks, against a straightforward script.

Twenty exams of 250 x 180 x 700 voxels with about thirty lesions each are made up (ellipsoids; the
prediction misses, moves, splits, merges and invents some), written as NIfTI, and scored twice in
one run on the same machine: by ``osteosap.evaluation``, and by a script as one would write it,
with a mask of the whole volume for every lesion, scipy for components and MONAI for surface Dice.
Both read the same files; their numbers must agree. Peak memory is that of a process that only
scores. The exams are made up: nothing here says how well anything detects.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from osteosap.evaluation.cohort import evaluate_cohort
from osteosap.evaluation.pairs import find_pairs
from osteosap.geometry import make_affine
from osteosap.manifest import software_versions
from osteosap.volume import Volume, write_nifti

SHAPE = (250, 180, 700)
SPACING = (2.0, 2.0, 2.0)
TOLERANCE_MM = 2.0
CUBE = np.ones((3, 3, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for exams and result")
    parser.add_argument("--exams", type=int, default=20)
    parser.add_argument("--lesions", type=int, default=30)
    parser.add_argument("--script-exams", type=int, default=20, help="exams for the slow script")
    parser.add_argument("--ours-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    truth, prediction = options.out / "truth", options.out / "prediction"
    if options.ours_only:
        print(json.dumps(ours(truth, prediction)))
        return
    for number in range(options.exams):
        if not (prediction / f"exam_{number:02d}").is_dir():
            make_exam(number, options.lesions, options.out)
    command = [sys.executable, __file__, "--ours-only", "--out", str(options.out)]
    fast = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    names = sorted(p.name for p in truth.iterdir())[: options.script_exams]
    slow = [script(truth / name, prediction / name) for name in names]
    compare = [
        differences(fast["exams"][name], one["rows"]) for name, one in zip(names, slow, strict=True)
    ]
    seconds = {
        "ours_per_exam": fast["seconds"] / len(fast["exams"]),
        "script_per_exam": float(np.mean([one["seconds"] for one in slow])),
    }
    content = {
        "what": "scoring made-up lesion masks, ours against a per-lesion full-volume script",
        "exams": options.exams, "exams_of_the_script": len(names), "shape": SHAPE,
        "lesions_per_exam": float(np.mean([one["n"] for one in slow])),
        "seconds": seconds,
        "times_faster": seconds["script_per_exam"] / seconds["ours_per_exam"],
        "peak_memory_mb": fast["peak_memory_mb"],
        "largest_difference": {k: max(c[k] for c in compare) for k in compare[0]},
        "versions": software_versions(),
    }  # fmt: skip
    (options.out / "evaluate.json").write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def make_exam(number: int, lesions: int, out: Path) -> None:
    """Reference ellipsoids, and a prediction that errs in every way."""
    rng = np.random.default_rng([2026, number])
    reference, prediction = np.zeros((2, *SHAPE), np.uint8)
    for _ in range(lesions):
        radius = np.exp(rng.normal(1.1, 0.5, 3)).clip(1.0, 14.0)
        centre = rng.uniform(20, np.array(SHAPE) - 20)
        fill(reference, centre, radius)
        if rng.random() < 0.75:  # found, more or less
            fill(prediction, centre + rng.normal(0, 1.0, 3), radius * rng.uniform(0.7, 1.2, 3))
        if rng.random() < 0.15:  # a second piece beside it
            fill(prediction, centre + radius * [1.2, 0, 0], np.full(3, 1.5))
        if rng.random() < 0.4:  # false
            fill(prediction, rng.uniform(20, np.array(SHAPE) - 20), radius * 0.6)
    affine = make_affine(SPACING, (0.0, 0.0, 0.0))
    for side, mask in (("truth", reference), ("prediction", prediction)):
        folder = out / side / f"exam_{number:02d}"
        write_nifti(Volume.single(mask, affine, "lesions"), folder / "lesions.nii.gz")


def fill(mask: np.ndarray, centre: np.ndarray, radius: np.ndarray) -> None:
    start = np.floor(centre - radius).clip(0).astype(int)
    stop = np.ceil(centre + radius + 1).clip(max=np.array(SHAPE)).astype(int)
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radius, strict=True)) <= 1
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] |= inside.astype(np.uint8)


def ours(truth: Path, prediction: Path) -> dict:
    started = time.perf_counter()
    pairs, _ = find_pairs(truth, prediction)
    scores = evaluate_cohort(pairs)
    scores.summary()
    seconds = time.perf_counter() - started
    exams = {
        exam.name: {
            r.id: [r.volume_ml, len(r.matches), r.dice, r.nsd, *r.centre_ras_mm]
            for r in exam.lesions.references
        }
        for exam in scores.exams
    }
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return {"seconds": seconds, "peak_memory_mb": peak, "exams": exams}


def script(truth: Path, prediction: Path) -> dict:
    """One mask of the whole volume a lesion."""
    import torch
    from monai.metrics import compute_surface_dice

    torch.set_num_threads(1)
    started = time.perf_counter()
    maps = [np.asarray(nib.load(f / "lesions.nii.gz").dataobj) for f in (truth, prediction)]
    reference, n = ndimage.label(maps[0], CUBE)
    predicted, _ = ndimage.label(maps[1], CUBE)
    rows = {}
    for lesion in range(1, n + 1):
        mask = reference == lesion
        touched = np.unique(predicted[mask])
        touched = touched[touched > 0]
        other = np.isin(predicted, touched)
        dice, nsd = 0.0, 0.0
        if touched.size:
            dice = 2 * (mask & other).sum() / (mask.sum() + other.sum())
            pair = [torch.from_numpy(m[None, None]) for m in (other, mask)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                nsd = float(
                    compute_surface_dice(
                        *pair, [TOLERANCE_MM], include_background=True, spacing=SPACING,
                        use_subvoxels=True,
                    )
                )  # fmt: skip
        centre = np.array(ndimage.center_of_mass(mask)) * SPACING
        volume = float(mask.sum()) * math.prod(SPACING) / 1000
        rows[str(lesion)] = [volume, len(touched), float(dice), nsd, *centre]
    print(
        f"script: {truth.name} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True
    )
    return {"seconds": time.perf_counter() - started, "rows": rows, "n": n}


def differences(one: dict, other: dict) -> dict[str, float]:
    """Largest difference of each number over the lesions of an exam."""
    if set(one) != set(other):
        raise SystemExit("the two found different lesions")
    names = ("volume_ml", "n_matches", "dice", "nsd", "r_mm", "a_mm", "s_mm")
    table = np.array([np.subtract(one[k], other[k]) for k in one])
    return dict(zip(names, np.abs(table).max(axis=0).tolist(), strict=True))


if __name__ == "__main__":
    main()

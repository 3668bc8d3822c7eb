"""A detector that knows no anatomy: bright on b1000, dark on T1, of a lesion's size.

It sees what the product sees, stitched exams from the virtual scanner, in units of the body's
median. Part of ``realism.py``.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from osteosap.cohort import CohortConfig, simulate_cohort
from osteosap.evaluation.matching import label_instances
from osteosap.exam import read_exam
from osteosap.volume import read_nifti

B1000_OVER_MEDIAN = tuple(float(v) for v in np.geomspace(1.2, 10.0, 14))
T1_UNDER_MEDIAN = (0.8, 1.1, 1.6, 1000.0)
MIN_ML, MAX_ML = (0.05, 0.15, 0.3), 60.0
"""Components outside these volumes are dropped: without an upper limit one component that is the
whole body would touch every lesion."""
N_TUNING, N_TEST = 10, 20


def score_trivial_detector(out: Path, *, first_seed: int, processes: int) -> dict:
    """Tune on ten simulated patients, score on twenty others.

    Tuned: of all settings with a pooled sensitivity of at least 0.5 the one with the fewest false
    positives per exam (the most sensitive one if none gets there). Tested: that setting; and with
    its T1 and size limits the false positives at a sensitivity of 0.5 as the b1000 threshold moves.
    """
    group = {"name": "patients", "subjects": N_TUNING + N_TEST, "first_seed": first_seed}
    cohort = CohortConfig.from_mapping({"groups": [group]})
    exams, _ = simulate_cohort(cohort, out, processes=processes)
    folders = [out / exam.folder for exam in exams]
    with ProcessPoolExecutor(processes) as pool:
        tables = list(pool.map(partial(count_exam), folders))
    tuning, test = sum(tables[:N_TUNING]), sum(tables[N_TUNING:])
    n_tuning, n_test = N_TUNING, len(tables) - N_TUNING
    sensitivity = tuning[..., 0] / tuning[..., 2]
    fp = tuning[..., 1] / n_tuning
    if (sensitivity >= 0.5).any():
        best = np.unravel_index(int(np.argmin(np.where(sensitivity >= 0.5, fp, np.inf))), fp.shape)
    else:
        best = np.unravel_index(int(np.argmax(sensitivity)), fp.shape)
    curve_s = test[:, best[1], best[2], 0] / test[:, best[1], best[2], 2]
    curve_fp = test[:, best[1], best[2], 1] / n_test
    return {
        "n_tuning": n_tuning,
        "n_test": n_test,
        "n_lesions": int(test[..., 2].max()),
        "b1000_over_median": B1000_OVER_MEDIAN[best[0]],
        "t1_under_median": T1_UNDER_MEDIAN[best[1]],
        "min_ml": MIN_ML[best[2]],
        "max_ml": MAX_ML,
        "tuning_sensitivity": float(sensitivity[best]),
        "tuning_fp_per_exam": float(fp[best]),
        "sensitivity": float(curve_s[best[0]]),
        "fp_per_exam": float(curve_fp[best[0]]),
        "fp_at_half": fp_at(curve_s, curve_fp, 0.5),
        "curve": [
            {"b1000_over_median": b, "sensitivity": float(s), "fp_per_exam": float(f)}
            for b, s, f in zip(B1000_OVER_MEDIAN, curve_s, curve_fp, strict=True)
        ],
    }


def count_exam(folder: Path) -> np.ndarray:
    """Detected lesions, false positives, lesions: (thresholds b1000, T1, sizes, 3)."""
    exam = read_exam(folder)
    body = read_nifti(folder / "body.nii.gz", channel="body").array[0] > 0
    lesions = exam.lesions.array[0]
    b1000, t1 = exam.images.channel("b1000"), exam.images.channel("t1")
    b1000, t1 = b1000 / np.median(b1000[body]), t1 / np.median(t1[body])
    ml = exam.images.grid.voxel_volume_ml
    n_lesions = np.count_nonzero(np.unique(lesions))
    shape = (len(B1000_OVER_MEDIAN), len(T1_UNDER_MEDIAN), len(MIN_ML), 3)
    table = np.zeros(shape)
    for i, j in itertools.product(range(shape[0]), range(shape[1])):
        mask = body & (b1000 > B1000_OVER_MEDIAN[i]) & (t1 < T1_UNDER_MEDIAN[j])
        found = label_instances(mask)
        sizes = np.bincount(found.ravel()) * ml
        touching = np.unique(np.stack([found[lesions > 0], lesions[lesions > 0]]), axis=1)
        for k, smallest in enumerate(MIN_ML):
            kept = (sizes >= smallest) & (sizes <= MAX_ML)
            kept[0] = False
            hits = touching[:, kept[touching[0]]]
            false = int(kept.sum()) - len(np.unique(hits[0]))
            table[i, j, k] = len(np.unique(hits[1])), false, n_lesions
    return table


def fp_at(sensitivity: np.ndarray, fp: np.ndarray, wanted: float) -> float | None:
    """Fewest false positives per exam at a sensitivity, linear between thresholds; None if none."""
    reached = np.flatnonzero(sensitivity >= wanted)
    if reached.size == 0:
        return None
    best = float(fp[reached].min())
    for a, b in itertools.pairwise(range(len(fp))):
        low, high = sorted((a, b), key=lambda i: sensitivity[i])
        if sensitivity[low] < wanted <= sensitivity[high]:
            t = (wanted - sensitivity[low]) / (sensitivity[high] - sensitivity[low])
            best = min(best, float(fp[low] + t * (fp[high] - fp[low])))
    return best

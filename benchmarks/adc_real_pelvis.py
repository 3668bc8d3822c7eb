"""How our ADC fit agrees with the scanner's own map, on one real study.

The study is a Siemens 3 T pelvis with b 0/100/400/800 (series 8) and the scanner's ADC (series 9).
The table has one row per setting of the fit: weighting times lowest b-value.

The unweighted fit over all b-values is the model the scanner itself fits, so the small difference
of that row shows that both compute the same thing. It does not show which fit is nearer the truth,
and it is one study of one scanner.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from osteosap.dicom import read_study
from osteosap.manifest import software_versions
from osteosap.preprocess import AssembledExam, PreprocessConfig, assemble_exam

STUDY = Path(__file__).resolve().parents[2] / "shared" / "data" / "real_dicom_pelvis"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=STUDY, help="folder of the DICOM study")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    images = read_study(options.study).images
    scanner = assemble_exam(images, PreprocessConfig(adc_source="scanner"))
    rows = []
    for weighting, lowest in product(("none", "signal"), (0.0, 50.0)):
        config = PreprocessConfig(adc_weighting=weighting, min_b_for_adc_s_per_mm2=lowest)
        rows.append(compare(assemble_exam(images, config), scanner))
    print(markdown(rows))
    if options.out:
        content = {
            "what": "ADC fitted here against the scanner's map, in the body, on the T1 grid",
            "simulated": False,
            "scanner_map": scanner.record["adc"],
            "versions": software_versions(),
            "rows": rows,
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n")


def compare(exam: AssembledExam, scanner: AssembledExam) -> dict[str, object]:
    """Relative difference of a fit from the scanner's map over the voxels where both are."""
    ours, theirs = exam.images.channel("adc"), scanner.images.channel("adc")
    both = (exam.body.array[0] > 0) & (ours > 0) & (theirs > 0)
    relative = ours[both] / theirs[both] - 1
    return {
        "weighting": exam.record["adc"]["weighting"],
        "b_values_s_per_mm2": exam.record["adc"]["b_values_s_per_mm2"],
        "median_absolute_difference": round(float(np.median(np.abs(relative))), 4),
        "median_difference": round(float(np.median(relative)), 4),
        "voxels": int(both.sum()),
    }


def markdown(rows: list[dict[str, object]]) -> str:
    """The rows as a table."""
    lines = [
        "| weights | b fitted | median absolute difference | median difference | voxels |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        listed = "/".join(f"{b:g}" for b in row["b_values_s_per_mm2"])
        lines.append(
            f"| {row['weighting']} | {listed} | {row['median_absolute_difference']:.1%} "
            f"| {row['median_difference']:+.1%} | {row['voxels']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

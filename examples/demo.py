"""The whole chain on one simulated study never used in training, scored against its truth.

Run by ``make demo``. Types the commands a user would type, then compares the result with the
floors set for the shipped networks. Exits 1 where a floor does not hold.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from osteosap.anatomy import REGIONS
from osteosap.cli import main as osteosap

SEED = 20261
"""Never used in training."""

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "simulate_demo.yaml"

MERGED_DICE_FLOOR = 0.85
SENSITIVITY_FLOOR = 0.2
"""Low, since the shipped lesion weights miss most lesions (model card)."""


def run_chain(out: Path) -> dict[str, float]:
    """Simulate, run, evaluate; return the seconds each took."""
    commands = {
        "simulate": [
            "simulate", "exam", "--seed", str(SEED), "--config", str(CONFIG),
            "--out", str(out / "study"),
        ],
        "run": ["run", str(out / "study" / "dicom"), "--out", str(out / "result")],
        "evaluate": [
            "evaluate", "--reference", str(out / "study" / "truth"),
            "--prediction", str(out / "result"), "--out", str(out / "evaluation"), "--resample",
        ],
    }  # fmt: skip
    seconds = {}
    for name, arguments in commands.items():
        print(f"\n$ osteosap {shlex.join(arguments)}", flush=True)
        started = time.monotonic()
        code = osteosap(arguments)
        seconds[name] = time.monotonic() - started
        if code:
            sys.exit(code)
    return seconds


def floors(scores: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """What is asked of the shipped networks: name, value as text, whether it holds."""
    skeleton = scores["skeleton_dice"]
    large = scores["lesions"]["large"]
    sensitivity = large["sensitivity"]
    lowest = min(REGIONS, key=lambda region: skeleton[region.name] or 0.0)
    return [
        (
            f"skeleton Dice, all bones merged, at least {MERGED_DICE_FLOOR:.2f}",
            _text(skeleton["merged"]),
            (skeleton["merged"] or 0.0) >= MERGED_DICE_FLOOR,
        ),
        (
            "skeleton Dice, every class above 0",
            f"lowest {_text(skeleton[lowest.name])} ({lowest.title.lower()})",
            (skeleton[lowest.name] or 0.0) > 0.0,
        ),
        (
            f"sensitivity for lesions of 1 mL or more, at least {SENSITIVITY_FLOOR:.1f}",
            f"{_text(sensitivity)} ({large['n_detected']} of {large['n_reference']})",
            sensitivity is not None and sensitivity >= SENSITIVITY_FLOOR,
        ),
    ]


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    out = parser.parse_args().out
    for name in ("study", "result", "evaluation"):
        shutil.rmtree(out / name, ignore_errors=True)
    seconds = run_chain(out)
    scores = json.loads((out / "evaluation" / "evaluation.json").read_text())["exams"][0]
    found = floors(scores)

    print(f"\nSimulated examination, seed {SEED}, never used in training.")
    everything, large = (scores["lesions"][key] for key in ("all", "large"))
    for title, part in (("all lesions", everything), ("lesions of 1 mL or more", large)):
        print(
            f"{title}: {part['n_detected']} of {part['n_reference']} found, "
            f"false positives: {part['n_false_positives']}, "
            f"Dice of those found (median) {_text(part['dice_detected_median'])}"
        )
    for name, value, holds in found:
        print(f"{'holds   ' if holds else 'NOT HELD'}  {name}: {value}")
    print("time: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    print(f"report: {out / 'result' / 'report.html'}")
    return 0 if all(holds for _, _, holds in found) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Time and memory of one simulated examination, head to knee, written as NIfTI.

Each spacing runs in a process of its own, as a user would start it, and its wall time and peak
memory are taken; a second, separate run times the parts. The claim (2 cores): 2 mm in at most 25 s
and 3 GB, 1.5 mm in at most 60 s. Prints a table and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from osteosap.manifest import software_versions, write_json

LIMITS = {2.0: (25.0, 3.0), 1.5: (60.0, None)}
"""Spacing (mm) to the claimed seconds and GB."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parts is not None:
        print(json.dumps(time_parts(options.parts)))
        return 0
    rows = []
    for spacing, (seconds_limit, gigabytes_limit) in LIMITS.items():
        runs = [run_once(spacing, seed) for seed in range(100, 100 + options.repeats)]
        seconds = [s for s, _ in runs]
        gigabytes = max(g for _, g in runs)
        holds = max(seconds) <= seconds_limit and gigabytes <= (gigabytes_limit or np.inf)
        rows.append(
            {
                "spacing_mm": spacing,
                "seconds_median": round(float(np.median(seconds)), 1),
                "seconds_longest": round(max(seconds), 1),
                "peak_gb": round(gigabytes, 2),
                "limit_seconds": seconds_limit,
                "limit_gb": gigabytes_limit,
                "holds": bool(holds),
                "parts_seconds": parts_of(spacing),
            }
        )
    content = {
        "what": "one simulated exam from seed to NIfTI, default protocol",
        "simulated": True,
        "cores": os.cpu_count(),
        "repeats": options.repeats,
        "versions": software_versions(),
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "simulate.json", content)
    print(markdown(rows))
    return 0 if all(row["holds"] for row in rows) else 1


def run_once(spacing_mm: float, seed: int) -> tuple[float, float]:
    """Wall seconds and peak GB of ``osteosap simulate exam`` in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="simulate-"))
    command = [
        "osteosap", "--quiet", "simulate", "exam", "--seed", str(seed), "--spacing",
        str(spacing_mm), "--format", "nifti", "--out", str(folder / "exam"),
    ]  # fmt: skip
    program = str(Path(sys.executable).with_name("osteosap"))
    started = time.monotonic()
    quiet = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2)]
    child = os.posix_spawn(program, command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    os.close(quiet)
    seconds = time.monotonic() - started
    shutil.rmtree(folder)
    if status:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss / 1e6


def parts_of(spacing_mm: float) -> dict[str, float]:
    """:func:`time_parts` in a process of its own."""
    read, write = os.pipe()
    script = [sys.executable, __file__, "--out", ".", "--parts", str(spacing_mm)]
    actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
    child = os.posix_spawn(sys.executable, script, os.environ, file_actions=actions)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def time_parts(spacing_mm: float) -> dict[str, float]:
    """Seconds of the person with disease, and of images and scan on top."""
    from osteosap.simulate import SimulationConfig, simulate_exam
    from osteosap.simulate.exam import simulate_scene

    config = SimulationConfig(seed=100, body_spacing_mm=(spacing_mm,) * 3)
    started = time.monotonic()
    simulate_scene(config)
    scene = time.monotonic() - started
    started = time.monotonic()
    simulate_exam(config)
    whole = time.monotonic() - started
    return {"body and disease": round(scene, 1), "signals and scan": round(whole - scene, 1)}


def markdown(rows: list[dict]) -> str:
    lines = [
        "| voxel (mm) | seconds, median (longest) | limit | peak GB | limit | parts (s) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        parts = ", ".join(f"{name} {value}" for name, value in row["parts_seconds"].items())
        limit = "-" if row["limit_gb"] is None else f"{row['limit_gb']:g}"
        lines.append(
            f"| {row['spacing_mm']:g} | {row['seconds_median']} ({row['seconds_longest']}) | "
            f"{row['limit_seconds']:g} | {row['peak_gb']} | {limit} | {parts} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Write ``docs/reference/realism.md`` from the results of three benchmarks.

Reads what ``realism.py``, ``anatomy_atlas.py`` and ``simulate.py`` wrote::

    python benchmarks/realism_page.py --results benchmarks/results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anatomy_atlas
import realism

import simulate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "realism.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    folder = parser.parse_args().results
    found, atlas, speed = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("realism", "anatomy_atlas", "simulate")
    )
    parts = [HEAD, papers(found), detector(found), ATLAS, anatomy_atlas.markdown(atlas), SPEED]
    parts += [f"{speed['cores']} cores, {speed['repeats']} runs each.", ""]
    PAGE.write_text("\n".join([*parts, simulate.markdown(speed["rows"]), ""]))
    print(PAGE)


HEAD = """# Realism

Written by `benchmarks/realism_page.py`. All numbers but the ranges and the atlas's are of simulated
people.

## Against what papers report
"""

ATLAS = """
## Against one real man

`benchmarks/anatomy_atlas.py`: the men that the simulator draws, against the label map of the
BodyParts3D man, (c) The Database Center for Life Science, CC BY-SA 2.1 Japan, after one rotation,
translation and scale. They are meant to differ from him as men do.
"""

SPEED = """
## Time and memory

`benchmarks/simulate.py`: from the seed to NIfTI, head to knee."""


def papers(found: dict) -> str:
    return f"""`benchmarks/realism.py`: {found["people"]} healthy people, half of them women, and
{found["patients"]} patients. What each source says is in `benchmarks/realism_sources.yaml`. A row
of one person compares the median person and shows the range over people. *Basis*: `source` is a
range of the source's own, `widened` one of ours around its number, `derived` one that we computed
from it; "recalled" marks a source that was not opened again.

{realism.markdown(found["rows"])}

Listed in the sources to be checked, but not measured here: {", ".join(found["not_measured"])}.
"""


def detector(found: dict) -> str:
    score = found["trivial_detector"]
    rows = "\n".join(
        f"| {row['b1000_over_median']:.2f} | {row['sensitivity']:.2f} | {row['fp_per_exam']:.1f} |"
        for row in score["curve"]
    )
    return f"""## Is anatomy needed?

{realism.detector_text(score)}
It takes what is over {score["b1000_over_median"]:.1f} times the body's median on b1000 and under
{score["t1_under_median"]:g} times on T1, in pieces of {score["min_ml"]:g} to
{score["max_ml"]:g} mL; it sees what the product sees, stitched exams from the virtual scanner.

| b1000 over the median | sensitivity | false positives per exam |
|---|---|---|
{rows}
"""


if __name__ == "__main__":
    main()

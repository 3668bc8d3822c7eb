"""Write ``docs/reference/realism.md`` from what ``realism.py``, ``anatomy_atlas.py`` and ``simulate.py`` found.

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
    detector = found["trivial_detector"]
    PAGE.write_text(
        "\n".join(
            [
                "# Realism",
                "",
                "Written by `benchmarks/realism_page.py`; every number is simulated but the sourced ones.",
                "",
                "## Against what papers report",
                "",
                f"`benchmarks/realism.py`: {found['people']} healthy people (half of them women) and "
                f"{found['patients']} patients. Sources, and what they say, are in "
                "`benchmarks/realism_sources.yaml`; a source marked \"recalled\" was not opened again.",
                "A row of one person compares the median person and shows the range.",
                "",
                realism.markdown(found["rows"]),
                "",
                "## Is anatomy needed?",
                "",
                realism.detector_text(detector),
                f"It takes what is over {detector['b1000_over_median']:.1f} times the body's median on b1000 "
                f"and under {detector['t1_under_median']:g} times on T1, in pieces of "
                f"{detector['min_ml']:g} to {detector['max_ml']:g} mL. It sees what the product sees: "
                "stitched exams from the virtual scanner.",
                "",
                "| b1000 over the median | sensitivity | false positives per exam |",
                "|---|---|---|",
                *(
                    f"| {row['b1000_over_median']:.2f} | {row['sensitivity']:.2f} | "
                    f"{row['fp_per_exam']:.1f} |"
                    for row in detector["curve"]
                ),
                "",
                "## Against one real man",
                "",
                "`benchmarks/anatomy_atlas.py`: the men that the simulator draws, against the label map of the "
                "BodyParts3D man, (c) The Database Center for Life Science, CC BY-SA 2.1 Japan, after one "
                "rotation, translation and scale. They are meant to differ from him as men do.",
                "",
                anatomy_atlas.markdown(atlas),
                "",
                "## Time and memory",
                "",
                "`benchmarks/simulate.py`: from the seed to NIfTI, head to knee, "
                f"{speed['cores']} cores, {speed['repeats']} runs each.",
                "",
                simulate.markdown(speed["rows"]),
                "",
            ]
        )
    )
    print(PAGE)


if __name__ == "__main__":
    main()

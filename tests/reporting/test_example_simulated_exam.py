"""The example that draws the README's picture runs."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

EXAMPLE = Path(__file__).parents[2] / "examples" / "simulated_exam.py"


@pytest.mark.slow
def test_the_example_draws_five_panels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "exam.png"
    main = runpy.run_path(str(EXAMPLE))["main"]
    main(["--out", str(out), "--seed", "1", "--spacing", "8"])
    pixels = np.asarray(imread(out))
    assert pixels.shape[1] > pixels.shape[0]
    assert pixels.std() > 0.05
    assert "simulated" in capsys.readouterr().out

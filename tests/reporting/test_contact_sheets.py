"""The contact sheets of the docs: each is drawn, and says that nothing in it is a person."""

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "contact_sheets.py"


@pytest.mark.slow
@pytest.mark.parametrize("sheet", ["people", "artefacts", "lookalikes"])
def test_every_contact_sheet_is_drawn(tmp_path: Path, sheet: str) -> None:
    options = ["--only", sheet, "--spacing", "6", "--people", "2", "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(SCRIPT), *options], check=True, timeout=500)
    (path,) = tmp_path.iterdir()
    picture = matplotlib.image.imread(path)[..., :3]
    assert path.name == f"simulated_{sheet}.png"
    assert picture[:20, :120].max() > 0.9  # the word 'simulated'
    assert 0.02 < (picture > 0.3).mean() < 0.9

"""Tests against the oldest and the newest version of MONAI that osteosap supports.

::

    nox                     both sessions
    nox -s "monai(newest)"  one of them
    nox -- -k transfer      only some tests

Each session makes an environment of its own from ``requirements.lock`` and replaces MONAI in it.
Where pip needs options (the CPU build of torch), set them as for pip, for example
``PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu``.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["monai"]
nox.options.reuse_existing_virtualenvs = True

MONAI = {"oldest": "monai==1.3.1", "newest": "monai"}
"""The oldest is the lower bound in ``pyproject.toml``: versions before it cannot be imported by
Python 3.12. 1.4 is left out, since it refuses numpy 2."""

TESTS = ("tests/models", "tests/inference/test_sliding.py", "tests/training/test_recipes.py")
"""Everything that meets MONAI: networks, loss, sliding window; smoke trainings of each recipe."""


@nox.session
@nox.parametrize("version", list(MONAI), ids=list(MONAI))
def monai(session: nox.Session, version: str) -> None:
    """Networks, weight files, sliding window and smoke trainings with one version of MONAI."""
    session.install("-r", "requirements.lock")
    session.install("--upgrade", MONAI[version], "numpy>=2")
    session.run("python", "-c", "import monai; print('MONAI', monai.__version__)")
    arguments = session.posargs or ["-m", "not slow"]
    here = {"OMP_NUM_THREADS": "1", "PYTHONPATH": "src"}
    quiet = "ignore::DeprecationWarning"  # older versions import themselves in deprecated ways
    session.run("python", "-m", "pytest", "-W", quiet, *TESTS, *arguments, env=here)

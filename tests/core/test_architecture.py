"""The layers of the house, and what may not creep in."""

import ast
import re
import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "matplotlib", "pydicom", "SimpleITK", "scipy", "nibabel", "numpy")


def sources(repository):
    return sorted((repository / "src" / "osteosap").rglob("*.py"))


def test_imports_point_down_only(repository):
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run;run()",
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments):
    code = (
        "import sys; from osteosap.cli import main; code = main(sys.argv[1:])\n"
        f"print('loaded:', [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert "loaded: []" in done.stderr


def test_the_simulator_and_its_cohorts_need_no_learning_library():
    code = (
        "import sys, osteosap.cohort, osteosap.simulate\n"
        "print([m for m in ('torch', 'monai', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluation_needs_no_learning_library():
    code = "import sys, osteosap.evaluation.scores; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_there_is_no_module_of_odds_and_ends(repository):
    names = {path.stem for path in sources(repository)}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


SETS_THREADS_OF_WORKERS = ("cohort.py", "engine.py")
ASKS_LAUNCHERS = "devices.py"
"""The places outside the command line that touch the environment: two set it for workers, one
asks it for the rank that torchrun or SLURM gave a process."""


def test_nothing_is_printed_or_read_from_the_environment_outside_the_command_line(repository):
    found = []
    for path in sources(repository):
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                found.append(f"{path.name}:{node.lineno} print")
            named = getattr(node, "attr", "") or getattr(node, "name", "")
            if named in ("getenv", "environ", "environb", "putenv"):
                found.append(f"{path.name} {named}")
    assert set(found) == {f"{name} environ" for name in (*SETS_THREADS_OF_WORKERS, ASKS_LAUNCHERS)}


def test_no_file_is_so_long_that_nobody_reads_it(repository):
    long = {p.name: n for p in sources(repository) if (n := len(p.read_text().splitlines())) > 500}
    assert long == {}


def test_weights_are_never_unpickled(repository):
    pattern = re.compile(r"\btorch\.load\((?!.*weights_only=True)|\bpickle\.loads?\(")
    guilty = [p.name for p in sources(repository) if pattern.search(p.read_text())]
    assert guilty == []

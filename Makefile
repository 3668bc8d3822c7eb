# Everything a newcomer needs: each target first builds the environment (.venv) if it is missing.
#   make demo     simulate one study, run the main job on it, score it against the known truth
#   make test     the fast test suite
#   make check    formatting, lint, types, layers
# On a machine with internet, PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
# takes the small CPU build of torch.

PYTHON ?= python3
PIP_OPTIONS ?=
PYTEST_OPTIONS ?= -n 2 --dist loadfile
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.osteosap-stamp
FAST := not slow and not server and not browser and not gpu

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check bench realism figures clean

help:
	@sed -n '2,6s/^# *//p' Makefile

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("osteosap needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py --out demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS) -m "$(FAST)"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow or server" || test $$? -eq 5

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/shipped_weights.py --out benchmarks/results

# The page docs/reference/realism.md; the atlas is not part of the project (see benchmarks/anatomy_atlas.py).
realism: $(STAMP)
	$(BIN)/python benchmarks/simulate.py --out benchmarks/results
	$(BIN)/python benchmarks/anatomy_atlas.py --out benchmarks/results
	$(BIN)/python benchmarks/realism.py --out benchmarks/results
	$(BIN)/python benchmarks/realism_page.py --results benchmarks/results

figures: $(STAMP)
	$(BIN)/python examples/simulated_exam.py --out docs/images/simulated_exam.png
	$(BIN)/python examples/contact_sheets.py --out docs/images

clean:
	rm -rf $(VENV) demo build dist src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

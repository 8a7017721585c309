# Everything from a bare clone with python3 (3.11 or newer) and make: each target first sees to .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The torch line goes first and alone, so that nothing else decides which build of it is taken.
TORCH := $(shell grep '^torch==' constraints.txt)
# Tests share the machine with torch's own threads: a few workers, one thread each.
WORKERS ?= 2

.PHONY: demo test matrix versions lint format docs install clean help dev-start dev-stop dev-shell \
  dev-settings dist release
.DEFAULT_GOAL := help

help:
	@echo "make demo     a real transformer, eager and optimized side by side on this machine"
	@echo "make test     the test suite"
	@echo "make matrix   the test suite with the longer rows of the correctness matrix"
	@echo "make versions the core tests with the oldest and the newest torch and transformers"
	@echo "make lint     ruff, mypy and the import contracts"
	@echo "make docs     the documentation, into docs/_build/html"
	@echo "make format   ruff's fixes and formatting"
	@echo "make dev-start, dev-stop, dev-shell"
	@echo "              Jupyter Lab with autockpt: in Docker if there is an engine, else from .venv"
	@echo "make release  all that a release needs, checked: packages, versions, changelog, tests"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,experiments]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python -m autockpt demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=20

matrix: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=20 -m "full or not full"

# Downloads several GB: pip's builds of torch other than the pinned one are CUDA builds.
versions: $(INSTALLED)
	$(BIN)/python benchmarks/versions.py --workers $(WORKERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# Docker needs no .venv; without it, Jupyter Lab runs from there.
dev-start: $(INSTALLED)
	@.devcontainer/dev.sh start

dev-stop:
	@.devcontainer/dev.sh stop

dev-shell: $(INSTALLED)
	@.devcontainer/dev.sh shell

dev-settings:
	@.devcontainer/dev.sh settings

dist: $(INSTALLED)
	.ci/dist

release: $(INSTALLED)
	.ci/release

clean:
	rm -rf $(VENV) dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

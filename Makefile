# Every target builds .venv by itself: a bare machine needs Python 3.11 (or 3.12) and pip only.
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(wildcard $(foreach p,python3.11 python3.12,$(addsuffix /$p,$(subst :, ,$(PATH))))) python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Torch goes first and pinned: an unpinned `torch` may pull gigabytes of CUDA that nobody uses here.
TORCH ?= $(shell sed -n '/^torch==/p' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --no-input

.PHONY: help venv demo test test-slow test-slurm lint format docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## create .venv and install the package with its tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 13) or sys.exit(f"Python 3.11 or 3.12 is needed, found {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH) into $(VENV) (once; minutes)"
	@$(PIP) $(TORCH)
	@echo "installing glmkd_nemo and its dependencies"
	@$(PIP) -e '.[test]' -c constraints.txt
	@touch $@

demo: $(STAMP)  ## teacher, students and report in runs/demo (under 8 minutes; CORPUS=path for your text)
	@$(BIN)/python scripts/demo.py $(if $(CORPUS),'corpus=$(CORPUS)') $(ARGS)

test: $(STAMP)  ## the tests (the slow ones: make test-slow)
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(STAMP)  ## the tests marked slow
	@$(BIN)/python -m pytest -m slow $(ARGS)

# Slurm and munge are installed where that is possible; where not, the tests are skipped and say why.
test-slurm: $(STAMP)  ## launches on a real Slurm of this machine (as root; it installs Slurm)
	@command -v slurmctld >/dev/null && command -v munged >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge; \
	} || echo "slurm-wlm and munge cannot be installed here"
	@SLURM_TEST=1 $(BIN)/python -m pytest -m slow -rs tests/slurm $(ARGS)

lint: $(STAMP)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)  ## API pages from the docstrings, in build/docs
	@$(PIP) -e '.[docs]' -c constraints.txt
	@$(BIN)/pdoc -o build/docs glmkd_nemo

clean:  ## remove .venv and build outputs (runs/ stays)
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

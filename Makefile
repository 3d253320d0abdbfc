# make verify    install, then check every claim and print the ledger     (ARGS="--budget full" is passed on to lop)
# make test      install with the dev tools, then make check, then the test suite
# make check     format, lint, types, import contracts, doctests
# make bench     benchmarks against torch.func, printed as ratios
# make clean     remove caches and build output; keeps .venv and results

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
ARGS   ?=

BIN         := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ENV_STAMP   := $(VENV)/.stamp-env
RUN_STAMP   := $(VENV)/.stamp-run
DEV_STAMP   := $(VENV)/.stamp-dev
INPUTS      := pyproject.toml constraints.txt
BENCHES     := $(basename $(notdir $(wildcard benchmarks/bench_*.py)))

# Linear algebra on one thread: sums do not depend on the machine, and parallel workers do not fight for cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help verify test check bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^#/!q;s/^# //p' Makefile

verify: $(RUN_STAMP)
	$(BIN)/lop verify $(ARGS)

test: check
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --benchmark-disable $(ARGS)

check: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(JOBS) --benchmark-disable --doctest-modules lop_theory proofs_checks experiments

bench: $(DEV_STAMP)
	$(if $(BENCHES),,$(error no benchmarks/bench_*.py found))
	@for bench in $(BENCHES); do \
	    echo "== $$bench"; $(ONE_THREAD) $(BIN)/python -m benchmarks.$$bench $(ARGS) || exit 1; \
	done

clean:
	rm -rf build dist *.egg-info .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path './$(VENV)' -prune -o -type d -name __pycache__ -exec rm -rf {} +

# An environment is made only where there is no working one. Reinstalled when $(INPUTS) change.
$(ENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python %d.%d found, 3.11 or newer needed: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN_STAMP): $(INPUTS) | $(ENV_STAMP)
	@echo 'Installing into $(VENV); torch is large, the first time takes minutes.'
	$(PIP_INSTALL) -e . -c constraints.txt
	@touch $@

# The dev install contains the plain one.
$(DEV_STAMP): $(INPUTS) | $(ENV_STAMP)
	@echo 'Installing into $(VENV) with the development tools; torch is large, the first time takes minutes.'
	$(PIP_INSTALL) -e '.[dev]' -c constraints.txt
	@touch $(RUN_STAMP) $@

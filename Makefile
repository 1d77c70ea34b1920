# The two commands of the README are `make demo` and `make test`; each does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
# Two threads are what a laptop spares; numbers of the town run are stated for them.
export OMP_NUM_THREADS ?= 2
# Threads that wait for each other must not burn the core that the data loader needs.
export OMP_WAIT_POLICY ?= PASSIVE
export MPLBACKEND := Agg

# Two processes of one thread each; the tests of one file share what they have built.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-fast lint types format wheel bench clean

help:
	@echo "make demo       generate the town, train CMT fusion on it, evaluate, draw (about 15 minutes on 2 cores)"
	@echo "make test       lint, types and every test"
	@echo "make test-fast  the tests of the fast tier"
	@echo "make format     format and fix the code"
	@echo "make wheel      dist/*.whl with compiled kernels, for every Python and torch from 2.11 on"
	@echo "make bench      the kernels against spconv, mmcv, numba and PyTorch"

setup:
	@$(PYTHON) tools/bootstrap.py

demo: setup
	@$(BIN)/python tools/demo.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

test: lint types
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

bench: setup
	$(BIN)/python tools/bench.py ops

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f ops/perception3d_ops/_C*.so

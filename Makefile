# `make repro` runs the pipeline and `make test` the tests; both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIPELINE := $(VENV)/.pipeline

# DVC starts `telescope` from the PATH.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup repro paper test test-dvc test-slow bench dist release-check lint format wiring clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@ $(PIPELINE)

# What the pipeline needs and no more.  Python compiles what is imported; compiling everything would
# take longer than installing it, and 350 MB.
$(PIPELINE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[pipeline,wandb]'
	touch $@

repro: $(PIPELINE)
	test -f telescope-demo/grokking.png || telescope demo
	telescope validate
	telescope estimate
	dvc repro

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --durations=15

# Experiments, remotes and clones of the whole project with the real DVC; some minutes.
test-dvc: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=5 tests/dvc

# Thousands of random models and every cell of the zoo against the account from rows; an hour or so.
# TELESCOPE_EXAMPLES sets the number of random models.
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=5 tests/slow
	TELESCOPE_WHOLE_ZOO=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/core/test_left_alone.py

# The case studies at the paper's scale, from paper/params.yaml; data sets are downloaded unless
# TELESCOPE_DATA names a folder that holds them.
paper: $(PIPELINE)
	cd paper && telescope validate && dvc repro

# Side-by-side timings, about ten minutes; nothing else should run meanwhile.
bench: setup
	$(BIN)/python benchmarks/bench.py

# Wheel and sdist of what is committed; the time of the commit makes the same bytes every time.
dist: setup
	rm -rf build dist
	mkdir -p build/source dist
	git archive HEAD | tar -x -C build/source
	cd build/source && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(abspath $(BIN))/python -c \
	  "from setuptools import build_meta as b; b.build_wheel('../../dist'); b.build_sdist('../../dist')"

# Installs both into fresh environments and tries them there, a few minutes; see docs/releasing.md.
release-check: dist
	$(BIN)/python -m pytest tests/release

lint: setup
	ruff check .
	ruff format --check .
	lint-imports
	$(BIN)/python -m mypy -p telescope_core -p telescope_pipeline

format: setup
	ruff check --fix .
	ruff format .

# Writes into dvc.yaml what follows from the cases, and the pipelines below from it.
wiring: $(PIPELINE)
	$(BIN)/python -m telescope_pipeline.wiring . paper paper/reduced

# Removes what can be made again, except the DVC cache.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

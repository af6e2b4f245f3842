# Everything runs in .venv, which each target makes or renews by itself. `make help` lists the targets.

PYTHON ?= python3
# Files go to the workers in the order of the folders, in which the short ones come last: no worker waits for a long one.
PYTEST_FLAGS ?= -n 2 --dist loadscope --no-loadscope-reorder
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-fast test-long test-float32 test-browser docs attack accelerator lint format clean

help:
	@echo "make install       .venv alone"
	@echo "make demo          theory against simulation on photographs, written to results/; flags: ARGS=\"--help\""
	@echo "make test          the tests: in float64, then the float32 part in a process of its own"
	@echo "make test-fast     those not marked slow, in float64"
	@echo "make test-long     what 'make test' leaves out: deep networks, killed jobs, several hosts, all hostile files"
	@echo "make test-float32  the tests marked float32, with float64 switched off"
	@echo "make test-browser  the report in headless Chromium, where one is installed; pictures in .cache/report/"
	@echo "make docs          the documentation, its examples and tutorials executed, in build/docs/; open build/docs/index.html"
	@echo "make attack        hostile files and what reading them costs, in memory and seconds"
	@echo "make accelerator   what one accelerator does in 12 minutes, as JSON; ARGS=\"--small\" tries it on a CPU"
	@echo "make lint          ruff (rules and formatting) and mypy"
	@echo "make format        rewrite the files as ruff formats them"
	@echo "make clean         remove .venv, caches and build products; results/ stays"
	@echo ""
	@echo "PYTHON=python3.12 picks the interpreter of a new .venv; PYTEST_FLAGS=\"-n 0 -x\" replaces \"$(PYTEST_FLAGS)\""

install: $(STAMP)

# A stamp, because the time of the folder .venv itself says nothing about whether the installation finished.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { \
	    echo "There is no '$(PYTHON)'. Name a Python 3.11 or newer: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "'$(PYTHON)' is $$($(PYTHON) --version 2>&1), too old: Python 3.11 or newer is needed." \
	         "Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint constraints.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m experiments theory_vs_simulation --out results $(ARGS)

# Compiled programs are kept between runs of the tests and pages, and shared by their processes. An absolute path, since a
# test may start a process in another folder. The demo keeps its own in the user's cache folder.
TESTS := test test-fast test-long test-float32 docs
$(TESTS): export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/jax
$(TESTS): export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.05

# JAX takes its precision once per process, hence two runs. The second does not start where the first fails.
# The first compiles thousands of small programs, mostly run once, with little effort, and without the part of XLA that
# takes longest: half the time of the processor. The second compiles as users do; OPTIMIZED=1 does so in the first too.
LITTLE_EFFORT = JAX_DISABLE_MOST_OPTIMIZATIONS=1 XLA_FLAGS="$$XLA_FLAGS --xla_cpu_use_fusion_emitters=false"
RUN_FLOAT64 = JAX_ENABLE_X64=1 $(if $(OPTIMIZED),,$(LITTLE_EFFORT)) $(BIN)/python -m pytest $(PYTEST_FLAGS)
RUN_FLOAT32 = JAX_ENABLE_X64=0 $(BIN)/python -m pytest $(PYTEST_FLAGS) -m float32

test: $(STAMP)
	$(RUN_FLOAT64) -m "not long and not pages"
	$(RUN_FLOAT32)

test-fast: $(STAMP)
	$(RUN_FLOAT64) -m "not slow and not long and not pages"

test-long: $(STAMP)
	$(RUN_FLOAT64) -m long

test-float32: $(STAMP)
	$(RUN_FLOAT32)

# Not a part of `test`: it needs a browser, which pip does not bring.
test-browser: $(STAMP)
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -n 0 tests/browser

# What the documentation needs, on top of what the tests do, hence a stamp of its own.
DOCS_STAMP := $(VENV)/.installed-docs

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]" --constraint constraints.txt
	@touch $@

# No network, and a warning is an error. -E: pages of packages that changed are read anew.
docs: $(DOCS_STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --dist load -m pages tests/test_documents.py tests/test_doctests.py
	$(BIN)/python -m sphinx -E -W --keep-going --quiet --builder html --doctree-dir .cache/docs docs build/docs
	@echo "written to build/docs/index.html"

# Not a part of `test`, which has some of them: all of them, at their full size.
attack: $(STAMP)
	$(BIN)/python -m tests.attack

# JSON alone on stdout. Of JAX and PyTorch it takes what .venv has: install those for the device first.
accelerator: $(STAMP)
	@$(BIN)/python -m experiments.scaling.accelerator $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# mabeam: `make demo` runs it, `make test` proves it. Needs make and Python >= 3.11, nothing else.
#
#   PYTHON=python3.12    interpreter of the virtual environment (default python3)
#   WORKERS=2            test processes
#   ARGS="-k audit"      more arguments for pytest, `mabeam demo` or `mabeam bench`

SHELL    := /bin/sh
PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check --quiet
WORKERS  ?= 2
ARGS     ?=
SOURCES   = $(VENV)/src/mabeam tests

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench chaos seeds lock clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## run the demonstration on this machine
	$(BIN)/mabeam demo $(ARGS)

test: lint ## format, lint, types, then every test that must pass
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)

lint: $(VENV)/.test ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(SOURCES)

format: $(VENV)/.test ## rewrite the sources as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.demo ## measure throughput and latency on this machine
	$(BIN)/mabeam bench $(ARGS)

chaos: $(VENV)/.test ## the long randomised tests
	$(BIN)/pytest -m slow --timeout 1800 $(ARGS)

seeds: $(VENV)/.test ## 2,000 seeds of every adversary and group size of Byzantine consensus: hours
	$(BIN)/pytest -n $(WORKERS) -m slow --timeout 14400 tests/simulation/test_byzantine.py $(ARGS)

# The demo lock is cut from the test lock, so that one environment serves both.
LOCK = $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-config \
	--custom-compile-command "make lock"

lock: $(VENV)/.python ## pin newest releases of all dependencies in requirements/*.txt
	$(BIN)/python -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip --disable-pip-version-check --quiet install -r requirements/lock.in
	$(LOCK) --upgrade --extra ml --extra test pyproject.toml requirements/build.in -o requirements/test.txt
	$(LOCK) --upgrade --extra ml -c requirements/test.txt pyproject.toml requirements/build.in -o requirements/demo.txt

clean: ## remove the environment and everything generated
	rm -rf $(VENV) build mabeam.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mabeam needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON)' cannot create virtual environments; on Debian install python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }
	@mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/mabeam
	@touch $@

$(VENV)/.demo $(VENV)/.test: $(VENV)/.%: requirements/%.txt pyproject.toml $(VENV)/.python
	$(PIP) install --require-hashes -r $<
	$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

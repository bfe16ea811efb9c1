# pooltable's own chores. Each target makes the virtual environment that it needs, once:
# .venv for the default interpreter, .venv-python3.13 for `make test PYTHON=python3.13`.

PYTHON ?= python3
VENV   ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN    := $(VENV)/bin
ARGS   ?=

# Only what the requirements files name is installed (--no-deps), and only with a hash that they list.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED  := $(INSTALL) --no-deps --require-hashes --only-binary :all:

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test servers check format docs bench lock clean

help:
	@echo 'make demo     the demonstration: text found in the frames of a video, on SQLite'
	@echo 'make test     all tests, on SQLite, PostgreSQL and MariaDB (installed by apt as root on Debian); ARGS="-n 0 -k pool" selects'
	@echo 'make servers  long tests: whole runs against servers that are cut, stopped and restarted'
	@echo 'make check    format, lint, types, and which module may import which'
	@echo 'make format   rewrite the files the way that "make check" wants them'
	@echo 'make docs     generate the reference pages and the picture of the states'
	@echo 'make bench    measure, and write benchmarks/results; ARGS="--help" shows what can be set'
	@echo 'make lock     choose the newest versions again: requirements/*.in to *.txt, with hashes'
	@echo 'make clean    remove environments, caches and builds'
	@echo
	@echo 'PYTHON=python3.13 takes another interpreter (3.11 or later); it gets an environment of its own.'

demo: $(VENV)/.demo
	$(BIN)/pooltable demo $(ARGS)

# Tests start thousands of processes. Compiled here, the code is read by all of them, also where PYTHONDONTWRITEBYTECODE is set.
# Few tests are handed out ahead, so that no worker has a queue of long ones when the others are done.
test: $(VENV)/.test
	.ci/servers
	@$(BIN)/python -m compileall -q src tests
	$(BIN)/python -m pytest -n auto --maxschedchunk 2 $(ARGS)

servers: $(VENV)/.test
	.ci/servers
	$(BIN)/python -m pytest -o addopts='-ra --strict-markers --import-mode=importlib' tests/on_servers $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.check
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

docs: $(VENV)/.test
	$(BIN)/python docs/generate.py

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# One stamp for each group of requirements: the second run installs nothing.
$(VENV)/.%: requirements/%.txt pyproject.toml | $(BIN)/python
	$(LOCKED) -r $<
	$(INSTALL) --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "pooltable needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# `make lock UPGRADE=` keeps the versions and adds what is new in requirements/*.in.
UPGRADE ?= --upgrade
# Compiled against the public index whatever this machine is set to, so that the hashes are those of the released files.
COMPILE := env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL -u PIP_CONSTRAINT PIP_CONFIG_FILE=/dev/null \
    $(BIN)/pip-compile --quiet $(UPGRADE) --generate-hashes --strip-extras --resolver=backtracking \
    --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
    --unsafe-package opencv-python --unsafe-package pip --unsafe-package setuptools
# The largest set is chosen first; the others follow it, so that all of them fit into one environment.
lock: $(VENV)/.lock
	$(COMPILE) requirements/test.in --output-file requirements/test.txt
	for group in base demo check bench lock; do \
	    $(COMPILE) requirements/$$group.in --constraint requirements/test.txt --output-file requirements/$$group.txt || exit 1; \
	done
	@# The closing remark is about what --no-deps makes untrue.
	sed -i.bak -e '/^# WARNING/,$$d' requirements/*.txt && rm requirements/*.txt.bak

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests docs benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The two commands a newcomer needs: `make demo` and `make test`. Only Python (3.11 or newer) and make are assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n 2

.PHONY: demo test lint format bench bench-guard mutants readme clean

$(VENV)/.server: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "smartrouter-asgi needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[server]'
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "smartrouter-asgi needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.server

demo: $(VENV)/.server  ## the router on an embedded, simulated engine at http://127.0.0.1:11436
	$(BIN)/python -m smartrouter_asgi serve --demo

test: $(VENV)/.dev  ## the whole suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## ruff and mypy --strict
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/.dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(VENV)/.dev  ## measures, and writes benchmarks/results/
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.resilience

bench-guard: $(VENV)/.dev  ## instructions per request beside the committed baseline: a report; needs valgrind
	$(BIN)/python -m benchmarks.guard

mutants: $(VENV)/.dev  ## changes the pure parts of resilience and lists what no test notices; see tests/resilience/MUTANTS.md
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[mutants]'
	$(BIN)/python -m mutmut run
	$(BIN)/python -m mutmut results --all true | sed -E 's/.*resilience\.([a-z]+)\..*: (.*)/\1 \2/' | sort | uniq -c
	$(BIN)/python -m mutmut results

readme: $(VENV)/.dev  ## writes the README's tables of engines anew
	$(BIN)/python -m tests.readme_tables

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis mutants build dist

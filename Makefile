# The two commands a newcomer needs: `make demo` and `make test`. Only Python (3.11 or newer) and make are assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n 2
LITELLM_VENV ?= .venv-litellm
LITELLM_NEEDS := opentelemetry-api opentelemetry-sdk opentelemetry-exporter-otlp

.PHONY: demo test lint format bench bench-peers bench-report bench-guard mutants readme clean

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

bench: $(VENV)/.dev  ## measures (under ten minutes), and writes benchmarks/results/
	$(BIN)/python -m benchmarks

bench-peers: $(VENV)/.dev $(LITELLM_VENV)/.made  ## the same with other gateways beside it (about a quarter of an hour)
	$(BIN)/python -m benchmarks --peers

bench-report: $(VENV)/.dev  ## puts the tables of the results into the READMEs, and draws them
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.html_report

# Without opentelemetry LiteLLM tries to import it on each request; without bytecode that costs twice as much again.
$(LITELLM_VENV)/.made: Makefile
	test -x $(LITELLM_VENV)/bin/python || $(PYTHON) -m venv $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/python -m pip install -q --disable-pip-version-check 'litellm[proxy]' $(LITELLM_NEEDS)
	$(LITELLM_VENV)/bin/python -m compileall -q $(LITELLM_VENV)/lib || true
	touch $@

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
	rm -rf $(VENV) $(LITELLM_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis mutants build dist

# The two commands are `make serve` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
PUSHES ?= 100000
# Tests mostly wait: more of them at once than there are cores.
TESTERS ?= 3
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help serve test check conformance soak bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml ociserver/__init__.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml ociserver/__init__.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $(VENV)/.installed $@

serve: $(VENV)/.installed ## start the registry on 127.0.0.1:5000, data under ./data
	$(BIN)/lading serve --catalog sqlite:///data/catalog.db --blobs file:///data/blobs

check: $(VENV)/.installed-test ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## check, then every Python test
	$(BIN)/pytest -n $(TESTERS) --dist worksteal

conformance: $(VENV)/.installed-test ## the official suite and unmodified real clients
	$(BIN)/python -m conformance.run

soak: $(VENV)/.installed-test ## 100,000 pushes beside a collection every second (PUSHES=n)
	$(BIN)/python -m tests.soak --pushes $(PUSHES)

bench: $(VENV)/.installed-test ## side by side against distribution, nginx and, if on the PATH, zot and olareg
	$(BIN)/python bench/run.py
	$(BIN)/python bench/run.py stores
	$(BIN)/python bench/run.py access
	$(BIN)/python bench/run.py models

clean: ## remove the environment and what was built (never ./data)
	rm -rf $(VENV) conformance/.tools bench/out .mypy_cache .ruff_cache .pytest_cache

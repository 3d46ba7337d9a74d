SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PRECIOUS: .venv-%/.ready
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
SOURCES := pymq namesrv broker client tests $(wildcard bench)
# Needs other servers or an index of packages: once, on the default Python, is enough.
ONCE := --ignore=tests/interop --ignore=tests/cli/test_wheel.py
# More words for pytest:  make test ARGS="-k config"
ARGS :=

.PHONY: help run test lint check bench dist dev test-others

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.ready ## Start a name server and a broker here, send and consume a first message, stay up
	@exec $(BIN)/pymq standalone --data data --hello

test: $(VENV)/.ready ## Run every test, then those without other servers on each other Python found
	@echo "--- tests on $$($(BIN)/python -V)"
	$(BIN)/pytest -q $(ARGS)
	@$(MAKE) --no-print-directory test-others

test-others: $(VENV)/.ready
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for version in $$(.ci/pythons | cut -d' ' -f1); do \
		if [[ $$version != "$$own" ]]; then $(MAKE) --no-print-directory test-$$version; fi; \
	done

test-%: .venv-%/.ready
	@echo "--- tests on $$(.venv-$*/bin/python -V)"
	.venv-$*/bin/pytest -q $(ONCE) $(ARGS)

lint: $(VENV)/.ready ## Look at style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

check: lint ## The same as lint

bench: $(VENV)/.ready ## Measure sends and pulls
	@$(BIN)/python -m bench $(ARGS)

dist: $(VENV)/.ready ## Build the source archive and the wheel into dist/
	$(BIN)/python -m build --outdir dist .

dev: $(VENV)/.ready ## Make the environment .venv with all that development needs

$(VENV)/.ready: pyproject.toml
	@python=$$(.ci/pythons | awk 'NR == 1 {print $$2}'); \
	if [[ -z $$python ]]; then echo "pymq needs Python 3.11 or later" >&2; exit 1; fi; \
	$(MAKE) --no-print-directory environment FOLDER=$(VENV) PYTHON="$$python"

.venv-%/.ready: pyproject.toml
	@python=$$(.ci/pythons | awk '$$1 == "$*" {print $$2}'); \
	if [[ -z $$python ]]; then echo "Python $* is not here" >&2; exit 1; fi; \
	$(MAKE) --no-print-directory environment FOLDER=.venv-$* PYTHON="$$python"

.PHONY: environment
environment:
	@echo "--- $(FOLDER): $$($(PYTHON) -V) with all that pymq needs"
	@[[ -x $(FOLDER)/bin/python ]] || $(PYTHON) -m venv $(FOLDER)
	@$(FOLDER)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(FOLDER)/.ready

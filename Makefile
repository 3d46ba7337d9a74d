SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PRECIOUS: .venv-%/.ready
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
SOURCES := pymq namesrv broker client tests $(wildcard bench)
# Needs other servers, or is marked `once`: on the default Python only.
ONCE := --ignore=tests/interop -m "not once"
# A file's tests stay together. Those with other servers share them, and so run in one process, which leaves
# most of a second core idle: the other Pythons' tests run beside them, one at a time.
WORKERS := auto
PARALLEL = -n $(WORKERS) --dist loadfile
# More words for pytest:  make test ARGS="-k config"
ARGS :=
# For `make torture`.
SECONDS := 3600
ROUNDS := 20
SEED :=

.PHONY: help run test lint check torture bench dist dev test-others test-interop

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.ready ## Start a name server and a broker here, send and consume a first message, stay up
	@exec $(BIN)/pymq standalone --data data --hello

test: $(VENV)/.ready ## Run every test, then most of them on each other Python found
	@echo "--- tests on $$($(BIN)/python -V)"
	@if [[ -n "$(ARGS)" ]]; then $(BIN)/pytest -q $(ARGS); else \
		$(BIN)/pytest -q $(PARALLEL) --ignore=tests/interop; \
	fi
	@$(MAKE) --no-print-directory -j 2 $(filter --output-sync,$(.FEATURES:%=--%)) $(if $(ARGS),,test-interop) test-others WORKERS=1

test-interop: $(VENV)/.ready
	@echo "--- tests with Apache's clients and servers"
	@$(BIN)/pytest -q tests/interop

test-others: $(VENV)/.ready
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for version in $$(.ci/pythons | cut -d' ' -f1); do \
		if [[ $$version != "$$own" ]]; then $(MAKE) --no-print-directory test-$$version; fi; \
	done

test-%: .venv-%/.ready
	@echo "--- tests on $$(.venv-$*/bin/python -V)"
	.venv-$*/bin/pytest -q $(PARALLEL) $(ONCE) $(ARGS)

lint: $(VENV)/.ready ## Look at style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	@if command -v npm >/dev/null; then npm exec --yes --prefer-offline -- dockerfilelint@1.8.0 Dockerfile; \
	else echo "npm is not here: nobody looked at the Dockerfile"; fi

check: lint ## The same as lint

torture: $(VENV)/.ready ## Kill, cut off and damage stores for SECONDS=3600, with ROUNDS=20 kills each, from SEED=… on
	@$(BIN)/python -m tests.torture --seconds $(SECONDS) --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(VENV)/.ready ## Measure sends and pulls
	@$(BIN)/python -m bench $(ARGS)
	@[[ -n "$(ARGS)" ]] || $(BIN)/python -m bench --many-queues 20000

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

# A fresh clone needs Python >= 3.11, git and make. Everything else goes into .venv, but for the servers that
# the tests run: those are packages of the system.
# Each target does its work again only where something changed, and `make` alone lists them.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Three for two processors: a test often waits for a server or for a process that it started.
PARALLEL := -n 3 --dist worksteal
PIP := $(BIN)/pip --quiet --disable-pip-version-check

.PHONY: help demo test test-full test-night test-lowest servers lint format docs protos bench wheel clean
.DEFAULT_GOAL := help

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

demo: .venv/installed ## a narrated tour on real data
	@$(BIN)/somactl demo

test: .venv/developer servers ## what a change is likely to break, on all stores, in minutes
	@$(BIN)/pytest -q $(PARALLEL) -m "not full" $(ARGS)

test-full: .venv/developer servers ## every test; ARGS="-m full" for what `make test` leaves out
	@$(BIN)/pytest -q $(PARALLEL) $(ARGS)

test-night: .venv/developer servers ## every test at full size: hours of soaks, fuzzing and faults
	@SOMACTL_TEST_NIGHT=1 SOMACTL_TEST_FAULT_ROUNDS=$${SOMACTL_TEST_FAULT_ROUNDS:-50} $(BIN)/pytest -q $(PARALLEL) $(ARGS)

test-lowest: .venv/lowest/ready servers ## the core tests against the wheel and the lowest versions it admits
	@.ci/lowest

servers: ## find or install the servers and shells that the tests run
	@.ci/servers

lint: .venv/developer ## format, style, types, layers, generated pages
	@$(BIN)/ruff format --quiet --check --diff .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >.venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/python docs/generate.py --check
	@$(BIN)/python .ci/protos.py --check
	@echo "lint: all clean"

format: .venv/developer ## rewrite the sources as the linters want them
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

docs: .venv/developer ## write the generated pages, the schemas and the README's picture anew from the code
	@$(BIN)/python docs/generate.py
	@$(BIN)/python docs/picture.py

protos: .venv/protos/ready ## write the gRPC stubs anew from schemas/, with the lowest grpcio-tools we admit
	@.venv/protos/bin/python .ci/protos.py $(or $(ARGS),write)

bench: .venv/installed ## one table of ratios, each measured side by side
	@$(BIN)/python benchmarks/run.py $(ARGS)

wheel: .venv/developer ## dist/somactl-*.whl
	@rm -rf dist
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## remove what the other targets made
	rm -rf .venv .bench dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find somactl tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "somactl needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv .venv

# The stamps stand for "these requirements are installed"; both are older than a changed pyproject.toml.
.venv/installed: pyproject.toml | .venv/bin/python
	@echo "installing somactl into .venv ..."
	@$(PIP) install --editable .
	@touch $@

.venv/developer: pyproject.toml | .venv/bin/python
	@echo "installing somactl and its development tools into .venv ..."
	@$(PIP) install --editable '.[dev]'
	@touch .venv/installed $@

.venv/lowest/ready: pyproject.toml .ci/lowest_versions.py | .venv/bin/python
	@echo "installing the lowest versions somactl admits into .venv/lowest ..."
	@rm -rf .venv/lowest
	@$(BIN)/python -m venv .venv/lowest
	@$(BIN)/python .ci/lowest_versions.py > .venv/lowest/requirements.txt
	@.venv/lowest/bin/pip --quiet --disable-pip-version-check install --requirement .venv/lowest/requirements.txt
	@touch $@

.venv/protos/ready: pyproject.toml | .venv/bin/python
	@echo "installing the lowest grpcio-tools somactl admits into .venv/protos ..."
	@$(BIN)/python -m venv .venv/protos
	@$(BIN)/python .ci/lowest_versions.py | grep -E '^(grpcio|protobuf|grpcio-tools)=' > .venv/protos/requirements.txt
	@.venv/protos/bin/pip --quiet --disable-pip-version-check install --requirement .venv/protos/requirements.txt
	@touch $@

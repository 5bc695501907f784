# Two targets do everything: `make up` and `make test`. Nothing here needs to be configured.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
STATE ?=
KILONOVA := $(BIN)/kilonova
WHERE := $(if $(STATE),--state-dir $(STATE))
NICE := nice -n 5
# Tests run on two processes, or as many as JOBS says; those with real guests one after another all the same.
JOBS ?= 2
PYTEST = $(NICE) $(BIN)/pytest -n $(JOBS) --dist loadscope

.PHONY: help up down purge test check bench nightly fuzz format clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

up: ## a real cloud on this machine, with a first server in it (Debian 12, root)
	@tools/install --packages
	@$(KILONOVA) up --detach $(WHERE)
	@$(KILONOVA) hello $(WHERE)

down: ## end everything that `make up` started; records and disks stay
	@$(KILONOVA) down --guests $(WHERE)

purge: ## the same, and remove everything that was made
	@$(KILONOVA) down --purge $(WHERE)

.PHONY: venv
venv:
	@tools/install --dev

test: venv ## every test that this machine allows; says what it skipped and why
	@$(BIN)/kilonova doctor || echo 'Tests with real guests are skipped where something is missing above.'
	$(PYTEST) -m 'not slow' $(MORE)

check: venv ## ruff, formatting, mypy --strict, import rules, house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/unit/test_imports.py tests/unit/test_house_rules.py

format: venv ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv ## every benchmark in turn, then a table against the budgets
	@$(BIN)/python -m benchmarks

# Run again with all databases on a PostgreSQL server.
ON_SERVERS = tests/operations/test_sample_faults.py tests/operations/test_conductors.py \
  tests/unit/test_cell_moves.py tests/functional/test_hosts_of_several_conductors.py tests/functional/image

nightly: venv ## the long tests: pairs of faults, long random runs, kills
	KILONOVA_NIGHTLY=1 $(PYTEST) -m 'slow or not slow' --timeout 3600 $(MORE)
	KILONOVA_TEST_DATABASE=postgresql $(PYTEST) --timeout 3600 $(ON_SERVERS)

fuzz: venv ## Schemathesis over the API's own description
	@tools/fuzz

clean: ## remove what builds and checks left
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -not -path './.venv/*' -exec rm -rf {} +

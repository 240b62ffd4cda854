# Needs GNU make and Python 3.11 or newer, nothing else: the first target that needs
# tools builds .venv from the lock files.

PYTHON ?= python3
VENV ?= .venv
PYTHONS ?= 3.11 3.12 3.13 3.14
PYTEST_ARGS ?=
DEMO_ARGS ?=
EXAMPLE ?= fastapi
EXAMPLE_ARGS ?=
BENCH_ARGS ?=
STACK_ARGS ?=

python := $(VENV)/bin/python
uv := $(VENV)/bin/uv
installed := $(VENV)/.installed

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo example stack test check fmt docs bench lock compat stack-tools test-all clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Variables: PYTHON=$(PYTHON) PYTHONS="$(PYTHONS)" PYTEST_ARGS DEMO_ARGS EXAMPLE EXAMPLE_ARGS BENCH_ARGS STACK_ARGS'

demo: $(installed) ## Watch a pool at work on a real PostgreSQL
	@$(python) -m poolscope demo $(DEMO_ARGS)

example: $(installed) ## Serve an example, EXAMPLE=fastapi, flask or starlette
	@$(python) -m examples $(EXAMPLE) $(EXAMPLE_ARGS)

stack: $(installed) stack-tools ## Run a service and all that watches it; STACK_ARGS="--scenario leak"
	@$(python) -m stack $(STACK_ARGS)

test: $(installed) ## Run all tests, real PostgreSQL included
	@$(python) -m pytest $(PYTEST_ARGS)

check: $(installed) ## Check format, lint, types, layers and generated pages
	@$(python) -m ruff format --check .
	@$(python) -m ruff check .
	@$(python) -m mypy
	@$(python) -m yamllint --strict .
	@$(python) tools/docs.py --check
	@$(python) grafana/build.py --check
	@$(python) -m pytest --quiet tests/test_architecture.py

fmt: $(installed) ## Format the code and fix what ruff can fix
	@$(python) -m ruff check --fix-only --quiet .
	@$(python) -m ruff format .

docs: $(installed) ## Write the generated pages, boards and rules from the code
	@$(python) tools/docs.py
	@$(python) grafana/build.py

bench: $(installed) ## Measure the pool against its peers
	@$(python) -m benchmarks $(BENCH_ARGS)

compile_lock = $(uv) pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url $(LOCK_ARGS)

lock: $(uv) ## Update the lock files (LOCK_ARGS=--upgrade for newer versions)
	@$(compile_lock) pyproject.toml --all-extras --group dev --output-file requirements.lock
	@$(compile_lock) pyproject.toml examples/requirements.in --constraints requirements.lock \
		--output-file examples/requirements.lock
	@$(compile_lock) --group bootstrap --output-file requirements-bootstrap.lock

# The + hands make's own options and job slots on to the makes the script starts.
test-all: ## Run the tests on every Python of PYTHONS that is installed
	+@tools/test_all $(PYTHONS)

# The newest versions are tried by `make test`; two of one library cannot be in one environment.
compat: OLD = .venv-sqlalchemy-2.0
compat: OLDEST = .venv-oldest
compat: ## Run the tests of libraries with SQLAlchemy 2.0, and with the oldest that can be observed
	@$(MAKE) $(OLD)/.installed VENV=$(OLD)
	@$(OLD)/bin/uv pip install --quiet --python $(OLD)/bin/python 'sqlalchemy>=2.0.58,<2.1'
	@$(OLD)/bin/python -m pytest tests/sqlalchemy tests/connectors tests/instrument/sqlalchemy \
		-m "not slow" --ignore tests/sqlalchemy/test_their_own_tests.py $(PYTEST_ARGS)
	@$(MAKE) $(OLDEST)/.installed VENV=$(OLDEST)
	@$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --requirement tools/oldest.txt
	@$(OLDEST)/bin/python -m pytest -m "not slow" $(PYTEST_ARGS) \
		$(addprefix tests/instrument/,aiomysql asyncpg psycopg pymongo redis sqlalchemy)

stack-tools: ## Build the Collector, Prometheus and Alertmanager with Go, and a server for tests
	@tools/stack_tools

clean: ## Remove environments, caches and builds
	@rm -rf .venv* .mypy_cache .pytest_cache .ruff_cache .hypothesis .tools build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(uv): requirements-bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "poolscope needs Python 3.11 or newer, and '$(PYTHON)' is not; name one: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
	  "'$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Building $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(python) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
	@touch $@

$(installed): $(uv) requirements.lock pyproject.toml
	@$(uv) pip install --quiet --python $(python) --require-hashes -r requirements.lock
	@$(uv) pip install --quiet --python $(python) --no-deps --no-build-isolation --editable .
	@touch $@

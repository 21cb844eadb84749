# Needs git, make and Python 3.11 or later: the rest is set up below build/ and .venv/.

PYTHON ?= python3
UV := build/bootstrap/bin/uv

export UV_PYTHON_PREFERENCE ?= only-system
# An activated environment of another project must not be taken for this one's.
unexport VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
# Without bytecode each of a thousand interpreters would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint format cluster generated docs bench clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: .venv/ready ## render both targets, run each under its real server, show what they answer
	@.venv/bin/python -m tests.demo

test: .venv/ready ## the whole suite
	@.venv/bin/pytest $(ARGS)

cluster: .venv/ready ## the tests on a real Kubernetes, which the first run builds in 12 minutes
	@tests/cluster/build
	@.venv/bin/pytest tests/cluster $(ARGS)

lint: .venv/ready ## the template's own sources and its tests
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

format: .venv/ready ## what ruff can mend by itself
	@.venv/bin/ruff check --fix . && .venv/bin/ruff format .

generated: .venv/ready ## the files that follow from the template: manifests, records, reference
	@.venv/bin/python -m tests.harness.generated

docs: generated ## the site, in build/site
	@.venv/bin/zensical build --strict --clean

bench: .venv/ready ## measure all that is quoted, in about ten minutes; ARGS="--quick peers" picks
	@.venv/bin/python -m bench $(ARGS)

clean: ## everything that was set up here
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache

# A file of its own: uv makes the directory before it fills it, and may be interrupted.
.venv/ready: pyproject.toml uv.lock $(UV)
	@echo "Setting up .venv"
	@$(UV) sync --quiet --locked --python build/bootstrap/bin/python
	@touch $@

$(UV): pyproject.toml
	@command -v $(PYTHON) >/dev/null \
		|| { echo "$(PYTHON) is not there: install Python 3.11 or later, make PYTHON=… names another"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: Python 3.11 or later, make PYTHON=… names another"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) can't make a virtual environment: on Debian, apt-get install python3-venv"; exit 1; }
	@echo "Setting up build/bootstrap"
	@$(PYTHON) -m venv build/bootstrap
	@build/bootstrap/bin/pip install -qq --disable-pip-version-check "$$(sed -n 's/^ *"\(uv==[0-9.]*\)".*/\1/p' pyproject.toml)"
	@touch $@

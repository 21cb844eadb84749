# Needs git, make and Python 3.11 or later: the rest is set up below build/ and .venv/.

PYTHON ?= python3
UV := build/bootstrap/bin/uv

export UV_PYTHON_PREFERENCE ?= only-system

.PHONY: help demo test lint format clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: .venv ## render both targets, run each under its real server, show what they answer
	@$(UV) run --no-sync python -m tests.demo

test: .venv ## the whole suite
	@$(UV) run --no-sync pytest $(ARGS)

lint: .venv ## the template's own sources and its tests
	@$(UV) run --no-sync ruff check . && $(UV) run --no-sync ruff format --check . && $(UV) run --no-sync mypy

format: .venv ## what ruff can mend by itself
	@$(UV) run --no-sync ruff check --fix . && $(UV) run --no-sync ruff format .

clean: ## everything that was set up here
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache

.venv: pyproject.toml uv.lock $(UV)
	@echo "Setting up .venv"
	@$(UV) sync --quiet --locked
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: Python 3.11 or later, make PYTHON=… names another"; exit 1; }
	@echo "Setting up build/bootstrap"
	@$(PYTHON) -m venv build/bootstrap \
		|| { echo "$(PYTHON) can't make a virtual environment: on Debian, apt-get install python3-venv"; exit 1; }
	@build/bootstrap/bin/pip install --quiet --disable-pip-version-check "$$(sed -n 's/^ *"\(uv==[0-9.]*\)".*/\1/p' pyproject.toml)"

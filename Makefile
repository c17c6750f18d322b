# make demo               install, then extend the packaged model 16× and show it (no download beyond the packages)
# make demo MODEL=smollm2 the same with SmolLM2-135M-Instruct, 8k → 32k
# make test               install, then run the tests
PYTHON ?= python3
MODEL ?= bundled
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test lint types clean
demo: .venv/demo
	$(BIN)/skipwise extend --config recipes/$(MODEL).yaml --resume

test: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev node_modules/.package-lock.json
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	npm run --silent lint

types: .venv/dev
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch first: a constraint alone would let another requirement pull in a different build.
.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e .
	@touch $@

.venv/dev: .venv/demo
	$(PIP) -e '.[dev]'
	@touch $@

# Biome, which checks the report page's scripts and style sheets, comes from npm.
node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

clean:
	rm -rf .venv node_modules runs

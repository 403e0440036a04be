# `make demo` shows what RadZero does, `make view` lets you try it in a browser, `make test` proves it, `make docs`
# builds the documentation and executes its tutorials, `make quick` is for the inner loop.
# Each makes .venv when needed and installs the pinned versions of constraints.txt.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo view test quick lint docs mpnet clean

demo: .venv/base.installed
	$(BIN)/radzero demo -o demo

view: .venv/serve.installed
	test -d demo/films || $(BIN)/radzero demo -o demo
	$(BIN)/radzero view demo/films

test: .venv/dev.installed lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Lint, and the tests that start no process, browser or server and train nothing.
quick: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile -m "not slow"

lint: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tutorials are executed; the one about a PACS needs Orthanc (apt install orthanc orthanc-dicomweb curl).
docs: .venv/dev.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 $(BIN)/mkdocs build --strict

# The real text encoder of the published model, for the tests and benchmarks that use it (438 MB).
mpnet: .venv/base.installed
	$(BIN)/python benchmarks/fetch_mpnet.py .cache/all-mpnet-base-v2

.venv/base.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/serve.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[serve]"
	touch $@ .venv/base.installed

.venv/dev.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ .venv/base.installed .venv/serve.installed

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

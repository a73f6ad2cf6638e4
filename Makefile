# `make demo` captions a few photos, `make test` runs the tests, `make docs` builds the documentation,
# `make check` is what CI runs, `make coverage` says what the tests of the runtime leave out.
# All of it happens in .venv; Python 3.11 or newer is all that a machine must have.

PY ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

.PHONY: demo test check coverage docs bench attack clean

demo: .venv/.demo
	@$(BIN)/python examples/demo.py

test: .venv/.dev
	@$(BIN)/python -m pytest

docs: .venv/.docs
	@$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo docs/_build/html/index.html

# Where Sphinx is installed, one of the tests builds the documentation.
check: .venv/.dev .venv/.docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest

# Processes of their own, which some tests start, are not measured.
coverage: .venv/.dev
	$(BIN)/python -m pytest tests/runtime tests/plugins --cov --cov-report=term

# Ratios measured side by side, threads pinned; wants an idle machine and takes some minutes.
bench: .venv/.dev
	@$(BIN)/python benchmarks/decoding.py --json benchmarks/decoding.json
	@$(BIN)/python benchmarks/consensus.py --model flickr8k --json benchmarks/consensus.json
	@$(BIN)/python benchmarks/retrieval.py --json benchmarks/retrieval.json
	@$(BIN)/python benchmarks/readers.py --json benchmarks/readers.json
	@$(BIN)/python benchmarks/scaling.py --json benchmarks/scaling.json
	@$(BIN)/python benchmarks/end_to_end.py --json benchmarks/end_to_end.json --markdown benchmarks/README.md

# Hostile photos and bundles with a new seed, for an hour or for MINUTES.
attack: .venv/.dev
	@$(BIN)/python tests/robustness/attack.py --minutes $(or $(MINUTES),60)

clean:
	rm -rf .venv

$(BIN)/python:
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PY=python3.11")'
	$(PY) -m venv .venv

.venv/.demo: pyproject.toml plugins/mrnn-everyday/pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the runtime and the model into .venv (once)"
	@$(INSTALL) -e ".[cpu]" -e plugins/mrnn-everyday
	@touch $@

# It contains what the demo needs, so it satisfies that stamp as well.
.venv/.dev: pyproject.toml exporters/pyproject.toml $(addsuffix /pyproject.toml,$(PLUGINS)) constraints.txt | $(BIN)/python
	@echo "Installing everything into .venv, torch included: some minutes, once"
	@$(INSTALL) -e ".[cpu,dev]" -e exporters $(addprefix -e ,$(PLUGINS))
	@touch .venv/.demo $@

.venv/.docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Sphinx into .venv (once)"
	@$(INSTALL) -e ".[cpu,docs]"
	@touch $@

# `make setup` builds .venv; every other target uses it. PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCHMARKS := training_throughput training_profile one_step_vs_n_step chains seeds top_k negatives history_length components

.PHONY: setup demo examples docs test test-slow fuzz bench bench-quick lint format types check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python examples/demo.py --out demo-output

examples: setup
	set -e; for script in examples/[0-9]*.py; do \
		echo "== $$script"; $(BIN)/python $$script --out example-output; \
	done

docs: setup
	$(BIN)/python docs/build_gallery.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: setup
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m slow

fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds 60 --seed 0

bench bench-quick: setup
	set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(if $(filter bench-quick,$@),--quick); \
	done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf .venv demo-output example-output build site

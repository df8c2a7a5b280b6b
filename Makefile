# `make setup` builds .venv; every other target uses it. PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
OLDEST := .venv-oldest/bin
OLDEST_PYTHON ?= $(shell sed -n 's/^requires-python = ">=\(.*\)"/python\1/p' pyproject.toml)
BENCHMARKS := training_throughput training_profile one_step_vs_n_step chains seeds top_k serving negatives history_length components load export training_minutes

.PHONY: setup demo examples docs test test-slow test-oldest test-integrations fuzz bench bench-quick bench-peers lint format types check clean

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
	$(BIN)/pytest --numprocesses auto

# All tests, the slow ones too, with more examples of each property.
test-slow: setup
	$(BIN)/pytest --numprocesses auto -m '' --hypothesis-profile thorough

# The lowest versions that pyproject.toml allows, on the lowest Python.
.venv-oldest/.installed: pyproject.toml
	rm -rf .venv-oldest
	$(OLDEST_PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/uv pip install --quiet --python $(OLDEST)/python --resolution lowest-direct --editable '.[test,docs]'
	touch $@

test-oldest: .venv-oldest/.installed
	@$(OLDEST)/uv pip freeze --exclude-editable --python $(OLDEST)/python | paste -s -d ' ' - | fold -s -w 120
	$(OLDEST)/pytest --numprocesses auto

# Other people's libraries, each in an environment of its own; RecBole's takes an extra.
STACKS := recbole rectools lightning ray trackers
EXTRAS-recbole := ,recbole
$(STACKS:%=.venv-%/.installed): .venv-%/.installed: pyproject.toml constraints.txt tests/integrations/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement tests/integrations/$*.txt --editable '.[data,train$(EXTRAS-$*)]'
	touch $@

test-integrations: $(STACKS:%=.venv-%/.installed)
	.venv-recbole/bin/pytest -m slow tests/integrations/test_recbole.py
	.venv-rectools/bin/pytest -m slow tests/integrations/test_rectools.py
	.venv-lightning/bin/pytest tests/integrations/test_lightning.py
	.venv-ray/bin/pytest -m slow tests/integrations/test_ray.py
	.venv-trackers/bin/pytest -m slow tests/integrations/test_trackers.py

fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds 60 --seed 0

bench bench-quick: setup
	set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(if $(filter bench-quick,$@),--quick); \
	done

# SASRec of other libraries, in the environments of the integrations.
bench-peers: setup .venv-recbole/.installed .venv-rectools/.installed
	$(BIN)/python -m benchmarks.peers

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
	rm -rf .venv .venv-* demo-output example-output build site

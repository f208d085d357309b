# Everything works from a fresh clone: the first target that needs the environment makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format bench notebooks docs dist clean

## demo: simulate a black hole seen by the EHT, reconstruct it with the shipped prior (demo/)
demo: $(READY)
	$(BIN)/lmaps run black_hole/simulated --samples 4 --seed 0 --out demo --force

## test: all tests; one thread for each worker, or PyTorch's threads crowd each other out (7x)
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

## lint: formatter, linter, types
lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## bench: speed, against the alternative, in one run
bench: $(READY)
	$(BIN)/python -m pytest tests/benchmarks -o addopts="" -q --benchmark-only

## notebooks: run them again and keep their outputs
notebooks: $(READY)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb

## docs: the site, build/docs/index.html; warnings are errors, links inside are checked
docs: $(READY)
	$(BIN)/python -m sphinx -c docs -b html -W --keep-going . build/docs

## dist: wheel and source archive in dist/; the wheel works in a clean environment without extras
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build
	PYTHON=$(PYTHON) .ci/check_wheel dist/*.whl

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache demo build dist

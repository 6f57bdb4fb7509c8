# make setup    a virtual environment in .venv with landform and its development tools
# make run      the laptop studies, a table of verdicts, and the report site
# make test     the whole test suite
# make check    lint, format and types

PYTHON  ?= python3
STUDIES ?= gradsign ensloss uba-schedule
BIN     := .venv/bin

.PHONY: setup run test check

setup: .venv/installed

# One touch file for the whole installation: it is redone when what is to be installed changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[data,cluster,scale,federated,transport]' --group dev
	touch $@

run: setup
	$(BIN)/landform run $(STUDIES) --preset laptop
	$(BIN)/landform report

# One torch thread a worker: the workers would otherwise fight for the cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every target works alone and again. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests start hundreds of Python processes, each of which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo up test test-thorough lint bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing Python packages into $(VENV). The first time that takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' & pip=$$!; \
	while kill -0 $$pip 2>/dev/null; do printf .; sleep 1; done; wait $$pip
	@echo " installed."
	@touch $@

demo: install
	$(BIN)/batch-pipeline demo

up: install
	$(BIN)/batch-pipeline up

test: install
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

# Hundreds of random sequences of each model: about an hour on two cores.
test-thorough: install
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --hypothesis-profile thorough tests/model tests/undo tests/memberships

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All cases at full size take hours. BENCH='--rows 100000 --cases all_new' gives the suite's options.
bench: install
	$(BIN)/python -m benchmarks.suite $(BENCH)

clean:
	rm -rf $(VENV) .batch-pipeline build *.egg-info

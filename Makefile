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
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# Hundreds of random sequences of each model: about an hour on two cores.
test-thorough: install
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --hypothesis-profile thorough tests/model tests/undo tests/memberships

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/merge_contacts.py
	$(BIN)/python benchmarks/overwrite_and_delete.py
	$(BIN)/python benchmarks/sync_batch.py
	$(BIN)/python benchmarks/list_batches.py
	$(BIN)/python benchmarks/api_load.py
	$(BIN)/python benchmarks/rejected_rows.py
	$(BIN)/python benchmarks/memory_by_format.py
	$(BIN)/python benchmarks/validate_contacts.py
	$(BIN)/python benchmarks/equal_rows.py
	$(BIN)/python benchmarks/change_log.py
	$(BIN)/python benchmarks/first_call.py
	$(BIN)/python benchmarks/command_start.py
	$(BIN)/python benchmarks/parallel_batch.py
	$(BIN)/python benchmarks/small_files.py --files 100

clean:
	rm -rf $(VENV) .batch-pipeline build *.egg-info

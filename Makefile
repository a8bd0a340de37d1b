# The two commands of this project: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_ARGS ?= --out demo
TEST_ARGS ?= -m "not slow and not long"
# Processes of the tests, with one thread each where the tests do not ask for two; threads that wait shall not spin.
TEST_WORKERS ?= 2
TESTS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

.PHONY: demo test coverage check clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/densityclip demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev
	$(TESTS) $(TEST_ARGS)

# Apart from `test`, which takes 40% longer with the tracer.
coverage: $(VENV)/.installed-dev
	$(TESTS) --cov --cov-report=term $(TEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "densityclip needs Python 3.11 or newer; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# torch and torchvision are pinned as a pair, both from the index (see constraints.txt).
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist .coverage htmlcov

# Every target does its own set-up: Python 3.11 or newer and make are all a fresh machine needs.
#   make demo    real text through LangChain and LlamaIndex, natively and accelerated: same results, and the times
#   make test    all tests
#   make help    the rest

PYTHON ?= python3
# Passed on: `make demo ARGS="--corpus ~/notes"`, `make test ARGS="-k faiss"`, `make bench ARGS="splitting --quick"`.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pip asks nothing, and PYTHONPATH puts nothing between the tests and what is installed.
export PIP_NO_INPUT := 1
unexport PYTHONPATH

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-wheel test-oldest test-pythons test-upstream test-chains test-mpi test-at-length test-all lint format bench clean

help:  ## show this list
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
	  printf '%-20s %s\n' "$$target" "$$text"; done

demo: $(INSTALLED)  ## real text through LangChain and LlamaIndex, natively and accelerated: same results, and the times
	@$(BIN)/aaflow demo $(ARGS)

test: $(INSTALLED)  ## all tests but the upstream suites and those at length
	@$(BIN)/python -m pytest -m "not at_length" $(ARGS)

test-at-length: $(INSTALLED)  ## what `make test` leaves out: all of the suite of ranks at 2 to 4, benchmarks' quick runs, further variants
	@$(BIN)/python -m pytest -m at_length $(ARGS)

test-fast: $(INSTALLED)  ## the tests that are not marked slow
	@$(BIN)/python -m pytest -m "not slow and not at_length" $(ARGS)

lint: $(INSTALLED)  ## ruff, mypy --strict on the core and the adapters, and the contracts between packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED)  ## let ruff put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-wheel: $(INSTALLED)  ## build wheel and sdist, and test the wheel in a fresh environment, without the source tree
	@$(BIN)/python scripts/wheel.py $(ARGS)

test-oldest: $(INSTALLED)  ## the tests with the oldest versions of everything that pyproject.toml admits
	@$(BIN)/python scripts/oldest.py $(ARGS)

test-pythons: $(INSTALLED)  ## what depends on the interpreter, on the other supported Pythons found here
	@$(BIN)/python scripts/pythons.py $(ARGS)

test-upstream: $(INSTALLED)  ## LangChain packages' own tests, with every splitter and every chain accelerated
	@$(BIN)/python scripts/upstream.py $(ARGS)

test-chains: $(INSTALLED)  ## accelerated chains against native ones: 2,000 generated chains
	@CHAIN_EXAMPLES=2000 $(BIN)/python -m pytest tests/langchain/chains $(ARGS)

test-mpi: $(INSTALLED)  ## the engine between ranks, run at 1 to 4 of them, and what happens when one fails (make test has part of the suite at 2 to 4)
	@$(BIN)/python -m pytest tests/core/test_ranks.py $(ARGS)

test-all: export ONE_EXAMPLE_OF = 1
test-all: test test-at-length lint test-wheel test-oldest test-pythons test-upstream test-chains  ## all of the above

bench: $(INSTALLED)  ## the benchmarks (two hours or more; ARGS="--quick" for a look)
	@$(BIN)/python -m pip install -qq --editable '.[bench]'
	@$(BIN)/python -m benchmarks all $(ARGS)

clean:  ## remove environments, builds and caches
	rm -rf .venv .venv-* dist build .upstream .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV): done once, a minute or two"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@# Older ones, such as Python 3.11's own, take twice as long; modules are compiled as they are imported.
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --no-compile --editable '.[dev]'
	@touch $@

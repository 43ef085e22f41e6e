# `make run` and `make test` need nothing but Python 3.11 or 3.12 and make; everything else they install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SYSTEM := fonts-noto-color-emoji fonts-symbola unicode-cldr-core unicode-data git

.PHONY: run test test-slow test-nightly serve lint bench clean reset system

run: $(INSTALLED)
	@$(BIN)/embedline run

test: $(INSTALLED)
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(INSTALLED)
	@$(BIN)/python -m pytest -m "slow and not nightly" -n 2 --dist loadfile --no-loadscope-reorder

test-nightly: $(INSTALLED)
	@$(BIN)/python -m pytest -m nightly

serve: $(INSTALLED)
	@$(BIN)/embedline serve

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy cli components flows monitoring serving benchmarks

bench: $(INSTALLED)
	@$(BIN)/python benchmarks/gate.py
	@$(BIN)/python benchmarks/healing.py
	@$(BIN)/python benchmarks/line.py
	@$(BIN)/python benchmarks/evaluation.py
	@$(BIN)/python benchmarks/training.py
	@$(BIN)/python benchmarks/recipes.py
	@$(BIN)/python benchmarks/releases.py
	@$(BIN)/python benchmarks/serving_speed.py
	@$(BIN)/python benchmarks/soak.py

# What the stages make again; versions, ledger and MLflow's database stay.
clean:
	rm -rf artifacts checkpoints .data.partial .dvc/tmp search.html

# Everything that rounds have made; asks first (`make reset YES=1` does not).
reset: $(INSTALLED)
	@$(BIN)/embedline reset $(if $(YES),--yes)

# The Debian packages alone.
system:
	@sh install.sh --system $(SYSTEM)

$(INSTALLED): requirements.lock pyproject.toml Makefile
	@sh install.sh "$(PYTHON)" "$(VENV)" $(SYSTEM)
	@touch $@

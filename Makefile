# Everything a person or a continuous-integration job runs.  Each target makes .venv first, once.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# pip tells of every place it looked in; -qq leaves errors only.
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: venv lint test test-full demo study benchmark clean

venv: $(STAMP)

# torch first and alone: its build (CPU or CUDA) is then the one this machine's pip prefers, and the rest accepts it.
$(STAMP): pyproject.toml constraints.txt
	@echo "making $(VENV): torch and the packages of constraints.txt (some minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install "$(TORCH)"
	@$(PIP) install -c constraints.txt -e ".[all,dev]"
	@touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

# pytest comes last, so that its closing line is the last to be seen.
test: lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile

# The long tests too; those against mergekit stay opt-in (pytest -m mergekit).
test-full: lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not mergekit"

demo: $(STAMP)
	@$(BIN)/python examples/demo/run.py

# Every merge, mixture and rival of the tiny experts; the page is study-output/index.html.
study: $(STAMP)
	@$(BIN)/modist study examples/tiny.yml --out study-output

benchmark: $(STAMP)
	@$(BIN)/python benchmarks/merge.py

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

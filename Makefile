# make setup   a virtual environment in .venv with everything in it (again only when the pins change)
# make demo    set-up, then three sample families: fit, evaluate, render, interpolate, a page to look at
# make test    set-up, lint, types, tests, documentation, and the wheel built, installed and used
# make docs    set-up, the documentation and an API reference in build/docs; warnings are errors
# make test-gpu  the tests that need an NVIDIA GPU: kernels against the reference, whole fits, tinycudann if there
# make campaign  kills, failing writes and malformed inputs by the hundred; under 40 minutes, a table at the end
# make fuzz    an hour of fuzzing of every reader and loader, FUZZ_MINUTES=5 for less; crashes are kept in build/fuzz
# make clean   removes what the others made, but not runs/
# PYTHON=python3.12 chooses the interpreter of a new .venv; KEEP_TORCH=1 uses the torch that is installed already.
PYTHON ?= python3
export PYTHON KEEP_TORCH
STAMP := .venv/.stamp
TEST_SEED := $(or $(TEST_SEED),$(shell date +%s))

.PHONY: help setup demo test docs test-gpu campaign fuzz clean
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@bash scripts/setup.sh
	@touch $@

demo: $(STAMP)
	@.venv/bin/python scripts/demo.py

test: $(STAMP)
	@bash scripts/test.sh

docs: $(STAMP)
	@bash scripts/links.sh
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "open build/docs/index.html"

test-gpu: $(STAMP)
	@.venv/bin/python -c "import torch, sys; torch.cuda.is_available() or sys.exit('error: torch sees no CUDA device here; on a machine with one, KEEP_TORCH=1 keeps its torch')" || exit 2
	@echo "new random numbers: TEST_SEED=$(TEST_SEED) make test-gpu draws the same again"
	@TEST_SEED=$(TEST_SEED) .venv/bin/python -m pytest tests/ops/test_triton.py tests/gpu
	@HYPERFIELDS_KERNELS=all .venv/bin/python -m pytest tests/ops/test_triton_compiled.py

campaign: $(STAMP)
	@.venv/bin/python scripts/campaign.py

fuzz: $(STAMP)
	@.venv/bin/python -c "import atheris" 2>/dev/null || .venv/bin/pip install -q --disable-pip-version-check --no-deps -c constraints.txt atheris
	@.venv/bin/python scripts/fuzz.py --minutes $(or $(FUZZ_MINUTES),60)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

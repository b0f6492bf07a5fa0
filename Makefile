# The same commands here and in CI. Each does its own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECORDINGS ?=
DEMO ?= demo

.PHONY: setup demo test test-fast notebook faults lint docs bench bench-gpu gpu-check clean slurm-up slurm-down

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[deepspeed,eightbit,onnx,dev,ui]"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[birdnet]" \
	  || echo "BirdNET cannot be installed here, so clips are judged by the weak check alone: docs/judge.md"
	touch $@

demo: setup
	$(BIN)/birdsd run demo out=$(DEMO) $(if $(RECORDINGS),recordings="$(RECORDINGS)")

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not slurm"

# Executes jobs/notebook.ipynb from top to bottom; OUT=FOLDER keeps what it made, with its outputs.
notebook: setup
	$(BIN)/python -m tests.notebook $(if $(OUT),--out "$(OUT)")

faults: setup
	$(BIN)/python -m tests.faults $(FAULTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, into site/; a link that leads nowhere ends it.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html"

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

bench: setup
	$(BIN)/python -m bench

bench-gpu: setup
	$(BIN)/python -m bench.gpu $(ARGS)

# A borrowed GPU taken through everything; the same command goes on. A machine without internet cannot do the
# set-up: there its own Python is taken, with what slurm/offline.sh installed (docs/gpu.md).
MINUTES ?= 10
gpu-check:
	$(if $(wildcard $(VENV)/.ready),$(BIN)/python,$(PYTHON)) -m bench.gpu_check --minutes $(MINUTES) $(ARGS)

# A Slurm cluster on this machine, for tests; needs root.
slurm-up:
	slurm/testbed/up.sh

slurm-down:
	slurm/testbed/down.sh

clean:
	rm -rf demo runs shards audit generated site build gpu-check *.egg-info

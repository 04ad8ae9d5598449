# Every target sets up what it needs. On a fresh machine `make demo` and `make test` are the only commands to know.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/magic-insert
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Two processes; a file stays with one of them, so that what its tests share is made once. In the order of their folders
# the long files (integration) come before the short ones (unit), and both end together.
BY_TWO := -n 2 --dist loadfile --no-loadscope-reorder

# Shapes and types of every call are checked by the annotations (tests/shape_check.py); costs a third of the time.
SHAPES := --jaxtyping-packages=magic_insert,shape_check.check
CHECK_SHAPES ?=

# Passed on to a job: make train-personalization SUBJECT=cat.png OUT=runs/cat ARGS="personalization.rank=16"
ARGS ?=
SUBJECT ?=
OUT ?= runs/personalization
TOY := runs/toybox-subject
MODEL ?= runs/foundation/micro
# Processes of a job that can share its work, one per GPU.
GPUS ?=
SWEEP ?= runs/sweep-bootstrap
RUN_DIR ?=
# Of make bench-gpu.
DEVICE ?= cuda
SIZE ?= sdxl
PAIRS ?= 700

.DEFAULT_GOAL := help
.PHONY: help venv page demo train-bootstrap sweep-bootstrap dashboard eval-subjectplop check test test-all lint format bench bench-gpu parity toybox foundation train-personalization card ship wheel clean figures

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 24

venv: $(STAMP) ## the virtual environment in .venv, with exactly the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt hatch_build.py
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "expected Python 3.11 to 3.13, got %d.%d; set PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing about 6 GB into $(VENV), once; this takes some minutes'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

page: $(STAMP) ## drag and drop in the browser: prints the page's address
	$(RUN) page $(ARGS)

demo: $(STAMP) ## one subject into four scenes of four styles, beside the truth; prints the page's path
	$(RUN) demo $(ARGS)

# The laws of core, configuration and Toybox, and one small run of every job; shapes in signatures are not checked here.
CHECKED := tests/unit/test_floors.py tests/config/test_compose.py tests/config/test_help.py tests/unit/test_fields.py \
	tests/unit/test_jsonl.py tests/unit/test_store.py tests/unit/test_run_folder.py tests/unit/test_masks.py \
	tests/unit/test_compositing.py tests/unit/test_effect_layer.py tests/unit/test_fidelity.py tests/unit/test_scenes.py \
	tests/unit/test_subjects.py tests/integration/test_smoke.py \
	tests/integration/test_evaluate.py::test_the_demo_is_an_evaluation_that_shows_truth_and_floor \
	tests/integration/test_bootstrap.py::test_every_stage_is_made_and_the_last_line_says_what_changed \
	tests/integration/test_review.py::test_the_truth_teaches_a_judge_that_keeps_the_good_removals \
	tests/integration/test_foundation.py::test_plain_diffusers_loads_the_assembled_folder_and_its_adapter
check: $(STAMP) ## within a minute, for the loop between edits: the laws of core, configuration and Toybox, a run of every job
	$(PYTEST) $(BY_TWO) -q -m "not slow and not gpu" $(CHECKED) $(ARGS)

test: $(STAMP) ## the quick tests, two at a time (CHECK_SHAPES=1 checks every annotation, as test-all and CI do)
	$(PYTEST) $(BY_TWO) $(if $(CHECK_SHAPES),$(SHAPES)) -m "not slow and not gpu" $(ARGS)

test-all: $(STAMP) ## every test; those for a GPU skip without one
	$(PYTEST) $(BY_TWO) $(SHAPES) $(ARGS)

lint: $(STAMP) ## ruff, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## puts every file into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## on this machine: pictures per second of the Toybox and of scoring, overhead of the trainer over a bare loop
	$(BIN)/python tools/bench_toybox.py $(ARGS)
	$(BIN)/python tools/bench_trainer.py
	$(BIN)/python tools/bench_scoring.py

bench-gpu: $(STAMP) ## on a GPU: Toybox, training step and its memory, sampling, scoring of 700 pairs (SIZE=micro DEVICE=cpu tries it)
	$(BIN)/python tools/bench_toybox.py --device $(DEVICE)
	$(BIN)/python tools/bench_trainer.py --size $(SIZE) --device $(DEVICE)
	$(BIN)/python tools/bench_sampling.py --size $(SIZE) --device $(DEVICE)
	$(BIN)/python tools/bench_scoring.py --pairs $(PAIRS) --device $(DEVICE)

parity: $(STAMP) ## whether small commands at fixed seeds still make what they made (ARGS='insert remove' runs these alone)
	$(BIN)/python tools/parity $(ARGS)

figures: $(STAMP) ## figures of all experiments again from what lies beside them: rows (and their tables, 005, 006, 008 to 014) or tables (001 to 003)
	$(BIN)/python experiments/earlier.py
	for script in experiments/*/measure.py experiments/005-whose-light/trainings.py; do grep -q figure-only $$script || continue; $(BIN)/python $$script --out runs/figures --figure-only > /dev/null || exit 1; done

toybox: $(STAMP) ## a contact sheet of the Toybox
	$(RUN) toybox $(ARGS)

foundation: $(STAMP) ## trains every part of the micro model (most of a day on two cores; ARGS=preset=gpu)
	$(RUN) foundation $(ARGS)

train-personalization: $(STAMP) ## teaches the model SUBJECT=PATH into OUT=FOLDER; without a path, a new Toybox subject
	$(if $(SUBJECT),,$(RUN) toybox what=subjects num_subjects=1 split=heldout 'styles=[photo]' out=$(TOY))
	$(RUN) personalize subject=$(or $(SUBJECT),$(TOY)/subjects/000000.png) out=$(OUT) $(ARGS)
	@echo "samples while training: $(OUT)/samples"

# BENCHMARK=subjectplop ROOT=FOLDER WEIGHTS=FOLDER MODEL=sdxl GPUS=8 is the paper's setting: the redrawn subjects of its six
# methods, judged by its encoders. A key that ARGS sets, or an experiment, goes before these words.
PAPER := $(and $(filter subjectplop,$(BENCHMARK)),$(filter sdxl,$(MODEL)))
PAPER_METHODS := '[style_aligned,style_aligned_canny,instantstyle,instantstyle_canny,personalized,personalized_canny]'
unless_set = $(if $(filter $(1)=% experiment=%,$(ARGS)),,$(1)=$(2))
eval-subjectplop: $(STAMP) ## methods on a benchmark with a report: BENCHMARK=toyplop, or subjectplop ROOT=FOLDER MODEL=sdxl GPUS=8
	$(RUN) evaluate benchmark=$(or $(BENCHMARK),toyplop) $(if $(ROOT),benchmark.root=$(ROOT)) $(if $(METRICS),metrics=$(METRICS)) \
		$(if $(PAPER),$(call unless_set,track,stylize) $(call unless_set,stylizer,$(PAPER_METHODS))) \
		$(if $(PAPER),$(if $(METRICS),,$(call unless_set,metrics,paper))) \
		$(if $(WEIGHTS),encoders.root=$(WEIGHTS)) $(if $(filter command line environment,$(origin MODEL)),model=$(MODEL)) \
		$(if $(GPUS),exec=torchrun exec.devices=$(GPUS)) $(ARGS)

train-bootstrap: $(STAMP) ## adapts the inserter from photographs to drawings; the last line says what changed (GPUS=N, ARGS=...)
	$(RUN) bootstrap $(if $(GPUS),exec=torchrun exec.devices=$(GPUS)) $(ARGS)

sweep-bootstrap: $(STAMP) ## rounds 1 to 3 by filter thresholds 0.3, 0.5, 0.7: table, heat map, best job (GPUS=N, ARGS=sweep.workers=N)
	$(RUN) bootstrap sweep=rounds_x_thresholds out=$(SWEEP) $(if $(GPUS),exec=torchrun exec.devices=$(GPUS)) $(ARGS)

dashboard: $(STAMP) ## the W&B view of SWEEP=FOLDER or RUN_DIR=FOLDER where there is an account, else a page of it
	$(RUN) dashboard $(if $(RUN_DIR),run=$(RUN_DIR),sweep=$(SWEEP)) logger=wandb $(ARGS)

card: $(STAMP) ## recomputes the numbers of the shipped weights' card
	$(RUN) card $(ARGS)

ship: $(STAMP) ## measures runs/foundation/micro (or MODEL=FOLDER), makes it the shipped weights, learns the page's subjects
	$(BIN)/python tools/ship.py $(MODEL)

wheel: $(STAMP) ## dist/*.whl with configurations and weights inside
	$(BIN)/python -m build --wheel --outdir dist

clean: ## removes the environment, builds and caches; keeps runs/
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

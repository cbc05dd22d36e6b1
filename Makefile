# make help  lists the targets. Everything runs in .venv, which `make setup` makes and keeps up to date.

PYTHON ?= python3
CORES ?= all
PORT ?= 5000
VENV := .venv
READY := $(VENV)/.set-up
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# As in loupe/__init__.py, for what imports torch first.
export OMP_WAIT_POLICY ?= PASSIVE
# Python keeps what it has compiled: without that, a step that trains spends 8 seconds on compiling torch again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-dynamic run ui check test bench lock

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: $(READY)  ## make .venv with the locked packages
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loupe needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	$(VENV)/bin/uv pip sync --quiet --python $(VENV)/bin/python requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## the whole pipeline on the demo capture, then say where the report is
	snakemake --profile workflow/profiles/local --cores $(CORES) all
	@python -m loupe.tracking sync data
	@echo "Report: data/report/index.html   Scores: data/report/scores.csv   Runs: make ui"

demo-dynamic: setup  ## 4K4D on the demo film of a dancer
	python workflow/run_photos.py data/captures/dancer --name dancer --recipe four_k4d_small

run: setup  ## your own photos: make run PHOTOS=folder [NAME=name] [RECIPE=recipe]
	python workflow/run_photos.py "$(PHOTOS)" $(if $(NAME),--name "$(NAME)") $(if $(RECIPE),--recipe "$(RECIPE)")

ui: setup  ## compare runs in MLflow's browser pages
	@python -m loupe.tracking sync data
	@echo "Open http://127.0.0.1:$(PORT)/#/experiments/1?workflowType=machine_learning"
	@mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(PORT)

check: setup  ## style, types, floors
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile

test: setup  ## the tests; LOUPE_DATA=folder adds those on real captures
	pytest -n auto --dist loadfile --no-loadscope-reorder

bench: setup  ## speed and memory, printed
	python -m benchmarks

lock: setup  ## resolve requirements.lock again from pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header \
		--override requirements.overrides --extra dev pyproject.toml --output-file requirements.lock

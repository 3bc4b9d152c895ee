# Every target sets up what it needs: `make demo` works in a fresh clone with Python, make and git.
#
# The environment is .venv, made with the system's Python. uv, pinned and hash-checked like everything else,
# is put inside it and installs requirements.lock: pip would do, at several times the wait.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SYSTEM_PATH := $(PATH)
# nproc would answer OMP_NUM_THREADS where that is set, which says nothing about the machine.
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Tried in this order; the lock has ready-made wheels for these versions.
PYTHON ?= python3 python3.13 python3.12 python3.11
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

# Recipes, and the shell commands of Snakemake's rules below them, find the environment's programs.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Some wheels weigh hundreds of megabytes: allow a slow line five minutes of silence.
export UV_HTTP_TIMEOUT ?= 300
# Without bytecode every process compiles torch afresh, which takes longer than many a job.
unexport PYTHONDONTWRITEBYTECODE
# What `module load` or a user has set for other environments would break this one.
export PIP_USER := 0
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
# Where nothing can be written at home, caches go below this folder.
ifneq ($(shell [ -w "$${HOME:-}" ] && echo yes),yes)
export XDG_CACHE_HOME ?= $(CURDIR)/.snakemake/cache
export MPLCONFIGDIR ?= $(CURDIR)/.snakemake/cache/matplotlib
endif
# An environment's programs name the folder that it was made in: one that was moved or copied is made anew.
MOVED := $(shell [ ! -s $(STAMP) ] || [ "$$(cat $(STAMP))" = "$$(cd $(VENV) && pwd -P)" ] || echo MOVED)

.PHONY: help env demo demo-all test whole quick kernel fuzz rehearse slurm soak lint config bench lock clean distclean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "CORES=4 sets the number of cores, PYTHON=python3.12 the Python behind .venv, VENV another place for it;"
	@echo "ARGS='...' is handed on, e.g. make test ARGS='-k house', make demo ARGS=table1."

env: $(STAMP) ## set up .venv with the locked packages and this project
	@echo "The environment is ready: . $(BIN)/activate"

demo: $(STAMP) ## see the method at work: tables and figures at a small scale, in minutes on two cores
	$(BIN)/snakemake --configfile config/demo.yaml --cores $(CORES) $(or $(ARGS),page)
	@$(if $(ARGS),,$(BIN)/introprior summary results/demo)

demo-all: $(STAMP) ## make every table and figure at a tiny scale, with numbers that mean nothing
	$(BIN)/snakemake --configfile config/demo-all.yaml --cores $(CORES) $(ARGS)

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL = --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## run the tests
	$(PYTEST) $(PARALLEL) $(ARGS)

whole: $(STAMP) ## run the whole workflow at its smallest, kill its jobs, fill its disks, on a stand-in for Kubernetes, too
	$(PYTEST) tests/whole $(PARALLEL) $(ARGS)

quick: $(STAMP) ## run the tests that start no programs, the mathematics among them
	$(PYTEST) --numprocesses logical --maxprocesses 8 -m "not programs" $(ARGS)

kernel: $(STAMP) ## run the KL's GPU kernels at full size, interpreted on a CPU (minutes)
	$(PYTEST) tests/kernel $(ARGS)

fuzz: $(STAMP) ## damage configurations, command lines and results at random: each must be told in one line (minutes)
	$(PYTEST) tests/fuzz $(ARGS)

rehearse: $(STAMP) ## rehearse at tiny sizes, on a CPU, what the first minutes on a GPU are to bring
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu_campaign.py --tiny --device cpu --deadline 150 --out results/rehearsal

slurm: $(STAMP) ## run the workflow on a real Slurm, started for that (Debian, root; apt-get install slurm-wlm munge)
	$(PYTEST) tests/slurm $(ARGS)

soak: $(STAMP) ## run the demo while its jobs are killed at random; the tables must come out the same
	$(PYTEST) tests/soak $(ARGS)

lint: $(STAMP) ## check style, types and the workflow's rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check $(wildcard Snakefile) workflow
	$(BIN)/snakemake --lint
	$(BIN)/mypy

config: $(STAMP) ## make config.yaml, its JSON schema and its list of keys from the models of the configuration
	$(BIN)/python -m introprior.experiment.config

bench: $(STAMP) ## measure speed and memory against a straightforward script
	$(BIN)/python benchmarks/run.py $(ARGS)

lock: $(STAMP) ## resolve requirements.lock anew; ARGS=--upgrade moves to the newest versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes --no-annotate \
	  pyproject.toml requirements.in --output-file requirements.lock $(ARGS)

clean: ## remove the demo's results and every cache; keep other results and .venv
	rm -rf results/demo results/demo-all results/rehearsal build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv too
	rm -rf .venv*

MOVED: ;

$(STAMP): requirements.lock pyproject.toml $(MOVED)
	@$(if $(MOVED),rm -rf $(BIN))
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  export PATH="$(SYSTEM_PATH)"; \
	  for python in $(PYTHON); do \
	    if $$python -c '$(SUITABLE)' 2>/dev/null; then $$python -m venv --clear $(VENV); exit; fi; \
	  done; \
	  echo "make env: found no Python 3.11, 3.12 or 3.13 with venv; install one (Debian: apt-get install python3-venv)" \
	    "or name it: make env PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@# With setuptools there first, nothing is built with anything but what the lock pins.
	sed -nE '/^(uv|setuptools)==/,/[^\\]$$/p' requirements.lock > $(VENV)/first.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/first.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-build-isolation --require-hashes --requirements requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-build-isolation --no-deps --editable .
	@cd $(VENV) && pwd -P > .stamp

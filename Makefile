# Every target builds what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= demo
PROFILE ?= profiles/local

.DEFAULT_GOAL := help
.PHONY: help demo demo-frameworks test test-frameworks test-slurm lint slurm-up slurm-down lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# The stamp follows the lock, so a changed lock is installed and nothing else is.
$(VENV)/.installed: envs/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "servegauge needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

venv: $(VENV)/.installed  ## build .venv from the pinned, hashed dependencies

demo: venv  ## measure the demo study on this machine's CPU, end to end, and print the comparison
	$(BIN)/snakemake --profile profiles/local --config study=demo
	@$(BIN)/python scripts/summary.py demo

demo-frameworks: venv  ## the same weights on three engines on the CPU (installs vLLM and transformers, about 5 GB)
	$(BIN)/snakemake --profile profiles/local --config study=frameworks-cpu
	@$(BIN)/python scripts/summary.py frameworks-cpu

run: venv  ## run STUDY=name with PROFILE=profiles/...
	$(BIN)/snakemake --profile $(PROFILE) --config study=$(STUDY)

test: venv  ## all tests that need nothing but this machine; under 10 minutes on 2 cores
	$(BIN)/pytest -m "not slurm and not frameworks"

test-frameworks: venv  ## the contract tests with the heavier engines (several GB)
	SERVEGAUGE_REQUIRE_FRAMEWORKS=1 $(BIN)/pytest -m frameworks

test-slurm: venv  ## the tests on the cluster of `make slurm-up`
	SERVEGAUGE_REQUIRE_SLURM=1 $(BIN)/pytest -m slurm

slurm-up: venv  ## a real Slurm cluster of four small nodes on this machine (Debian or Ubuntu, as root)
	tests/slurm/slurm-up.sh

slurm-down:  ## stop it
	tests/slurm/slurm-down.sh

lint: venv  ## what the pre-commit hooks run, without the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --profile profiles/local --lint

lock: venv  ## write the hashed locks of envs/ anew from their .in files (needs `pip install uv`)
	scripts/lock.sh

clean:  ## remove the environments and caches; results/ stays
	rm -rf $(VENV) .cache .snakemake

# Every target builds what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= demo
PROFILE ?= profiles/local
# Many tests wait for processes and deadlines: three at once keep two cores busy. A file stays in one process, with its fixtures.
PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder

# Where it is set, each of the many short processes compiles pandas and Snakemake anew, three times slower to start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv dev run profiles demo demo-frameworks test test-heavy test-nightly test-studies test-browser test-containers test-frameworks test-slurm lint slurm-up slurm-down lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# Stamps follow the locks: a changed lock is installed, and nothing else is. --no-compile: Python compiles what is used.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
$(VENV)/.driver: envs/driver.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "servegauge needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r envs/driver.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.driver envs/dev.txt
	$(INSTALL) --require-hashes -r envs/dev.txt
	@touch $@

$(VENV)/.slurm-executor: $(VENV)/.dev envs/slurm-executor.txt
	$(INSTALL) --require-hashes -r envs/slurm-executor.txt
	@touch $@

venv: $(VENV)/.driver  ## build .venv from the pinned, hashed dependencies
dev: $(VENV)/.dev  ## the same with the tools for developing

profiles: venv  ## let `snakemake --profile hlrs` find the profiles of this folder (servegauge profiles --undo removes the links)
	$(BIN)/servegauge profiles

demo: venv  ## measure the demo study on this machine's CPU, end to end, and print the comparison
	$(BIN)/snakemake --profile profiles/local --config study=demo

demo-frameworks: venv  ## the same weights on four engines on the CPU (installs vLLM, SGLang and transformers, about 6 GB)
	$(BIN)/snakemake --profile profiles/local --config study=frameworks-cpu

run: venv  ## run STUDY=name with PROFILE=profiles/...
	$(BIN)/snakemake --profile $(PROFILE) --config study=$(STUDY)

test: dev  ## all tests that need nothing but this machine; under 10 minutes on 2 cores
	$(BIN)/pytest $(PARALLEL) -m "not slurm and not frameworks and not heavy and not nightly and not browser and not containers and not studies"

test-heavy: dev  ## the tests that take a minute or more each: faults under the whole workflow, searches, the grid of claims
	$(BIN)/pytest $(PARALLEL) -m heavy

test-studies: dev  ## the CPU variant of every study that rebuilds a publication, in miniature, and its verdicts
	$(BIN)/pytest tests/studies -m "not frameworks"

test-nightly: dev  ## real studies whose truth is known (A/A, a planted 10 %) through the whole workflow; 15 minutes
	$(BIN)/pytest -m nightly -rP

test-browser: dev  ## the report in a real browser (needs Chromium: apt-get install chromium)
	SERVEGAUGE_REQUIRE_BROWSER=1 $(BIN)/pytest -m browser

test-containers: dev  ## real servers in containers (apt-get install charliecloud podman runc)
	SERVEGAUGE_REQUIRE_CONTAINERS=1 $(BIN)/pytest -m containers

test-frameworks: dev  ## the contract tests with the heavier engines (several GB), then one study of all of them
	-tests/frameworks/get-nsys.sh  # without it the tests of nsys are skipped
	SERVEGAUGE_REQUIRE_FRAMEWORKS=1 $(BIN)/pytest -m frameworks
	$(MAKE) demo-frameworks

test-slurm: $(VENV)/.slurm-executor  ## the tests on the cluster of `make slurm-up`
	SERVEGAUGE_REQUIRE_SLURM=1 $(BIN)/pytest -m slurm

slurm-up:  ## a real Slurm cluster of four small nodes on this machine (Debian or Ubuntu, as root)
	tests/slurm/slurm-up.sh

slurm-down:  ## stop it
	tests/slurm/slurm-down.sh

lint: dev  ## what the pre-commit hooks run, without the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --profile profiles/local --lint

lock:  ## write the hashed locks of envs/ anew from their .in files (needs `pip install uv`)
	envs/lock.sh

clean:  ## remove the environments and caches; results/ stays
	rm -rf $(VENV) .cache .snakemake

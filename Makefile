# finetune-operator: `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORK_DIR ?= .finetune
CLUSTER := cd tests/cluster && $(PYTHON) -m harness
# Kept bytecode: tests start many processes, and compiling torch and ours anew takes seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo run-demo test test-kills verify generate lock images cluster-up cluster-down cluster-demo test-cluster test-faults test-pod-faults bench-train bench-operator ci clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(STAMP) ## Create .venv with the hash-pinned requirements

$(STAMP): tests/requirements.lock tests/uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=python3.x"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r tests/uv.lock
	@echo "installing the requirements (torch is about 3 GB) ..."
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r tests/requirements.lock
	@echo "$(CURDIR)/operator" > $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/finetune.pth
	@echo "$(CURDIR)/trainer_image" >> $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/finetune.pth
	@printf '#!/bin/sh\nexec "%s" -m finetune_cli "$$@"\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/finetune && chmod +x $(BIN)/finetune
	@touch $@

demo: setup ## Fine-tune a small model on this machine from three manifests, nothing else needed
	@$(BIN)/python examples/quickstart/make_dataset.py $(WORK_DIR)/claims/quickstart/train.jsonl
	@$(BIN)/python examples/quickstart/make_base_model.py $(WORK_DIR)/claims/quickstart/base-model
	@$(BIN)/finetune run --work-dir $(WORK_DIR) -f examples/quickstart/

test: setup ## Unit and integration tests: no root, no cluster
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

test-kills: setup ## The whole sweep of strategies, worlds and kills (long)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal -m sweep tests/invariants tests/unit

verify: setup ## Generated files, formatting, lint, types, import contracts
	@$(BIN)/ruff format --check operator trainer_image tests examples dashboards benchmarks
	@$(BIN)/ruff check operator trainer_image tests examples dashboards benchmarks
	@MYPYPATH=operator:trainer_image $(BIN)/mypy -p finetune_api -p finetune_operator -p finetune_cli -p finetune_trainer
	@PYTHONPATH=operator:trainer_image $(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/repository

generate: setup ## Write the generated files: crds/, chart, docs/reference, dashboards
	@$(BIN)/finetune generate

lock: setup ## Compile the hash-pinned requirement files
	@cd tests && ../$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header uv.in -o uv.lock
	@cd tests && ../$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements.in -o requirements.lock
	@for part in operator trainer_image; do (cd $$part && ../$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c ../tests/requirements.lock requirements.in -o requirements.lock); done

cluster-up: ## Build (cached) and start a real Kubernetes on this machine; needs root and Go
	@$(CLUSTER) up

cluster-down: ## Stop that cluster and remove its state
	@$(CLUSTER) down

images: ## Build both images and import them into that cluster
	@$(CLUSTER) images

cluster-demo: setup cluster-up images ## The same three manifests in that cluster: two pods, S3, Helm
	@$(BIN)/python tests/cluster/demo.py

test-cluster: setup cluster-up images ## Prove it all on that cluster
	@controllers="$$($(CLUSTER) controllers)" && env $$controllers $(BIN)/python -m pytest tests/cluster tests/faults

test-pod-faults: setup cluster-up images ## The faults that take longest, on that cluster (long)
	@$(BIN)/python -m pytest -m sweep tests/cluster

test-faults: setup ## Kill, cut and deceive the operator at every write: all plans, PLANS='...' or PLAN='{...}'
	@PYTHONPATH=operator:trainer_image:tests:tests/cluster $(BIN)/python tests/faults/run_fault_plans.py $(if $(PLAN),--plan '$(PLAN)',$(PLANS))

bench-train: setup ## Training and generation against their peers, interleaved (long)
	@PYTHONPATH=operator:trainer_image:tests $(BIN)/python benchmarks/train_speed.py
	@PYTHONPATH=operator:trainer_image:tests $(BIN)/python benchmarks/generation.py
	@PYTHONPATH=operator:trainer_image:tests $(BIN)/python benchmarks/checkpoint_stall.py

bench-operator: setup ## 10,000 experiments against a real API server; needs its binaries (make cluster-up), over an hour
	@PYTHONPATH=operator:trainer_image:tests:tests/cluster $(BIN)/python benchmarks/operator_scale.py

ci: ## What CI runs
	@bash .ci/run

clean: ## Remove the virtual environment and local runs
	@rm -rf $(VENV) $(WORK_DIR) .mypy_cache .ruff_cache .pytest_cache

# `make demo` does everything; `make help` lists the rest.

PYTHON ?= python3
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
TEST_PROCESSES ?= 2
# e.g. https://download.pytorch.org/whl/cpu where the default torch would bring gigabytes of CUDA that you cannot use
TORCH_INDEX ?=

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile
SERVICES := $(BIN)/python -m flows.local_services

.DEFAULT_GOAL := help
.PHONY: help setup up down deploy demo smoke test check gpu-check clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: .venv/up-to-date ## create .venv from the pinned versions

.venv/up-to-date: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make setup PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[all,cpu,dev]'
	@touch $@

up: setup ## start the local Prefect server, MLflow server and worker (PREFECT_PORT, MLFLOW_PORT)
	@$(SERVICES) up --prefect-port $(PREFECT_PORT) --mlflow-port $(MLFLOW_PORT)

down: ## stop them
	@if test -x $(BIN)/python; then $(SERVICES) down; fi

deploy: up ## register every deployment of prefect.yaml
	@$(SERVICES) deploy

demo: deploy ## train a whole small RAG team, watch it, see whether joint training helped
	@$(BIN)/python -m flows.watch full-pipeline/demo

smoke: setup ## every stage at its smallest, without servers
	@$(BIN)/python -m flows.full_pipeline --preset smoke

test: setup ## the tests, in as many processes as TEST_PROCESSES says
	@$(PYTEST)

check: setup ## lint, format, types, layers, tests
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(PYTEST)

gpu-check: ## tests and benchmarks that need a GPU, in eight minutes (without .venv: PYTHON, with torch, sentence-transformers, peft)
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu.check

clean: down ## delete what the pipeline wrote (stage outputs, runs, records); your own files stay
	rm -rf runs data/prepare data/index data/agent_data models/retriever models/warm_start models/mappo models/control

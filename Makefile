# What a person, or CI, asks of this checkout. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Which torch: empty takes the package index's own build (CUDA, 4.7 GB); cpu takes PyTorch's
# index (200 MB): make demo TORCH_BACKEND=cpu. Also cu128, rocm6.4, ... as uv knows them.
TORCH_BACKEND ?=
UV = $(shell command -v uv || echo $(CURDIR)/$(BIN)/uv)
UV_PIP = $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt
PYTEST = $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install install-core demo experiment test test-unit test-kafka test-processes test-slow test-docker test-cluster images image-tar kafka-image wheel check-demo lint format mutants bench bench-recovery docs clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## make .venv with everything that demo and tests need

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Co-S2P needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "python3 -m venv failed (Debian: apt-get install python3-venv)"; exit 2; }
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet uv

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (torch is large: a minute the first time) ..."
	@$(UV_PIP) $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) --editable '.[dev]'
	@touch $@

install-core:  ## make .venv-core: planner, aggregator and CLI, without torch (seconds)
	@test -x .venv-core/bin/python || $(PYTHON) -m venv .venv-core
	@command -v uv >/dev/null || .venv-core/bin/python -m pip install --quiet uv
	@$$(command -v uv || echo .venv-core/bin/uv) pip install --quiet --python .venv-core/bin/python \
		--constraint constraints.txt --editable .
	@.venv-core/bin/cos2p --version

demo: install  ## train on real images with eight unequal workers, on this machine (under 3 minutes)
	@$(BIN)/cos2p demo $(ARGS)

experiment: install  ## the experiment that newcomers run: sixteen boards, real training, virtual time
	@$(BIN)/cos2p experiment run experiments/quick.toml --jobs 2 --resume $(ARGS)
	@$(BIN)/cos2p experiment report runs/experiments/quick

test: install  ## all tests (under 10 minutes on 2 cores; Kafka's need Java or Docker)
	@$(PYTEST) -n 2 --dist loadgroup -m 'not slow and not docker and not cluster' $(ARGS)

test-unit: install  ## only what needs neither broker nor processes
	@$(PYTEST) -n 2 -m 'not slow and not kafka and not processes and not docker and not cluster' $(ARGS)

test-kafka: install  ## only what needs a broker
	@$(PYTEST) -m 'kafka and not slow and not cluster' $(ARGS)

test-processes: install  ## only what starts real processes
	@$(PYTEST) -m 'processes and not slow' $(ARGS)

test-slow: install  ## faults on real brokers and processes that take longer
	@$(PYTEST) -m 'slow and not docker and not cluster' $(ARGS)

test-docker: install  ## the ring in containers (a Docker engine with the project's images)
	@$(PYTEST) -m docker $(ARGS)

# Where the one-node Kubernetes of the cluster tests is built and keeps its state.
KUBERNETES ?= $(HOME)/.cache/cos2p-test/kubernetes

test-cluster: install  ## the chart on a real one-node Kubernetes (root, Go 1.26+, a Docker engine with the project's images)
	@tests/cluster/kubernetes/build.sh $(KUBERNETES)
	@COS2P_TEST_KUBERNETES=$(KUBERNETES) $(PYTEST) -m cluster -vv -rP --durations 0 $(ARGS)

check-demo: install  ## run the demo and check its claims
	@$(BIN)/python tests/check_demo.py $(ARGS)

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# The index that the worker image's torch comes from; empty: the one that pip is configured with.
TORCH_INDEX ?=
DOCKER_BUILD = docker build --quiet $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) -f deploy/images/Dockerfile

images:  ## build co-s2p-core and co-s2p-worker for this machine's Docker engine
	@$(DOCKER_BUILD) --target core --tag co-s2p-core:$(VERSION) .
	@$(DOCKER_BUILD) --target worker --tag co-s2p-worker:$(VERSION) .

image-tar: images  ## both images in one file, for sites without a registry (k3s: /var/lib/rancher/k3s/agent/images/)
	@mkdir -p dist
	@docker save --output dist/co-s2p-images-$(VERSION).tar co-s2p-core:$(VERSION) co-s2p-worker:$(VERSION)
	@gzip -1 --force dist/co-s2p-images-$(VERSION).tar
	@ls -lh dist/co-s2p-images-$(VERSION).tar.gz

kafka-image: install  ## apache/kafka for this machine's Docker engine, for tests where no registry answers
	@$(BIN)/python tests/kafka_image.py

# Where the wheel goes.
DIST ?= dist

wheel: | $(VENV)/bin/python  ## build the wheel: dist/cos2p-VERSION-py3-none-any.whl
	@$(UV) build --quiet --wheel --out-dir $(DIST)
	@ls $(DIST)/cos2p-$(VERSION)-*.whl

lint: install  ## ruff, format, strict types (tests included)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy libs services tests examples docs

format: install  ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

mutants: install  ## change a line of the cores at a time; list the changes that no test notices (about 10 minutes)
	@$(BIN)/python tests/mutants.py $(ARGS)

bench: install  ## the figures of docs/results.md, as a table with ratios (about 10 minutes)
	@$(BIN)/python tests/bench/main.py $(ARGS)

bench-recovery: install  ## what a start costs on a log of 20,000 versions, on SQLite and Kafka; fails over budget (about 25 minutes)
	@$(BIN)/python tests/bench/recovery.py $(ARGS)

docs: install  ## write docs/protocol.md, settings.md, metrics.md and telemetry.md from the code
	@$(BIN)/python docs/protocol.py > docs/protocol.md
	@$(BIN)/python docs/settings.py > docs/settings.md
	@$(BIN)/python docs/metrics.py > docs/metrics.md
	@$(BIN)/python docs/telemetry.py > docs/telemetry.md

clean:  ## remove what was built; runs/ stays
	rm -rf $(VENV) .venv-core .mypy_cache .ruff_cache .pytest_cache

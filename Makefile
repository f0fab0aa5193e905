# Everything a fresh machine needs is python3 (3.10 to 3.12) with venv, make and git.
# Choose an interpreter with `make test PYTHON=python3.12`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
QUANTIZE_VENV := .venv-quantize
QUANTIZE_STAMP := $(QUANTIZE_VENV)/.installed
REQUIREMENTS := requirements.txt requirements-dev.txt requirements-nodeps.txt \
	requirements-tensorrt-10.txt requirements-tensorrt-11.txt pyproject.toml client/pyproject.toml
FIND_PYTHON := for name in $(PYTHON) python3 python3.12 python3.11 python3.10; do \
	"$$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo "$$name"; break; }; done; true

REPOSITORY ?= out/pipelines
PYTEST_ARGS ?=
# Of the tests. Those on real servers wait more than they compute.
WORKERS ?= $(shell nproc)
SERVER_WORKERS ?= $(shell echo $$(($(WORKERS) + 1)))
SERVE_ARGS ?=
DEMO_ARGS ?=
PERF_ARGS ?=
FAULT_ARGS ?=
SOAK_ARGS ?=
KILLS_ARGS ?=
FUZZ_ARGS ?=
CLUSTER_ARGS ?=
CROWD_ARGS ?=
QUALITY_ARGS ?=
GALLERY_ARGS ?=
FUZZ_SECONDS ?= 300
# PyPI's own torch brings gigabytes of CUDA; an index of CPU builds can be named here.
TORCH_INDEX ?=
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: install
install: $(STAMP) ## create .venv and install everything (all other targets do so)

$(STAMP): $(REQUIREMENTS)
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then \
		echo "Python 3.10, 3.11 or 3.12 is needed; found $$(python3 --version 2>&1 || true)." \
			"Install python3 and python3-venv, or name one: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	if [ ! -x $(PY) ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
			version="$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
			echo "$$python cannot make virtual environments." \
				"On Debian and Ubuntu: apt-get install python3-venv (or python$$version-venv)" >&2; \
			exit 1; \
		fi; \
		rm -rf $(VENV); "$$python" -m venv $(VENV); \
	fi
	@echo "Installing the pinned requirements into $(VENV); the first time takes some minutes."
	$(PIP_INSTALL) $(TORCH_INDEX:%=--extra-index-url %) -r requirements-dev.txt
	$(PIP_INSTALL) --no-deps -r requirements-nodeps.txt -r requirements-tensorrt-11.txt
	$(PIP_INSTALL) --no-deps --upgrade --target $(VENV)/tensorrt-10 -r requirements-tensorrt-10.txt
	$(PIP_INSTALL) --no-deps -e client -e .
	@touch $@

.PHONY: demo
demo: $(STAMP) ## build a small pipeline, serve it, and repair a picture's faces
	$(PY) -m examples.demo $(DEMO_ARGS)

.PHONY: gallery
gallery: $(STAMP) ## a page of what the options do, out/gallery/index.html (GALLERY_ARGS=...)
	$(PY) -m examples.gallery $(GALLERY_ARGS)

.PHONY: quality
quality: $(STAMP) ## measure the demo's pictures on 64 scenes; writes docs/lab/quality.md (QUALITY_ARGS=...)
	$(PY) -m benchmarks.quality --write docs/lab/quality.md $(QUALITY_ARGS)

.PHONY: test
test: $(STAMP) ## units, properties, golden cases, one real server: some minutes (PYTEST_ARGS=...)
	$(PY) -m pytest -n $(WORKERS) -m "not (server or slow or quantize)" $(PYTEST_ARGS)

.PHONY: test-server
test-server: $(STAMP) ## the tests on real servers: service, faults, fuzzing, quality (PYTEST_ARGS=...)
	$(PY) -m pytest -n $(SERVER_WORKERS) -m "server and not (slow or quantize)" $(PYTEST_ARGS)

.PHONY: test-all
test-all: test test-server ## both: all but what needs gigabytes or another environment

.PHONY: test-node
test-node: $(STAMP) ## install the example for Node with npm and run its tests
	cd examples/node && npm ci --ignore-scripts --no-audit --no-fund
	$(PY) -m pytest client/tests/test_node_example.py $(PYTEST_ARGS)

.PHONY: install-quantize
install-quantize: $(QUANTIZE_STAMP) ## create .venv-quantize with NVIDIA ModelOpt, for --quantize

$(QUANTIZE_STAMP): requirements-quantize.txt | $(STAMP)
	$(PY) -m venv --clear $(QUANTIZE_VENV)
	$(QUANTIZE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		$(TORCH_INDEX:%=--extra-index-url %) -r requirements-quantize.txt
	@touch $@

.PHONY: test-quantize
test-quantize: $(STAMP) $(QUANTIZE_STAMP) ## run the tests that need NVIDIA ModelOpt
	SEGS_QUANTIZER_PYTHON=$(QUANTIZE_VENV)/bin/python $(PY) -m pytest -m quantize $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## run the tests that take minutes or gigabytes
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

.PHONY: faults
faults: $(STAMP) ## make 96 faults on a real server, look whether each promise is kept (FAULT_ARGS=...)
	$(PY) -m tests.faults --report docs/lab/faults.md $(FAULT_ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## send 100,000 hostile requests to a real server (half an hour; FUZZ_ARGS=...)
	$(PY) -m tests.fuzz $(FUZZ_ARGS)

.PHONY: soak
soak: $(STAMP) ## two hours of traffic: does the server hold ever more? (SOAK_ARGS=...)
	$(PY) -m tests.faults.soak $(SOAK_ARGS)

.PHONY: kills
kills: $(STAMP) ## models' processes killed 200 times under load (KILLS_ARGS=...)
	$(PY) -m tests.faults.kills $(KILLS_ARGS)

.PHONY: fuzz-coverage
fuzz-coverage: $(STAMP) ## coverage-guided fuzzing of what reads strangers' bytes (FUZZ_SECONDS=300 each)
	$(PIP_INSTALL) -r requirements-fuzz.txt
	for harness in request picture prompt inputs; do \
		$(PY) -m tests.fuzz.coverage $$harness --seconds $(FUZZ_SECONDS); \
	done

.PHONY: lint
lint: $(STAMP) ## ruff: rules and formatting; import-linter: imports run one way
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

.PHONY: types
types: $(STAMP) ## mypy, strict
	$(PY) -m mypy

.PHONY: docs
docs: $(STAMP) ## write what is generated from the code: API, contract, limits, metrics
	$(PY) -m docgen
	$(PY) -m segs_client.schema

.PHONY: bench
bench: $(STAMP) ## measure what serving adds to one SEG, and what batching buys
	$(PY) -m benchmarks

.PHONY: bench-load
bench-load: $(STAMP) ## throughput, fairness, overload and the model of cost (about an hour)
	$(PY) -m benchmarks --load

.PHONY: cluster
cluster: $(STAMP) ## three servers behind the proxy: one killed, one drained, all updated (CLUSTER_ARGS=...)
	$(PY) -m benchmarks.cluster $(CLUSTER_ARGS)

.PHONY: crowds
crowds: $(STAMP) ## up to 1000 callers at once on a real server: is anybody lost? (CROWD_ARGS=...)
	$(PY) -m benchmarks.crowds $(CROWD_ARGS)

.PHONY: perf
perf: $(STAMP) ## load-test with perf_analyzer; CSV files in out/perf (PERF_ARGS=...)
	$(PY) -m benchmarks.perf $(PERF_ARGS)

.PHONY: serve
serve: $(STAMP) ## serve the pipelines in REPOSITORY (default out/pipelines; SERVE_ARGS=...)
	$(PY) -m serving serve --repository $(REPOSITORY) $(SERVE_ARGS)

.PHONY: clean
clean: ## remove .venv, caches and outputs
	rm -rf $(VENV) $(QUANTIZE_VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info client/*.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

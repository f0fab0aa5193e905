# What people type; all else is a `python -m …` command in the docs. A fresh machine needs python3
# with venv, make and git. Choose an interpreter with `make test PYTHON=python3.12`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
# The Pythons that the embedded server's wheel has a stub for.
FIND_PYTHON := for name in $(PYTHON) python3 python3.12 python3.11 python3.10; do \
	"$$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo "$$name"; break; }; done; true
UV := uv==0.13.9

REPOSITORY ?= out/pipelines
PYTEST_ARGS ?=
# Of the tests. Those on real servers wait more than they compute.
WORKERS ?= $(shell n="$$(nproc)"; echo $$((n < 8 ? n : 8)))
SERVE_ARGS ?=
DEMO_ARGS ?=
FAULT_ARGS ?=
FUZZ_ARGS ?=
QUALITY_ARGS ?=
GALLERY_ARGS ?=
# PyPI's own torch brings gigabytes of CUDA; an index of CPU builds can be named here.
TORCH_INDEX ?=
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX:%=--extra-index-url %)

# An environment whose Python has gone is made anew.
ifeq ($(wildcard $(PY)),)
$(shell rm -f $(RUNTIME) $(TOOLS))
endif

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: install
install: $(TOOLS) ## create .venv with all that builds, serves, tests and checks

$(RUNTIME): requirements.txt pyproject.toml client/pyproject.toml
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		python="$$($(FIND_PYTHON))"; maker="$${python:-python3}"; \
		if ! version="$$("$$maker" -c \
			'import ensurepip, venv, sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"; then \
			echo "$$maker is missing or cannot make virtual environments." \
				"On Debian and Ubuntu: apt-get install python3 python3-venv" >&2; \
			exit 1; \
		fi; \
		rm -rf $(VENV); \
		if [ -n "$$python" ]; then \
			"$$python" -m venv $(VENV); \
		else \
			echo "The server runs on Python 3.10 to 3.12, python3 is $$version:" \
				"uv fetches a 3.12 for $(VENV)."; \
			scratch="$$(mktemp -d)"; trap 'rm -rf "$$scratch"' EXIT; \
			if ! { python3 -m venv "$$scratch" && "$$scratch/bin/pip" install --quiet $(UV) && \
				"$$scratch/bin/uv" venv --quiet --managed-python --python 3.12 --seed $(VENV); } \
				>"$$scratch/log" 2>&1; then \
				echo "uv cannot fetch it ($$(tail -n 1 "$$scratch/log" | sed "s,^ *,,"))." \
					"Install Python 3.10, 3.11 or 3.12 with venv, or name one:" \
					"make PYTHON=/path/to/python3.11" >&2; \
				exit 1; \
			fi; \
		fi; \
	fi
	@echo "Installing the pinned requirements into $(VENV); the first time takes some minutes and 2 GB."
	$(PIP_INSTALL) -r requirements.txt
	$(PIP_INSTALL) --no-deps -e client -e .
	@touch $@

$(TOOLS): requirements-dev.txt $(RUNTIME)
	$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

.PHONY: demo
demo: $(RUNTIME) ## build a small pipeline, serve it, and repair a picture's faces (DEMO_ARGS=...)
	$(PY) -m examples.demo $(DEMO_ARGS)

.PHONY: serve
serve: $(RUNTIME) ## serve the pipelines in REPOSITORY (default out/pipelines; SERVE_ARGS=...)
	$(PY) -m serving serve --repository $(REPOSITORY) $(SERVE_ARGS)

.PHONY: gallery
gallery: $(RUNTIME) ## a page of what the options do, out/gallery/index.html (GALLERY_ARGS=...)
	$(PY) -m examples.gallery $(GALLERY_ARGS)

.PHONY: quality
quality: $(RUNTIME) ## measure the demo's pictures on 64 scenes; writes docs/lab/quality.md (QUALITY_ARGS=...)
	$(PY) -m benchmarks.quality --write docs/lab/quality.md $(QUALITY_ARGS)

.PHONY: bench
bench: $(RUNTIME) ## measure what serving adds to one SEG, and what batching buys
	$(PY) -m benchmarks

.PHONY: test
test: $(TOOLS) ## units, properties, golden cases, one real server: some minutes (PYTEST_ARGS=...)
	$(PY) -m pytest -n $(WORKERS) -m "not (server or engines or slow or quantize or openvino)" $(PYTEST_ARGS)
	$(PY) -m pytest -m "openvino and not server" $(PYTEST_ARGS)

.PHONY: test-all
test-all: test ## and what needs real servers or builds engines: service, faults, fuzzing (PYTEST_ARGS=...)
	$(PY) -m pytest -n $(WORKERS) -m "(server or engines) and not (slow or quantize or openvino)" $(PYTEST_ARGS)
	$(PY) -m pytest -m "openvino and server" $(PYTEST_ARGS)

.PHONY: lint
lint: $(TOOLS) ## ruff: rules and formatting; import-linter: imports run one way
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

.PHONY: types
types: $(TOOLS) ## mypy, strict
	$(PY) -m mypy

.PHONY: docs
docs: $(TOOLS) ## write what is generated from the code: API, contract, limits, metrics
	$(PY) -m docgen
	$(PY) -m segs_client.schema

.PHONY: faults
faults: $(TOOLS) ## make 96 faults on a real server, look whether each promise is kept (FAULT_ARGS=...)
	$(PY) -m tests.faults --report docs/lab/faults.md $(FAULT_ARGS)

.PHONY: fuzz
fuzz: $(TOOLS) ## send 100,000 hostile requests to a real server (half an hour; FUZZ_ARGS=...)
	$(PY) -m tests.fuzz $(FUZZ_ARGS)

.PHONY: clean
clean: ## remove .venv, caches and builds; out/ stays
	rm -rf $(VENV) .venv-quantize .mypy_cache .ruff_cache .pytest_cache build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

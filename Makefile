# Everything below needs only python3 (3.11 or newer) and make; `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
export NODE_PATH ?= $(CURDIR)/.venv/npm/node_modules
.DEFAULT_GOAL := help

.PHONY: help setup demo test slow proof runtimes fuzz mutants lint benchmark wheel sbom lock clean

help: ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "make %-10s %s\n", $$1, $$2}'

setup: .venv/ready ## make .venv with everything in requirements.lock and the mnist-edge command

# The stamp is written last: a set-up that was cut off starts again. uv itself comes from the
# lock, hash and all; uv_build too, so that the editable install builds without the network.
.venv/ready: requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mnist-edge needs Python 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 4; }
	$(PYTHON) -m venv --clear .venv
	awk '/^uv==/ { take = 1 } take { print } take && !/\\$$/ { exit }' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## train, export, verify and time a digit classifier, print the summary and write report.html
	$(BIN)/mnist-edge run --dataset auto

test: lint ## lint and the fast tests: what must pass before a change is merged
	$(BIN)/pytest

slow: setup ## the tests marked slow, which `make test` leaves out
	$(BIN)/pytest -m slow

proof: runtimes ## every variant on every runtime here and emulated, over all test images (half an hour); needs the packages of .ci/packages
	$(BIN)/python -m benchmarks.proof $(OPTIONS)

runtimes: setup ## download the runtimes of the proof and the slow tests: QEMU with the aarch64 wheels (cache folder, 250 MB), onnxruntime-web, axe-core
	$(BIN)/python -m mnist_edge.targets.emulated.setup
	test -d $(NODE_PATH)/onnxruntime-web -a -d $(NODE_PATH)/axe-core || npm install --silent --no-save --prefix .venv/npm onnxruntime-web@1.30.0 axe-core@4.14.1

fuzz: setup ## 10,000 mutated files for every parser (about 40 minutes); OPTIONS="--inputs 500 --only onnx"
	$(BIN)/python -m tests.fuzz $(OPTIONS)

mutants: setup ## change the code that proves, a place at a time, and count the changes that no test sees (an hour and more); OPTIONS="--only training/step.py"
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet mutmut==3.8.1
	$(BIN)/python -m tests.mutants $(OPTIONS)

lint: setup ## style, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: setup ## repeat the measurements of docs/measured.md (about an hour and a half on an idle machine)
	$(BIN)/python -m benchmarks

wheel: setup ## build dist/mnist_edge-*.whl, to install on another machine
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist

sbom: setup ## write dist/sbom.json: what a user installs, as CycloneDX
	$(BIN)/python .ci/sbom.py dist/sbom.json

lock: setup ## pin the newest versions that pyproject.toml allows, with their hashes
	$(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-annotate \
	  --python-version 3.11 --extra train --extra cpu --extra sweep --extra postgresql --extra score --extra sign --extra tensorboard --group dev \
	  --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml > /dev/null

clean: ## remove what these commands made, but no runs and no bundles
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .mutants

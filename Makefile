# make cookbook · make test · make lint · make bench: each sets up .venv by itself.
PYTHON ?= python3
WORKDIR ?= out/cookbook
SOURCE ?= python-environment
BIN := .venv/bin

.PHONY: cookbook test test-slow lint bench clean

.venv/runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev: .venv/runtime requirements-dev.txt requirements-reference.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Peers and independent truths for the slow tests: torch, transformers, Spark.
.venv/peers: .venv/dev requirements-peers.txt requirements-spark.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-peers.txt -r requirements-spark.txt
	touch $@

# The whole recipe on a corpus that is already on this machine; SOURCE=/a/folder takes another.
cookbook: .venv/runtime
	$(BIN)/python run.py --gin_file=gin/runs/cookbook.gin --gin_bindings='preprocess.sources = ["$(SOURCE)"]' --workdir='$(WORKDIR)'

test: .venv/dev
	$(BIN)/python -m pytest

test-slow: .venv/peers
	$(BIN)/python -m pytest -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/peers
	set -e; for script in benchmarks/*.py; do $(BIN)/python $$script; done

clean:
	rm -rf .venv out

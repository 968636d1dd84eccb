PYTHON ?= python3
BIN := .venv/bin

.PHONY: install install-clap demo test check bench

install: .venv/installed

# torch first and pinned: on Linux without a GPU an unpinned one may bring gigabytes of CUDA libraries along.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# msclap asks for numpy<2, transformers<5 and torchaudio, and works with ours and without: its own requirements must not be followed.
install-clap: install
	$(BIN)/pip install --quiet -c constraints.txt -e '.[clap]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps msclap

demo: install
	$(BIN)/auricle demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/extraction.py

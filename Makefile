# Everything runs in .venv; no tool has to be installed by hand.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STORE  ?= .trtllm-kit

.PHONY: help demo demo-nightly test lint types golden benchmarks clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

# An editable install compiles nothing, and where Python may not write bytecode every start would compile anew.
$(BIN)/trtllm-kit: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else f"Python 3.10 to 3.12 is needed, {sys.executable} is {v[0]}.{v[1]}: set PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[quantize,cpu,triton,s3,ray,oci,sign,dev]'
	@$(BIN)/python -m compileall -q builder profiles serving trtllm_kit
	@touch $@

demo: $(BIN)/trtllm-kit ## build, deploy, stream, validate and stop examples/tiny-llama on this machine
	@TRTLLM_KIT_STORE=$(abspath $(STORE)) PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

demo-nightly: $(BIN)/trtllm-kit ## three nights of a small matrix: promoted, changed and promoted, damaged and rejected
	@TRTLLM_KIT_STORE=$(abspath $(STORE)) PATH="$(abspath $(BIN)):$$PATH" bash examples/demo_nightly.sh

test: $(BIN)/trtllm-kit ## the whole test suite
	$(BIN)/python -m pytest -q $(PYTEST)

lint: $(BIN)/trtllm-kit ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/trtllm-kit ## mypy
	$(BIN)/mypy

golden: ## remake tests/golden/modelopt with NVIDIA ModelOpt, which needs environments of its own
	for row in 0.37.0:bf16:fp16:fp8:fp8_kv:fp8_pc_pt:int8_sq:int4_awq:w4a8_awq 0.47.0:int8_wo:nvfp4; do \
	  set -- $$(echo $$row | tr : ' '); version=$$1; shift; \
	  $(PYTHON) -m venv $(VENV)/modelopt-$$version && \
	  $(VENV)/modelopt-$$version/bin/pip install --quiet torch==2.13.0 nvidia-modelopt==$$version 'transformers>=4.57,<4.58' safetensors && \
	  $(VENV)/modelopt-$$version/bin/python tests/golden/make_modelopt_golden.py --schemes $$@ || exit 1; \
	done
	$(VENV)/modelopt-0.47.0/bin/python tests/golden/make_numerics_golden.py

benchmarks: $(BIN)/trtllm-kit ## the tables of docs, ours alone; each command takes the peers as options
	$(BIN)/python benchmarks/cpu_engine.py
	$(BIN)/python benchmarks/cpu_engine.py --checkpoint examples/tiny-llama
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/nightly.py --repeat 3
	$(BIN)/python benchmarks/validate/instrument.py
	$(BIN)/python benchmarks/quantize/run.py --work $(STORE)/benchmark --rows 160m --bare

clean: ## remove the environment and the demo's store
	rm -rf $(VENV) $(STORE)

# make demo   set everything up and let the demo avatar speak        make test   set up what tests need, and test
# make setup  the virtual environment with the core only             make lint | sanitize | integrations | cuda | format | clean
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INTEGRATIONS := .venv-integrations
# CUDA kernels are built where there is a GPU; ask with SYNCTALK_CUDA=ON elsewhere.
export SYNCTALK_CUDA ?= $(if $(wildcard /dev/nvidia0),AUTO,OFF)
BUILD_INPUTS := pyproject.toml setup.py CMakeLists.txt sdk/synctalk/_version.py $(wildcard csrc/*)
SYSTEM_LIBRARIES := libgl1 libegl1 libgles2 libglib2.0-0 espeak-ng chromium
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check install --quiet
CPP := $(wildcard csrc/*.h csrc/*.cpp csrc/*.cu)

.PHONY: setup demo test lint sanitize integrations cuda format clean system
setup: $(VENV)/.core

$(VENV)/.build: pyproject.toml
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(PIP) --upgrade "pip>=25"
	@$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" > $@.txt
	@$(PIP) -r $@.txt
	@mv $@.txt $@

# Without isolation, so that a second build compiles only what changed.
$(VENV)/.core: $(VENV)/.build $(BUILD_INPUTS)
	@echo "Installing the core and building the native module (SYNCTALK_CUDA=$(SYNCTALK_CUDA))"
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "Installing what tests need"
	@$(PIP) --no-build-isolation -e ".[dev]"
	@touch $@

# The bindings of TensorRT 10 and 11, one lean runtime, and cuda-python, in folders of their own: enough to check every call
# of theirs without a GPU. Tests that lack them skip and say so.
TENSORRT_10 := 10.16.1.11
TENSORRT_11 := 11.1.0.106
TENSORRT_WHEELS_10 := $(addsuffix ==$(TENSORRT_10),tensorrt_cu13_bindings tensorrt_lean_cu13_bindings tensorrt_lean_cu13_libs)
TENSORRT_WHEELS_11 := tensorrt_cu13_bindings==$(TENSORRT_11)
tensorrt: $(VENV)/tensorrt/.10 $(VENV)/tensorrt/.11

$(VENV)/tensorrt/.%: | $(VENV)/.core
	@echo "Bringing the bindings of TensorRT $(TENSORRT_$*)"
	@if $(PIP) --no-compile --no-deps --upgrade --target $(VENV)/tensorrt/$* $(TENSORRT_WHEELS_$*) \
	    cuda-bindings==13.0.3 cuda-pathfinder==1.9.0; \
	  then touch $@; else echo "pip could not bring them: tests that need them skip"; fi

demo: $(VENV)/.core
	@$(BIN)/synctalk demo

# Libraries of the face tracker, the speech synthesiser, the browser; tests that lack them skip and say so.
system:
	@missing=$$(dpkg-query -W -f '$${Package} $${db:Status-Status}\n' $(SYSTEM_LIBRARIES) 2>/dev/null | awk '$$2 == "installed" {print $$1}' \
	    | sed 's/:.*//' | sort | comm -13 - <(printf '%s\n' $(SYSTEM_LIBRARIES) | sort)); \
	  if [ -z "$$missing" ]; then exit 0; fi; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "Installing" $$missing; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing > /dev/null; } \
	      || echo "apt could not install them: tests that need them skip"; \
	  else echo "Not installed:" $$missing "(as root: apt-get install" $$missing"): tests that need them skip"; fi

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard examples/*.py)

test: system $(VENV)/.dev lint tensorrt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# The kernels' tests on a native module that watches its memory and its arithmetic.
sanitize: $(VENV)/.dev
	scripts/sanitize.sh

# LiveKit and Pipecat are large, so they, and what examples need, have an environment of their own; synctalk is used as
# it is built here.
$(INTEGRATIONS)/.ready: $(VENV)/.core
	@echo "Installing LiveKit and Pipecat"
	@$(PYTHON) -m venv $(INTEGRATIONS)
	@$(BIN)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; e = p['optional-dependencies']; \
	  print(*p['dependencies'], *e['livekit'], *e['pipecat'], *e['examples'], *e['test'], sep='\n')" > $@.txt
	@PYTHONWARNINGS=ignore $(INTEGRATIONS)/bin/python -m pip --disable-pip-version-check install --quiet -r $@.txt
	@mv $@.txt $@

integrations: $(INTEGRATIONS)/.ready
	PYTHONPATH=sdk OMP_NUM_THREADS=1 $(INTEGRATIONS)/bin/python -m pytest tests/test_{livekit,pipecat,examples}.py

# The CUDA half, for the oldest GPUs and the newest: compiled where there is nvcc, and loaded, which needs no GPU.
cuda: $(VENV)/.build
	@if ! command -v nvcc > /dev/null; then echo "No nvcc: CUDA kernels are not compiled"; exit 0; fi; \
	  set -euo pipefail; echo "Compiling the CUDA kernels"; mkdir -p build/cuda; \
	  { $(BIN)/cmake -S . -B build/cuda -G Ninja -DSYNCTALK_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="75-real;120" \
	      -DPython_EXECUTABLE=$$PWD/$(BIN)/python -DCMAKE_MAKE_PROGRAM=$$PWD/$(BIN)/ninja \
	      -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)" && $(BIN)/cmake --build build/cuda; \
	  } > build/cuda/log 2>&1 || { cat build/cuda/log >&2; exit 1; }; \
	  PYTHONPATH=build/cuda $(BIN)/python -c "import _native; print(_native.CudaRenderer, _native.cuda_why_not() or 'works')"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build out dist $(VENV) $(INTEGRATIONS) sdk/*.egg-info *.egg-info sdk/synctalk/_native*.so .pytest_cache .mypy_cache .ruff_cache

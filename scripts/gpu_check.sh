#!/usr/bin/env bash
# Builds with CUDA, runs the tests that need a GPU, measures kernels and backends, and writes docs/benchmarks/.
#   scripts/gpu_check.sh [PYTHON]     PYTHON: an interpreter with torch for CUDA and the build requirements installed
# TENSORRT_INCLUDE_DIR=DIR builds the TensorRT plugin, too. AVATAR=FILE measures another avatar than the demo.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-.venv/bin/python}"
avatar="${AVATAR:-sdk/synctalk/demo/demo.avatar}"
command -v nvidia-smi > /dev/null || { echo "gpu_check: no NVIDIA driver here" >&2; exit 1; }
export SYNCTALK_CUDA=ON
export CUDAARCHS="${CUDAARCHS:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)-real}"
"$python" -m pip install --quiet --no-build-isolation --no-deps -e .
"$python" -m synctalk.cli doctor
"$python" -m pytest -m gpu
"$python" scripts/gpu_benchmark.py "$avatar" docs/benchmarks

#!/usr/bin/env bash
# Builds with CUDA, runs the tests that need a GPU, measures, and writes docs/benchmarks/<gpu>.json.
#   scripts/gpu_check.sh [PYTHON]     PYTHON: an interpreter with torch for CUDA and the build requirements installed
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-.venv/bin/python}"
command -v nvidia-smi > /dev/null || { echo "gpu_check: no NVIDIA driver here" >&2; exit 1; }
export SYNCTALK_CUDA=ON
export CUDAARCHS="${CUDAARCHS:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)-real}"
"$python" -m pip install --quiet --no-build-isolation --no-deps -e .
"$python" -m pytest -m gpu
"$python" scripts/gpu_benchmark.py docs/benchmarks

#!/usr/bin/env bash
# Builds the native module with sanitizers and runs the tests of the kernels on it.
#   scripts/sanitize.sh [SANITIZERS]     address,undefined by default; thread
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizers="${1:-address,undefined}"
bin="$PWD/.venv/bin"
build="build/sanitize-${sanitizers//,/-}"
package="$build/package/synctalk"

# -O1: the same is found, and the build takes a third of the time.
mkdir -p "$build"
{
  "$bin/cmake" -S . -B "$build" -G Ninja -DSYNCTALK_CUDA=OFF -DSYNCTALK_SANITIZE="$sanitizers" \
    -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 -DCMAKE_MAKE_PROGRAM="$bin/ninja" -DPython_EXECUTABLE="$bin/python" \
    -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" && "$bin/cmake" --build "$build"
} > "$build/log" 2>&1 || { cat "$build/log" >&2; exit 1; }

# The package with this module in the place of the one that is installed.
rm -rf "$package"
mkdir -p "$package"
find "$PWD/sdk/synctalk" -mindepth 1 -maxdepth 1 ! -name '_native*.so' ! -name __pycache__ -exec ln -s {} "$package" \;
cp "$build"/_native*.so "$package"

# Python is not built with sanitizers: their runtime has to come first, and Python's own leaks are not looked for.
# The thread sanitizer wants its addresses where they are without randomisation.
tests=(tests/test_grid.py tests/test_march.py tests/test_composite.py tests/test_renderer.py tests/test_upsampler.py
  tests/test_threads.py)
case "$sanitizers" in
  *thread*) runtime=libtsan.so; first=(setarch -R) ;;
  *) runtime=libasan.so; first=(); tests+=(tests/test_field.py tests/test_gpu_emulation.py) ;;
esac
export PYTHONPATH="$PWD/$build/package" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}" TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"
# libstdc++ with it, for the exceptions that it watches.
LD_PRELOAD="$("${CXX:-g++}" -print-file-name=$runtime) $("${CXX:-g++}" -print-file-name=libstdc++.so)"
export LD_PRELOAD
"${first[@]}" "$bin/python" -c "from synctalk import _native; assert '$build' in _native.__file__, _native.__file__"
exec "${first[@]}" "$bin/python" -m pytest -p no:cacheprovider --capture=no "${tests[@]}"

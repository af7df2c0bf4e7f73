"""What stands between this machine and its NVIDIA GPU: facts, and what to do about each, for ``synctalk doctor``."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

__all__ = ["ARCHITECTURES", "GpuFacts", "complaints", "look"]

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities (times ten) that the default build has kernels for; newer ones run the last one's PTX."""

_CUDA_MAJOR = 13
_OLDEST_DRIVER = 580
"""The first driver for CUDA 13."""


@dataclass(frozen=True)
class GpuFacts:
    """What was found; empty or zero where there is nothing."""

    gpu: str = ""
    compute_capability: int = 0
    """Times ten: 89 for 8.9."""
    driver: str = ""
    native_devices: int = 0
    """GPUs that the native module can use."""
    native_cuda: str = ""
    """Why backend native-cuda cannot work where there are such GPUs, or nothing."""
    has_cudnn: bool = False
    onnxruntime: str = ""
    onnxruntime_gpu: str = ""
    tensorrt: str = ""
    plugin: bool = False
    """Whether the plugin library for that TensorRT is there."""
    cuda_python: str = ""


def look() -> GpuFacts:
    """Ask nvidia-smi, the packages and the loader. Nothing is changed, no GPU is touched."""
    from synctalk import _native
    from synctalk.tensorrt.plugin import plugin_path

    name, capability, driver = _nvidia_smi()
    tensorrt = _version("tensorrt-cu13") or _version("tensorrt")
    return GpuFacts(
        gpu=name,
        compute_capability=capability,
        driver=driver,
        native_devices=_native.cuda_devices(),
        native_cuda=_native.cuda_why_not() if _native.cuda_devices() else "",
        has_cudnn=bool(_version("nvidia-cudnn-cu13")) or _loads("libcudnn.so.9"),
        onnxruntime=_version("onnxruntime"),
        onnxruntime_gpu=_version("onnxruntime-gpu"),
        tensorrt=tensorrt,
        plugin=bool(tensorrt) and plugin_path(_major(tensorrt)) is not None,
        cuda_python=_version("cuda-python"),
    )


def complaints(facts: GpuFacts) -> Iterator[tuple[str, str]]:
    """Each missing or mismatched piece and what to do, the first to mend first; empty where the GPU can be used."""
    if facts.onnxruntime and facts.onnxruntime_gpu:
        yield (
            "onnxruntime wheels",
            "onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, then install one",
        )
    if not facts.driver:
        yield "NVIDIA driver", f"nvidia-smi finds none; for a GPU install driver {_OLDEST_DRIVER} or newer"
        return
    if _major(facts.driver) < _OLDEST_DRIVER:
        yield (
            "NVIDIA driver",
            f"{facts.driver} is older than {_OLDEST_DRIVER}, the first for CUDA {_CUDA_MAJOR}: install a newer one",
        )
    if facts.compute_capability < ARCHITECTURES[0]:
        yield (
            "compute capability",
            f"{facts.gpu} has {facts.compute_capability / 10}: CUDA {_CUDA_MAJOR} begins at {ARCHITECTURES[0] / 10}; "
            "use the CPU",
        )
    elif not facts.native_devices:
        yield (
            "CUDA kernels",
            "this build has none, or none for this GPU: with nvcc at hand, SYNCTALK_CUDA=ON "
            f"CUDAARCHS={facts.compute_capability}-real pip install --force-reinstall synctalk",
        )
    elif facts.native_cuda:
        yield "backends native-cuda and tensorrt", facts.native_cuda
    yield from _missing_packages(facts)


def _missing_packages(facts: GpuFacts) -> Iterator[tuple[str, str]]:
    if not facts.onnxruntime_gpu:
        yield "onnxruntime-gpu", "for --device cuda: pip uninstall onnxruntime; pip install onnxruntime-gpu"
    elif not facts.has_cudnn:
        yield "cuDNN 9", "onnxruntime-gpu needs it: pip install nvidia-cudnn-cu13"
    if not facts.tensorrt:
        yield "TensorRT", "for --backend tensorrt: pip install 'synctalk[tensorrt]'"
    elif _major(facts.tensorrt) not in (10, 11):
        yield "TensorRT", f"{facts.tensorrt} is neither 10 nor 11: pip install 'tensorrt-cu13>=10.14,<12'"
    elif not facts.plugin:
        yield (
            "TensorRT plugin",
            "no library: look-ups go through Python, slower: build with TENSORRT_INCLUDE_DIR (docs/gpu.md)",
        )
    if not facts.cuda_python:
        yield "cuda-python", "for --backend tensorrt: pip install 'synctalk[gpu]'"


def _nvidia_smi() -> tuple[str, int, str]:
    """Name, compute capability times ten and driver of the first GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "", 0, ""
    command = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
        name, capability, driver = (part.strip() for part in done.stdout.splitlines()[0].split(","))
        return name, round(10 * float(capability)), driver
    except (subprocess.SubprocessError, OSError, IndexError, ValueError):
        return "", 0, ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _major(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True

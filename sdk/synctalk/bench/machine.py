"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from synctalk.backends.sessions import usable_cpus

__all__ = ["describe_machine", "peak_rss_mb", "vram_mb"]

_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "av", "soxr", "torch", "tensorrt")


def describe_machine() -> dict[str, Any]:
    """CPU, instruction set, GPUs, system and libraries, in plain JSON types."""
    return {
        "cpu": _cpu_model(),
        "cpus": usable_cpus(),
        "cpus_of_machine": os.cpu_count(),
        **_native_facts(),
        "gpus": _nvidia_smi("--query-gpu=name,driver_version"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _native_facts() -> dict[str, Any]:
    try:
        from synctalk import _native
    except ImportError:
        return {"simd": None, "simd_paths": []}
    return {"simd": _native.simd(), "simd_paths": _native.simd_paths()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _nvidia_smi(query: str) -> list[str]:
    """The lines of a query; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, query, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def vram_mb(process: int) -> float | None:
    """GPU memory that a process holds, MB; None where it holds none or there is no driver."""
    used = [line.split(",") for line in _nvidia_smi("--query-compute-apps=pid,used_memory")]
    held = [float(amount) for pid, amount in used if int(pid) == process]
    return sum(held) if held else None


def peak_rss_mb() -> float:
    """The most memory that this process has had resident, MB (2**20 bytes)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0

"""What this installation can do, for ``synctalk doctor``."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from synctalk._version import __version__

__all__ = ["Finding", "examine"]

_PACKAGES = ("numpy", "onnxruntime", "av", "soundfile", "soxr", "safetensors")
_OPTIONAL = (("torch", "train"), ("mediapipe", "prepare"), ("onnx", "export"))


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    detail: str
    is_ok: bool = True
    is_backend: bool = False


def examine() -> list[Finding]:
    """Look at Python, packages, the native module, backends and tools. Nothing is downloaded or changed."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = Finding("synctalk", f"{__version__}, Python {platform.python_version()}, {cpus} CPUs")
    return [system, *_packages(), _native(), *_gpu(), *_backends(), *_tools()]


def _packages() -> list[Finding]:
    return [
        *(_package(name, "pip install --force-reinstall synctalk") for name in _PACKAGES),
        *(_package(name, f"to {extra}: pip install 'synctalk[{extra}]'") for name, extra in _OPTIONAL),
    ]


def _package(name: str, remedy: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, remedy, is_ok=False)


def _native() -> Finding:
    try:
        from synctalk import _native
    except ImportError as error:
        return Finding("native module", f"{error}: pip install synctalk with gcc at hand", is_ok=False)
    paths = ", ".join(_native.simd_paths())
    detail = f"{_native.simd()} (this CPU has {paths}), {_native.threads()} threads"
    return Finding("native module", f"{detail}, {_native.cuda_devices()} CUDA devices")


def _gpu() -> list[Finding]:
    from synctalk.gpu import complaints, look

    try:
        facts = look()
    except ImportError:
        return []  # the native module's own line says what to do
    found = [Finding("GPU", f"{facts.gpu}, driver {facts.driver}")] if facts.driver else []
    return found + [Finding(what, remedy, is_ok=False) for what, remedy in complaints(facts)]


def _backends() -> list[Finding]:
    from synctalk.backends import BACKENDS

    reasons = [(entry.name, entry.why_not("auto")) for entry in BACKENDS]
    return [Finding(f"backend {name}", reason or "works", reason is None, True) for name, reason in reasons]


def _tools() -> list[Finding]:
    espeak = shutil.which("espeak-ng")
    detail = espeak or "to make synthetic training clips: apt-get install espeak-ng"
    return [Finding("espeak-ng", detail, espeak is not None)]

"""The one seam: whoever evaluates the learned functions (audio -> condition, head -> picture).

Geometry, sound and pasting are the same for every backend and live elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import Bundle
from synctalk.errors import BackendError
from synctalk.geometry import Camera

__all__ = [
    "BACKENDS",
    "DETAILS",
    "DEVICES",
    "PRECISIONS",
    "Backend",
    "BackendEntry",
    "BackendName",
    "BatchBackend",
    "Detail",
    "Device",
    "HeadRequest",
    "Precision",
    "create_backend",
]

Float = NDArray[np.float32]

_LOG = logging.getLogger(__name__)

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
BackendName: TypeAlias = Literal["auto", "native-cuda", "native-cpu", "onnxruntime", "tensorrt"]
Precision: TypeAlias = Literal["auto", "float32", "float16", "int16", "int8"]
Detail: TypeAlias = Literal["auto", "full", "half"]

DEVICES: tuple[str, ...] = get_args(Device)
PRECISIONS: tuple[str, ...] = get_args(Precision)
"""``auto`` is the fastest that is as good as float32 for the eye, in each backend; no backend has all of them."""
DETAILS: tuple[str, ...] = get_args(Detail)
"""How large heads are rendered: as the frame, or at half its size and upsampled. ``auto`` is half on CPUs where the bundle
has an upsampler."""


@dataclass(frozen=True)
class HeadRequest:
    """One picture of the head; float32 arrays."""

    camera: Camera
    rotation: Float
    """[3, 3]: head to camera"""
    translation: Float
    """[3] metres"""
    condition: Float
    """[C]"""
    expression: Float
    """[E]"""
    appearance: Float
    """[A]"""


class Backend(Protocol):
    """Evaluates the learned functions of one bundle. Safe to call from many threads."""

    name: str

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, 80, 16] -> condition [N, C]."""
        ...

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1."""
        ...


@runtime_checkable
class BatchBackend(Backend, Protocol):
    """A backend that draws pictures of many sessions at once, over their plates."""

    def draw(self, requests: Sequence[HeadRequest], plates: Any = None, stream: int | None = None) -> Any:
        """Pictures of one size, whose ``numpy()`` is uint8 [N, H, W, 3], over plates of that shape; without plates
        premultiplied heads, float32 [N, H, W, 4]."""
        ...


@dataclass(frozen=True)
class BackendEntry:
    """A row of the table of backends."""

    name: str
    create: Callable[[Bundle, str, int | None, str], Backend]
    """bundle, device (one of ``DEVICES``), threads, precision (one of ``PRECISIONS``). Raises: BackendError."""
    why_not: Callable[[str], str | None]
    """device -> why this backend cannot work there, with what to do, or None where it can."""
    create_half: Callable[[Bundle, str, int | None, str], Backend] | None = None
    """The same for heads at half the size, where the backend runs ``upsampler.onnx``; else the native module enlarges."""
    is_fast: bool = False
    """Whether rays are so cheap that ``auto`` renders heads at full size."""


def _create_native_cuda(bundle: Bundle, device: str, threads: int | None, precision: str) -> Backend:
    from .native_cuda import NativeCuda

    return NativeCuda(bundle, device, precision)


def _why_not_native_cuda(device: str) -> str | None:
    from .native_cuda import why_not

    return why_not(device)


def _create_native_cpu(bundle: Bundle, device: str, threads: int | None, precision: str) -> Backend:
    from .native_cpu import NativeCpu

    return NativeCpu(bundle, device, threads, precision)


def _why_not_native_cpu(device: str) -> str | None:
    from .native_cpu import why_not

    return why_not(device)


def _create_onnxruntime(bundle: Bundle, device: str, threads: int | None, precision: str) -> Backend:
    from .onnx_runtime import OnnxRuntime

    if precision not in ("auto", "float32"):
        raise BackendError(
            f"backend onnxruntime computes in float32, not {precision}: choose native-cpu or --precision auto"
        )
    return OnnxRuntime(bundle, device, threads)


def _create_half_onnxruntime(bundle: Bundle, device: str, threads: int | None, precision: str) -> Backend:
    from .half_size import HalfSize
    from .onnx_runtime import onnx_upsampler

    whole = _create_onnxruntime(bundle, device, threads, precision)
    return HalfSize(whole, onnx_upsampler(bundle, device))


def _why_not_onnxruntime(device: str) -> str | None:
    from .onnx_runtime import why_not

    return why_not(device)


def _create_tensorrt(bundle: Bundle, device: str, threads: int | None, precision: str) -> Backend:
    from .tensor_rt import TensorRT

    return TensorRT(bundle, device, precision)


def _create_half_tensorrt(bundle: Bundle, device: str, threads: int | None, precision: str) -> Backend:
    from .tensor_rt import TensorRT

    return TensorRT(bundle, device, precision, is_half=True)


def _why_not_tensorrt(device: str) -> str | None:
    from .tensor_rt import why_not

    return why_not(device)


BACKENDS: tuple[BackendEntry, ...] = (
    BackendEntry("native-cuda", _create_native_cuda, _why_not_native_cuda, is_fast=True),
    BackendEntry("native-cpu", _create_native_cpu, _why_not_native_cpu),
    BackendEntry("onnxruntime", _create_onnxruntime, _why_not_onnxruntime, _create_half_onnxruntime),
    BackendEntry("tensorrt", _create_tensorrt, _why_not_tensorrt, _create_half_tensorrt, is_fast=True),
)
"""All backends; ``auto`` takes the first that works."""


def create_backend(
    name: str,
    bundle: Bundle,
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    detail: str = "auto",
    table: tuple[BackendEntry, ...] = BACKENDS,
) -> Backend:
    """The backend of that name, or for ``auto`` the first of the table that works (the choice is logged).

    device: one of ``DEVICES``; threads: how many it may use, None for all CPUs of the process;
    precision: one of ``PRECISIONS``; detail: one of ``DETAILS``.

    Raises: BackendError: an unknown name, device, precision or detail, or the backend cannot work here, with the reason.
    """
    if device not in DEVICES:
        raise BackendError(f"unknown device {device!r}: choose {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise BackendError(f"unknown precision {precision!r}: choose {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected 1 or more, got {threads}")
    if detail not in DETAILS:
        raise BackendError(f"unknown detail {detail!r}: choose {', '.join(DETAILS)}")

    def create(entry: BackendEntry) -> Backend:
        is_half = detail == "half" or (
            detail == "auto" and bundle.manifest.spec.upsampler is not None and not entry.is_fast
        )
        if is_half and entry.create_half is not None and "upsampler.onnx" in bundle.manifest.files:
            return entry.create_half(bundle, device, threads, precision)
        backend = entry.create(bundle, device, threads, precision)
        return _half_size(backend, bundle, precision) if is_half else backend

    if name != "auto":
        return create(_entry(name, table))
    lost: dict[str, str] = {}
    for i, entry in enumerate(table):
        reason = entry.why_not(device)
        if reason is None:
            try:
                backend = create(entry)
            except BackendError as error:
                reason = str(error)
            else:
                lost |= {later.name: f"comes after {entry.name}" for later in table[i + 1 :]}
                _LOG.info("backend %s on device %s; not %s", entry.name, device, _listed(lost) or "any other")
                return backend
        lost[entry.name] = reason
    raise BackendError(f"no backend works on device {device!r}: {_listed(lost)}", reasons=lost)


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _half_size(backend: Backend, bundle: Bundle, precision: str) -> Backend:
    from .half_size import HalfSize, native_upsampler

    return HalfSize(backend, native_upsampler(bundle, precision))


def _entry(name: str, table: tuple[BackendEntry, ...]) -> BackendEntry:
    for entry in table:
        if entry.name == name:
            return entry
    raise BackendError(f"unknown backend {name!r}: choose auto, {', '.join(entry.name for entry in table)}")

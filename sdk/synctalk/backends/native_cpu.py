"""Backend ``native-cpu``: the fused renderer of the native module for the head, ONNX Runtime for the sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import Bundle
from synctalk.errors import BackendError

from . import HeadRequest
from .native_renderer import render_head, renderer_tensors
from .sessions import AudioNetwork, why_no_onnxruntime

__all__ = ["NativeCpu", "why_not"]

Float = NDArray[np.float32]

_FAST_BYTES = ("avx2", "avxvnni", "avx512vnni")
"""Instruction sets on which int8 is chosen: docs/native.md."""


def why_not(device: str) -> str | None:
    """Why this backend cannot work on a device, or None."""
    if device == "cuda":
        return "it runs on the CPU: choose device auto or cpu"
    try:
        import synctalk._native  # noqa: F401
    except ImportError as error:
        return (
            f"the native module does not load ({error}): install synctalk again, with a C++ compiler at hand"
        )
    return why_no_onnxruntime()


class NativeCpu:
    """Renders the head with the native module."""

    name = "native-cpu"

    def __init__(
        self, bundle: Bundle, device: str = "auto", threads: int | None = None, precision: str = "auto"
    ) -> None:
        """``threads`` sets the size of the pool that all native code of the process shares; ``precision`` is auto,
        float32, int16 or int8.

        Raises: BackendError: it cannot work on the device, or integers are asked of a bundle that has no ranges for them.
            BundleError: ``audio.onnx`` does not load.
        """
        if reason := why_not(device):
            raise BackendError(f"backend native-cpu cannot work on device {device!r}: {reason}")
        from synctalk import _native

        if threads is not None:
            _native.set_threads(threads)
        self._audio = AudioNetwork(bundle)
        ranges, byte_reach = _integers(bundle, precision)
        self.arithmetic = "int8" if byte_reach else "int16" if ranges else "fp32"
        """What the renderer multiplies in, as ``synctalk bench`` names it"""
        tensors = renderer_tensors(bundle.manifest.spec.field, bundle.tensors)
        self._renderer = _native.Renderer(**tensors, ranges=ranges, byte_reach=byte_reach)

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, mels, columns] -> condition [N, C]."""
        return self._audio(windows)

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1."""
        return render_head(self._renderer, request)


def _integers(bundle: Bundle, precision: str) -> tuple[list[float], float]:
    """Ranges of the activations, none for float32, and the share of them that 7 bits span, 0 for 16-bit integers."""
    from synctalk import _native

    if precision == "float16":
        raise BackendError(
            "backend native-cpu does not compute in float16: choose float32, int16, int8 or auto"
        )
    ranges = [float(value) for value in bundle.tensors.get("field.ranges", ())]
    reach = float(bundle.tensors.get("field.byte_reach", [0.0])[0])
    if not any(ranges):
        ranges, reach = [], 0.0
    if precision in ("int16", "int8") and not (reach if precision == "int8" else ranges):
        raise BackendError(
            f"precision {precision}: this bundle has no ranges for it, because it is older or {precision} was not good "
            "enough; export it again, or use precision auto"
        )
    if precision == "float32":
        return [], 0.0
    wants_bytes = precision == "int8" or (precision == "auto" and _native.simd() in _FAST_BYTES)
    return ranges, reach if wants_bytes else 0.0

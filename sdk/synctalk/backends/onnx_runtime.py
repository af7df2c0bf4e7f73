"""Backend ``onnxruntime``: the bundle's ONNX files on the CPU or, with onnxruntime-gpu, on a CUDA device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import Bundle
from synctalk.errors import BackendError

from . import HeadRequest
from .field_march import FieldMarcher
from .sessions import AudioNetwork, open_session, usable_cpus, why_no_onnxruntime

__all__ = ["OnnxRuntime", "why_not"]

Float = NDArray[np.float32]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_NO_CUDA = (
    "ONNX Runtime offers no CUDA here: pip uninstall onnxruntime, pip install onnxruntime-gpu, "
    "and look at the driver with nvidia-smi; or choose device cpu"
)


def why_not(device: str) -> str | None:
    """Why this backend cannot work on a device, or None."""
    if reason := why_no_onnxruntime():
        return reason
    import onnxruntime

    if device == "cuda" and _CUDA not in onnxruntime.get_available_providers():
        return _NO_CUDA
    return None


class OnnxRuntime:
    """Evaluates points and colours with ONNX Runtime; marching and compositing are native."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int | None = None) -> None:
        """``device="auto"`` is the CPU: ask for ``cuda`` to get it.

        Raises: BackendError: no ONNX Runtime, or no CUDA where it is asked for. BundleError: a model that does not load.
        """
        if reason := why_not(device):
            raise BackendError(f"backend onnxruntime cannot work on device {device!r}: {reason}")
        providers = [_CUDA, _CPU] if device == "cuda" else [_CPU]
        self._head_session = open_session(bundle, "head.onnx", providers)
        self._colour_session = open_session(bundle, "colour.onnx", providers)
        if device == "cuda" and _CUDA not in self._head_session.get_providers():
            raise BackendError(f"backend onnxruntime fell back to the CPU: {_NO_CUDA}")
        self._audio = AudioNetwork(bundle)
        spec, occupancy = bundle.manifest.spec.field, bundle.tensors["occupancy"]
        n_threads = 1 if device == "cuda" else threads or usable_cpus()
        self._marcher = FieldMarcher(spec, occupancy, self.head, self._colour, n_threads)

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, 80, 16] -> condition [N, C]."""
        return self._audio(windows)

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1."""
        return self._marcher.render(request)

    def visible_samples(self, request: HeadRequest) -> tuple[Float, int]:
        """See ``FieldMarcher.visible_samples``."""
        return self._marcher.visible_samples(request)

    def head(self, positions: Float, condition: Float, expression: Float) -> tuple[Float, Float]:
        """Positions [M, 3] in 0..1, condition [M, C], expression [M, E] -> log density [M], feature [M, F]."""
        feed = {"positions": positions, "condition": condition, "expression": expression}
        log_density, feature = self._head_session.run(["log_density", "feature"], _contiguous(feed))
        return log_density, feature

    def _colour(self, feature: Float, direction: Float, appearance: Float) -> Float:
        feed = {"feature": feature, "direction": direction, "appearance": appearance}
        colour: Float = self._colour_session.run(["colour"], _contiguous(feed))[0]
        return colour


def _contiguous(feed: dict[str, Float]) -> dict[str, Float]:
    return {name: np.ascontiguousarray(values, np.float32) for name, values in feed.items()}

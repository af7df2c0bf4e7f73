"""Backend ``onnxruntime``: the bundle's ONNX files on the CPU or, with onnxruntime-gpu, on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import Bundle
from synctalk.errors import BackendError
from synctalk.rows import Feed, Lane, RowBatcher, bucket_sizes

from . import HeadRequest
from .bound import BoundSession
from .field_march import FieldMarcher
from .half_size import Enlarge
from .sessions import AudioNetwork, Providers, cuda_graphs, open_session, usable_cpus, why_no_onnxruntime

__all__ = ["OnnxRuntime", "onnx_upsampler", "why_not"]

Float = NDArray[np.float32]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_NO_CUDA = (
    "ONNX Runtime offers no CUDA here: pip uninstall onnxruntime, pip install onnxruntime-gpu, "
    "and look at the driver with nvidia-smi; or choose device cpu"
)

_ROW_SIZES = bucket_sizes(1 << 11, 1 << 16)
"""Rows of one call on a GPU."""


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
        self.device = "cuda" if device == "cuda" else "cpu"
        """Where it computes."""
        providers = _providers(device)
        sessions = [open_session(bundle, member, providers) for member in ("head.onnx", "colour.onnx")]
        if device == "cuda" and _CUDA not in sessions[0].get_providers():
            raise BackendError(f"backend onnxruntime fell back to the CPU: {_NO_CUDA}")
        evaluate = _bound if device == "cuda" else _plain
        self._head_of, self._colours_of = (evaluate(session) for session in sessions)
        self._audio = AudioNetwork(bundle)
        spec, occupancy = bundle.manifest.spec.field, bundle.tensors["occupancy"]
        n_threads = threads or usable_cpus()
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
        out = self._head_of({"positions": positions, "condition": condition, "expression": expression})
        return out["log_density"], out["feature"]

    def _colour(self, feature: Float, direction: Float, appearance: Float) -> Float:
        return self._colours_of({"feature": feature, "direction": direction, "appearance": appearance})[
            "colour"
        ]


def onnx_upsampler(bundle: Bundle, device: str = "cpu") -> Enlarge:
    """``upsampler.onnx`` on a device. Raises: BundleError: a model that does not load."""
    session = open_session(bundle, "upsampler.onnx", _providers(device))

    def enlarge(small: Float, drive: Float) -> Float:
        feed = {"small": small[None], "drive": drive[None]}
        head: Float = session.run(
            ["head"], {name: np.ascontiguousarray(x, np.float32) for name, x in feed.items()}
        )[0][0]
        return head

    return enlarge


def _providers(device: str) -> Providers:
    if device != "cuda":
        return [_CPU]
    return [(_CUDA, {"enable_cuda_graph": "1"} if cuda_graphs(default=False) else {}), _CPU]


def _plain(session: Any) -> Callable[[Feed], dict[str, Float]]:
    """A session on the host: as many rows as come, on the caller's thread."""
    names = [output.name for output in session.get_outputs()]

    def run(feed: Feed) -> dict[str, Float]:
        given = {name: np.ascontiguousarray(values, np.float32) for name, values in feed.items()}
        return dict(zip(names, session.run(names, given), strict=True))

    return run


def _bound(session: Any) -> Callable[[Feed], dict[str, Float]]:
    """A session on a GPU: callers at once share a call, rows are padded to few sizes, memory stays where it is."""
    is_captured = cuda_graphs(default=False)
    lanes: list[Lane] = [
        BoundSession(session, _ROW_SIZES, "cuda", is_captured) for _ in range(1 if is_captured else 2)
    ]
    if is_captured:
        lanes = [_on_one_thread(lanes[0])]
    return RowBatcher(lanes, _ROW_SIZES[-1])


def _on_one_thread(lane: Lane) -> Lane:
    """ONNX Runtime keeps the CUDA graphs that it captured by thread."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="cuda-graphs")

    def run(feeds: Sequence[Feed]) -> Feed:
        return thread.submit(lane, feeds).result()

    return run

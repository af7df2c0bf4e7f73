"""Backend ``native-cuda``: the native module's renderer on the GPU. Not yet run on hardware.

Beside the protocol it draws batches: heads, or heads over plates, that stay on the GPU until somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import Bundle
from synctalk.errors import BackendError

from . import HeadRequest
from .native_renderer import renderer_tensors
from .sessions import AudioNetwork, why_no_onnxruntime

__all__ = ["NativeCuda", "batch_of", "size_of", "why_not"]

Float = NDArray[np.float32]


def why_not(device: str) -> str | None:
    """Why this backend cannot work on a device, or None."""
    if device == "cpu":
        return "it runs on NVIDIA GPUs: choose device auto or cuda"
    try:
        from synctalk import _native
    except ImportError as error:
        return (
            f"the native module does not load ({error}): install synctalk again, with a C++ compiler at hand"
        )
    if not hasattr(_native, "CudaStages"):
        return "the native module was built without CUDA: with nvcc at hand, SYNCTALK_CUDA=ON pip install synctalk"
    return _native.cuda_why_not() or why_no_onnxruntime()


class NativeCuda:
    """Renders heads with the native module, on the GPU."""

    name = "native-cuda"

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        precision: str = "auto",
        is_graphed: bool = True,
        make_renderer: Callable[..., Any] | None = None,
    ) -> None:
        """precision: float16 (tensor cores; weights and activations of 11 bits, sums in float32), which is also what
        auto takes, or float32. is_graphed: launch CUDA graphs, captured for each size of a batch. make_renderer: the native module's ``CudaRenderer`` unless given.

        Raises: BackendError: it cannot work on the device, in the precision, or for this avatar.
        """
        if make_renderer is None:
            if reason := why_not(device):
                raise BackendError(f"backend native-cuda cannot work on device {device!r}: {reason}")
            from synctalk import _native

            make_renderer = _native.CudaRenderer
        if precision not in ("auto", "float16", "float32"):
            raise BackendError(
                f"backend native-cuda does not compute in {precision}: choose float16, float32 or auto"
            )
        self._audio = AudioNetwork(bundle)
        try:
            self._renderer = make_renderer(
                **renderer_tensors(bundle.manifest.spec.field, bundle.tensors),
                is_half=precision != "float32",
                is_graphed=is_graphed,
            )
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"backend native-cuda cannot take this avatar: {error}") from error

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, mels, columns] -> condition [N, C]."""
        return self._audio(windows)

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1, copied to the host."""
        head: Float = self.draw([request]).numpy()[0]
        return head

    def draw(self, requests: Sequence[HeadRequest], plates: Any = None, stream: int | None = None) -> Any:
        """Queue pictures of one size, of one or many sessions; returns at once.

        plates: uint8 [N, H, W, 3], a NumPy array or one on the GPU (``__cuda_array_interface__``); None for heads alone.
        stream: handle of the stream that plates on the GPU belong to and that will use the pictures; its work so far
        comes before, its later work after them.

        Returns ``CudaFrames`` on the GPU: pictures uint8 [N, H, W, 3], or premultiplied heads float32 [N, H, W, 4]. Take
        them with ``__cuda_array_interface__`` or DLPack (``torch.from_dlpack``), or with ``.numpy()`` to the host;
        ``.start_copy()`` begins that copy ahead.

        Raises: ValueError: no requests, cameras of several sizes, or plates that do not fit. BackendError: CUDA failed.
        """
        width, height = size_of(requests)
        try:
            return self._renderer.render(batch_of(requests), width, height, plates, stream)
        except RuntimeError as error:
            raise BackendError(f"native-cuda: {error}") from error


def size_of(requests: Sequence[HeadRequest]) -> tuple[int, int]:
    """Width and height of the pictures that are asked for. Raises: ValueError: there are none, or of several sizes."""
    sizes = {(request.camera.width, request.camera.height) for request in requests}
    if len(sizes) != 1:
        raise ValueError(f"requests: expected pictures of one size, got {sorted(sizes)}")
    (size,) = sizes
    return size


def batch_of(requests: Sequence[HeadRequest]) -> Any:
    """What the native module takes: a ``GpuBatch``."""
    from synctalk import _native

    def stacked(values: Sequence[Any]) -> Float:
        return np.ascontiguousarray(np.stack([np.asarray(value, np.float32) for value in values]))

    lens = [(r.camera.focal_px, r.camera.centre_x, r.camera.centre_y) for r in requests]
    return _native.GpuBatch(
        rotation=stacked([r.rotation for r in requests]),
        translation=stacked([r.translation for r in requests]),
        camera=stacked(lens),
        condition=stacked([r.condition for r in requests]),
        expression=stacked([r.expression for r in requests]),
        appearance=stacked([r.appearance for r in requests]),
    )

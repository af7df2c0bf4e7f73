"""A head rendered at half the size and made as large as the frame by the bundle's upsampler: a quarter of the rays."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from synctalk import _native
from synctalk.bundle import Bundle
from synctalk.errors import BackendError

from . import Backend, HeadRequest

__all__ = ["HalfSize", "half_sized"]

Float = NDArray[np.float32]


def half_sized(request: HeadRequest) -> HeadRequest:
    """The same head at half the size."""
    camera = request.camera
    return dataclasses.replace(request, camera=camera.resized(camera.width // 2, camera.height // 2))


class HalfSize:
    """Another backend's head, at half the size, upsampled."""

    def __init__(self, whole: Backend, bundle: Bundle, precision: str = "auto") -> None:
        """whole: renders heads of any size; precision: float32 forces the upsampler to it, which else computes in 8-bit
        integers where export found that good enough. Raises: BackendError: the bundle has no upsampler."""
        design = bundle.manifest.spec.upsampler
        if design is None:
            raise BackendError(
                "detail half: this bundle has no upsampler; train one (synctalk train-upsampler RUN) and export again, "
                "or use detail auto"
            )
        self.name = whole.name
        self.whole = whole
        weights = [bundle.tensors[f"upsampler.{i}"] for i in range(design.layers)]
        ranges = [float(value) for value in bundle.tensors.get("upsampler.ranges", ())]
        is_exact = precision == "float32" or not any(ranges)
        self._upsampler = _native.Upsampler(weights, [] if is_exact else ranges)

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, mels, columns] -> condition [N, C]."""
        return self.whole.condition(windows)

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1; H and W are even."""
        camera = request.camera
        small = self.whole.render_head(half_sized(request))
        rgba = np.empty((camera.height, camera.width, 4), np.float32)
        self._upsampler.apply(np.ascontiguousarray(small, np.float32), rgba)
        return rgba

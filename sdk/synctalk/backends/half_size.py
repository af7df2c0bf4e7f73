"""A head rendered at half the size and made as large as the frame by the bundle's upsampler: a quarter of the rays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk import _native
from synctalk.bundle import Bundle, upsampler_design

from . import Backend, HeadRequest

__all__ = ["Enlarge", "HalfSize", "Modulation", "drive_of", "half_sized", "native_upsampler"]

Float = NDArray[np.float32]
Enlarge = Callable[[Float, Float], Float]
"""Premultiplied RGBA [H, W, 4] and drive [D] -> [2 H, 2 W, 4] in 0..1."""


def drive_of(request: HeadRequest) -> Float:
    """What modulates the upsampler, [12 + E]: rotation, translation, expression."""
    parts = (request.rotation, request.translation, request.expression)
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


class Modulation:
    """From drive [D] to gains and shifts [2 * channels]. Poses beyond those of the training act as the nearest of them."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """tensors: a bundle's."""
        self._least, self._most = tensors["upsampler.drive_range"]
        self._first, self._second = (tensors[f"upsampler.modulation.{i}"] for i in range(2))

    def __call__(self, drive: Float) -> Float:
        inside = np.clip(drive, self._least, self._most)
        hidden = np.maximum(self._first[:, :-1] @ inside + self._first[:, -1], 0.0)
        return np.asarray(self._second[:, :-1] @ hidden + self._second[:, -1], np.float32)


def half_sized(request: HeadRequest) -> HeadRequest:
    """The same head at half the size."""
    camera = request.camera
    return dataclasses.replace(request, camera=camera.resized(camera.width // 2, camera.height // 2))


def native_upsampler(bundle: Bundle, precision: str = "auto") -> Enlarge:
    """A bundle's upsampler in the native module: in 8-bit integers where export found them good enough, unless precision
    is float32. Raises: BackendError: it has none."""
    design = upsampler_design(bundle)
    weights = [bundle.tensors[f"upsampler.{i}"] for i in range(len(design.shapes))]
    ranges = [float(value) for value in bundle.tensors.get("upsampler.ranges", ())]
    is_exact = precision == "float32" or not any(ranges)
    upsampler, modulation = _native.Upsampler(weights, [] if is_exact else ranges), Modulation(bundle.tensors)

    def enlarge(small: Float, drive: Float) -> Float:
        height, width, _ = small.shape
        head = np.empty((2 * height, 2 * width, 4), np.float32)
        upsampler.apply(np.ascontiguousarray(small, np.float32), modulation(drive), head)
        return head

    return enlarge


class HalfSize:
    """Another backend's head, at half the size, upsampled."""

    detail = "half"

    def __init__(self, whole: Backend, enlarge: Enlarge) -> None:
        """whole: renders heads of any size."""
        self.name = whole.name
        self.whole = whole
        self._enlarge = enlarge

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, mels, columns] -> condition [N, C]."""
        return self.whole.condition(windows)

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1; sides are multiples of ``UpsamplerSpec.multiple``."""
        return self._enlarge(self.whole.render_head(half_sized(request)), drive_of(request))

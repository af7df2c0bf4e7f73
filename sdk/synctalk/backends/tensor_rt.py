"""Backend ``tensorrt``: engines built from the bundle's ONNX files on this machine. Not yet run on hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import Bundle
from synctalk.errors import BackendError
from synctalk.tensorrt.builder import (
    Builder,
    Model,
    Say,
    TensorRTBuilder,
    best_precision,
    engines_of,
    models_of,
)
from synctalk.tensorrt.builder import why_not as why_no_builder
from synctalk.tensorrt.cache import EngineCache, EngineOptions
from synctalk.tensorrt.progress import shown_progress

from . import HeadRequest
from .field_march import FieldMarcher
from .sessions import AudioNetwork, cuda_graphs, usable_cpus, why_no_onnxruntime

__all__ = ["TensorRT", "why_not"]

Float = NDArray[np.float32]
Runner = Callable[[Mapping[str, Float]], Mapping[str, Float]]
"""Inputs by name -> outputs by name."""


def why_not(device: str) -> str | None:
    """Why this backend cannot work on a device, or None."""
    if device == "cpu":
        return "it runs on NVIDIA GPUs: choose device auto or cuda"
    return why_no_onnxruntime() or why_no_builder()


class TensorRT:
    """Evaluates points and colours with TensorRT; marching and compositing are native, on the CPU."""

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        builder: Builder | None = None,
        cache: EngineCache | None = None,
        runner: Callable[[object, Model], Runner] | None = None,
        say: Say | None = None,
    ) -> None:
        """Engines are built on first use (minutes) and kept in the user's cache; ``synctalk build-engines`` does it ahead.

        threads: how many blocks of rays are marched at once; those that wait for the GPU together share a launch.
        builder, cache, runner: TensorRT's own and the user's cache unless given; say: told how far building is, a bar
        on the terminal unless given.

        Raises: BackendError: it cannot work on the device, or in the precision.
        """
        if builder is None:
            if reason := why_not(device):
                raise BackendError(f"backend tensorrt cannot work on device {device!r}: {reason}")
            builder = TensorRTBuilder()
        runner, cache = runner or _engine_runner, cache or EngineCache()
        built = cache.options(bundle.manifest.id) or EngineOptions()
        options = replace(built, precision=_engine_precision(bundle, precision))
        with nullcontext(say) if say else shown_progress() as told:
            engines = engines_of(bundle, options, builder, cache, told)
        models = models_of(bundle, options.precision, options.max_batch)
        self._head, self._colour = (runner(*pair) for pair in zip(engines, models, strict=True))
        self._audio = AudioNetwork(bundle)
        spec, occupancy = bundle.manifest.spec.field, bundle.tensors["occupancy"]
        n_threads = threads or usable_cpus()
        self._marcher = FieldMarcher(spec, occupancy, self.head, self._colour_of, n_threads)

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, mels, columns] -> condition [N, C]."""
        return self._audio(windows)

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1."""
        return self._marcher.render(request)

    def head(self, positions: Float, condition: Float, expression: Float) -> tuple[Float, Float]:
        """Positions [M, 3] in 0..1, condition [M, C], expression [M, E] -> log density [M], feature [M, F]."""
        out = self._head({"positions": positions, "condition": condition, "expression": expression})
        return out["log_density"], out["feature"]

    def _colour_of(self, feature: Float, direction: Float, appearance: Float) -> Float:
        return self._colour({"feature": feature, "direction": direction, "appearance": appearance})["colour"]


def _engine_runner(engine: object, model: Model) -> Runner:
    from synctalk.tensorrt.runner import EngineRunner

    return EngineRunner(engine, model, use_graphs=cuda_graphs(default=True))


def _engine_precision(bundle: Bundle, precision: str) -> str:
    """``fp32`` or ``fp16`` for a backend's precision; ``auto`` takes what the export found good enough."""
    if precision == "auto":
        return best_precision(bundle)
    if precision == "float32":
        return "fp32"
    raise BackendError(
        f"backend tensorrt does not compute in {precision}: choose --precision auto or float32"
    )

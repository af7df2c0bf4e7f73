"""Running an engine from NumPy arrays: a lane each for callers at once, buffers allocated once. Not yet run on hardware."""

from __future__ import annotations

import math
from collections.abc import Mapping
from queue import Empty, LifoQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import BackendError

from .builder import Model
from .device import Buffer, Stream

__all__ = ["EngineRunner"]

Float = NDArray[np.float32]


class EngineRunner:
    """Evaluates one engine. Safe to call from many threads: each call has a lane of its own."""

    def __init__(self, engine: Any, model: Model) -> None:
        """engine: a deserialised ``ICudaEngine`` of the model's profiles."""
        self._engine, self._model = engine, model
        self._profile = len(model.profiles) - 1
        self._max_rows = model.profiles[self._profile][2]
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = {name for name, _ in model.inputs}
        self._widths = {name: tuple(engine.get_tensor_shape(name))[1:] for name in names}
        self.outputs = [name for name in names if name not in inputs]
        self._lanes: LifoQueue[_Lane] = LifoQueue()

    def __call__(self, feed: Mapping[str, Float]) -> dict[str, Float]:
        """feed: float32 [rows, width] by input name; returns the outputs [rows, ...] by name."""
        n = len(next(iter(feed.values())))
        out = {name: np.empty((n, *self._widths[name]), np.float32) for name in self.outputs}
        try:
            lane = self._lanes.get_nowait()
        except Empty:
            lane = _Lane(self._engine, self._widths, self._max_rows, self._profile)
        try:
            for first in range(0, n, self._max_rows):
                rows = slice(first, first + self._max_rows)
                lane.run(
                    {
                        name: np.ascontiguousarray(feed[name][rows], np.float32)
                        for name, _ in self._model.inputs
                    },
                    {name: values[rows] for name, values in out.items()},
                )
        finally:
            self._lanes.put(lane)
        return out


class _Lane:
    """An execution context with its stream and its buffers."""

    def __init__(
        self, engine: Any, widths: Mapping[str, tuple[int, ...]], max_rows: int, profile: int
    ) -> None:
        self._stream = Stream()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                "TensorRT makes no execution context: is the GPU's memory full? See nvidia-smi"
            )
        self._context.set_optimization_profile_async(profile, self._stream.handle)
        self._buffers = {name: Buffer(4 * max_rows * math.prod(width)) for name, width in widths.items()}
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.address)

    def run(self, inputs: Mapping[str, Float], outputs: Mapping[str, Float]) -> None:
        """Copy in, compute, copy out, wait."""
        for name, values in inputs.items():
            self._buffers[name].upload(values, self._stream)
            if not self._context.set_input_shape(name, values.shape):
                raise BackendError(
                    f"TensorRT refuses {name} of shape {list(values.shape)}: build the engines again"
                )
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError("TensorRT could not queue the work: see its log lines above")
        for name, values in outputs.items():
            self._buffers[name].download(values, self._stream)
        self._stream.synchronise()

"""Running an engine on arrays that stay on the GPU: one CUDA graph for each size, everything allocated once.

Not yet run on hardware.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import BackendError
from synctalk.rows import bucket_of, bucket_sizes

from .builder import Model
from .device import Cuda, Device, DeviceArray

__all__ = ["EngineRunner"]

_FEWEST_ROWS = 1 << 11
_FLOAT = np.dtype(np.float32)


class EngineRunner:
    """Evaluates one engine on one stream, for one caller at a time: who fills its inputs on that stream, calls it and
    reads its outputs there waits for nothing."""

    def __init__(
        self,
        engine: Any,
        model: Model,
        stream: int,
        use_graphs: bool = True,
        making: threading.Lock | None = None,
        device: Device | None = None,
        user_managed: Any = None,
    ) -> None:
        """engine: a deserialised ``ICudaEngine`` of the model's profiles; stream: a handle, which must live as long;
        use_graphs: launch each size as one CUDA graph; making: held while contexts and graphs are made, by all runners of an
        engine; device, user_managed: the current GPU, and TensorRT's word for a
        context without memory of its own, unless given.

        Raises: BackendError: no memory on the GPU.
        """
        if user_managed is None:
            import tensorrt

            user_managed = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._engine, self._model, self._use_graphs = engine, model, use_graphs
        self._user_managed, self._making = user_managed, making or threading.Lock()
        self._device = device or Cuda()
        self._stream = self._device.stream(stream)
        self.most_rows = model.profiles[-1][2]
        """Of one call."""
        self._sizes = bucket_sizes(min(_FEWEST_ROWS, model.rows), self.most_rows)
        self._shapes = dict((*model.inputs, *model.outputs))  # of one row
        self._buffers = {
            name: self._device.buffer(4 * self.most_rows * math.prod(shape))
            for name, shape in self._shapes.items()
        }
        self._workspace = self._device.buffer(max(1, engine.device_memory_size_v2))
        self._ready: dict[int, Any] = {}
        self._given: dict[str, NDArray[np.float32]] = {}  # the host's rows, until they are copied

    def array(self, name: str, n_rows: int) -> DeviceArray:
        """The first rows of an input or output: float32 [n_rows, ...]."""
        return DeviceArray(self._buffers[name].address, (n_rows, *self._shapes[name]), _FLOAT)

    def put(self, name: str, values: NDArray[np.float32]) -> None:
        """Queue a copy of rows from the host into an input."""
        given = np.ascontiguousarray(values, np.float32)
        if given.shape[1:] != self._shapes[name] or len(given) > self.most_rows:
            raise ValueError(
                f"{name}: expected up to {self.most_rows} rows of {self._shapes[name]}, got {given.shape}"
            )
        self._buffers[name].upload(given, self._stream)
        self._given[name] = given

    def __call__(self, n_rows: int) -> None:
        """Queue so many rows, at most ``most_rows``. Raises: BackendError: TensorRT or CUDA refuses."""
        if n_rows:
            size = bucket_of(n_rows, self._sizes)
            if size not in self._ready:
                self._ready[size] = self._prepared(size)
            self._ready[size]()

    def _prepared(self, size: int) -> Any:
        """Whatever launches the engine on so many rows. Rows beyond those filled in are what was there before."""
        with self._making:
            context = self._context(size)

        def queue() -> None:
            if not context.execute_async_v3(self._stream.handle):
                raise BackendError("TensorRT could not queue the work: see its log lines above")

        if not self._use_graphs:
            return queue
        queue()  # once outside of a graph: TensorRT settles what the new shapes ask for
        self._stream.synchronise()
        with self._making:
            graph = self._device.capture(self._stream, queue)

        def launch(keep: Any = context) -> None:  # the context lives as long as its graph
            graph.launch(self._stream)

        return launch

    def _context(self, size: int) -> Any:
        """An execution context of fixed shapes; all of them share the memory, since one works at a time."""
        handle = self._stream.handle
        context = self._engine.create_execution_context(self._user_managed)
        if context is None:
            raise BackendError(
                "TensorRT makes no execution context: is the GPU's memory full? See nvidia-smi"
            )
        context.set_device_memory(self._workspace.address, self._workspace.n_bytes)
        profile = next(i for i, (_, _, most) in enumerate(self._model.profiles) if size <= most)
        _expect(context.set_optimization_profile_async(profile, handle), f"profile {profile}")
        for name, buffer in self._buffers.items():
            _expect(context.set_tensor_address(name, buffer.address), f"memory for {name}")
        for name, row in self._model.inputs:
            shape = (size, *row)
            _expect(context.set_input_shape(name, shape), f"{name} of shape {list(shape)}")
        return context


def _expect(is_taken: bool, what: str) -> None:
    if not is_taken:
        raise BackendError(f"TensorRT refuses {what}: build the engines again with synctalk build-engines")

"""Running an engine: rows of many callers together, one CUDA graph for each size, everything allocated once.

Not yet run on hardware.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import BackendError
from synctalk.rows import Feed, RowBatcher, bucket_of, bucket_sizes

from .builder import Model
from .device import Cuda, Device

__all__ = ["EngineRunner"]

Float = NDArray[np.float32]

_FEWEST_ROWS = 1 << 11
_N_LANES = 2
"""While one computes, the rows of the other are copied."""


class EngineRunner:
    """Evaluates one engine. Safe to call from many threads: those that call at once share a launch."""

    def __init__(
        self,
        engine: Any,
        model: Model,
        use_graphs: bool = True,
        device: Device | None = None,
        user_managed: Any = None,
    ) -> None:
        """engine: a deserialised ``ICudaEngine`` of the model's profiles; use_graphs: launch each size as one CUDA graph;
        device, user_managed: the current GPU, and TensorRT's word for a context without memory of its own, unless given.

        Raises: BackendError: no memory on the GPU.
        """
        if user_managed is None:
            import tensorrt

            user_managed = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        sizes = bucket_sizes(min(_FEWEST_ROWS, model.rows), model.profiles[-1][2])
        inputs = {name for name, _ in model.inputs}
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        shapes = {name: tuple(engine.get_tensor_shape(name))[1:] for name in names}
        plan = _Plan(
            engine,
            model,
            sizes,
            {name: shapes[name] for name in names if name in inputs},
            {name: shapes[name] for name in names if name not in inputs},
            use_graphs,
            user_managed,
        )
        device = device or Cuda()
        making = threading.Lock()  # of contexts and graphs
        self.outputs = list(plan.outputs)
        self._batcher = RowBatcher([_Lane(plan, device, making) for _ in range(_N_LANES)], sizes[-1])

    def __call__(self, feed: Feed) -> dict[str, Float]:
        """feed: float32 [rows, width] by input name; returns the outputs [rows, ...] by name."""
        return self._batcher(feed)


@dataclass(frozen=True)
class _Plan:
    """What the lanes of an engine share. Shapes are those of one row."""

    engine: Any
    model: Model
    sizes: tuple[int, ...]
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    use_graphs: bool
    user_managed: Any

    def profile_of(self, n_rows: int) -> int:
        """The first optimisation profile that takes so many rows."""
        return next(i for i, (_, _, most) in enumerate(self.model.profiles) if n_rows <= most)


class _Lane:
    """A stream with its memory, and a context for each size: they share the memory, since one works at a time."""

    def __init__(self, plan: _Plan, device: Device, making: threading.Lock) -> None:
        self._plan, self._device, self._making = plan, device, making
        most = plan.sizes[-1]
        shapes = plan.inputs | plan.outputs
        self._stream = device.stream()
        self._host = {name: device.pinned((most, *shape)) for name, shape in shapes.items()}
        self._buffers = {name: device.buffer(4 * most * math.prod(shape)) for name, shape in shapes.items()}
        self._workspace = device.buffer(max(1, plan.engine.device_memory_size_v2))
        self._ready: dict[int, Any] = {}

    def __call__(self, feeds: Sequence[Feed]) -> dict[str, Float]:
        """The rows of all feeds in, one launch, the rows out; see ``synctalk.rows.Lane``."""
        n_rows = 0
        for feed in feeds:
            n = len(feed[next(iter(self._plan.inputs))])
            for name in self._plan.inputs:
                self._host[name].values[n_rows : n_rows + n] = feed[name]
            n_rows += n
        if n_rows:
            size = bucket_of(n_rows, self._plan.sizes)
            if size not in self._ready:
                self._ready[size] = self._prepared(size)
            self._ready[size]()
            self._stream.synchronise()
        return {name: self._host[name].values[:n_rows] for name in self._plan.outputs}

    def _prepared(self, size: int) -> Any:
        """Whatever launches the engine on so many rows. Rows beyond the given ones are what was there before."""
        with self._making:
            context = self._context(size)

        def queue() -> None:
            self._queue(context, size)

        if not self._plan.use_graphs:
            return queue
        queue()  # once outside of a graph: TensorRT settles what the new shapes ask for
        self._stream.synchronise()
        with self._making:
            graph = self._device.capture(self._stream, queue)

        def launch(keep: Any = context) -> None:  # the context lives as long as its graph
            graph.launch(self._stream)

        return launch

    def _context(self, size: int) -> Any:
        """An execution context of fixed shapes on this lane's memory."""
        engine, handle = self._plan.engine, self._stream.handle
        context = engine.create_execution_context(self._plan.user_managed)
        if context is None:
            raise BackendError(
                "TensorRT makes no execution context: is the GPU's memory full? See nvidia-smi"
            )
        context.set_device_memory(self._workspace.address, self._workspace.n_bytes)
        profile = self._plan.profile_of(size)
        _expect(context.set_optimization_profile_async(profile, handle), f"profile {profile}")
        for name, buffer in self._buffers.items():
            _expect(context.set_tensor_address(name, buffer.address), f"memory for {name}")
        for name, shape in self._plan.inputs.items():
            _expect(context.set_input_shape(name, (size, *shape)), f"{name} of shape {[size, *shape]}")
        return context

    def _queue(self, context: Any, size: int) -> None:
        """Copy in, compute, copy out."""
        for name in self._plan.inputs:
            self._buffers[name].upload(self._host[name].values[:size], self._stream)
        if not context.execute_async_v3(self._stream.handle):
            raise BackendError("TensorRT could not queue the work: see its log lines above")
        for name in self._plan.outputs:
            self._buffers[name].download(self._host[name].values[:size], self._stream)


def _expect(is_taken: bool, what: str) -> None:
    if not is_taken:
        raise BackendError(f"TensorRT refuses {what}: build the engines again with synctalk build-engines")

"""An engine that is none: ONNX Runtime computes on whatever addresses it was given, when its stream comes to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from host_device import HostDevice, host_array
from synctalk.backends.sessions import open_session
from synctalk.bundle import Bundle
from synctalk.tensorrt.builder import Model
from synctalk.tensorrt.device import DeviceArray
from synctalk.tensorrt.runner import EngineRunner

__all__ = ["CopyingRunner", "HostContext", "HostEngine", "host_runner", "seen"]

USER_MANAGED = object()
WORKSPACE = 4096


class HostEngine:
    """A member of a bundle as an ``ICudaEngine``."""

    def __init__(self, bundle: Bundle, device: HostDevice, member: str = "colour.onnx") -> None:
        self.session, self.device = open_session(bundle, member, ["CPUExecutionProvider"]), device
        self.inputs, self.outputs = (
            {one.name: tuple(one.shape[1:]) for one in tensors}
            for tensors in (self.session.get_inputs(), self.session.get_outputs())
        )
        self.names = [*self.inputs, *self.outputs]
        self.device_memory_size_v2 = WORKSPACE
        self.contexts: list[HostContext] = []
        self.has_memory = True

    def create_execution_context(self, strategy: object) -> Any:
        assert strategy is USER_MANAGED
        self.contexts.append(HostContext(self))
        return self.contexts[-1] if self.has_memory else None


class HostContext:
    """An ``IExecutionContext``."""

    def __init__(self, engine: HostEngine) -> None:
        self.engine, self.profile, self.memory = engine, -1, (0, 0)
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.n_queued = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = memory, size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile >= 0
        self.shapes[name] = shape
        row = self.engine.inputs[name]
        return all(isinstance(axis, str) or axis == n for axis, n in zip(row, shape[1:], strict=True))

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory[1] >= WORKSPACE and set(self.addresses) == set(self.engine.names)
        self.n_queued += 1
        self.engine.device.streams[stream_handle].do(self._compute)
        return True

    def _compute(self) -> None:
        n = next(iter(self.shapes.values()))[0]
        feed = {name: host_array(self.addresses[name], shape).copy() for name, shape in self.shapes.items()}
        names = list(self.engine.outputs)
        for name, values in zip(names, self.engine.session.run(names, feed), strict=True):
            assert len(values) == n
            host_array(self.addresses[name], values.shape)[:] = values


def host_runner(engine: HostEngine, model: Model, stream: int = 1, **options: Any) -> EngineRunner:
    """A runner of such an engine."""
    return EngineRunner(engine, model, stream, device=engine.device, user_managed=USER_MANAGED, **options)


class CopyingRunner:
    """``EngineRunner`` for arrays on a real GPU, computed on the host: copies out, ONNX Runtime, copies in."""

    def __init__(self, bundle: Bundle, member: str, model: Model, stream: int) -> None:
        from synctalk.tensorrt.device import Buffer, Stream

        self._session = open_session(bundle, member, ["CPUExecutionProvider"])
        self._model, self._stream, self.most_rows = model, Stream(stream), model.profiles[-1][2]
        self._rows = dict((*model.inputs, *model.outputs))
        self._buffers = {
            name: Buffer(4 * self.most_rows * int(np.prod(row))) for name, row in self._rows.items()
        }

    def array(self, name: str, n_rows: int) -> DeviceArray:
        shape = (n_rows, *self._rows[name])
        return DeviceArray(self._buffers[name].address, shape, np.dtype(np.float32))

    def __call__(self, n_rows: int) -> None:
        feed = {name: np.empty((n_rows, *row), np.float32) for name, row in self._model.inputs}
        for name, values in feed.items():
            self._buffers[name].download(values, self._stream)
        self._stream.synchronise()
        names = [name for name, _ in self._model.outputs]
        for name, values in zip(names, self._session.run(names, feed), strict=True):
            self._buffers[name].upload(np.ascontiguousarray(values), self._stream)
        self._stream.synchronise()


def seen(array: Any) -> np.ndarray:
    """An array of the device as one of the host."""
    interface = array.__cuda_array_interface__
    return host_array(interface["data"][0], interface["shape"], interface["typestr"])

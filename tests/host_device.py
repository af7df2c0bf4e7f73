"""A GPU that is none: the host's memory at the device's addresses, streams that do at once what they are given."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["HostDevice", "host_array"]


class HostStream:
    """Does work at once, or notes it down while something is captured."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.captured: list[Callable[[], None]] | None = None
        self.n_synchronised = 0

    def do(self, work: Callable[[], None]) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def synchronise(self) -> None:
        assert self.captured is None, "nothing may wait while a graph is captured"
        self.n_synchronised += 1


class HostBuffer:
    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._memory = np.full(n_bytes, 0x7F, np.uint8)  # floats of it are enormous
        self.address = self._memory.ctypes.data

    def upload(self, values: np.ndarray, stream: HostStream) -> None:
        assert values.flags.c_contiguous and values.nbytes <= self.n_bytes
        stream.do(lambda: ctypes.memmove(self.address, values.ctypes.data, values.nbytes))

    def download(self, values: np.ndarray, stream: HostStream) -> None:
        assert values.flags.c_contiguous and values.nbytes <= self.n_bytes
        stream.do(lambda: ctypes.memmove(values.ctypes.data, self.address, values.nbytes))


class HostGraph:
    def __init__(self, work: list[Callable[[], None]]) -> None:
        self.work, self.n_launches = work, 0

    def launch(self, stream: HostStream) -> None:
        self.n_launches += 1
        for one in self.work:
            stream.do(one)


class HostDevice:
    """Implements ``synctalk.tensorrt.device.Device`` and remembers what it gave."""

    def __init__(self) -> None:
        self.streams: dict[int, HostStream] = {}
        self.buffers: list[HostBuffer] = []
        self.graphs: list[HostGraph] = []

    def stream(self, handle: int) -> HostStream:
        return self.streams.setdefault(handle, HostStream(handle))

    def buffer(self, n_bytes: int) -> HostBuffer:
        self.buffers.append(HostBuffer(n_bytes))
        return self.buffers[-1]

    def capture(self, stream: HostStream, work: Callable[[], None]) -> HostGraph:
        stream.captured = []
        try:
            work()
            graph = HostGraph(stream.captured)
        finally:
            stream.captured = None
        self.graphs.append(graph)
        return graph


def host_array(address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """The memory at an address as an array, borrowed."""
    n_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
    return np.frombuffer((ctypes.c_byte * n_bytes).from_address(address), dtype).reshape(shape)

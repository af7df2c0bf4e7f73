"""All calls of CUDA's runtime, through cuda-python, in one small file. Not yet run on hardware."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import BackendError

__all__ = [
    "Buffer",
    "Cuda",
    "Device",
    "DeviceArray",
    "Graph",
    "Pinned",
    "Stream",
    "why_not",
]


def _runtime() -> Any:
    from cuda.bindings import runtime

    return runtime


def _call(result: tuple[Any, ...]) -> Any:
    """The value of a call, or None. Raises: BackendError: it failed."""
    status, *values = result
    if int(status):
        raise BackendError(f"CUDA: {status.name}: look at nvidia-smi and run synctalk doctor")
    return values[0] if values else None


def why_not() -> str | None:
    """Why there is no GPU to compute on, with what to do, or None."""
    try:
        runtime = _runtime()
        status, count = runtime.cudaGetDeviceCount()
    except ImportError as error:
        return f"cuda-python is not installed ({error}): pip install 'synctalk[gpu]'"
    except RuntimeError as error:  # cuda-python's way to say that a library of the driver is missing
        return f"the CUDA driver does not load ({error}): install NVIDIA's driver and look at nvidia-smi"
    if int(status) or count == 0:
        return f"no usable GPU ({status.name}): look at nvidia-smi"
    return None


@dataclass(frozen=True)
class DeviceArray:
    """Somebody else's memory on the GPU as an array that the native module borrows."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3}


class Stream:
    """A queue of work on the GPU."""

    def __init__(self) -> None:
        self.handle = 0
        self.handle = int(_call(_runtime().cudaStreamCreate()))

    def synchronise(self) -> None:
        """Wait until all that was queued is done."""
        _call(_runtime().cudaStreamSynchronize(self.handle))

    def __del__(self) -> None:
        if self.handle:
            _runtime().cudaStreamDestroy(self.handle)


class Buffer:
    """Memory on the GPU, allocated once."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes, self.address = n_bytes, 0
        self.address = int(_call(_runtime().cudaMalloc(n_bytes)))

    def upload(self, values: NDArray[Any], stream: Stream) -> None:
        """Queue a copy of an array to the buffer; the array must live until the stream is synchronised."""
        runtime = _runtime()
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(runtime.cudaMemcpyAsync(self.address, values.ctypes.data, values.nbytes, kind, stream.handle))

    def download(self, values: NDArray[Any], stream: Stream) -> None:
        """Queue a copy of the buffer's beginning into an array."""
        runtime = _runtime()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(runtime.cudaMemcpyAsync(values.ctypes.data, self.address, values.nbytes, kind, stream.handle))

    def __del__(self) -> None:
        if self.address:
            _runtime().cudaFree(self.address)


class Pinned:
    """Memory of the host that the GPU copies from and to by itself: what a queued or captured copy needs."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._address = 0
        n_bytes, runtime = 4 * int(np.prod(shape)), _runtime()
        self._address = int(_call(runtime.cudaHostAlloc(n_bytes, runtime.cudaHostAllocDefault)))
        memory = memoryview((ctypes.c_byte * n_bytes).from_address(self._address))
        self.values = np.frombuffer(memory, np.float32).reshape(shape)
        """float32, zero at first. Not to be used after the object is gone."""
        self.values[:] = 0

    def __del__(self) -> None:
        if self._address:
            _runtime().cudaFreeHost(self._address)


class Graph:
    """Work that was captured once from a stream and is launched as a whole."""

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        """Captures what ``work`` queues on the stream; nothing is computed yet.

        Raises: BackendError: something in it cannot be captured.
        """
        runtime, self._executable = _runtime(), None
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # others may go on meanwhile
        _call(runtime.cudaStreamBeginCapture(stream.handle, mode))
        try:
            work()
        finally:
            ended = runtime.cudaStreamEndCapture(stream.handle)
        graph = _call(ended)
        try:
            self._executable = _call(runtime.cudaGraphInstantiate(graph, 0))
        finally:
            runtime.cudaGraphDestroy(graph)

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        _call(_runtime().cudaGraphLaunch(self._executable, stream.handle))

    def __del__(self) -> None:
        if self._executable is not None:
            _runtime().cudaGraphExecDestroy(self._executable)


class Device(Protocol):
    """What running an engine needs of a GPU."""

    def stream(self) -> Stream: ...
    def buffer(self, n_bytes: int) -> Buffer: ...
    def pinned(self, shape: tuple[int, ...]) -> Pinned: ...
    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph: ...


class Cuda:
    """The current GPU."""

    stream, buffer, pinned, capture = Stream, Buffer, Pinned, Graph

    def __init__(self) -> None:
        properties = _call(_runtime().cudaGetDeviceProperties(0))
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        self.name = name.rstrip("\0")
        self.compute_capability = f"{properties.major}.{properties.minor}"
        """As ``8.9``"""

"""All calls of CUDA's runtime, through cuda-python, in one small file. Not yet run on hardware."""

from __future__ import annotations

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
    """A queue of work on the GPU: somebody else's, or one of its own."""

    def __init__(self, handle: int | None = None) -> None:
        self._is_own, self.handle = handle is None, 0
        self.handle = int(_call(_runtime().cudaStreamCreate())) if handle is None else handle

    def synchronise(self) -> None:
        """Wait until all that was queued is done."""
        _call(_runtime().cudaStreamSynchronize(self.handle))

    def __del__(self) -> None:
        if self._is_own and self.handle:
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

    def stream(self, handle: int) -> Stream: ...
    def buffer(self, n_bytes: int) -> Buffer: ...
    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph: ...


class Cuda:
    """The current GPU."""

    stream, buffer, capture = Stream, Buffer, Graph

    def __init__(self) -> None:
        properties = _call(_runtime().cudaGetDeviceProperties(0))
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        self.name = name.rstrip("\0")
        self.compute_capability = f"{properties.major}.{properties.minor}"
        """As ``8.9``"""

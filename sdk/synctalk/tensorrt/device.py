"""All calls of CUDA's runtime, through cuda-python, in one small file. Not yet run on hardware."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import BackendError

__all__ = ["Buffer", "Stream", "describe", "driver_version", "why_not"]


def _runtime() -> Any:
    from cuda.bindings import runtime

    return runtime


def _call(result: tuple[Any, ...]) -> Any:
    """The value of a call, or None. Raises: BackendError: it failed."""
    status, *values = result
    if int(status):
        raise BackendError(f"CUDA: {status}: look at nvidia-smi and run synctalk doctor")
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
        return f"no usable GPU ({status}): look at nvidia-smi"
    return None


def describe() -> tuple[str, str]:
    """The current GPU's name and its compute capability, as ``8.9``."""
    properties = _call(_runtime().cudaGetDeviceProperties(0))
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return name.rstrip("\0"), f"{properties.major}.{properties.minor}"


def driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver supports, as (13, 0)."""
    version = int(_call(_runtime().cudaDriverGetVersion()))
    return version // 1000, version % 1000 // 10


class Stream:
    """A queue of work on the GPU."""

    def __init__(self) -> None:
        self.handle = int(_call(_runtime().cudaStreamCreate()))

    def synchronise(self) -> None:
        """Wait until all that was queued is done."""
        _call(_runtime().cudaStreamSynchronize(self.handle))

    def __del__(self) -> None:
        _runtime().cudaStreamDestroy(self.handle)


class Buffer:
    """Memory on the GPU, allocated once."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.address = int(_call(_runtime().cudaMalloc(n_bytes)))

    def upload(self, values: NDArray[Any], stream: Stream) -> None:
        """Queue a copy of an array to the buffer; the array must live until the stream is synchronised."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(
            _runtime().cudaMemcpyAsync(self.address, values.ctypes.data, values.nbytes, kind, stream.handle)
        )

    def download(self, values: NDArray[np.float32], stream: Stream) -> None:
        """Queue a copy of the buffer's beginning into an array."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(
            _runtime().cudaMemcpyAsync(values.ctypes.data, self.address, values.nbytes, kind, stream.handle)
        )

    def __del__(self) -> None:
        _runtime().cudaFree(self.address)

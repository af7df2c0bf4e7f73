"""Encode points with the hash grid in an app's own CUDA context: its arrays, its stream, no copy. Needs a GPU.

    python examples/encode_on_your_stream.py

Any object with ``__cuda_array_interface__`` will do: PyCUDA's GPUArray, CuPy's ndarray, torch's tensors. The kernel is
queued on the stream whose handle is given and reads no other; the interface's own ``stream`` entry is not looked at.
"""

from __future__ import annotations

import numpy as np
import pycuda.autoinit
import pycuda.driver as cuda
from pycuda import gpuarray
from synctalk import _native
from synctalk.spec import GridSpec

grid = GridSpec()
generator = np.random.default_rng(0)
stream = cuda.Stream()
positions = gpuarray.to_gpu_async(generator.random((1 << 20, 3), np.float32), stream=stream)
tables = gpuarray.to_gpu_async(
    generator.standard_normal((3, grid.n_entries, grid.n_channels), np.float32), stream=stream
)
out = gpuarray.empty((1 << 20, grid.n_outputs), np.float32)
levels = np.array([[x.scale, x.resolution, x.size, x.offset, x.is_hashed] for x in grid.levels], np.float64)
begin, end = cuda.Event(), cuda.Event()
begin.record(stream)
_native.grid_encode_cuda(positions, tables, levels, out, stream.handle)
end.record(stream)
end.synchronize()
print(f"{pycuda.autoinit.device.name()}: {len(positions)} points in {end.time_since(begin):.2f} ms")

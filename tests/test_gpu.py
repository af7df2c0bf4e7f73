"""What doctor says about GPUs, and, where there is one, that anybody's arrays and streams can be used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synctalk import _native
from synctalk.gpu import GpuFacts, complaints, look
from synctalk.spec import GridSpec

SOUND = GpuFacts(
    gpu="NVIDIA GeForce RTX 4090",
    compute_capability=89,
    driver="580.65.06",
    native_devices=1,
    has_cudnn=True,
    onnxruntime_gpu="1.31.1",
    tensorrt="10.16.1.11",
    plugin=True,
    cuda_python="13.0.3",
)


def test_sound_machine_has_nothing_to_complain_of() -> None:
    assert list(complaints(SOUND)) == []
    assert list(complaints(replace(SOUND, tensorrt="11.1.0.106", compute_capability=103))) == []


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        ({"onnxruntime": "1.31.1"}, "onnxruntime wheels", "uninstall both"),
        ({"driver": ""}, "NVIDIA driver", "580"),
        ({"driver": "550.90"}, "NVIDIA driver", "older than 580"),
        ({"compute_capability": 70, "native_devices": 0}, "compute capability", "7.0"),
        ({"native_devices": 0}, "CUDA kernels", "CUDAARCHS=89-real"),
        (
            {"native_cuda": "no kernels: build with CUDAARCHS=89-real"},
            "backends native-cuda and tensorrt",
            "CUDAARCHS",
        ),
        ({"onnxruntime_gpu": ""}, "onnxruntime-gpu", "pip install onnxruntime-gpu"),
        ({"has_cudnn": False}, "cuDNN 9", "nvidia-cudnn-cu13"),
        ({"tensorrt": ""}, "TensorRT", "synctalk[tensorrt]"),
        ({"tensorrt": "8.6.1"}, "TensorRT", "neither 10 nor 11"),
        ({"plugin": False}, "TensorRT plugin", "TENSORRT_INCLUDE_DIR"),
        ({"cuda_python": ""}, "cuda-python", "synctalk[gpu]"),
    ],
)
def test_each_missing_piece_is_named_with_its_remedy(
    changes: dict[str, object], what: str, remedy: str
) -> None:
    ((got, text),) = complaints(replace(SOUND, **changes))  # type: ignore[arg-type]
    assert got == what and remedy in text


def test_looking_needs_no_gpu() -> None:
    facts = look()
    assert facts.native_devices == _native.cuda_devices()
    assert bool(facts.driver) == bool(facts.gpu)


@pytest.mark.gpu
def test_encoding_reads_any_array_on_any_stream() -> None:
    """An object with ``__cuda_array_interface__`` of an app's own, on the app's own stream."""
    if _native.cuda_devices() == 0:
        pytest.skip("no GPU, or a build without CUDA")
    from synctalk.tensorrt.device import Buffer, Stream

    grid, generator = GridSpec(), np.random.default_rng(0)
    positions = generator.random((1000, 3), np.float32)
    tables = generator.standard_normal((3, grid.n_entries, grid.n_channels), np.float32)
    expected = np.empty((1000, grid.n_outputs), np.float32)
    levels = np.array(
        [[x.scale, x.resolution, x.size, x.offset, x.is_hashed] for x in grid.levels], np.float64
    )
    _native.grid_encode(positions, tables, levels, expected)
    stream = Stream()

    class Array:
        def __init__(self, values: np.ndarray) -> None:
            self.buffer = Buffer(values.nbytes)
            self.buffer.upload(values, stream)
            self.__cuda_array_interface__ = {
                "shape": values.shape,
                "typestr": values.dtype.str,
                "data": (self.buffer.address, False),
                "version": 3,
            }

    got = np.empty_like(expected)
    out = Array(np.zeros_like(expected))
    _native.grid_encode_cuda(Array(positions), Array(tables), levels, out, stream.handle)
    out.buffer.download(got, stream)
    stream.synchronise()
    np.testing.assert_allclose(got, expected, atol=2e-4)

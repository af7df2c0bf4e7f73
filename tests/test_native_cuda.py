"""Backend native-cuda: with the emulation of its kernels in the GPU's place, and, where there is one, on the GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_render import random_head
from synctalk import _native
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.native_cpu import NativeCpu
from synctalk.backends.native_cuda import NativeCuda, batch_of, why_not
from synctalk.bundle import Bundle, open_bundle
from synctalk.errors import BackendError
from synctalk.geometry import Camera
from synctalk.render import compose
from synctalk_export.export import export_bundle
from test_gpu_emulation import ALL_SPECS, psnr
from test_gpu_emulation import batch_of as batch_of_heads
from test_renderer import CAMERA, TINY, TRANSLATION, rendered
from tiny_subject import tiny_subject
from tolerances import CUDA_FLOAT_DB, CUDA_HALF_DB

LEAST_DB = {"float32": CUDA_FLOAT_DB, "float16": CUDA_HALF_DB}


class EmulatedFrames:
    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def numpy(self) -> np.ndarray:
        return self._values


class EmulatedRenderer:
    """``CudaRenderer`` without a GPU."""

    def __init__(self, is_half: bool, is_graphed: bool, **tensors: Any) -> None:
        self._emulation = _native.GpuEmulation(**tensors, is_half=is_half)

    def render(
        self, batch: _native.GpuBatch, width: int, height: int, plates: Any, stream: int | None
    ) -> EmulatedFrames:
        n = len(batch.rotation)
        below = np.zeros((n, height, width, 3), np.uint8) if plates is None else plates
        pictures, heads = np.empty_like(below), np.empty((n, height, width, 4), np.float32)
        self._emulation.render(batch, below, pictures, heads)
        return EmulatedFrames(heads if plates is None else pictures)


def on_gpu() -> None:
    if reason := why_not("cuda"):
        pytest.skip(f"no GPU to run on: {reason}")


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def maker(request: pytest.FixtureRequest) -> Callable[..., Any] | None:
    """Makes a renderer: None is the GPU's."""
    if request.param == "emulated":
        return EmulatedRenderer
    on_gpu()
    return None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("cuda") / "tiny.avatar"
    export_bundle(tiny_subject(), path)
    return open_bundle(path)


def request_of(bundle: Bundle, frame: int = 0, **changes: object) -> HeadRequest:
    tensors = bundle.tensors
    request = HeadRequest(
        camera=bundle.manifest.camera,
        rotation=tensors["track.rotation"][frame],
        translation=tensors["track.translation"][frame],
        condition=tensors["condition.mean"],
        expression=tensors["track.expression"][frame],
        appearance=tensors["field.appearance"],
    )
    return dataclasses.replace(request, **changes)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_heads_equal_those_of_native_cpu(
    bundle: Bundle, maker: Callable[..., Any] | None, precision: str
) -> None:
    backend = NativeCuda(bundle, precision=precision, make_renderer=maker)
    cpu = NativeCpu(bundle, precision="float32")
    camera = bundle.manifest.camera
    for request in (request_of(bundle), request_of(bundle, 9, camera=camera.resized(97, 97))):
        head = backend.render_head(request)
        assert head.dtype == np.float32 and head.shape == (request.camera.height, request.camera.width, 4)
        assert psnr(head, cpu.render_head(request)) >= LEAST_DB[precision]


def test_pictures_of_a_batch_are_the_heads_over_the_plates(
    bundle: Bundle, maker: Callable[..., Any] | None
) -> None:
    backend = NativeCuda(bundle, make_renderer=maker)
    asked = [request_of(bundle, frame) for frame in (0, 7, 20)]
    plates = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    pictures = backend.draw(asked, plates).numpy()
    heads = backend.draw(asked).numpy()
    for i, request in enumerate(asked):
        np.testing.assert_array_equal(backend.render_head(request), heads[i])
        difference = np.abs(compose(heads[i], plates[i]).astype(int) - pictures[i])
        assert (
            difference.max() <= 1 and (difference > 0).mean() < 1e-3
        )  # a multiply-add may round another way


def test_pictures_of_several_sizes_are_refused(bundle: Bundle, maker: Callable[..., Any] | None) -> None:
    backend = NativeCuda(bundle, make_renderer=maker)
    other = request_of(bundle, camera=bundle.manifest.camera.resized(32, 32))
    with pytest.raises(ValueError, match="one size"):
        backend.draw([request_of(bundle), other])
    with pytest.raises(ValueError, match="one size"):
        backend.draw([])
    with pytest.raises(ValueError, match="plates"):
        backend.draw([request_of(bundle)], np.zeros((2, 64, 64, 3), np.uint8))


def test_int16_is_refused(bundle: Bundle, maker: Callable[..., Any] | None) -> None:
    with pytest.raises(BackendError, match="float16, float32 or auto"):
        NativeCuda(bundle, precision="int16", make_renderer=maker)
    with pytest.raises(BackendError, match="native-cpu does not compute in float16"):
        create_backend("native-cpu", bundle, precision="float16")


def test_avatars_too_wide_are_refused_with_a_way_out(tmp_path: Path) -> None:
    def too_wide(**_: Any) -> None:
        raise ValueError("the kernels for GPUs have room for 128 density outputs, got 129")

    export_bundle(tiny_subject(), tmp_path / "x")
    with pytest.raises(BackendError, match=r"cannot take this avatar.*128"):
        NativeCuda(open_bundle(tmp_path / "x"), make_renderer=too_wide)


def test_what_is_missing_is_named(bundle: Bundle) -> None:
    assert "cuda" in str(why_not("cpu"))
    with pytest.raises(BackendError, match="runs on NVIDIA GPUs"):
        create_backend("native-cuda", bundle, device="cpu")
    reason = why_not("auto")
    if not hasattr(_native, "CudaRenderer"):
        assert reason is not None and "SYNCTALK_CUDA=ON" in reason
    elif _native.cuda_devices() == 0:
        assert reason is not None and "nvidia-smi" in reason
    else:
        assert reason is None or "CUDAARCHS" in reason


# ---- on the GPU alone


def cuda_renderer(head: Any, is_half: bool = False, is_graphed: bool = True) -> Any:
    on_gpu()
    return _native.CudaRenderer(**head.tensors(), is_half=is_half, is_graphed=is_graphed)


def cuda_heads(renderer: Any, batch: _native.GpuBatch, camera: Camera) -> np.ndarray:
    heads: np.ndarray = renderer.render(batch, camera.width, camera.height).numpy()
    return heads


@pytest.mark.gpu
@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
@pytest.mark.parametrize("name", ALL_SPECS)
def test_gpu_equals_cpu(name: str, is_half: bool) -> None:
    head = random_head(ALL_SPECS[name])
    batch = batch_of_heads(head, CAMERA, [TRANSLATION], [head.condition])
    picture = cuda_heads(cuda_renderer(head, is_half), batch, CAMERA)[0]
    assert psnr(picture, rendered(head)) >= (CUDA_HALF_DB if is_half else CUDA_FLOAT_DB)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (3, 70), (513, 257)])
@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
def test_gpu_takes_odd_sizes(size: tuple[int, int], is_half: bool) -> None:
    head = random_head(TINY)
    camera = Camera(*size, 0.7 * max(60, *size), size[0] / 2 + 0.3, size[1] / 2 - 0.2)
    batch = batch_of_heads(head, camera, [TRANSLATION], [head.condition])
    picture = cuda_heads(cuda_renderer(head, is_half), batch, camera)[0]
    assert psnr(picture, rendered(head, camera)) >= (CUDA_HALF_DB if is_half else CUDA_FLOAT_DB)


@pytest.mark.gpu
@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
def test_gpu_draws_batches_with_and_without_graphs_alike(is_half: bool) -> None:
    """70 frames: one launch of 64 and one of 6 in a bucket of 8; three rounds, so that room is used again."""
    head = random_head(TINY)
    rng = np.random.default_rng(4)
    translations = [
        TRANSLATION + np.array([x, 0, 0.05], np.float32) for x in np.linspace(-0.1, 0.1, 70, dtype=np.float32)
    ]
    conditions = list(rng.standard_normal((70, TINY.condition), np.float32))
    batch = batch_of_heads(head, CAMERA, translations, conditions)
    graphed, plain = cuda_renderer(head, is_half), cuda_renderer(head, is_half, is_graphed=False)
    together = cuda_heads(graphed, batch, CAMERA)
    for _ in range(3):
        np.testing.assert_array_equal(cuda_heads(graphed, batch, CAMERA), together)
        np.testing.assert_array_equal(cuda_heads(plain, batch, CAMERA), together)
    for i in (0, 33, 69):
        one = batch_of_heads(head, CAMERA, translations[i : i + 1], conditions[i : i + 1])
        np.testing.assert_array_equal(cuda_heads(graphed, one, CAMERA)[0], together[i])


@pytest.mark.gpu
def test_gpu_sees_nothing_where_nothing_is() -> None:
    head = random_head(TINY)
    renderer = cuda_renderer(head)
    for translation in ((0.0, 0.0, -0.5), (3.0, 0.0, 0.5), (np.nan, 0.0, 0.5)):
        batch = batch_of_heads(head, CAMERA, [np.array(translation, np.float32)], [head.condition])
        assert not cuda_heads(renderer, batch, CAMERA).any()
    head.occupancy[:] = False
    batch = batch_of_heads(head, CAMERA, [TRANSLATION], [head.condition])
    assert not cuda_heads(cuda_renderer(head), batch, CAMERA).any()


@pytest.mark.gpu
def test_gpu_frames_go_into_torch_without_a_copy(bundle: Bundle) -> None:
    on_gpu()
    torch = pytest.importorskip("torch", reason="the trainer's extra is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    backend = NativeCuda(bundle)
    asked = [request_of(bundle, frame) for frame in (0, 7)]
    plates = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    frames = backend.draw(asked, plates)
    expected = frames.numpy()
    tensor = torch.from_dlpack(frames)
    assert tensor.data_ptr() == frames.__cuda_array_interface__["data"][0]
    assert frames.__dlpack_device__() == (2, torch.cuda.current_device())
    del frames  # the tensor keeps the memory
    backend.draw(asked[::-1], plates)
    np.testing.assert_array_equal(tensor.cpu().numpy(), expected)
    # Plates that are already there, on a stream of torch's.
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        pictures = torch.from_dlpack(backend.draw(asked, torch.from_numpy(plates).cuda(), side.cuda_stream))
        np.testing.assert_array_equal(pictures.cpu().numpy(), expected)
    with pytest.raises(ValueError, match="stream"):
        backend.draw(asked, torch.from_numpy(plates).cuda())


def test_a_batch_keeps_the_order_of_its_requests(bundle: Bundle) -> None:
    asked = [request_of(bundle, frame) for frame in (3, 1)]
    batch = batch_of(asked)
    np.testing.assert_array_equal(batch.translation[0], asked[0].translation)
    assert batch.camera.shape == (2, 3) and batch.camera.dtype == np.float32

"""The renderer for GPUs, run on the CPU: the functions, layouts and phases of its kernels, everything but the hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import reference_render
from numpy.typing import NDArray
from reference_render import Head, random_head
from synctalk import _native
from synctalk.geometry import Camera
from synctalk.spec import FieldSpec, preset
from test_renderer import CAMERA, ROTATION, SPECS, TINY, TRANSLATION, rendered
from tolerances import CUDA_FLOAT_DB, CUDA_HALF_DB

Float = NDArray[np.float32]
Picture = NDArray[np.uint8]

WIDE = dataclasses.replace(
    TINY,
    attention_hidden=70,
    condition=90,
    density_hidden=128,
    feature=100,
    colour_hidden=100,
    colour_layers=2,
)
ALL_SPECS = {**SPECS, "wide": WIDE}


@pytest.fixture(autouse=True)
def _portable() -> Iterator[None]:
    path = _native.simd()
    _native.set_simd("portable")
    yield
    _native.set_simd(path)


def batch_of(
    head: Head, camera: Camera, translations: list[Float], conditions: list[Float]
) -> _native.GpuBatch:
    n = len(translations)
    lens = np.array([camera.focal_px, camera.centre_x, camera.centre_y], np.float32)
    repeated = [np.tile(values, (n, 1)) for values in (lens, head.expression, head.appearance)]
    return _native.GpuBatch(
        np.tile(ROTATION, (n, 1, 1)),
        np.stack(translations),
        repeated[0],
        np.stack(conditions),
        repeated[1],
        repeated[2],
    )


def emulated(
    head: Head,
    is_half: bool = False,
    camera: Camera = CAMERA,
    translation: Float = TRANSLATION,
    is_reversed: bool = False,
) -> Float:
    """The head alone, premultiplied RGBA [H, W, 4]."""
    batch = batch_of(head, camera, [translation], [head.condition])
    return drawn(head, batch, np.zeros((1, camera.height, camera.width, 3), np.uint8), is_half, is_reversed)[
        1
    ][0]


def drawn(
    head: Head, batch: _native.GpuBatch, plates: Picture, is_half: bool, is_reversed: bool = False
) -> tuple[Picture, Float]:
    """Pictures [N, H, W, 3] and heads [N, H, W, 4]."""
    pictures, heads = np.full_like(plates, 77), np.full((*plates.shape[:3], 4), np.nan, np.float32)
    emulation = _native.GpuEmulation(**head.tensors(), is_half=is_half, is_reversed=is_reversed)
    emulation.render(batch, plates, pictures, heads)
    return pictures, heads


def psnr(a: Float, b: Float) -> float:
    """Over what either shows, in dB."""
    shown = (a[..., 3] > 0) | (b[..., 3] > 0)
    return float(-10 * np.log10(np.square(a[shown].astype(float) - b[shown]).mean() + 1e-20))


@pytest.mark.parametrize("name", ALL_SPECS)
def test_float32_picture_equals_native_cpu_and_the_float64_twin(name: str) -> None:
    head = random_head(ALL_SPECS[name])
    picture = emulated(head)
    assert psnr(picture, rendered(head)) >= CUDA_FLOAT_DB
    expected = reference_render.render(head, CAMERA, ROTATION.astype(float), TRANSLATION.astype(float))
    assert 0.15 < (expected[..., 3] > 0.5).mean() < 0.9
    error = np.abs(picture - expected)
    assert np.quantile(error, 0.99) < 1e-3
    assert (error > 2e-3).mean() < 5e-3


@pytest.mark.parametrize("name", ALL_SPECS)
def test_half_precision_picture_is_close_to_native_cpu(name: str) -> None:
    head = random_head(ALL_SPECS[name])
    picture, expected = emulated(head, is_half=True), rendered(head)
    assert psnr(picture, expected) >= CUDA_HALF_DB
    assert np.abs(picture - expected).max() > 0  # it is not the float path


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
@pytest.mark.parametrize("name", ["tiny, deferred", "tiny, per sample"])
def test_the_order_of_threads_changes_nothing(name: str, is_half: bool) -> None:
    """Were a thread to read within a phase what another one writes, running them last to first would show it."""
    head = random_head(SPECS[name])
    np.testing.assert_array_equal(emulated(head, is_half), emulated(head, is_half, is_reversed=True))


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
def test_a_batch_is_its_frames(is_half: bool) -> None:
    head = random_head(TINY)
    rng = np.random.default_rng(4)
    translations = [TRANSLATION + np.array([x, 0, 0.05], np.float32) for x in (-0.05, 0.0, 0.2)]
    conditions = [rng.standard_normal(TINY.condition).astype(np.float32) for _ in translations]
    plates = rng.integers(0, 256, (3, CAMERA.height, CAMERA.width, 3), np.uint8)
    pictures, heads = drawn(head, batch_of(head, CAMERA, translations, conditions), plates, is_half)
    assert np.abs(heads[0] - heads[1]).max() > 0.1
    for i in range(3):
        one = batch_of(head, CAMERA, translations[i : i + 1], conditions[i : i + 1])
        picture, alone = drawn(head, one, plates[i : i + 1], is_half)
        np.testing.assert_array_equal(alone[0], heads[i])
        np.testing.assert_array_equal(picture[0], pictures[i])


def test_pictures_are_heads_pasted_over_plates() -> None:
    head = random_head(TINY)
    plates = np.random.default_rng(5).integers(0, 256, (1, CAMERA.height, CAMERA.width, 3), np.uint8)
    pictures, heads = drawn(
        head, batch_of(head, CAMERA, [TRANSLATION], [head.condition]), plates, is_half=False
    )
    expected = np.empty_like(plates[0])
    _native.paste(heads[0], plates[0], expected)
    np.testing.assert_array_equal(pictures[0], expected)
    assert (pictures != plates).any(axis=-1).mean() > 0.2


@pytest.mark.parametrize("size", [(1, 1), (16, 8), (17, 9), (3, 70)])
@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
def test_odd_sizes(size: tuple[int, int], is_half: bool) -> None:
    head = random_head(TINY)
    camera = Camera(*size, 60.0, size[0] / 2 + 0.3, size[1] / 2 - 0.2)
    picture = emulated(head, is_half, camera)
    assert np.isfinite(picture).all() and picture[..., 3].max() > 0.5
    assert psnr(picture, rendered(head, camera)) >= (CUDA_HALF_DB if is_half else CUDA_FLOAT_DB)


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
@pytest.mark.parametrize(
    "translation", [(0.0, 0.0, -0.5), (3.0, 0.0, 0.5), (0.0, 40.0, 0.5), (np.nan, 0.0, 0.5)]
)
def test_camera_that_misses_sees_the_plate(translation: tuple[float, float, float], is_half: bool) -> None:
    head = random_head(TINY)
    plates = np.random.default_rng(5).integers(0, 256, (1, CAMERA.height, CAMERA.width, 3), np.uint8)
    batch = batch_of(head, CAMERA, [np.array(translation, np.float32)], [head.condition])
    pictures, heads = drawn(head, batch, plates, is_half)
    np.testing.assert_array_equal(pictures, plates)
    assert (heads == 0).all()


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
def test_empty_occupancy_renders_nothing(is_half: bool) -> None:
    head = random_head(TINY)
    head.occupancy[:] = False
    assert (emulated(head, is_half) == 0).all()


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "half"])
def test_camera_inside_the_box(is_half: bool) -> None:
    head = random_head(TINY)
    translation = np.array([0.0, 0.0, 0.05], np.float32)
    picture, expected = (
        emulated(head, is_half, translation=translation),
        rendered(head, translation=translation),
    )
    assert (expected[..., 3] > 0.5).mean() > 0.3
    assert psnr(picture, expected) >= (CUDA_HALF_DB if is_half else CUDA_FLOAT_DB)


def test_rays_of_many_samples_are_followed_to_their_end() -> None:
    """More steps than a ray looks ahead, more samples than it may evaluate at once, all of them occupied and thin."""
    spec = dataclasses.replace(TINY, step_m=0.002, max_samples=200, density_scale_per_m=2.0)
    head = random_head(spec)
    head.occupancy[:] = True
    assert psnr(emulated(head), rendered(head)) >= CUDA_FLOAT_DB
    few = dataclasses.replace(head, spec=dataclasses.replace(spec, max_samples=7))
    assert psnr(emulated(few), rendered(few)) >= CUDA_FLOAT_DB
    assert psnr(emulated(few), emulated(head)) < 40


def test_activations_beyond_half_precision_are_cut_not_infinite() -> None:
    head = random_head(TINY)
    head.density = [weights * 300 for weights in head.density]
    picture = emulated(head, is_half=True)
    assert np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1.0001


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"density_hidden": 129}, "128 density outputs"), ({"appearance": 33}, "32 appearance values")],
)
def test_avatars_too_wide_are_refused(changes: dict[str, int], what: str) -> None:
    spec: FieldSpec = dataclasses.replace(preset("tiny").field, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"room for {what}.*native-cpu"):
        emulated(random_head(spec))


def test_batches_must_fit() -> None:
    head = random_head(TINY)
    batch = batch_of(head, CAMERA, [TRANSLATION], [head.condition[:-1]])
    with pytest.raises(ValueError, match="condition: expected"):
        drawn(head, batch, np.zeros((1, 8, 8, 3), np.uint8), is_half=False)
    batch = batch_of(head, CAMERA, [TRANSLATION] * 2, [head.condition] * 2)
    with pytest.raises(ValueError, match="plates: expected one for each frame"):
        drawn(head, batch, np.zeros((1, 8, 8, 3), np.uint8), is_half=False)

"""The run-time renderer against its float64 twin, on every instruction set."""

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
from synctalk.spec import GridSpec, preset

TINY = dataclasses.replace(preset("tiny").field, density_scale_per_m=60.0)
SPECS = {
    "tiny, deferred": TINY,
    "tiny, per sample": dataclasses.replace(TINY, deferred=False, gate="none"),
    "default": dataclasses.replace(preset("default").field, density_scale_per_m=60.0),
    "paper": dataclasses.replace(preset("paper").field, density_scale_per_m=60.0),
    "two channels, odd widths": dataclasses.replace(
        TINY,
        grid=GridSpec(n_levels=4, n_channels=2, base_resolution=16, finest_resolution=64, log2_table_size=12),
        condition=5,
        density_hidden=21,
        feature=6,
        direction_degree=2,
        colour_hidden=13,
        colour_layers=2,
        appearance=0,
    ),
}
CAMERA = Camera(37, 29, 60.0, 18.2, 14.1)
TRANSLATION = np.array([0.01, -0.02, 0.55], np.float32)


def rotation_of(yaw: float, pitch: float) -> NDArray[np.float32]:
    """Head to camera: the face looks at the camera, then turns (radians)."""
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return np.ascontiguousarray(np.diag([1, -1, -1]) @ turn @ nod, np.float32)


ROTATION = rotation_of(0.3, -0.2)


def rendered(
    head: Head,
    camera: Camera = CAMERA,
    translation: NDArray[np.float32] = TRANSLATION,
    rectangle: tuple[int, int, int, int] | None = None,
    fill: float = np.nan,
    ranges: list[float] | None = None,
    byte_reach: float = 0.0,
) -> NDArray[np.float32]:
    out = np.full((camera.height, camera.width, 4), fill, np.float32)
    x0, y0, x1, y1 = rectangle or (0, 0, camera.width, camera.height)
    head.renderer(ranges, byte_reach).render(
        ROTATION,
        translation,
        camera.focal_px,
        camera.centre_x,
        camera.centre_y,
        x0,
        y0,
        x1,
        y1,
        head.condition,
        head.expression,
        head.appearance,
        out,
    )
    return out


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    path, n_threads = _native.simd(), _native.threads()
    yield
    _native.set_simd(path)
    _native.set_threads(n_threads)


@pytest.mark.parametrize("name", SPECS)
def test_picture_equals_the_float64_twin(name: str) -> None:
    head = random_head(SPECS[name])
    expected = reference_render.render(head, CAMERA, ROTATION.astype(float), TRANSLATION.astype(float))
    assert 0.15 < (expected[..., 3] > 0.5).mean() < 0.9
    for path in _native.simd_paths():
        _native.set_simd(path)
        error = np.abs(rendered(head) - expected)
        # A sample on the border of a cell may fall to either side of it, a few times in a picture.
        assert np.quantile(error, 0.99) < 1e-3
        assert (error > 2e-3).mean() < 5e-3


@pytest.mark.parametrize("name", SPECS)
def test_query_equals_the_float64_twin(name: str) -> None:
    head = random_head(SPECS[name])
    positions = np.random.default_rng(1).random((1601, 3)).astype(np.float32)
    positions[:2] = [[0, 0, 0], [1, 1, 1]]
    expected_density, expected_feature = reference_render.query(head, positions.astype(float))
    for path in _native.simd_paths():
        _native.set_simd(path)
        log_density = np.empty(1601, np.float32)
        feature = np.empty((1601, head.spec.feature), np.float32)
        head.renderer().query(positions, head.condition, head.expression, log_density, feature)
        np.testing.assert_allclose(log_density, expected_density, rtol=0, atol=1e-3)
        np.testing.assert_allclose(feature, expected_feature, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SPECS)
def test_16_bit_picture_equals_the_float64_twin(name: str) -> None:
    head = random_head(SPECS[name])
    expected = reference_render.render(head, CAMERA, ROTATION.astype(float), TRANSLATION.astype(float))
    pictures = []
    for path in _native.simd_paths():
        _native.set_simd(path)
        pictures.append(rendered(head, ranges=reference_render.ranges(head)))
        error = np.abs(pictures[-1] - expected)
        assert np.quantile(error, 0.99) < 4e-3
        assert (error > 1e-2).mean() < 5e-3
        assert error.max() > 0  # it is not the float path
    for picture in pictures[1:]:  # integers do not differ; gates and weights, which are floats, hardly do
        assert np.quantile(np.abs(picture - pictures[0]), 0.99) < 2e-3


@pytest.mark.parametrize("name", SPECS)
def test_16_bit_query_equals_the_float64_twin(name: str) -> None:
    head = random_head(SPECS[name])
    renderer = head.renderer(reference_render.ranges(head))
    positions = np.random.default_rng(1).random((1601, 3)).astype(np.float32)
    positions[:2] = [[0, 0, 0], [1, 1, 1]]
    expected_density, expected_feature = reference_render.query(head, positions.astype(float))
    for path in _native.simd_paths():
        _native.set_simd(path)
        log_density = np.empty(1601, np.float32)
        feature = np.empty((1601, head.spec.feature), np.float32)
        renderer.query(positions, head.condition, head.expression, log_density, feature)
        np.testing.assert_allclose(log_density, expected_density, rtol=0, atol=0.01)
        np.testing.assert_allclose(feature, expected_feature, rtol=0, atol=0.01)


@pytest.mark.parametrize("byte_reach", [0.0, 1.0])
def test_values_beyond_their_ranges_are_cut_not_wrapped(byte_reach: float) -> None:
    head = random_head(TINY)
    narrow = [value / 16 for value in reference_render.ranges(head)]
    picture = rendered(head, ranges=narrow, byte_reach=byte_reach)
    assert np.isfinite(picture).all()
    assert picture.min() >= 0 and picture.max() <= 1.0001


@pytest.mark.parametrize("name", SPECS)
def test_8_bit_picture_is_close_to_the_float64_twin(name: str) -> None:
    head = random_head(SPECS[name])
    ranges = reference_render.ranges(head)
    expected = reference_render.render(head, CAMERA, ROTATION.astype(float), TRANSLATION.astype(float))
    is_seen = expected[..., 3] > 0
    assert not np.array_equal(rendered(head, ranges=ranges), rendered(head, ranges=ranges, byte_reach=1.0))
    for path in _native.simd_paths():
        _native.set_simd(path)
        error = rendered(head, ranges=ranges, byte_reach=1.0)[is_seen] - expected[is_seen]
        assert (
            -10 * np.log10((error**2).mean()) > 36
        )  # random weights; trained avatars reach 48: docs/native.md


def queried(
    head: Head, ranges: list[float], byte_reach: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log density and feature at many positions, corners among them."""
    positions = np.random.default_rng(1).random((1601, 3)).astype(np.float32)
    positions[:2] = [[0, 0, 0], [1, 1, 1]]
    log_density, feature = np.empty(1601, np.float32), np.empty((1601, head.spec.feature), np.float32)
    head.renderer(ranges, byte_reach).query(positions, head.condition, head.expression, log_density, feature)
    return log_density, feature


@pytest.mark.parametrize("byte_reach", [0.0, 0.7])
@pytest.mark.parametrize("name", SPECS)
def test_integers_are_the_same_on_every_path(name: str, byte_reach: float) -> None:
    head = random_head(SPECS[name])
    _native.set_simd("portable")
    expected = queried(head, reference_render.ranges(head), byte_reach)
    for path in _native.simd_paths():
        _native.set_simd(path)
        found = queried(head, reference_render.ranges(head), byte_reach)
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


def test_no_sum_of_bytes_overflows_whatever_the_weights() -> None:
    head = random_head(SPECS["default"])
    for weights in (head.attention[1], *head.density[1:]):  # the largest sums of one sign that there can be
        weights[::2] = np.abs(weights).max()
        weights[1::2] = -np.abs(weights).max()
    head.density[0][:] = np.abs(head.density[0])
    narrow = [value / 64 for value in reference_render.ranges(head)]  # all activations at their top
    _native.set_simd("portable")
    expected = queried(head, narrow, 1.0)
    assert np.abs(expected[1]).max() > 0
    for path in _native.simd_paths():
        _native.set_simd(path)
        assert np.array_equal(queried(head, narrow, 1.0)[1], expected[1])


@pytest.mark.parametrize("byte_reach", [0.0, 1.0])
def test_integers_render_one_pixel_and_nothing(byte_reach: float) -> None:
    head = random_head(TINY)
    ranges, camera = reference_render.ranges(head), Camera(1, 1, 60.0, 0.3, 0.7)
    expected = reference_render.render(head, camera, ROTATION.astype(float), TRANSLATION.astype(float))
    for path in _native.simd_paths():
        _native.set_simd(path)
        found = rendered(head, camera, ranges=ranges, byte_reach=byte_reach)
        np.testing.assert_allclose(found, expected, atol=0.05)
    head.occupancy[:] = False
    assert (rendered(head, ranges=ranges, byte_reach=byte_reach) == 0).all()


def test_ranges_must_fit_the_layers() -> None:
    head = random_head(TINY)
    with pytest.raises(ValueError, match=r"ranges: expected 6 values, got 2"):
        head.renderer([1.0, 1.0])
    with pytest.raises(ValueError, match="ranges: expected finite"):
        head.renderer([1.0, 1.0, float("nan"), 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="byte_reach: expected 0 to 1"):
        head.renderer([1.0] * 6, 1.5)
    with pytest.raises(ValueError, match="byte_reach: ranges are needed"):
        head.renderer([], 1.0)


def test_picture_does_not_depend_on_the_number_of_threads() -> None:
    head = random_head(TINY)
    pictures = []
    for n_threads in (1, 2, 3):
        _native.set_threads(n_threads)
        pictures.append(rendered(head))
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])


def test_rectangle_is_that_part_of_the_picture_and_the_rest_stays() -> None:
    head = random_head(TINY)
    whole = rendered(head)
    part = rendered(head, rectangle=(5, 3, 30, 20), fill=-7.0)
    np.testing.assert_allclose(part[3:20, 5:30], whole[3:20, 5:30], atol=1e-6)
    part[3:20, 5:30] = -7.0
    assert (part == -7.0).all()
    assert (rendered(head, rectangle=(4, 4, 4, 9), fill=-7.0) == -7.0).all()


def test_one_pixel() -> None:
    head = random_head(TINY)
    camera = Camera(1, 1, 60.0, 0.3, 0.7)
    expected = reference_render.render(head, camera, ROTATION.astype(float), TRANSLATION.astype(float))
    np.testing.assert_allclose(rendered(head, camera), expected, atol=1e-3)


@pytest.mark.parametrize("translation", [(0.0, 0.0, -0.5), (3.0, 0.0, 0.5), (0.0, 40.0, 0.5)])
def test_camera_that_misses_sees_nothing(translation: tuple[float, float, float]) -> None:
    assert (rendered(random_head(TINY), translation=np.array(translation, np.float32)) == 0).all()


def test_empty_occupancy_renders_nothing() -> None:
    head = random_head(TINY)
    head.occupancy[:] = False
    assert (rendered(head) == 0).all()


def test_camera_inside_the_box_renders_the_twins_picture() -> None:
    head = random_head(TINY)
    translation = np.array([0.0, 0.0, 0.05], np.float32)
    expected = reference_render.render(head, CAMERA, ROTATION.astype(float), translation.astype(float))
    assert (expected[..., 3] > 0.5).mean() > 0.3
    error = np.abs(rendered(head, translation=translation) - expected)
    assert (error > 2e-3).mean() < 5e-3


def test_renderer_refuses_wrong_tensors_and_rectangles() -> None:
    head = random_head(TINY)
    with pytest.raises(ValueError, match="rectangle"):
        rendered(head, rectangle=(0, 0, 38, 2))
    head.planes[2] = head.planes[2][:, :-1]
    with pytest.raises(ValueError, match="planes"):
        head.renderer()

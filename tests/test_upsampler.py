"""The native upsampler against its float64 twin, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from synctalk import _native
from synctalk.spec import UpsamplerSpec
from tolerances import UPSAMPLER

Float = NDArray[np.float32]
SPECS = {"default": UpsamplerSpec(), "wide": UpsamplerSpec(32, 3), "one layer": UpsamplerSpec(16, 1)}


def weights_of(spec: UpsamplerSpec, seed: int = 0) -> list[Float]:
    generator = np.random.default_rng(seed)
    return [
        np.asarray(generator.normal(size=shape) * np.sqrt(2 / (9 * shape[1])), np.float32)
        for shape in spec.shapes
    ]


def picture(height: int, width: int, seed: int = 0) -> Float:
    """A ragged shape with holes, and rows without anything."""
    generator = np.random.default_rng(seed)
    small = generator.random((height, width, 4), np.float32)
    small[generator.random((height, width)) < 0.6] = 0.0
    small[: height // 3] = 0.0
    return small


def applied(weights: list[Float], small: Float, ranges: list[float] | None = None) -> Float:
    out = np.full((2 * small.shape[0], 2 * small.shape[1], 4), np.nan, np.float32)
    _native.Upsampler(weights, ranges or []).apply(small, out)
    return out


def ranges_of(weights: list[Float], small: Float) -> list[float]:
    """The largest outputs of all layers but the last."""
    return [max(float(values.max()), 1e-3) for values in reference.upsampler_layers(small, weights)[:-1]]


@pytest.fixture(params=_native.simd_paths())
def _path(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _native.simd()
    _native.set_simd(request.param)
    yield
    _native.set_simd(before)


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (13, 7)])
def test_every_path_agrees_with_the_float64_twin(name: str, size: tuple[int, int]) -> None:
    weights, small = weights_of(SPECS[name]), picture(*size)
    assert np.abs(applied(weights, small) - reference.upsampled(small, weights)).max() < UPSAMPLER


@pytest.mark.usefixtures("_path")
def test_nothing_comes_of_nothing_whatever_was_there_before() -> None:
    weights = weights_of(UpsamplerSpec())
    applied(weights, np.ones((24, 24, 4), np.float32))  # leaves its traces in the kept memory
    assert not applied(weights, np.zeros((16, 20, 4), np.float32)).any()
    dot = np.zeros((24, 24, 4), np.float32)
    dot[9, 20] = 0.7
    assert np.abs(applied(weights, dot) - reference.upsampled(dot, weights)).max() < UPSAMPLER


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("name", ["default", "wide"])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (13, 7)])
def test_bytes_are_close_to_the_float64_twin_on_every_path_alike(name: str, size: tuple[int, int]) -> None:
    weights, small = weights_of(SPECS[name]), picture(*size)
    weights[-1] *= 0.1  # details, as trained ones are
    ranges = ranges_of(weights, small)
    found = applied(weights, small, ranges)
    assert np.abs(found - reference.upsampled(small, weights)).max() < 0.01
    path = _native.simd()
    _native.set_simd("portable")
    expected = applied(weights, small, ranges)
    _native.set_simd(path)
    assert np.array_equal(found, expected)


@pytest.mark.usefixtures("_path")
def test_no_sum_of_bytes_overflows_and_values_beyond_their_ranges_are_cut() -> None:
    weights = [np.full_like(layer, 0.05) for layer in weights_of(UpsamplerSpec())]
    weights[-1][1::2] *= -1
    small = np.ones((7, 11, 4), np.float32)
    path = _native.simd()
    _native.set_simd("portable")
    expected = applied(weights, small, [0.1, 0.1, 0.1])
    _native.set_simd(path)
    found = applied(weights, small, [0.1, 0.1, 0.1])
    assert np.array_equal(found, expected)
    assert (found[::2, ::2, ::2] == 1).all()


@pytest.mark.usefixtures("_path")
def test_no_bytes_come_of_nothing_whatever_was_there_before() -> None:
    weights = weights_of(UpsamplerSpec())
    ranges = [1.0, 1.0, 1.0]
    applied(weights, np.ones((24, 24, 4), np.float32), ranges)
    assert not applied(weights, np.zeros((16, 20, 4), np.float32), ranges).any()
    dot = np.zeros((24, 24, 4), np.float32)
    dot[9, 20] = 0.7
    around = applied(weights, dot, ranges_of(weights, dot))
    assert np.abs(around - reference.upsampled(dot, weights)).max() < 0.05
    around[8:32, 30:] = 0
    assert not around.any()


@pytest.mark.parametrize("ranges", [[], [1.0, 1.0, 1.0]])
def test_results_do_not_depend_on_threads(ranges: list[float]) -> None:
    weights, small = weights_of(UpsamplerSpec()), picture(40, 33)
    before = _native.threads()
    try:
        found = []
        for n in (1, 2, 5):
            _native.set_threads(n)
            found.append(applied(weights, small, ranges))
    finally:
        _native.set_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_wrong_weights_and_pictures_are_refused() -> None:
    weights = weights_of(UpsamplerSpec())
    with pytest.raises(ValueError, match="1 to"):
        _native.Upsampler([])
    with pytest.raises(ValueError, match="multiple of 16"):
        _native.Upsampler([weights[0][:8].copy(), weights[3][:, :8].copy()])
    for ranges in ([1.0], [1.0, 0.0, 1.0], [1.0, float("nan"), 1.0]):
        with pytest.raises(ValueError, match="ranges: expected"):
            _native.Upsampler(weights, ranges)
    with pytest.raises(ValueError, match=r"\[16, 16, 3, 3\]"):
        _native.Upsampler([weights[0], weights[0]])
    with pytest.raises(ValueError, match=r"\[8, 8, 4\]"):
        _native.Upsampler(weights).apply(np.zeros((4, 4, 4), np.float32), np.zeros((8, 9, 4), np.float32))

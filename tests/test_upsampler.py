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
SPECS = {"default": UpsamplerSpec(), "wide": UpsamplerSpec(32, 2), "one level": UpsamplerSpec(16, 1)}


def weights_of(spec: UpsamplerSpec, seed: int = 0) -> list[Float]:
    generator = np.random.default_rng(seed)
    return [
        np.asarray(generator.normal(size=shape) * np.sqrt(2 / (9 * shape[1])), np.float32)
        for shape in spec.shapes
    ]


def modulation_of(spec: UpsamplerSpec, seed: int = 0) -> Float:
    """Gains around one, shifts around zero."""
    generator, n = np.random.default_rng(seed), sum(spec.channels)
    return np.asarray(np.repeat([1.0, 0.0], n) + generator.normal(0.0, 0.2, 2 * n), np.float32)


def picture(height: int, width: int, seed: int = 0) -> Float:
    """A ragged shape with holes, and rows without anything."""
    generator = np.random.default_rng(seed)
    small = generator.random((height, width, 4), np.float32)
    small[generator.random((height, width)) < 0.6] = 0.0
    small[: height // 3] = 0.0
    return small


def applied(
    weights: list[Float], small: Float, modulation: Float, ranges: list[float] | None = None
) -> Float:
    out = np.full((2 * small.shape[0], 2 * small.shape[1], 4), np.nan, np.float32)
    _native.Upsampler(weights, ranges or []).apply(small, modulation, out)
    return out


def ranges_of(weights: list[Float], small: Float, modulation: Float) -> list[float]:
    """The largest outputs of all layers but the last."""
    layers = reference.upsampler_layers(small, weights, modulation)
    return [max(float(values.max()), 1e-3) for values in layers[:-1]]


@pytest.fixture(params=_native.simd_paths())
def _path(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _native.simd()
    _native.set_simd(request.param)
    yield
    _native.set_simd(before)


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(4, 4), (4, 12), (16, 8)])
def test_every_path_agrees_with_the_float64_twin(name: str, size: tuple[int, int]) -> None:
    weights, small, modulation = weights_of(SPECS[name]), picture(*size), modulation_of(SPECS[name])
    expected = reference.upsampled(small, weights, modulation)
    assert np.abs(applied(weights, small, modulation) - expected).max() < UPSAMPLER


@pytest.mark.usefixtures("_path")
def test_nothing_comes_of_nothing_whatever_was_there_before() -> None:
    weights, modulation = weights_of(UpsamplerSpec()), modulation_of(UpsamplerSpec())
    applied(weights, np.ones((24, 24, 4), np.float32), modulation)  # leaves its traces in the kept memory
    assert not applied(weights, np.zeros((16, 20, 4), np.float32), modulation).any()
    dot = np.zeros((24, 24, 4), np.float32)
    dot[9, 20] = 0.7
    expected = reference.upsampled(dot, weights, modulation)
    assert np.abs(applied(weights, dot, modulation) - expected).max() < UPSAMPLER


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(4, 4), (4, 12), (16, 8)])
def test_bytes_are_close_to_the_float64_twin_on_every_path_alike(name: str, size: tuple[int, int]) -> None:
    weights, small, modulation = weights_of(SPECS[name]), picture(*size), modulation_of(SPECS[name])
    weights[-1] *= 0.1  # details, as trained ones are
    ranges = ranges_of(weights, small, modulation)
    found = applied(weights, small, modulation, ranges)
    assert np.abs(found - reference.upsampled(small, weights, modulation)).max() < 0.01
    path = _native.simd()
    _native.set_simd("portable")
    expected = applied(weights, small, modulation, ranges)
    _native.set_simd(path)
    assert np.array_equal(found, expected)


@pytest.mark.usefixtures("_path")
def test_no_sum_of_bytes_overflows_and_values_beyond_their_ranges_are_cut() -> None:
    weights, modulation = (
        [np.full_like(layer, 0.05) for layer in weights_of(UpsamplerSpec())],
        modulation_of(UpsamplerSpec()),
    )
    weights[-1][1::2] *= -1
    small, ranges = np.ones((8, 12, 4), np.float32), [0.1] * (len(weights) - 1)
    path = _native.simd()
    _native.set_simd("portable")
    expected = applied(weights, small, modulation, ranges)
    _native.set_simd(path)
    found = applied(weights, small, modulation, ranges)
    assert np.array_equal(found, expected)
    assert (found[::2, ::2, ::2] == 1).all()


@pytest.mark.usefixtures("_path")
def test_no_bytes_come_of_nothing_whatever_was_there_before() -> None:
    weights, modulation = weights_of(UpsamplerSpec(16, 1)), modulation_of(UpsamplerSpec(16, 1))
    ranges = [1.0, 1.0]
    applied(weights, np.ones((24, 24, 4), np.float32), modulation, ranges)
    assert not applied(weights, np.zeros((16, 20, 4), np.float32), modulation, ranges).any()
    dot = np.zeros((24, 24, 4), np.float32)
    dot[9, 20] = 0.7
    around = applied(weights, dot, modulation, ranges_of(weights, dot, modulation))
    assert np.abs(around - reference.upsampled(dot, weights, modulation)).max() < 0.05
    around[8:32, 30:] = 0
    assert not around.any()


@pytest.mark.parametrize("ranges", [[], [1.0] * 8])
def test_results_do_not_depend_on_threads(ranges: list[float]) -> None:
    weights, small, modulation = weights_of(UpsamplerSpec()), picture(40, 36), modulation_of(UpsamplerSpec())
    before = _native.threads()
    try:
        found = []
        for n in (1, 2, 5):
            _native.set_threads(n)
            found.append(applied(weights, small, modulation, ranges))
    finally:
        _native.set_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_wrong_weights_and_pictures_are_refused() -> None:
    weights, modulation = weights_of(UpsamplerSpec()), modulation_of(UpsamplerSpec())
    for wrong in ([], weights[:-1], weights * 2):
        with pytest.raises(ValueError, match="3 layers for each of 1 to 4 levels"):
            _native.Upsampler(wrong)
    with pytest.raises(ValueError, match="multiple of 16"):
        _native.Upsampler([weights[0][:8].copy(), weights[1], weights[-1]])
    for ranges in ([1.0], [1.0] * 7 + [0.0], [1.0] * 7 + [float("nan")]):
        with pytest.raises(ValueError, match="ranges: expected"):
            _native.Upsampler(weights, ranges)
    with pytest.raises(ValueError, match=r"\[16, 16, 3, 3\]"):
        _native.Upsampler([weights[0], weights[0], weights[-1]])
    upsampler, small = _native.Upsampler(weights), np.zeros((4, 8, 4), np.float32)
    with pytest.raises(ValueError, match=r"\[8, 16, 4\]"):
        upsampler.apply(small, modulation, np.zeros((8, 9, 4), np.float32))
    with pytest.raises(ValueError, match=r"\[192\]"):
        upsampler.apply(small, modulation[:-1].copy(), np.zeros((8, 16, 4), np.float32))
    with pytest.raises(ValueError, match="multiples of 4, got 8 x 6"):
        upsampler.apply(np.zeros((6, 8, 4), np.float32), modulation, np.zeros((12, 16, 4), np.float32))

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import reference
import tolerances
from numpy.typing import NDArray
from synctalk import _native

Float = NDArray[np.float32]
Samples = tuple[Float, Float, NDArray[np.int32]]
STEP = 0.004


def samples(n_rays: int, n_features: int, seed: int = 0) -> Samples:
    """Rays with 0 to 9 samples, thin and thick."""
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, 10, n_rays))]).astype(np.int32)
    density = np.exp(random.uniform(0, 8, offsets[-1])).astype(np.float32)
    return density, random.standard_normal((offsets[-1], n_features), np.float32), offsets


def composite(density: Float, feature: Float, offsets: NDArray[np.int32]) -> tuple[Float, Float, Float]:
    n_rays = len(offsets) - 1
    out = np.full((n_rays, feature.shape[1]), np.nan, np.float32)
    alpha, weight = np.full(n_rays, np.nan, np.float32), np.full(len(density), np.nan, np.float32)
    _native.composite(density, feature, offsets, STEP, out, alpha, weight)
    return out, alpha, weight


def gradients(
    density: Float, feature: Float, offsets: NDArray[np.int32], d: tuple[Float, Float, Float]
) -> tuple[Float, Float]:
    weight = composite(density, feature, offsets)[2]
    d_density, d_feature = np.full_like(density, np.nan), np.full_like(feature, np.nan)
    _native.composite_backward(density, feature, offsets, STEP, weight, *d, d_density, d_feature)
    return d_density, d_feature


@pytest.fixture(params=_native.simd_paths())
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.simd()
    _native.set_simd(request.param)
    yield request.param
    _native.set_simd(before)


@pytest.mark.parametrize(("n_rays", "n_features"), [(0, 3), (1, 1), (40, 31), (7, 64), (5, 0)])
def test_composite_equals_the_naive_twin(simd: str, n_rays: int, n_features: int) -> None:
    density, feature, offsets = samples(n_rays, n_features)
    expected = reference.composite(density.astype(np.float64), feature.astype(np.float64), offsets, STEP)
    for got, want in zip(composite(density, feature, offsets), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=tolerances.COMPOSITE)


@pytest.mark.parametrize("n_features", [1, 31])
def test_gradients_equal_central_differences_of_the_twin(simd: str, n_features: int) -> None:
    density, feature, offsets = samples(12, n_features, seed=2)
    random = np.random.default_rng(3)
    d = (
        random.standard_normal((12, n_features), np.float32),
        random.standard_normal(12, np.float32),
        random.standard_normal(len(density), np.float32),
    )
    d_density, d_feature = gradients(density, feature, offsets, d)

    def loss(at: NDArray[np.float64], of: NDArray[np.float64]) -> float:
        found = reference.composite(at, of, offsets, STEP)
        return float(sum((a * b).sum() for a, b in zip(found, d, strict=True)))

    wide, deep = density.astype(np.float64), feature.astype(np.float64)
    for i in range(len(density)):
        moved = [loss(wide + s * 1e-3 * (np.arange(len(wide)) == i), deep) for s in (1, -1)]
        assert d_density[i] == pytest.approx((moved[0] - moved[1]) / 2e-3, abs=2e-6)
    step = random.standard_normal(feature.shape)
    moved = [loss(wide, deep + s * 1e-3 * step) for s in (1, -1)]
    assert (moved[0] - moved[1]) / 2e-3 == pytest.approx(float((d_feature * step).sum()), rel=1e-4, abs=1e-5)


def test_extreme_densities_stay_finite(simd: str) -> None:
    density = np.array([0, 1e30, 5, np.inf, 0], np.float32)
    feature, offsets = np.ones((5, 2), np.float32), np.array([0, 3, 5], np.int32)
    out, alpha, weight = composite(density, feature, offsets)
    assert alpha.tolist() == [1, 1] and out.tolist() == [[1, 1], [1, 1]] and np.isfinite(weight).all()


def test_result_does_not_depend_on_threads(simd: str) -> None:
    density, feature, offsets = samples(3000, 31)
    before, results = _native.threads(), []
    for n_threads in (1, 2, 5):
        _native.set_threads(n_threads)
        d = (np.ones((3000, 31), np.float32), np.ones(3000, np.float32), np.ones(len(density), np.float32))
        results.append((*composite(density, feature, offsets), *gradients(density, feature, offsets, d)))
    _native.set_threads(before)
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))


def test_wrong_offsets_are_refused() -> None:
    density, feature, offsets = samples(4, 3)
    for wrong in (offsets + 1, offsets[::-1].copy(), offsets[:-1]):
        with pytest.raises(ValueError, match="offsets: expected to rise from 0 to M"):
            composite(density, feature, wrong.astype(np.int32))
    with pytest.raises(ValueError, match="offsets: expected C-contiguous int32"):
        composite(density, feature, offsets.astype(np.int64))  # type: ignore[arg-type]

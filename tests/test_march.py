from __future__ import annotations

import numpy as np
import pytest
import reference
import tolerances
from numpy.typing import NDArray
from synctalk import _native

Float = NDArray[np.float32]
BOX = (np.array([-0.13, -0.16, -0.13], np.float32), np.array([0.13, 0.18, 0.11], np.float32))
STEP = 0.004


def ball(g: int, inner: float = 0.3, outer: float = 0.42) -> NDArray[np.bool_]:
    """A shell round the middle of the box, index [z, y, x]."""
    axis = (np.arange(g) + 0.5) / g - 0.5
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return (radius > inner) & (radius < outer)


def rays(n: int, seed: int = 0) -> tuple[Float, Float, Float]:
    """Rays from half a metre towards points in and around the box."""
    random = np.random.default_rng(seed)
    origins = random.standard_normal((n, 3))
    origins *= 0.5 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = random.uniform(-0.2, 0.2, (n, 3)) - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins.astype(np.float32), directions.astype(np.float32), random.random(n, np.float32)


def march(
    origins: Float, directions: Float, jitter: Float, cells: NDArray[np.bool_], max_samples: int = 24
) -> tuple[Float, Float, NDArray[np.int32], NDArray[np.int32]]:
    n, room = len(origins), len(origins) * max_samples
    positions, distances = np.empty((room, 3), np.float32), np.empty(room, np.float32)
    owners, offsets = np.empty(room, np.int32), np.empty(n + 1, np.int32)
    bits = np.packbits(cells.reshape(-1), bitorder="little")
    n_found = _native.march(
        *(origins, directions, jitter, *BOX, bits, len(cells), STEP, max_samples),
        *(positions, distances, owners, offsets),
    )
    return positions[:n_found], distances[:n_found], owners[:n_found], offsets


@pytest.mark.parametrize("g", [1, 7, 32])
@pytest.mark.parametrize("max_samples", [1, 5, 64])
def test_samples_equal_the_naive_twin(g: int, max_samples: int) -> None:
    origins, directions, jitter = rays(120)
    cells = ball(g) if g > 1 else np.ones((1, 1, 1), bool)
    positions, distances, owners, offsets = march(origins, directions, jitter, cells, max_samples)
    box = (BOX[0].astype(np.float64), BOX[1].astype(np.float64))
    n_clear = 0
    for r in range(len(origins)):
        ray = (origins[r].astype(np.float64), directions[r].astype(np.float64), float(jitter[r]))
        expected, is_clear = reference.march(*ray, box, cells, STEP, max_samples)
        if not is_clear:
            continue
        n_clear += 1
        mine = slice(offsets[r], offsets[r + 1])
        np.testing.assert_allclose(distances[mine], expected, atol=tolerances.MARCH_DISTANCE_M)
        at = (ray[0] + expected[:, None] * ray[1] - box[0]) / (box[1] - box[0])
        np.testing.assert_allclose(positions[mine], at, atol=1e-5)
        assert (owners[mine] == r).all()
    assert n_clear > 30


def test_no_rays_and_rays_that_miss_give_no_samples() -> None:
    cells = np.ones((8, 8, 8), bool)
    empty = np.empty((0, 3), np.float32)
    assert march(empty, empty, np.empty(0, np.float32), cells)[3].tolist() == [0]
    origins = np.array([[0, 0, 1], [1, 1, 1], [0, 0, 1]], np.float32)
    directions = np.array([[0, 0, 1], [0, 1, 0], [np.nan, 0, -1]], np.float32)
    assert march(origins, directions, np.full(3, 0.5, np.float32), cells)[3].tolist() == [0, 0, 0, 0]


def test_empty_occupancy_gives_no_samples() -> None:
    assert march(*rays(50), np.zeros((16, 16, 16), bool))[3][-1] == 0


def test_a_ray_from_inside_starts_at_its_origin() -> None:
    origins, directions = np.zeros((1, 3), np.float32), np.array([[0, 0, 1]], np.float32)
    _, distances, _, _ = march(origins, directions, np.full(1, 0.5, np.float32), np.ones((4, 4, 4), bool), 64)
    np.testing.assert_allclose(distances, STEP * (np.arange(27) + 0.5), atol=1e-6)


def test_result_does_not_depend_on_threads() -> None:
    before, results = _native.threads(), []
    for n_threads in (1, 2, 5):
        _native.set_threads(n_threads)
        results.append(march(*rays(3000), ball(24)))
    _native.set_threads(before)
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))


def test_wrong_settings_are_refused() -> None:
    origins, directions, jitter = rays(4)
    bits, room = np.zeros(8, np.uint8), 4 * 24
    found = (np.empty((room, 3), np.float32), np.empty(room, np.float32), np.empty(room, np.int32))
    offsets = np.empty(5, np.int32)
    with pytest.raises(ValueError, match=r"occupancy: expected C-contiguous uint8 \[64\]"):
        _native.march(origins, directions, jitter, *BOX, bits, 8, STEP, 24, *found, offsets)
    with pytest.raises(ValueError, match=r"R \* max_samples = 100"):
        _native.march(origins, directions, jitter, *BOX, bits, 4, STEP, 25, *found, offsets)
    with pytest.raises(ValueError, match="box_min: expected to be below"):
        _native.march(origins, directions, jitter, BOX[1], BOX[0], bits, 4, STEP, 24, *found, offsets)
    with pytest.raises(ValueError, match="expected to be positive"):
        _native.march(origins, directions, jitter, *BOX, bits, 4, 0.0, 24, *found, offsets)

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import reference
import tolerances
from numpy.typing import NDArray
from synctalk import _native
from synctalk.spec import GridSpec, preset

SMALL = GridSpec(n_levels=3, n_channels=1, base_resolution=8, finest_resolution=40, log2_table_size=9)
CASES = [
    *((SMALL, n) for n in (0, 1, 64, 67)),
    (dataclasses.replace(SMALL, n_channels=2), 67),
    (preset("tiny").field.grid, 9),
    (GridSpec(), 9),
]


def rows(grid: GridSpec) -> NDArray[np.float64]:
    return np.array([[x.scale, x.resolution, x.size, x.offset, x.is_hashed] for x in grid.levels], np.float64)


def inputs(grid: GridSpec, n: int, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
    random = np.random.default_rng(seed)
    positions = random.random((n, 3), np.float32)
    positions[: min(n, 3)] = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 0.5]], np.float32)[:n]
    tables = random.standard_normal((3, grid.n_entries, grid.n_channels), np.float32)
    d_out = random.standard_normal((n, grid.n_outputs), np.float32)
    return positions, tables, d_out


@pytest.fixture(params=_native.simd_paths())
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.simd()
    _native.set_simd(request.param)
    yield request.param
    _native.set_simd(before)


@pytest.mark.parametrize(("grid", "n"), CASES)
def test_encoding_equals_the_naive_twin(simd: str, grid: GridSpec, n: int) -> None:
    positions, tables, _ = inputs(grid, n)
    out = np.full((n, grid.n_outputs), np.nan, np.float32)
    _native.grid_encode(positions, tables, rows(grid), out)
    np.testing.assert_allclose(
        out, reference.grid_encode(positions, tables, grid), atol=tolerances.GRID_ENCODE
    )


@pytest.mark.parametrize(("grid", "n"), CASES)
def test_gradients_equal_the_naive_twin(simd: str, grid: GridSpec, n: int) -> None:
    positions, tables, d_out = inputs(grid, n)
    d_tables, d_positions = np.zeros_like(tables), np.full_like(positions, np.nan)
    _native.grid_encode_backward(positions, tables, d_out, rows(grid), d_tables, d_positions)
    expected_tables, expected_positions = reference.grid_encode_backward(positions, tables, d_out, grid)
    np.testing.assert_allclose(d_tables, expected_tables, atol=tolerances.GRID_GRADIENT * 4)
    scale = max(1.0, np.abs(expected_positions).max(initial=0.0))
    np.testing.assert_allclose(d_positions / scale, expected_positions / scale, atol=tolerances.GRID_GRADIENT)


def test_gradients_of_the_twin_equal_central_differences() -> None:
    positions, tables, d_out = (x.astype(np.float64) for x in inputs(SMALL, 4, seed=3))
    positions[:3] = 0.37
    d_tables, _ = reference.grid_encode_backward(positions, tables, d_out, SMALL)
    random = np.random.default_rng(1)
    step = random.standard_normal(tables.shape)
    moved = [
        (reference.grid_encode(positions, tables + s * 1e-3 * step, SMALL) * d_out).sum() for s in (1, -1)
    ]
    assert (moved[0] - moved[1]) / 2e-3 == pytest.approx(
        (d_tables * step).sum(), rel=tolerances.CENTRAL_DIFFERENCE
    )


def test_position_gradient_equals_central_differences(simd: str) -> None:
    grid = SMALL
    positions, tables, d_out = inputs(grid, 50, seed=5)
    d_positions = np.empty_like(positions)
    _native.grid_encode_backward(positions, tables, d_out, rows(grid), np.zeros_like(tables), d_positions)
    n_close = 0
    for axis in range(3):
        moved = []
        for sign in (1, -1):
            at, out = positions.copy(), np.empty_like(d_out)
            at[:, axis] += np.float32(sign * 2e-4)
            _native.grid_encode(at, tables, rows(grid), out)
            moved.append((out.astype(np.float64) * d_out).sum(axis=1))
        slope = (moved[0] - moved[1]) / 4e-4
        n_close += int((np.abs(slope - d_positions[:, axis]) < 0.02 * np.abs(d_positions).max()).sum())
    assert n_close >= 0.9 * positions.size  # where a step crosses a node, the slope jumps


@pytest.mark.parametrize("grid", [SMALL, GridSpec()])
def test_table_index_is_bit_exact(simd: str, grid: GridSpec) -> None:
    positions, tables, _ = inputs(grid, 13, seed=7)
    for position in positions[3:]:
        d_tables = np.zeros_like(tables)
        ones = np.ones((1, grid.n_outputs), np.float32)
        _native.grid_encode_backward(position[None], tables, ones, rows(grid), d_tables, None)
        touched = set(map(tuple, np.argwhere(d_tables[:, :, 0])))
        expected = set()
        for plane, (u, v) in enumerate([(0, 1), (1, 2), (0, 2)]):
            for level in grid.levels:
                entries, weights, _ = reference.cell_of(level, float(position[u]), float(position[v]))
                assert min(weights) > 1e-6, "choose another seed: a sample lies on a node"
                expected |= {(plane, level.offset + entry) for entry in entries}
        assert touched == expected


def test_unrolled_plane_gives_the_same_values(simd: str) -> None:
    grid = GridSpec(n_channels=2)
    _, tables, _ = inputs(grid, 1)
    for level, row in zip(grid.levels, rows(grid), strict=True):
        plane = np.empty((2, level.n_nodes, level.n_nodes), np.float32)
        _native.grid_unroll(tables[1], row, plane)
        for x, y in [(0, 0), (level.n_nodes - 1, level.n_nodes - 1), (3, 17), (level.n_nodes - 1, 0)]:
            entry = level.offset + reference.table_index(level, x, y)
            assert (plane[:, y, x] == tables[1, entry]).all()


def test_result_does_not_depend_on_threads(simd: str) -> None:
    grid = GridSpec()
    positions, tables, d_out = inputs(grid, 5000)
    before, results = _native.threads(), []
    for n_threads in (1, 2, 5):
        _native.set_threads(n_threads)
        out, d_tables, d_positions = np.empty_like(d_out), np.zeros_like(tables), np.empty_like(positions)
        _native.grid_encode(positions, tables, rows(grid), out)
        _native.grid_encode_backward(positions, tables, d_out, rows(grid), d_tables, d_positions)
        results.append((out, d_tables, d_positions))
    _native.set_threads(before)
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))


def test_coordinates_outside_and_nan_are_clamped(simd: str) -> None:
    _, tables, _ = inputs(SMALL, 1)
    wild = np.array([[-5, 2, np.nan], [np.inf, -np.inf, 0.5], [1e30, -1e30, 7]], np.float32)
    tame = np.array([[0, 1, 0], [1, 0, 0.5], [1, 0, 1]], np.float32)
    out, expected = np.empty((3, SMALL.n_outputs), np.float32), np.empty((3, SMALL.n_outputs), np.float32)
    _native.grid_encode(wild, tables, rows(SMALL), out)
    _native.grid_encode(tame, tables, rows(SMALL), expected)
    assert (out == expected).all()


def test_wrong_arrays_are_refused() -> None:
    grid = SMALL
    positions, tables, d_out = inputs(grid, 5)
    levels, out = rows(grid), np.empty_like(d_out)
    with pytest.raises(ValueError, match=r"positions: expected C-contiguous float32 \[5, 3\], got float64"):
        _native.grid_encode(positions.astype(np.float64), tables, levels, out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not C-contiguous"):
        _native.grid_encode(np.asfortranarray(positions), tables, levels, out)
    with pytest.raises(
        ValueError, match=r"out: expected C-contiguous float32 \[5, 9\], got float32 \[5, 8\]"
    ):
        _native.grid_encode(positions, tables, levels, np.empty((5, 8), np.float32))
    with pytest.raises(ValueError, match="does not fit a table"):
        _native.grid_encode(positions, np.ascontiguousarray(tables[:, :-1]), levels, out)
    with pytest.raises(ValueError, match="positions: expected 2 axes"):
        _native.grid_encode(positions[0], tables, levels, out)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writeable array"):
        _native.grid_encode(positions, tables, levels, out)


def test_simd_and_threads_are_checked() -> None:
    assert _native.simd_paths()[0] == "portable"
    with pytest.raises(ValueError, match="choose portable"):
        _native.set_simd("mmx")
    with pytest.raises(ValueError, match="expected 1 to 1024"):
        _native.set_threads(0)

"""Hash tables unrolled into the node planes of a bundle: the same function without hashing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from synctalk import _native
from synctalk.errors import TrainingError
from synctalk.spec import PLANES, GridSpec, Level

__all__ = ["node_planes", "unroll"]

_LARGEST_HALF = 65504.0


def unroll(table: NDArray[np.float32], level: Level) -> NDArray[np.float32]:
    """The value at every node of one level. table: [n_entries, C] of one plane -> [C, n, n], row = second axis."""
    out = np.empty((table.shape[1], level.n_nodes, level.n_nodes), np.float32)
    row = np.array([level.scale, level.resolution, level.size, level.offset, level.is_hashed], np.float64)
    _native.grid_unroll(np.ascontiguousarray(table, np.float32), row, out)
    return out


def node_planes(tables: NDArray[np.float32], grid: GridSpec) -> dict[str, NDArray[np.float16]]:
    """The bundle's ``field.plane.*`` tensors. tables: [3, n_entries, C].

    Raises: TrainingError: a value that is not finite or does not fit half precision.
    """
    if not np.isfinite(tables).all() or np.abs(tables).max() > _LARGEST_HALF:
        raise TrainingError(
            "the grid's tables hold values that are not finite or beyond half precision: the run is damaged or "
            "diverged; train it again"
        )
    return {
        f"field.plane.{plane}.{i}": unroll(tables[plane], level).astype(np.float16)
        for plane in range(len(PLANES))
        for i, level in enumerate(grid.levels)
    }

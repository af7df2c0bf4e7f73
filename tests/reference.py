"""Naive twins of the kernels in float64 NumPy: slow, plain, the yardstick of every fast path."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from synctalk.spec import PLANES, GridSpec, Level

Array = NDArray[np.float64]

_HASH_PRIME = 2_654_435_761


def table_index(level: Level, x: int, y: int) -> int:
    """Entry of a node within its level, as tiny-cuda-nn computes it (32-bit arithmetic)."""
    stride, index = 1, 0
    for coordinate in (x, y):
        if stride > level.size:
            break
        index += coordinate * stride
        stride *= level.resolution
    if stride > level.size:
        index = (x ^ (y * _HASH_PRIME)) & 0xFFFFFFFF
    return index % level.size


def cell_of(level: Level, u: float, v: float) -> tuple[list[int], list[float], list[tuple[float, float]]]:
    """The four entries round a point, their weights, and the weights' derivatives by u and v.

    The point is scaled in float32, as the kernels do, so that both see the same cell.
    """
    at = np.clip(np.float32([u, v]), np.float32(0), np.float32(1)) * np.float32(level.scale) + np.float32(0.5)
    node = np.floor(at).astype(int)
    fu, fv = (at - node).astype(np.float64)
    entries, weights, slopes = [], [], []
    for corner in range(4):
        du, dv = corner & 1, corner >> 1
        wu, wv = (fu if du else 1 - fu), (fv if dv else 1 - fv)
        entries.append(table_index(level, int(node[0]) + du, int(node[1]) + dv))
        weights.append(wu * wv)
        slopes.append(((1 if du else -1) * wv * level.scale, wu * (1 if dv else -1) * level.scale))
    return entries, weights, slopes


def grid_encode(positions: Array, tables: Array, grid: GridSpec) -> Array:
    """positions [M, 3], tables [3, E, C] -> [M, 3 * levels * C]."""
    out = np.zeros((len(positions), grid.n_outputs))
    for i, position in enumerate(positions):
        column = 0
        for plane, (axis_u, axis_v) in enumerate(PLANES):
            for level in grid.levels:
                entries, weights, _ = cell_of(level, position[axis_u], position[axis_v])
                for entry, weight in zip(entries, weights, strict=True):
                    out[i, column : column + grid.n_channels] += weight * tables[plane, level.offset + entry]
                column += grid.n_channels
    return out


def grid_encode_backward(
    positions: Array, tables: Array, d_out: Array, grid: GridSpec
) -> tuple[Array, Array]:
    """Gradients of tables and positions."""
    d_tables, d_positions = np.zeros(tables.shape), np.zeros(positions.shape)
    for i, position in enumerate(positions):
        column = 0
        for plane, (axis_u, axis_v) in enumerate(PLANES):
            for level in grid.levels:
                d = d_out[i, column : column + grid.n_channels].astype(np.float64)
                entries, weights, slopes = cell_of(level, position[axis_u], position[axis_v])
                for entry, weight, (by_u, by_v) in zip(entries, weights, slopes, strict=True):
                    d_tables[plane, level.offset + entry] += weight * d
                    value = float(d @ tables[plane, level.offset + entry])
                    d_positions[i, axis_u] += by_u * value
                    d_positions[i, axis_v] += by_v * value
                column += grid.n_channels
    d_positions[(positions < 0) | (positions > 1)] = 0
    return d_tables, d_positions


def march(
    origin: Array,
    direction: Array,
    jitter: float,
    box: tuple[Array, Array],
    cells: NDArray[np.bool_],
    step: float,
    max_samples: int,
) -> tuple[Array, bool]:
    """Distances of one ray's samples, and whether none of its steps is too close to a border to call.

    cells: [G, G, G], index [z, y, x].
    """
    low, high = box
    near, far = 0.0, np.inf
    for a in range(3):
        if direction[a] == 0:
            if not low[a] <= origin[a] <= high[a]:
                return np.zeros(0), True
            continue
        first, last = sorted([(low[a] - origin[a]) / direction[a], (high[a] - origin[a]) / direction[a]])
        near, far = max(near, first), min(far, last)
    g = len(cells)
    distances: list[float] = []
    is_clear = abs(far - near) > 1e-5
    k = 0
    while len(distances) < max_samples and near + (k + jitter) * step < far + 1e-5:
        t = near + (k + jitter) * step
        k += 1
        is_clear &= abs(t - far) > 1e-5
        if t >= far:
            break
        at = (origin + t * direction - low) / (high - low) * g
        inner = (at > 1e-3) & (at < g - 1e-3)
        is_clear &= bool((abs(at - np.round(at))[inner] > 1e-3).all())
        x, y, z = np.clip(np.floor(at), 0, g - 1).astype(int)
        if cells[z, y, x]:
            distances.append(t)
    return np.array(distances), is_clear


def composite(
    density: Array, feature: Array, offsets: NDArray[np.int32], step: float
) -> tuple[Array, Array, Array]:
    """Accumulated feature [R, F], alpha [R], weights [M]."""
    out, alpha = np.zeros((len(offsets) - 1, feature.shape[1])), np.zeros(len(offsets) - 1)
    weights = np.zeros(len(density))
    for r, (first, end) in enumerate(itertools.pairwise(offsets)):
        transmittance = 1.0
        for i in range(first, end):
            opacity = 1 - np.exp(-density[i] * step)
            weights[i] = transmittance * opacity
            out[r] += weights[i] * feature[i]
            transmittance *= 1 - opacity
        alpha[r] = 1 - transmittance
    return out, alpha, weights


def convolved(picture: Array, weights: Array) -> Array:
    """Cross-correlation 3 x 3 of [H + 2, W + 2, in] by [out, in, 3, 3]: [H, W, out]."""
    height, width = picture.shape[0] - 2, picture.shape[1] - 2
    out = np.zeros((height, width, len(weights)))
    for y in range(height):
        for x in range(width):
            out[y, x] = np.einsum("yxi,oiyx->o", picture[y : y + 3, x : x + 3], weights)
    return out


def halved(picture: Array) -> Array:
    """Means of 2 x 2: [H, W, n] -> [H / 2, W / 2, n]."""
    height, width, n = picture.shape
    return picture.reshape(height // 2, 2, width // 2, 2, n).mean(axis=(1, 3))


def upsampler_layers(small: Array, weights: list[Array], modulation: Array) -> list[Array]:
    """Outputs of all layers of the upsampler, [H, W, n] each: behind their ReLU, on the way back behind the sum."""

    def convolve(picture: Array, layer: int) -> Array:
        return convolved(np.pad(picture, ((1, 1), (1, 1), (0, 0))), weights[layer].astype(np.float64))

    n_levels = len(weights) // 3
    gains, shifts = np.split(modulation.astype(np.float64), 2)
    alphas, sides, found = [small[..., 3:].astype(np.float64)], [], []
    at = 0
    for level in range(n_levels):
        n = len(weights[2 * level])
        if level:
            alphas.append(halved(alphas[-1]))
            first = convolve(halved(sides[-1]), 2 * level)
        else:
            around = np.pad(small.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
            first = convolved(around, weights[0].astype(np.float64))
        found.append(np.maximum(first * gains[at : at + n] + shifts[at : at + n] * alphas[-1], 0.0))
        found.append(np.maximum(convolve(found[-1], 2 * level + 1), 0.0))
        sides.append(found[-1])
        at += n
    for level in reversed(range(n_levels - 1)):
        coarse = convolve(found[-1], len(found)).repeat(2, axis=0).repeat(2, axis=1)
        found.append(np.maximum(coarse * alphas[level] + sides[level], 0.0))
    return [*found, convolve(found[-1], len(found))]


def upsampled(small: Array, weights: list[Array], modulation: Array) -> Array:
    """Premultiplied RGBA [H, W, 4] twice as large: bilinear enlargement plus learned details, clipped to 0..1."""
    height, width, _ = small.shape
    around = np.pad(small.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    details = upsampler_layers(small, weights, modulation)[-1]
    out = np.zeros((2 * height, 2 * width, 4))
    for y, x in itertools.product(range(2 * height), range(2 * width)):
        row, column = y // 2 + 1, x // 2 + 1
        far_row, far_column = row + (1 if y % 2 else -1), column + (1 if x % 2 else -1)
        near = 0.75 * around[row, column] + 0.25 * around[row, far_column]
        far = 0.75 * around[far_row, column] + 0.25 * around[far_row, far_column]
        detail = details[y // 2, x // 2].reshape(2, 2, 4)[y % 2, x % 2]
        out[y, x] = 0.75 * near + 0.25 * far + detail
    return out.clip(0.0, 1.0)

"""Rendering a head with any implementation of its two functions: march, evaluate, composite, colour.

The readable twin of the fused renderer, for runtimes that evaluate points only.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from synctalk import _native
from synctalk.forks import renew_in_children
from synctalk.geometry import pixel_rays, project
from synctalk.spec import FieldSpec

from . import HeadRequest

__all__ = ["ColourFunction", "FieldMarcher", "HeadFunction", "march_rays"]

Float = NDArray[np.float32]

HeadFunction = Callable[[Float, Float, Float], tuple[Float, Float]]
"""positions [M, 3] in 0..1, condition [M, C], expression [M, E] -> log_density [M], feature [M, F]"""
ColourFunction = Callable[[Float, Float, Float], Float]
"""feature [R, F], direction [R, 3], appearance [R, A] -> colour [R, 3]"""

_MIDPOINT = np.float32(0.5)
_RAYS_AT_ONCE = 8_192
_NEAR_M = 1e-3
_LEAST_TRANSMITTANCE = 1e-3
"""A sample behind less than this does not count (csrc/renderer_net.h)."""


class FieldMarcher:
    """Renders pictures of one field."""

    def __init__(
        self,
        spec: FieldSpec,
        occupancy: NDArray[np.uint8],
        head: HeadFunction,
        colour: ColourFunction,
        threads: int = 1,
    ) -> None:
        """occupancy: bits over the box, see ``docs/formats.md``; threads: blocks of rays in flight at once."""
        self._spec = spec
        self._occupancy = occupancy
        self._head = head
        self._colour = colour
        self._threads = threads
        self.renew_after_fork()
        renew_in_children(self)
        self._corners = _occupied_corners(spec, occupancy)

    def renew_after_fork(self) -> None:
        """Begin with a pool of its own."""
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="march")

    def render(self, request: HeadRequest) -> Float:
        """Premultiplied RGBA [H, W, 4]."""
        camera = request.camera
        rgba = np.zeros((camera.height, camera.width, 4), np.float32)
        x0, y0, x1, y1 = region = _head_region(request, self._corners)
        parts = list(self._pool.map(lambda block: self._rays(request, block), _pixel_blocks(region)))
        if parts:
            rgba[y0:y1, x0:x1] = np.concatenate(parts).reshape(y1 - y0, x1 - x0, 4)
        return rgba

    def visible_samples(self, request: HeadRequest) -> tuple[Float, int]:
        """What a picture asks of the field: positions [M, 3] of the samples that are not hidden behind others, ray by
        ray, and how many rays have any."""
        parts, n_rays = [np.zeros((0, 3), np.float32)], 0
        for positions, rays in self._pool.map(
            lambda block: self._visible(request, block), _pixel_blocks(_head_region(request, self._corners))
        ):
            parts.append(positions)
            n_rays += len(np.unique(rays))
        return np.concatenate(parts), n_rays

    def _visible(self, request: HeadRequest, pixels: Float) -> tuple[Float, NDArray[np.int32]]:
        """Positions [M, 3] and rays [M] of the samples of pixels [R, 2] that are not hidden."""
        origins, directions = pixel_rays(request.camera, request.rotation, request.translation, pixels)
        positions, rays, offsets = self._samples(origins, directions)
        depth = self._density(request, positions)[0] * np.float32(self._spec.step_m)
        before = np.concatenate([np.zeros(1), np.cumsum(depth, dtype=np.float64)])  # optical depth, [M + 1]
        in_front = before[:-1] - before[offsets[rays]]
        seen = np.exp(-in_front) >= _LEAST_TRANSMITTANCE
        return positions[seen], rays[seen]

    def _samples(
        self, origins: Float, directions: Float
    ) -> tuple[Float, NDArray[np.int32], NDArray[np.int32]]:
        jitter = np.full(len(origins), _MIDPOINT)
        return march_rays(self._spec, self._occupancy, origins, directions, jitter)

    def _density(self, request: HeadRequest, positions: Float) -> tuple[Float, Float]:
        """Density [M], 1/m, and feature [M, F]."""
        spec, m = self._spec, len(positions)
        condition = np.broadcast_to(request.condition, (m, spec.condition))
        expression = np.broadcast_to(request.expression, (m, spec.expression))
        log_density, feature = self._head(positions, condition, expression)
        return np.float32(spec.density_scale_per_m) * np.exp(
            np.minimum(log_density, spec.max_log_density)
        ), feature

    def _rays(self, request: HeadRequest, pixels: Float) -> Float:
        """Premultiplied RGBA [R, 4] of pixels [R, 2]."""
        spec = self._spec
        origins, directions = pixel_rays(request.camera, request.rotation, request.translation, pixels)
        positions, rays, offsets = self._samples(origins, directions)
        m, n = len(positions), len(pixels)
        density, feature = self._density(request, positions)
        appearance = np.broadcast_to(request.appearance, (n, spec.appearance))
        if not spec.deferred:
            feature = self._colour(feature, directions[rays], appearance[rays])
        accumulated = np.zeros((n, feature.shape[1]), np.float32)
        alpha, weight = np.zeros(n, np.float32), np.zeros(m, np.float32)
        feature = np.ascontiguousarray(feature, np.float32)
        _native.composite(density, feature, offsets, spec.step_m, accumulated, alpha, weight)
        if not spec.deferred:
            return np.concatenate([accumulated, alpha[:, None]], axis=1)
        rgba = np.zeros((n, 4), np.float32)
        hit = np.flatnonzero(np.diff(offsets))
        if len(hit):
            colour = self._colour(accumulated[hit], directions[hit], appearance[hit])
            rgba[hit, :3] = colour * alpha[hit, None]
        rgba[:, 3] = alpha
        return rgba


def march_rays(
    spec: FieldSpec, occupancy: NDArray[np.uint8], origins: Float, directions: Float, jitter: Float
) -> tuple[Float, NDArray[np.int32], NDArray[np.int32]]:
    """Samples of rays in occupied cells: positions [M, 3] in 0..1, their rays [M], and the rays' first samples [R + 1].

    origins, directions: [R, 3], metres; jitter: [R] in 0..1, where in its step the first sample of a ray lies;
    occupancy: bits over the box, see ``docs/formats.md``.
    """
    n = len(origins)
    cap = n * spec.max_samples
    positions, distances = np.empty((cap, 3), np.float32), np.empty(cap, np.float32)
    rays, offsets = np.empty(cap, np.int32), np.empty(n + 1, np.int32)
    m = _native.march(
        origins,
        directions,
        jitter,
        np.array(spec.box_min_m, np.float32),
        np.array(spec.box_max_m, np.float32),
        occupancy,
        spec.occupancy_resolution,
        spec.step_m,
        spec.max_samples,
        positions,
        distances,
        rays,
        offsets,
    )
    return positions[:m], rays[:m], offsets


def _pixel_blocks(region: tuple[int, int, int, int]) -> list[Float]:
    """The pixels of a rectangle (x0, y0, x1, y1), row by row, [R, 2] at a time."""
    x0, y0, x1, y1 = region
    rows, columns = np.mgrid[y0:y1, x0:x1]
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=-1).astype(np.float32)
    return [pixels[start : start + _RAYS_AT_ONCE] for start in range(0, len(pixels), _RAYS_AT_ONCE)]


def _occupied_corners(spec: FieldSpec, occupancy: NDArray[np.uint8]) -> Float:
    """Corners [8, 3] (metres) of the smallest box round the occupied cells; [0, 3] where there is none."""
    g = spec.occupancy_resolution
    cells = np.unpackbits(occupancy, count=g**3, bitorder="little").reshape(g, g, g)
    used = np.argwhere(cells)[:, ::-1]  # x, y, z
    if not len(used):
        return np.zeros((0, 3), np.float32)
    low, size = np.array(spec.box_min_m), np.subtract(spec.box_max_m, spec.box_min_m)
    ends = np.stack([low + used.min(axis=0) / g * size, low + (used.max(axis=0) + 1) / g * size])  # [2, 3]
    choice = np.indices((2, 2, 2)).reshape(3, 8).T  # [8, 3]
    return np.asarray(np.take_along_axis(ends, choice, axis=0), np.float32)


def _head_region(request: HeadRequest, corners: Float) -> tuple[int, int, int, int]:
    """The rectangle (x0, y0, x1, y1) of pixels that a box with those corners [8, 3] projects into."""
    camera, limit = request.camera, np.array([request.camera.width, request.camera.height])
    if not len(corners):
        return 0, 0, 0, 0
    depth = corners @ request.rotation[2] + request.translation[2]
    if depth.min() <= _NEAR_M:
        return 0, 0, camera.width, camera.height
    seen = project(camera, request.rotation, request.translation, corners)
    low = np.clip(np.floor(seen.min(axis=0)), 0, limit).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0)), low, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])

"""Native kernels as differentiable torch operators: hash grids, marching, compositing.

Every operator runs where its tensors are: on the CPU, or on a GPU with a build with CUDA (``synctalk._native``). All of
them are float32. ``M`` samples, ``R`` rays, ``F`` features; the samples of one ray are consecutive, ray ``r`` has
``offsets[r] .. offsets[r + 1]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk import _native
from synctalk.errors import BackendError
from synctalk.spec import PLANES, FieldSpec, GridSpec
from torch import Tensor, nn

__all__ = [
    "CudaSamples",
    "Samples",
    "composite",
    "grid_encode",
    "level_rows",
    "march",
    "march_cuda",
    "tiny_cuda_encodings",
]

Float = NDArray[np.float32]
Int = NDArray[np.int32]


@lru_cache
def level_rows(grid: GridSpec) -> NDArray[np.float64]:
    """The level table as kernels take it, [levels, 5]: scale, resolution, size, offset, is_hashed."""
    rows = [
        [level.scale, level.resolution, level.size, level.offset, level.is_hashed] for level in grid.levels
    ]
    return np.array(rows, np.float64)


def _native_call(name: str, device: torch.device) -> Callable[..., Any]:
    """The kernel for a device, which takes tensors or None, arrays and numbers in the kernel's order.

    Raises: BackendError: CUDA tensors in a build without CUDA. ValueError: another device.
    """
    if device.type == "cpu":
        kernel = getattr(_native, name)

        def on_cpu(*values: Any) -> Any:
            return kernel(*(value.numpy() if isinstance(value, Tensor) else value for value in values))

        return on_cpu
    if device.type != "cuda":
        raise ValueError(f"expected tensors on the CPU or a CUDA device, got {device}")
    if not hasattr(_native, f"{name}_cuda"):
        raise BackendError(
            "the native module was built without CUDA: install the CUDA toolkit, set SYNCTALK_CUDA=ON and "
            "install synctalk again, or train with --device cpu"
        )
    kernel_cuda = getattr(_native, f"{name}_cuda")

    def on_cuda(*values: Any) -> Any:
        with torch.cuda.device(device):
            return kernel_cuda(*values, torch.cuda.current_stream(device).cuda_stream)

    return on_cuda


class _GridEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, tables: Tensor, grid: GridSpec) -> Tensor:
        positions, tables = positions.detach().contiguous(), tables.detach().contiguous()
        out = positions.new_empty(len(positions), grid.n_outputs)
        _native_call("grid_encode", tables.device)(positions, tables, level_rows(grid), out)
        ctx.save_for_backward(positions, tables)
        ctx.grid = grid
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        positions, tables = ctx.saved_tensors
        d_tables = torch.zeros_like(tables)
        d_positions = torch.empty_like(positions) if ctx.needs_input_grad[0] else None
        _native_call("grid_encode_backward", tables.device)(
            positions, tables, gradients[0].contiguous(), level_rows(ctx.grid), d_tables, d_positions
        )
        return d_positions, d_tables, None


def grid_encode(positions: Tensor, tables: Tensor, grid: GridSpec) -> Tensor:
    """Look positions up in the three hash grids.

    positions: [M, 3] in 0..1; tables: [3, n_entries, channels]. Returns [M, grid.n_outputs], plane-major. Gradients
    of tables, and of positions where they are asked for.

    Raises: ValueError: a wrong shape or dtype. BackendError: CUDA tensors in a build without CUDA.
    """
    out: Tensor = _GridEncode.apply(positions, tables, grid)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True)
class Samples:
    """What marching found."""

    positions: Float
    """[M, 3] in 0..1 of the box"""
    distances: Float
    """[M] metres along the ray"""
    rays: Int
    """[M] index of the ray"""
    offsets: Int
    """[R + 1]"""


def march(
    origins: Float,
    directions: Float,
    jitter: Float,
    occupancy: NDArray[np.uint8],
    resolution: int,
    spec: FieldSpec,
    step_m: float,
) -> Samples:
    """Samples of rays in occupied cells of the box, one a step, at most ``spec.max_samples`` a ray; on the CPU.

    origins: [R, 3] metres, head space; directions: [R, 3] unit; jitter: [R] in 0..1, where in its step each sample
    lies (0.5: the middle); occupancy: packed bits of ``resolution`` ** 3 cells (see docs/formats.md).

    Raises: ValueError: a wrong shape or dtype.
    """
    n_rays = len(origins)
    room = n_rays * spec.max_samples
    positions = np.empty((room, 3), np.float32)
    distances = np.empty(room, np.float32)
    rays = np.empty(room, np.int32)
    offsets = np.empty(n_rays + 1, np.int32)
    n = _native.march(
        origins,
        directions,
        jitter,
        np.array(spec.box_min_m, np.float32),
        np.array(spec.box_max_m, np.float32),
        occupancy,
        resolution,
        step_m,
        spec.max_samples,
        positions,
        distances,
        rays,
        offsets,
    )
    return Samples(positions[:n], distances[:n], rays[:n], offsets)


@dataclass(frozen=True)
class CudaSamples:
    """What marching found, as tensors on the GPU; the fields of ``Samples``."""

    positions: Tensor
    distances: Tensor
    rays: Tensor
    offsets: Tensor


def march_cuda(
    origins: Tensor,
    directions: Tensor,
    jitter: Tensor,
    occupancy: Tensor,
    resolution: int,
    spec: FieldSpec,
    step_m: float,
) -> CudaSamples:
    """``march`` for CUDA tensors.

    Raises: ValueError: a wrong shape or dtype. BackendError: a build without CUDA.
    """
    n_rays, device = len(origins), origins.device
    slots = origins.new_empty(n_rays, spec.max_samples)
    counts = torch.empty(n_rays, dtype=torch.int32, device=device)
    box = (np.array(spec.box_min_m, np.float32), np.array(spec.box_max_m, np.float32))
    limits = (occupancy, resolution, step_m, spec.max_samples)
    _native_call("march", device)(origins, directions, jitter, *box, *limits, slots, counts)
    offsets = nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    n = int(offsets[-1])
    positions, distances = origins.new_empty(n, 3), origins.new_empty(n)
    rays = torch.empty(n, dtype=torch.int32, device=device)
    _native_call("march_gather", device)(
        origins, directions, *box, slots, offsets, positions, distances, rays
    )
    return CudaSamples(positions, distances, rays, offsets)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, feature: Tensor, offsets: Tensor, step_m: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        density, feature = density.detach().contiguous(), feature.detach().contiguous()
        n_rays = len(offsets) - 1
        out, alpha = feature.new_empty(n_rays, feature.shape[1]), feature.new_empty(n_rays)
        weights = torch.empty_like(density)
        _native_call("composite", density.device)(density, feature, offsets, step_m, out, alpha, weights)
        ctx.save_for_backward(density, feature, offsets, weights)
        ctx.step_m = step_m
        return out, alpha, weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, None, None]:
        density, feature, offsets, weights = ctx.saved_tensors
        d_out, d_alpha, d_weights = gradients
        n_rays = len(offsets) - 1
        d_out = feature.new_zeros(n_rays, feature.shape[1]) if d_out is None else d_out.contiguous()
        d_alpha = feature.new_zeros(n_rays) if d_alpha is None else d_alpha.contiguous()
        d_weights = None if d_weights is None else d_weights.contiguous()
        d_density, d_feature = torch.empty_like(density), torch.empty_like(feature)
        _native_call("composite_backward", density.device)(
            *(density, feature, offsets, ctx.step_m, weights),
            *(d_out, d_alpha, d_weights, d_density, d_feature),
        )
        return d_density, d_feature, None, None


def composite(
    density: Tensor, feature: Tensor, offsets: Int | Tensor, step_m: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Volume rendering: accumulate features along rays.

    density: [M] 1/m; feature: [M, F]; offsets: int32 [R + 1]; step_m: the length of a sample in metres. Returns the
    accumulated feature [R, F], alpha [R] and the weights [M]; gradients flow from all three.

    Raises: ValueError: a wrong shape or dtype, or offsets that do not rise from 0 to M.
    """
    if not isinstance(offsets, Tensor):
        offsets = torch.from_numpy(offsets)
    accumulated: tuple[Tensor, Tensor, Tensor] = _Composite.apply(  # type: ignore[no-untyped-call]
        density, feature, offsets.to(density.device), step_m
    )
    return accumulated


def tiny_cuda_encodings(grid: GridSpec) -> nn.ModuleList:
    """tiny-cuda-nn encodings with the same levels and table layout as ours, one a plane, [M, 2] -> [M, levels * channels].

    Each module's ``params`` [n_entries * channels] are a plane's table in our order.

    Raises: BackendError: tiny-cuda-nn is not installed.
    """
    try:
        import tinycudann
    except (ImportError, OSError) as error:
        raise BackendError(
            f"tiny-cuda-nn cannot be imported ({error}): install its PyTorch extension on a machine with a GPU, or "
            "use the native encoder, which needs neither"
        ) from error
    growth = 1.0
    if grid.n_levels > 1:
        growth = float((grid.finest_resolution / grid.base_resolution) ** (1 / (grid.n_levels - 1)))
    settings = {
        "otype": "HashGrid",
        "n_levels": grid.n_levels,
        "n_features_per_level": grid.n_channels,
        "log2_hashmap_size": grid.log2_table_size,
        "base_resolution": grid.base_resolution,
        "per_level_scale": growth,
    }
    return nn.ModuleList(tinycudann.Encoding(2, settings, dtype=torch.float32) for _ in PLANES)

"""From rays to colours with the field: marching, field, compositing, deferred colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk import _native
from synctalk.backends.native_renderer import renderer_tensors
from synctalk.spec import FieldSpec
from torch import Tensor

from .field_operator import field as fused_field
from .modules import Field
from .occupancy import Occupancy
from .operators import composite, march, march_cuda
from .planes import node_planes

__all__ = ["RayBatch", "Rendered", "native_renderer", "render_rays"]

Float = NDArray[np.float32]


@dataclass(frozen=True)
class RayBatch:
    """Rays of several frames, frame after frame, the same number for each."""

    origins: Float
    """[R, 3] metres, head space"""
    directions: Float
    """[R, 3] unit"""
    n_frames: int


@dataclass(frozen=True)
class Rendered:
    """What the rays saw, and the samples that made it."""

    colour: Tensor
    """[R, 3] in 0..1, not multiplied by alpha"""
    alpha: Tensor
    """[R]"""
    positions: Tensor
    """[M, 3] in 0..1 of the box"""
    weights: Tensor
    """[M]"""
    rays: Tensor
    """[M] int32: the ray of each sample"""

    def over(self, background: Tensor) -> Tensor:
        """The head over a background [R, 3]."""
        return self.alpha[:, None] * self.colour + (1 - self.alpha[:, None]) * background


def render_rays(
    field: Field,
    occupancy: Occupancy,
    rays: RayBatch,
    jitter: Float,
    condition: Tensor,
    expression: Tensor,
    appearance: Tensor,
    step_m: float,
) -> Rendered:
    """Render rays. jitter: [R] in 0..1; condition [frames, C], expression [frames, E], appearance [frames, A]."""
    spec, device = field.spec, field.tables.device
    positions, ray, offsets = _march(occupancy, rays, jitter, spec, step_m, device)
    per_frame = len(rays.origins) // rays.n_frames
    groups = np.ascontiguousarray(offsets[::per_frame].cpu().numpy())  # [frames + 1]
    log_density, feature = fused_field(
        positions,
        groups,
        condition,
        expression,
        field.tables,
        tuple(field.attention),
        tuple(field.density),
        spec,
    )
    density = field.density_of(log_density)
    ray_appearance = appearance.repeat_interleave(per_frame, dim=0)
    directions = torch.from_numpy(rays.directions).to(device)
    if not spec.deferred:
        index = ray.long()
        feature = field.colour_of(feature, directions[index], ray_appearance[index])
    accumulated, alpha, weights = composite(density, feature, offsets, step_m)
    if spec.deferred:
        hit = offsets.diff().nonzero()[:, 0]
        colour = accumulated.new_zeros(len(alpha), 3)
        seen = field.colour_of(accumulated[hit], directions[hit], ray_appearance[hit])
        colour = colour.index_put((hit,), seen)
    else:
        colour = accumulated / alpha.clamp(min=1e-4)[:, None]
    return Rendered(colour, alpha, positions, weights, ray)


def _march(
    occupancy: Occupancy, rays: RayBatch, jitter: Float, spec: FieldSpec, step_m: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [M, 3], rays [M] and offsets [R + 1] of the samples, on the device."""
    grid = occupancy.resolution
    if device.type == "cpu":
        found = march(rays.origins, rays.directions, jitter, occupancy.bits, grid, spec, step_m)
        return (
            torch.from_numpy(found.positions),
            torch.from_numpy(found.rays),
            torch.from_numpy(found.offsets),
        )
    arrays = (rays.origins, rays.directions, jitter, occupancy.bits)
    origins, directions, shift, bits = (torch.from_numpy(array).to(device) for array in arrays)
    seen = march_cuda(origins, directions, shift, bits, grid, spec, step_m)
    return seen.positions, seen.rays, seen.offsets


def native_renderer(field: Field, occupancy: Occupancy) -> Any:
    """A ``_native.Renderer`` of the field as it is: what the run time computes, in float32, many times as fast as
    ``render_rays``.

    Raises: TrainingError: the grid diverged.
    """
    networks = {"attention": field.attention, "density": field.density, "colour": field.colour}
    tensors: dict[str, NDArray[Any]] = {
        f"field.{name}.{i}": weight.detach().cpu().numpy()
        for name, weights in networks.items()
        for i, weight in enumerate(weights)
    }
    tensors |= node_planes(field.tables.detach().cpu().numpy(), field.spec.grid)
    return _native.Renderer(**renderer_tensors(field.spec, tensors | {"occupancy": occupancy.bits}))

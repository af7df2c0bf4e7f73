"""From rays to colours with the field: marching, field, compositing, deferred colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.geometry import Camera, pixel_rays, project
from synctalk.spec import FieldSpec
from torch import Tensor

from .field_operator import field as fused_field
from .modules import Field
from .occupancy import Occupancy
from .operators import composite, march, march_cuda

__all__ = ["RayBatch", "Rendered", "head_region", "render_head", "render_rays"]

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
    return Rendered(colour, alpha, positions, weights)


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


def head_region(
    camera: Camera, rotation: Float, translation: Float, field: Field
) -> tuple[int, int, int, int]:
    """The rectangle (x0, y0, x1, y1) of pixels that the box projects into, clipped to the picture."""
    low, high = np.array(field.spec.box_min_m), np.array(field.spec.box_max_m)
    corners = np.array(
        [[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    pixels = project(camera, rotation, translation, corners.astype(np.float32))
    x0, y0 = np.floor(pixels.min(axis=0)).astype(int)
    x1, y1 = np.ceil(pixels.max(axis=0)).astype(int)
    return max(x0, 0), max(y0, 0), min(x1, camera.width), min(y1, camera.height)


@torch.no_grad()
def render_head(
    field: Field,
    occupancy: Occupancy,
    camera: Camera,
    rotation: Float,
    translation: Float,
    condition: Tensor,
    expression: Tensor,
    appearance: Tensor,
    rays_at_once: int = 16_384,
) -> Float:
    """One frame of the head, premultiplied RGBA [H, W, 4]. condition [C], expression [E], appearance [A]."""
    x0, y0, x1, y1 = head_region(camera, rotation, translation, field)
    rgba = np.zeros((camera.height, camera.width, 4), np.float32)
    v, u = np.mgrid[y0:y1, x0:x1]
    pixels = np.stack([u.ravel(), v.ravel()], axis=-1).astype(np.float32)
    parts = []
    for start in range(0, len(pixels), rays_at_once):
        origins, directions = pixel_rays(camera, rotation, translation, pixels[start : start + rays_at_once])
        rendered = render_rays(
            field,
            occupancy,
            RayBatch(origins, directions, 1),
            np.full(len(origins), 0.5, np.float32),
            condition[None],
            expression[None],
            appearance[None],
            field.spec.step_m,
        )
        premultiplied = rendered.colour * rendered.alpha[:, None]
        parts.append(torch.cat([premultiplied, rendered.alpha[:, None]], dim=-1).numpy())
    if parts:
        rgba[y0:y1, x0:x1] = np.concatenate(parts).reshape(y1 - y0, x1 - x0, 4)
    return rgba

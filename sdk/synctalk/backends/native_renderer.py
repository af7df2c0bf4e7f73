"""What all renderers of the native module are made from, and how the one on the CPU is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.spec import PLANES, FieldSpec

from . import HeadRequest

__all__ = ["render_head", "renderer_tensors"]

Float = NDArray[np.float32]


def renderer_tensors(spec: FieldSpec, tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Arguments of ``_native.Renderer`` and its kin: a field's settings and tensors, named as in a bundle."""
    levels = range(spec.grid.n_levels)
    return {
        "scales": [level.scale for level in spec.grid.levels],
        "planes": [tensors[f"field.plane.{plane}.{i}"] for plane in range(len(PLANES)) for i in levels],
        "attention": [tensors[f"field.attention.{i}"] for i in range(len(spec.attention_shapes))],
        "density": [tensors[f"field.density.{i}"] for i in range(len(spec.density_shapes))],
        "colour": [tensors[f"field.colour.{i}"] for i in range(len(spec.colour_shapes))],
        "occupancy": tensors["occupancy"],
        "resolution": spec.occupancy_resolution,
        "box_min": np.array(spec.box_min_m, np.float32),
        "box_max": np.array(spec.box_max_m, np.float32),
        "step": spec.step_m,
        "max_samples": spec.max_samples,
        "density_scale": spec.density_scale_per_m,
        "max_log_density": spec.max_log_density,
        "condition": spec.condition,
        "appearance": spec.appearance,
        "direction_degree": spec.direction_degree,
        "is_sigmoid": spec.gate == "sigmoid",
        "is_deferred": spec.deferred,
    }


def render_head(renderer: Any, request: HeadRequest) -> Float:
    """The head alone, by a ``_native.Renderer``: premultiplied RGBA [H, W, 4] in 0..1."""
    camera = request.camera
    rgba = np.zeros((camera.height, camera.width, 4), np.float32)
    renderer.render(
        rotation=_contiguous(request.rotation),
        translation=_contiguous(request.translation),
        focal=camera.focal_px,
        centre_x=camera.centre_x,
        centre_y=camera.centre_y,
        x0=0,
        y0=0,
        x1=camera.width,
        y1=camera.height,
        condition=_contiguous(request.condition),
        expression=_contiguous(request.expression),
        appearance=_contiguous(request.appearance),
        out=rgba,
    )
    return rgba


def _contiguous(values: Float) -> Float:
    return np.ascontiguousarray(values, np.float32)

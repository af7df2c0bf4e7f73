"""What all renderers of the native module are made from."""

from __future__ import annotations

from typing import Any

import numpy as np

from synctalk.bundle import Bundle
from synctalk.spec import PLANES

__all__ = ["renderer_tensors"]


def renderer_tensors(bundle: Bundle) -> dict[str, Any]:
    """Arguments of ``_native.Renderer`` and its kin: a bundle's tensors and the settings of its field."""
    spec, tensors = bundle.manifest.spec.field, bundle.tensors
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

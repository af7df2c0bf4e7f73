"""Facial-aware attention, held to its regions: sound acts below the nose base, expression above it.

Without this, gates are free wherever nothing tells them apart: at the head's outline, where the plate behind looks like
the head's rim, sound and blinks then move the hair. Source: SyncTalk (CVPR 2024) §3.2 (masks of the two attentions).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.spec import FieldSpec
from torch import Tensor

from .modules import Field
from .operators import grid_encode

__all__ = ["gates_outside", "outside"]

NOSE_BASE = 2
"""MediaPipe's point below the nose."""
_SOFT_M = 0.015
"""Over so much above, or below, the nose base a gate fades: cheeks move with the mouth."""
_SAMPLES = 4096


def outside(height_m: Tensor, nose_m: float, spec: FieldSpec) -> Tensor:
    """How far each gate is out of its region, [M, n_gates] in 0..1. height_m: [M] metres upwards in head space."""
    above = ((height_m - nose_m) / _SOFT_M).clamp(0.0, 1.0)[:, None]
    below = ((nose_m - height_m) / _SOFT_M).clamp(0.0, 1.0)[:, None]
    return torch.cat([above.expand(-1, spec.condition), below.expand(-1, spec.expression)], dim=1)


def gates_outside(field: Field, positions: Tensor, mesh_m: NDArray[np.float32], turn: int) -> Tensor:
    """Mean gate outside of its region, a scalar to be minimised.

    positions: [M, 3] in 0..1 of the box; mesh_m: [478, 3]; turn: which of the samples are looked at, about 4096 in turn.
    """
    spec = field.spec
    stride = max(1, len(positions) // _SAMPLES)
    some = positions[turn % stride :: stride]
    low, high = spec.box_min_m[1], spec.box_max_m[1]
    far = outside(low + some[:, 1] * (high - low), float(mesh_m[NOSE_BASE, 1]), spec)
    return (field.gate(grid_encode(some, field.tables, spec.grid)).abs() * far).mean()

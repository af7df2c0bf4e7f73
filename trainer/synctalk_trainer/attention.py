"""Facial-aware masked attention: sound acts below the nose base, each coefficient of expression in its own region
(``spec.expression_region``), brows and lids on the front of the face.

Left to themselves gates are free wherever nothing tells them apart: hair and outline then move with sound, lids and brows. So two
features of the grid are kept as maps of what is shut, and three hidden units of the attention shut the gates there;
training leaves these weights alone. The field's function stays what it was, so nothing that renders it knows of masks.
Source: SyncTalk (CVPR 2024) §3.2 (masks of the two attentions).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.spec import PLANES, FieldSpec, Level, Region, expression_region
from torch import Tensor, nn

from .modules import Field
from .mouth import NOSE_BASE

__all__ = ["mask_gates"]

_HAIRLINE = 10
_BROWS_AND_EYES = (33, 263, 46, 276, 70, 300)
"""The points of lids and brows that lie farthest back."""
_FADE_M = 0.010
"""Gates are shut so far beyond a border; cheeks move with the mouth."""
_SHUT = 8.0
"""Taken off the gate's logit there: a sigmoid of 3 becomes 0.007."""
_ABOVE, _BELOW, _BEYOND = range(3)
"""Hidden units"""
_UNITS: dict[Region, tuple[int, ...]] = {
    "upper": (_BELOW, _BEYOND),
    "lower": (_ABOVE,),
    "whole": (_BEYOND,),
}
"""What shuts a coefficient of a region."""


def mask_gates(field: Field, mesh_m: NDArray[np.float32]) -> None:
    """Shut the gates of sound and of the lower face's coefficients above the nose base; those of the upper face's below
    it; all coefficients' above the hairline and behind the brows' ends, but the lower face's.

    Kept so in training; call it where the field will stay. mesh_m: [478, 3] in head space. Raises: ValueError: gates without a sigmoid cannot be shut, and a
    coarsest level that is hashed cannot hold a map.
    """
    spec = field.spec
    level = spec.grid.levels[0]
    if spec.gate != "sigmoid":
        raise ValueError(f"gates of kind {spec.gate!r} cannot be masked: a sigmoid is needed")
    if level.is_hashed:
        raise ValueError("the coarsest level is hashed: it cannot hold a map")
    heights, depths = (_node_places(spec, level, axis) for axis in (1, 2))
    back = float(mesh_m[list(_BROWS_AND_EYES), 2].min())
    above_nose = ((heights - float(mesh_m[NOSE_BASE, 1])) / _FADE_M).clamp(-1.0, 1.0)
    above_hairline = ((heights - float(mesh_m[_HAIRLINE, 1])) / _FADE_M - 0.5).clamp(0.0, 1.0)
    behind = ((back - depths) / _FADE_M - 1.0).clamp(0.0, 1.0)
    maps = {
        PLANES.index((0, 1)): above_nose[:, None].expand(-1, level.resolution),
        PLANES.index((1, 2)): torch.maximum(above_hairline[None, :], behind[:, None]),
    }
    first, second = field.attention
    learns = [torch.ones_like(one) for one in (field.tables, first, second)]
    nodes, units = level.resolution**2, [_ABOVE, _BELOW, _BEYOND]
    with torch.no_grad():
        columns = []
        for plane, values in maps.items():
            field.tables[plane, :nodes, 0] = values.flatten()
            learns[0][plane, :nodes, 0] = 0.0
            columns.append(plane * spec.grid.n_levels * spec.grid.n_channels)
        for layer in (first, field.density[0]):
            layer[:, columns] = 0.0  # the maps are a hundred times larger than what the others begin with
        first[units] = 0.0
        first[_ABOVE, columns[0]], first[_BELOW, columns[0]], first[_BEYOND, columns[1]] = 1.0, -1.0, 1.0
        second[:, units] = 0.0
        second[: spec.condition, _ABOVE] = -_SHUT
        for gate, name in enumerate(spec.expression_names, spec.condition):
            second[gate, list(_UNITS[expression_region(name)])] = -_SHUT
    learns[1][units] = 0.0
    learns[2][:, units] = 0.0
    for parameter, share in zip((field.tables, first, second), learns, strict=True):
        _learn_only(parameter, share)


def _node_places(spec: FieldSpec, level: Level, axis: int) -> Tensor:
    """Where the nodes of a level lie along an axis, metres."""
    low, high = spec.box_min_m[axis], spec.box_max_m[axis]
    return low + (torch.arange(level.resolution) - 0.5) / level.scale * (high - low)


def _learn_only(parameter: nn.Parameter, learns: Tensor) -> None:
    """Gradients only where ``learns`` is 1."""

    def masked(gradient: Tensor) -> Tensor:
        return gradient * learns

    if parameter.requires_grad:
        parameter.register_hook(masked)  # type: ignore[no-untyped-call]

"""Facial-aware masked attention: sound acts below the nose base, expression above it.

Left to themselves gates are free wherever nothing tells them apart: hair and outline then move with sound and blinks. So one
feature of the grid is kept as a ramp over height, and two hidden units of the attention as what lies above and below the
nose base; they shut the gates there, and training leaves them alone. The field's function stays what it was, so nothing
that renders it knows of masks. Source: SyncTalk (CVPR 2024) §3.2 (masks of the two attentions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .modules import Field

__all__ = ["NOSE_BASE", "mask_gates"]

NOSE_BASE = 2
"""MediaPipe's point below the nose."""
_FADE_M = 0.010
"""Gates are shut so far beyond the nose base; cheeks move with the mouth."""
_SHUT = 8.0
"""Taken off the gate's logit there: a sigmoid of 3 becomes 0.007."""
_ABOVE, _BELOW = 0, 1
"""Hidden units"""


def mask_gates(field: Field, nose_height_m: float) -> None:
    """Shut sound's gates above the nose base and expression's below it, and keep them so in training.

    nose_height_m: of the nose base, upwards in head space. Raises: ValueError: gates without a sigmoid cannot be shut.
    """
    spec = field.spec
    if spec.gate != "sigmoid":
        raise ValueError(f"gates of kind {spec.gate!r} cannot be masked: a sigmoid is needed")
    level = spec.grid.levels[0]
    if level.is_hashed:
        raise ValueError("the coarsest level is hashed: it cannot hold a ramp")
    low, high = spec.box_min_m[1], spec.box_max_m[1]
    rows = (torch.arange(level.resolution) - 0.5) / level.scale  # heights of the nodes, in 0..1 of the box
    ramp = ((low + rows * (high - low) - nose_height_m) / _FADE_M).clamp(-1.0, 1.0)
    first, second = field.attention
    is_kept = [torch.ones_like(one) for one in (field.tables, first, second)]
    with torch.no_grad():
        nodes = level.resolution**2
        field.tables[0, :nodes, 0] = ramp.repeat_interleave(level.resolution)  # plane xy, row by row
        for layer in (first, field.density[0]):
            layer[:, 0] = 0.0  # the ramp is a hundred times larger than what the others begin with
        first[[_ABOVE, _BELOW]] = 0.0
        first[_ABOVE, 0], first[_BELOW, 0] = 1.0, -1.0
        second[:, [_ABOVE, _BELOW]] = 0.0
        second[: spec.condition, _ABOVE] = -_SHUT
        second[spec.condition :, _BELOW] = -_SHUT
    is_kept[0][0, :nodes, 0] = 0.0
    is_kept[1][[_ABOVE, _BELOW]] = 0.0
    is_kept[2][:, [_ABOVE, _BELOW]] = 0.0
    for parameter, learns in zip((field.tables, first, second), is_kept, strict=True):
        _learn_only(parameter, learns)


def _learn_only(parameter: nn.Parameter, learns: Tensor) -> None:
    """Gradients only where ``learns`` is 1."""

    def masked(gradient: Tensor) -> Tensor:
        return gradient * learns.to(gradient.device)

    if parameter.requires_grad:
        parameter.register_hook(masked)  # type: ignore[no-untyped-call]

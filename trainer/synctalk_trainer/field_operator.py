"""The field as one differentiable operator: grid, attention and density network fused in native code.

``field`` runs on the CPU in float32 without storing anything between the layers; ``field_reference`` is its twin in plain
torch, for tests, other devices and other dtypes. Both take samples sorted by frame.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk import _native
from synctalk.spec import FieldSpec, GridSpec
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .modules import encode_planes, mlp
from .operators import grid_encode

__all__ = ["field", "field_reference"]

Groups = NDArray[np.int32]
Weights = tuple[Tensor, ...]


def field(
    positions: Tensor,
    groups: Groups,
    condition: Tensor,
    expression: Tensor,
    tables: Tensor,
    attention_weights: Weights,
    density_weights: Weights,
    spec: FieldSpec,
) -> tuple[Tensor, Tensor]:
    """Log density [M] and feature [M, F] of samples, with gradients for everything but the positions.

    positions: [M, 3] in 0..1 of the box, sorted by frame; groups: int32 [n_frames + 1], offsets of each frame's
    samples; condition [n_frames, C]; expression [n_frames, E]; tables [3, n_entries, channels]; weights [out, in] in
    the shapes of ``spec``. Equal inputs and number of threads give equal bits.

    Raises: ValueError: a wrong shape or dtype, or groups that do not rise from 0 to M.
    """
    if tables.device.type != "cpu" or tables.dtype != torch.float32:
        inputs = (positions, groups, condition, expression, tables, attention_weights, density_weights, spec)
        is_native = tables.is_cuda and tables.dtype == torch.float32
        return field_reference(*inputs, encode=grid_encode if is_native else encode_planes)
    log_density, feature = _Field.apply(  # type: ignore[no-untyped-call]
        spec, groups, positions, condition, expression, tables, *attention_weights, *density_weights
    )
    return log_density, feature


def field_reference(
    positions: Tensor,
    groups: Groups,
    condition: Tensor,
    expression: Tensor,
    tables: Tensor,
    attention_weights: Weights,
    density_weights: Weights,
    spec: FieldSpec,
    encode: Callable[[Tensor, Tensor, GridSpec], Tensor] = encode_planes,
) -> tuple[Tensor, Tensor]:
    """The same function in plain torch, on any device, in any dtype; ``encode`` looks the hash grids up."""
    counts = torch.from_numpy(np.diff(groups).astype(np.int64)).to(positions.device)
    encoding = encode(positions, tables, spec.grid)
    gate = mlp(encoding, attention_weights)
    if spec.gate == "sigmoid":
        gate = torch.sigmoid(gate)
    drive = torch.cat([condition, expression], dim=-1).repeat_interleave(counts, dim=0)  # [M, C + E]
    out = mlp(torch.cat([encoding, gate * drive], dim=-1), density_weights)
    return out[:, 0], out[:, 1:]


@lru_cache
def _native_field(spec: FieldSpec) -> _native.Field:
    levels = [
        [level.scale, level.resolution, level.size, level.offset, level.is_hashed]
        for level in spec.grid.levels
    ]
    return _native.Field(
        levels=np.array(levels, np.float64),
        channels=spec.grid.n_channels,
        condition=spec.condition,
        expression=spec.expression,
        attention_hidden=spec.attention_hidden,
        is_sigmoid=spec.gate == "sigmoid",
        density_hidden=spec.density_hidden,
        density_layers=spec.density_layers,
        feature=spec.feature,
    )


def _arrays(tensors: tuple[Tensor, ...]) -> list[NDArray[np.float32]]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


class _Field(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, spec: FieldSpec, groups: Groups, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.spec, ctx.groups = spec, groups  # type: ignore[attr-defined]
        ctx.save_for_backward(*tensors)
        positions, condition, expression, tables, *weights = _arrays(tensors)
        log_density = torch.empty(len(positions))
        feature = torch.empty(len(positions), spec.feature)
        _native_field(spec).forward(
            positions, groups, condition, expression, tables, weights, log_density.numpy(), feature.numpy()
        )
        return log_density, feature

    @staticmethod
    def backward(ctx: FunctionCtx, *d_out: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors  # type: ignore[attr-defined]
        gradients = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors[1:]
        ]
        positions, condition, expression, tables, *weights = _arrays(tensors)
        d_condition, d_expression, d_tables, *d_weights = [gradient.numpy() for gradient in gradients]
        d_log_density, d_feature = _arrays(d_out)
        _native_field(ctx.spec).backward(  # type: ignore[attr-defined]
            positions,
            ctx.groups,  # type: ignore[attr-defined]
            condition,
            expression,
            tables,
            weights,
            d_log_density,
            d_feature,
            d_condition,
            d_expression,
            d_tables,
            d_weights,
        )
        return None, None, None, *gradients

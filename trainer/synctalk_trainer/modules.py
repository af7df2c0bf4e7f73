"""The learned mathematics in PyTorch: everything that ONNX is traced from.

Two networks: the audio branch (``audio_branch``: mel windows -> condition) and ``Field`` (head-space position, condition, expression ->
density and feature; feature, direction, appearance -> colour). Their functions are defined in words in
``synctalk.spec``; C++ repeats them (``csrc/field.h``), and nothing else does.
"""

from __future__ import annotations

import torch
from synctalk.spec import PLANES, FieldSpec, GridSpec, Spec
from torch import Tensor, nn

from .audio_branch import Hearing, audio_encoder

__all__ = [
    "Avatar",
    "Field",
    "encode_planes",
    "mlp",
    "spherical_harmonics",
]

_HASH_PRIME = 2_654_435_761


def mlp(x: Tensor, weights: nn.ParameterList | list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Linear layers without bias, ReLU between them, in the weights' precision. x: [M, in] -> [M, out of the last]."""
    if x.dtype != weights[0].dtype:
        x = x.to(weights[0].dtype)
    for i, weight in enumerate(weights):
        x = nn.functional.linear(torch.relu(x) if i else x, weight)
    return x


def spherical_harmonics(direction: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 3 (16 values), the usual order of view-dependent fields.

    direction: [R, 3], unit. Returns [R, 16].
    """
    x, y, z = direction.unbind(-1)
    xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            -0.48860251190291987 * y,
            0.48860251190291987 * z,
            -0.48860251190291987 * x,
            1.0925484305920792 * xy,
            -1.0925484305920792 * yz,
            0.94617469575755997 * zz - 0.31539156525251999,
            -1.0925484305920792 * xz,
            0.54627421529603959 * (xx - yy),
            0.59004358992664352 * y * (-3.0 * xx + yy),
            2.8906114426405538 * xy * z,
            0.45704579946446572 * y * (1.0 - 5.0 * zz),
            0.3731763325901154 * z * (5.0 * zz - 3.0),
            0.45704579946446572 * x * (1.0 - 5.0 * zz),
            1.4453057213202769 * z * (xx - yy),
            0.59004358992664352 * x * (-xx + 3.0 * yy),
        ],
        dim=-1,
    )


def encode_planes(positions: Tensor, tables: Tensor, grid: GridSpec) -> Tensor:
    """Bilinear look-up in the three hash grids, in plain torch: the readable twin of the native kernel.

    positions: [M, 3] in 0..1; tables: [3, n_entries, C]. Returns [M, 3 * levels * C].
    """
    outputs = []
    for plane, (axis_u, axis_v) in enumerate(PLANES):
        uv = positions[:, [axis_u, axis_v]].clamp(0.0, 1.0)
        for level in grid.levels:
            at = uv * level.scale + 0.5
            node = at.floor()
            fraction = at - node
            node = node.long()
            value = torch.zeros(len(positions), grid.n_channels, dtype=tables.dtype, device=tables.device)
            for corner in range(4):
                du, dv = corner & 1, corner >> 1
                u, v = node[:, 0] + du, node[:, 1] + dv
                hashed = (u ^ (v * _HASH_PRIME)) & 0xFFFFFFFF
                index = hashed if level.is_hashed else u + v * level.resolution
                weight_u = fraction[:, 0] if du else 1.0 - fraction[:, 0]
                weight_v = fraction[:, 1] if dv else 1.0 - fraction[:, 1]
                entry = tables[plane, level.offset + index % level.size]
                value = value + (weight_u * weight_v)[:, None] * entry
            outputs.append(value)
    return torch.cat(outputs, dim=-1)


def _weights(shapes: tuple[tuple[int, int], ...], generator: torch.Generator) -> nn.ParameterList:
    """Uniform Kaiming weights for ReLU layers."""
    parameters = []
    for n_out, n_in in shapes:
        bound = (6.0 / n_in) ** 0.5 if n_out > 3 else (1.0 / n_in) ** 0.5
        parameters.append(nn.Parameter((torch.rand(n_out, n_in, generator=generator) * 2 - 1) * bound))
    return nn.ParameterList(parameters)


class Field(nn.Module):
    """The head's radiance field. Source: SyncTalk (CVPR 2024) §3.3; Müller et al. 2022 (hash grids)."""

    def __init__(self, spec: FieldSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        size = (len(PLANES), spec.grid.n_entries, spec.grid.n_channels)
        self.tables = nn.Parameter((torch.rand(size, generator=generator) * 2 - 1) * 1e-2)
        self.attention = _weights(spec.attention_shapes, generator)
        self.density = _weights(spec.density_shapes, generator)
        self.colour = _weights(spec.colour_shapes, generator)

    def gate(self, encoding: Tensor) -> Tensor:
        """Facial-aware attention: how much each channel of condition and expression acts here. [M, n_gates]"""
        gate = mlp(encoding, self.attention)
        return torch.sigmoid(gate) if self.spec.gate == "sigmoid" else gate

    def decode(self, encoding: Tensor, condition: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Encoding [M, n_outputs], condition [M, C], expression [M, E] -> log density [M], feature [M, F]."""
        acting = self.gate(encoding) * torch.cat([condition, expression], dim=-1)
        out = mlp(torch.cat([encoding, acting], dim=-1), self.density)
        return out[:, 0], out[:, 1:]

    def query(self, positions: Tensor, condition: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """positions [M, 3] in 0..1 of the box -> log density [M], feature [M, F]; plain torch."""
        return self.decode(encode_planes(positions, self.tables, self.spec.grid), condition, expression)

    def colour_of(self, feature: Tensor, direction: Tensor, appearance: Tensor) -> Tensor:
        """feature [R, F], unit direction [R, 3] (head space), appearance [R, A] -> colour [R, 3] in 0..1."""
        inputs = torch.cat([feature, spherical_harmonics(direction), appearance], dim=-1)
        return torch.sigmoid(mlp(inputs, self.colour))

    def density_of(self, log_density: Tensor) -> Tensor:
        """log density -> density [1/m], with a truncated exponential (bounded value and gradient)."""
        bounded = log_density.clamp(max=self.spec.max_log_density)
        return self.spec.density_scale_per_m * torch.exp(bounded)


class Avatar(nn.Module):
    """Everything that is trained for a subject."""

    def __init__(self, spec: Spec, n_appearance: int, seed: int = 0, hearing: Hearing | None = None) -> None:
        """hearing: the models that the audio branch hears with, see ``audio_branch``."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.spec = spec
        self.field = Field(spec.field, generator)
        self.audio = audio_encoder(spec.audio, spec.field.condition, hearing or Hearing())
        self.appearance = nn.Parameter(torch.zeros(n_appearance, spec.field.appearance))

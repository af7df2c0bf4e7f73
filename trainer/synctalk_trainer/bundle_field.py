"""The field of a bundle in plain PyTorch, as a baseline for ``synctalk bench --baseline``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.backends import HeadRequest
from synctalk.bench.field import Baseline
from synctalk.bundle import Bundle
from synctalk.spec import PLANES, FieldSpec
from torch import Tensor, nn

from .modules import Field

__all__ = ["BundleField", "baselines"]

_EAGER_BLOCKS = (8_192, 65_536)
_COMPILED_BLOCK = 65_536
"""One shape only: each costs a compilation."""


class BundleField(nn.Module):
    """Positions [M, 3], condition [C], expression [E] -> log density [M], feature [M, F]; look-ups in node planes."""

    def __init__(
        self, spec: FieldSpec, tensors: Mapping[str, NDArray[Any]], dtype: torch.dtype = torch.float32
    ) -> None:
        """tensors: a bundle's; dtype: of the networks, the look-ups stay float32."""
        super().__init__()
        self.dtype = dtype
        self.levels = spec.grid.levels
        self.field = Field(spec, torch.Generator().manual_seed(0))
        self.field.tables = nn.Parameter(torch.zeros(0))  # planes replace them
        for part, weights in (("attention", self.field.attention), ("density", self.field.density)):
            for i, weight in enumerate(weights):
                weight.data = torch.tensor(tensors[f"field.{part}.{i}"], dtype=dtype)
        for p in range(len(PLANES)):
            for i in range(len(self.levels)):
                plane = np.asarray(tensors[f"field.plane.{p}.{i}"], np.float32)
                self.register_buffer(f"plane_{p}_{i}", torch.from_numpy(plane.reshape(len(plane), -1)))

    def encode(self, positions: Tensor) -> Tensor:
        """[M, 3] in 0..1 -> [M, 3 * levels * C]."""
        inside = positions.clamp(0.0, 1.0)
        values = []
        for p, (axis_u, axis_v) in enumerate(PLANES):
            for i, level in enumerate(self.levels):
                u = inside[:, axis_u] * level.scale + 0.5
                v = inside[:, axis_v] * level.scale + 0.5
                column, row = u.floor(), v.floor()
                right, below = u - column, v - row
                at = row.long() * level.n_nodes + column.long()
                plane: Tensor = getattr(self, f"plane_{p}_{i}")  # [C, n * n]
                top = torch.lerp(plane[:, at], plane[:, at + 1], right)
                bottom = torch.lerp(plane[:, at + level.n_nodes], plane[:, at + level.n_nodes + 1], right)
                values.append(torch.lerp(top, bottom, below))  # [C, M]
        return torch.cat(values).T

    def forward(self, positions: Tensor, condition: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        n = len(positions)
        encoding = self.encode(positions).to(self.dtype)
        log_density, feature = self.field.decode(
            encoding, condition.to(self.dtype).expand(n, -1), expression.to(self.dtype).expand(n, -1)
        )
        return log_density.float(), feature.float()


def baselines(bundle: Bundle, threads: int) -> dict[str, Baseline | str]:
    """PyTorch as it is, compiled, and compiled with bfloat16 networks (the strongest of them)."""
    torch.set_num_threads(threads)
    spec, tensors = bundle.manifest.spec.field, bundle.tensors
    exact = BundleField(spec, tensors).eval()
    found: dict[str, Baseline | str] = {"torch_eager": Baseline(_evaluate(exact), _EAGER_BLOCKS)}
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        reason = f"torch.compile needs a C++ compiler, and there is no {compiler}: install g++"
        return found | {"torch_compile": reason, "torch_compile_bf16": reason}
    half = BundleField(spec, tensors, torch.bfloat16).eval()
    for name, module in (("torch_compile", exact), ("torch_compile_bf16", half)):
        compiled = torch.compile(module, fullgraph=True, dynamic=False)
        found[name] = Baseline(_evaluate(compiled), (_COMPILED_BLOCK,))
    return found


def _evaluate(field: Any) -> Any:
    def evaluate(request: HeadRequest, positions: NDArray[np.float32]) -> object:
        inputs = (positions, request.condition, request.expression)
        with torch.inference_mode():
            return field(*(torch.tensor(values, dtype=torch.float32) for values in inputs))

    return evaluate

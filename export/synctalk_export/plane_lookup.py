"""The look-up in node planes as one ONNX node ``synctalk::PlaneLookup`` that carries its own definition.

Runtimes that know the node (TensorRT with our plugin) run their own kernel; all others run its body, a function in
standard operators inside the same file, traced from ``look_up``.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from synctalk.spec import PLANES
from synctalk.tensorrt.plugin import NAME, NAMESPACE, VERSION
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

__all__ = ["OPSET", "PlaneLookup", "PlaneLookupNode", "body_of", "look_up", "trace"]

OPSET = 20
DOMAIN_VERSION = 1
ATTRIBUTES = ("scales", "output_type", "plugin_version", "plugin_namespace")
"""What a node says: nodes per unit of each level, ONNX's number of the output's type (1 float32, 10 float16), and
which plugin TensorRT should look for."""


def look_up(positions: Tensor, planes: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Bilinear values of the planes: the readable twin of ``csrc/plane_lookup.h``.

    positions: [M, 3] in 0..1 of the box; planes: [C, n, n], plane-major, a level each of ``scales``. Node k of a level
    lies at ``u * scale + 0.5 = k``. Returns float32 [M, 3 * levels * C].
    """
    inside = positions.clamp(0.0, 1.0)
    values = []
    for p, axes in enumerate(PLANES):
        uv = inside[:, list(axes)]  # [M, 2]
        for i, scale in enumerate(scales):  # grid_sample puts node k of n at 2 k / (n - 1) - 1
            half = (math.floor(scale + 0.5) + 1) / 2.0
            at = uv * (scale / half) + (0.5 / half - 1.0)
            plane = planes[p * len(scales) + i].float()[None]
            grid = at[None, :, None]  # [1, M, 1, 2]
            values.append(nn.functional.grid_sample(plane, grid, padding_mode="border", align_corners=True))
    return torch.cat(values, dim=1).squeeze(3).squeeze(0).T  # from [1, W, M, 1]


class PlaneLookupNode(torch.autograd.Function):
    """``look_up``, exported as one node."""

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, scales: tuple[float, ...], dtype: torch.dtype, *planes: Tensor
    ) -> Tensor:
        return look_up(positions, planes, scales).to(dtype)

    @staticmethod
    def symbolic(g: Any, positions: Any, scales: tuple[float, ...], dtype: torch.dtype, *planes: Any) -> Any:
        output_type = onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.FLOAT
        n_channels = planes[0].type().sizes()[0]
        node = g.op(
            f"{NAMESPACE}::{NAME}",
            positions,
            *planes,
            scales_f=list(scales),
            output_type_i=output_type,
            plugin_version_s=VERSION,
            plugin_namespace_s=NAMESPACE,
        )
        kind = positions.type().with_dtype(dtype).with_sizes([None, len(planes) * n_channels])
        node.setType(kind)
        return node


class PlaneLookup(nn.Module):
    """``look_up`` as a module whose planes are inputs, to trace the node's body from."""

    def __init__(self, scales: Sequence[float], dtype: torch.dtype) -> None:
        super().__init__()
        self.scales, self.dtype = tuple(scales), dtype

    def forward(self, positions: Tensor, *planes: Tensor) -> Tensor:
        """positions [M, 3], planes [C, n, n] -> encoding [M, W]."""
        return look_up(positions, planes, self.scales).to(self.dtype)


def body_of(planes: Sequence[Tensor], scales: Sequence[float], dtype: torch.dtype) -> Any:
    """The node's definition for these planes, an ``onnx.FunctionProto``; the output is of ``dtype``."""
    inputs = ["positions", *(f"plane_{i}" for i in range(len(planes)))]
    module = PlaneLookup(scales, dtype).eval()
    model = trace(module, (torch.rand(5, 3), *planes), inputs, ("encoding",), {"positions": {0: "M"}})
    for node in model.graph.node:
        node.ClearField("doc_string")
    return onnx.helper.make_function(
        NAMESPACE,
        NAME,
        inputs,
        ["encoding"],
        list(model.graph.node),
        [onnx.helper.make_opsetid("", OPSET)],
        list(ATTRIBUTES),
    )


def trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: dict[str, dict[int, str]],
    custom_opsets: dict[str, int] | None = None,
) -> Any:
    """A module as an ``onnx.ModelProto``; ``axes`` names the free axes of inputs and outputs.

    custom_opsets: versions of the domains beside ONNX's own that the module's nodes are of.

    TorchScript's exporter is used: on these graphs it is 50 times faster than the newer one and leaves fewer nodes.
    """
    file: Any = io.BytesIO()  # accepted, though not in the signature
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the exporter, and inside it
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # tried for the shapes of padding
        torch.onnx.export(
            module,
            inputs,
            file,
            dynamo=False,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes=axes,
            opset_version=OPSET,
            do_constant_folding=False,  # planes stay half precision, weights keep their names
            custom_opsets=custom_opsets or {},
        )
    return onnx.load_from_string(file.getvalue())

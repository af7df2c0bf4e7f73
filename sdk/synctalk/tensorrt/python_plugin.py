"""The node ``synctalk::PlaneLookup`` as a TensorRT plugin in Python, over the native module's kernel. Not yet run on
hardware.

The route where no headers of TensorRT are at hand to build the library of ``csrc/tensorrt``: the same name, version,
namespace, fields and types. TensorRT calls ``enqueue`` in Python for every launch that is not part of a CUDA graph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synctalk.spec import PLANES

from .device import DeviceArray
from .plugin import NAME, NAMESPACE, VERSION

__all__ = ["digest", "plugin_creator", "register"]

LookUp = Callable[[DeviceArray, list[DeviceArray], list[float], DeviceArray, int], None]
"""positions, planes, scales, out, stream handle: ``_native.plane_lookup_cuda``."""

_FLOAT, _HALF = 1, 10  # of ONNX


def digest() -> str:
    """sha256 of this source: engines that hold the plugin depend on it."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def register(trt: Any, registry: Any, look_up: LookUp) -> None:
    """Make the plugin known to a registry."""
    creator = plugin_creator(trt, look_up)
    registry.register_creator(creator, NAMESPACE)
    _CREATORS.append(creator)


_CREATORS: list[Any] = []
"""A registry keeps the address of a creator, not the object."""


def plugin_creator(trt: Any, look_up: LookUp) -> Any:
    """An ``IPluginCreatorV3One`` of a TensorRT module (10 or 11, also the lean runtime's)."""
    plugin_class = _plugin_class(trt, look_up)

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.field_names = trt.PluginFieldCollection(
                [
                    trt.PluginField("scales", np.array([]), trt.PluginFieldType.FLOAT32),
                    trt.PluginField("output_type", np.array([]), trt.PluginFieldType.INT32),
                ]
            )

        def create_plugin(self, name: str, field_collection: Any, phase: Any) -> Any:
            return plugin_class(*_settings({field.name: field.data for field in field_collection}))

    return Creator()


def _settings(fields: Mapping[str, Any]) -> tuple[tuple[float, ...], int]:
    """Scales and output type. Raises: ValueError: missing or out of range."""
    scales = tuple(float(scale) for scale in fields.get("scales", ()))
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"{NAME}: scales: expected positive numbers, got {scales}")
    output_type = [int(number) for number in fields.get("output_type", ())]
    if output_type not in ([_FLOAT], [_HALF]):
        raise ValueError(f"{NAME}: output_type: expected 1 (float32) or 10 (float16), got {output_type}")
    return scales, output_type[0]


def _plane_shapes(scales: Sequence[float], n_channels: int) -> list[tuple[int, int, int]]:
    """[C, n, n] of each plane and level, as ``nodes_of`` in ``csrc/plane_lookup.h``."""
    nodes = [math.floor(np.float32(scale) + np.float32(0.5)) + 2 for scale in scales]
    return [(n_channels, n, n) for _ in PLANES for n in nodes]


def _plugin_class(trt: Any, look_up: LookUp) -> Any:
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class Plugin(*bases):  # type: ignore[misc]
        """Inputs: positions float32 [M, 3], then a plane float16 [C, n, n] for each of 3 * levels. Output: [M, W]."""

        def __init__(self, scales: tuple[float, ...], output_type: int) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.num_outputs = 1
            self._scales, self._output_type = scales, output_type
            self._n_planes = len(PLANES) * len(scales)
            self._type = trt.float16 if output_type == _HALF else trt.float32
            self._dtype = np.dtype(np.float16 if output_type == _HALF else np.float32)
            self._kept = trt.PluginFieldCollection(
                [
                    trt.PluginField("scales", np.array(scales, np.float32), trt.PluginFieldType.FLOAT32),
                    trt.PluginField(
                        "output_type", np.array([output_type], np.int32), trt.PluginFieldType.INT32
                    ),
                ]
            )

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin(self._scales, self._output_type)

        def attach_to_context(self, resource_context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            return self._kept

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            if not input_types or input_types[0] != trt.float32:
                raise ValueError(f"{NAME}: expected float32 positions, got {list(input_types)}")
            return [self._type]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expr_builder: Any) -> list[Any]:
            if len(inputs) != 1 + self._n_planes or len(inputs[0]) != 2 or len(inputs[1]) != 3:
                raise ValueError(f"{NAME}: expected positions [M, 3] and {self._n_planes} planes [C, n, n]")
            shape = trt.DimsExprs(2)
            shape[0] = inputs[0][0]
            shape[1] = expr_builder.operation(
                trt.DimensionOperation.PROD, expr_builder.constant(self._n_planes), inputs[1][0]
            )
            return [shape]

        def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
            expected = trt.float32 if pos == 0 else trt.float16 if pos < num_inputs else self._type
            tensor = in_out[pos].desc
            return bool(tensor.type == expected and tensor.format == trt.TensorFormat.LINEAR)

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            self._check([tuple(tensor.desc.dims) for tensor in inputs])

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            self._check([tuple(tensor.dims) for tensor in inputs])

        def set_tactic(self, tactic: int) -> None:
            pass

        def enqueue(
            self,
            input_desc: Any,
            output_desc: Any,
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            shapes = [tuple(tensor.dims) for tensor in input_desc]
            half = np.dtype(np.float16)
            positions = DeviceArray(inputs[0], shapes[0], np.dtype(np.float32))
            planes = [DeviceArray(at, shape, half) for at, shape in zip(inputs[1:], shapes[1:], strict=True)]
            out = DeviceArray(outputs[0], tuple(output_desc[0].dims), self._dtype)
            look_up(positions, planes, list(self._scales), out, stream)

        def _check(self, shapes: list[tuple[int, ...]]) -> None:
            """Raises: ValueError: not the shapes of the scales; M may be free (-1)."""
            n_channels = shapes[1][0] if len(shapes) > 1 and shapes[1] else 0
            expected = [(shapes[0][0], 3), *_plane_shapes(self._scales, n_channels)]
            if shapes != expected:
                raise ValueError(f"{NAME}: expected inputs of shapes {expected}, got {shapes}")

    return Plugin

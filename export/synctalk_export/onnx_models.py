"""The trained networks as ONNX: traced from ``synctalk_trainer.modules``, never written by hand."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from synctalk._version import __version__
from synctalk.bundle import TENSORS, tensor_ranges
from synctalk.errors import ExportError
from synctalk.spec import PLANES, Spec
from synctalk.tensorrt.plugin import NAMESPACE
from synctalk_trainer.audio_branch import KernelEncoder
from synctalk_trainer.modules import Field
from synctalk_trainer.upsampler import Upsampler
from torch import Tensor, nn

from .plane_lookup import DOMAIN_VERSION, OPSET, PlaneLookupNode, body_of, trace
from .speech_node import SPEECH_OPSETS, with_models

__all__ = ["Colour", "Enlarge", "Head", "audio_model", "colour_model", "head_model", "upsampler_model"]

_PLANE_PREFIX = "field.plane."


class Head(nn.Module):
    """``Field.query`` with bilinear look-ups in node planes in the place of hashing: the same function."""

    def __init__(
        self, field: Field, planes: Mapping[str, NDArray[np.float16]], half: Collection[str] = ()
    ) -> None:
        """planes: ``field.plane.{p}.{level}`` -> float16 [C, n, n]; half: the networks of the field (``attention``,
        ``density``) that compute in float16. Coordinates, inputs and outputs are float32 in any case."""
        super().__init__()
        self.field = copy.deepcopy(field)
        for network in half:
            getattr(self.field, network).half()
        self.dtype = self.field.density[0].dtype
        self.scales = tuple(level.scale for level in field.spec.grid.levels)
        self.names = [f"{_PLANE_PREFIX}{p}.{i}" for p in range(len(PLANES)) for i in range(len(self.scales))]
        for name in self.names:
            self.register_buffer(_buffer_name(name), torch.from_numpy(planes[name]))

    @property
    def planes(self) -> list[Tensor]:
        """[C, n, n] each, in the order of the node's inputs."""
        return [getattr(self, _buffer_name(name)) for name in self.names]

    def forward(self, positions: Tensor, condition: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """positions [M, 3], condition [M, C], expression [M, E] -> log density [M], feature [M, F]; all float32."""
        arguments = (positions, self.scales, self.dtype, *self.planes)
        encoding = PlaneLookupNode.apply(*arguments)  # type: ignore[no-untyped-call]
        log_density, feature = self.field.decode(encoding, condition, expression)
        if self.dtype == torch.float32:
            return log_density, feature
        return log_density.float(), feature.float()


class Colour(nn.Module):
    """``Field.colour_of`` as a module."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, feature: Tensor, direction: Tensor, appearance: Tensor) -> Tensor:
        """feature [R, F], direction [R, 3], appearance [R, A] -> colour [R, 3]."""
        return self.field.colour_of(feature, direction, appearance)


class Enlarge(nn.Module):
    """An upsampler of pictures whose channels come last, as renderers give them."""

    def __init__(self, upsampler: Upsampler) -> None:
        super().__init__()
        self.upsampler = upsampler

    def forward(self, small: Tensor, drive: Tensor) -> Tensor:
        """small [N, H, W, 4], drive [N, D] -> head [N, 2 H, 2 W, 4]."""
        enlarged: Tensor = self.upsampler(small.permute(0, 3, 1, 2), drive)
        return enlarged.permute(0, 2, 3, 1)


def _buffer_name(tensor_name: str) -> str:
    return tensor_name.replace(".", "_")


def head_model(
    field: Field,
    planes: Mapping[str, NDArray[np.float16]],
    spec: Spec,
    packed: bytes,
    half: Collection[str] = (),
) -> bytes:
    """``head.onnx``: its planes are external data in ``packed``, the bytes of ``tensors.safetensors``.

    half: networks that compute in float16, for ``head.fp16.onnx``.
    """
    design = spec.field
    inputs = {
        "positions": torch.rand(5, 3),
        "condition": torch.rand(5, design.condition),
        "expression": torch.rand(5, design.expression),
    }
    head = Head(field, planes, half)
    opsets = {NAMESPACE: DOMAIN_VERSION}
    model = _traced(head, inputs, ("log_density", "feature"), "M", spec, opsets)
    model.functions.append(body_of(head.planes, head.scales, head.dtype))
    _rename(model, {_buffer_name(name): name for name in planes})
    _checked(model, "head.onnx")
    ranges = tensor_ranges(packed)
    for tensor in model.graph.initializer:
        if tensor.name.startswith(_PLANE_PREFIX):
            _move_outside(tensor, *ranges[tensor.name])
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def colour_model(field: Field, spec: Spec) -> bytes:
    """``colour.onnx``."""
    design = spec.field
    inputs = {
        "feature": torch.rand(5, design.feature),
        "direction": nn.functional.normalize(torch.rand(5, 3), dim=-1),
        "appearance": torch.rand(5, design.appearance),
    }
    return _serialised(_traced(Colour(field), inputs, ("colour",), "R", spec), "colour.onnx")


def audio_model(audio: nn.Module, spec: Spec) -> bytes:
    """``audio.onnx``."""
    design = spec.audio
    inputs = {"mel_windows": torch.rand(3, design.n_taps, design.n_mels, design.window_values)}
    heard_with = audio.models if isinstance(audio, KernelEncoder) else ()
    if not heard_with:
        return _serialised(_traced(audio, inputs, ("condition",), "N", spec), "audio.onnx")
    model = with_models(_traced(audio, inputs, ("condition",), "N", spec, SPEECH_OPSETS), heard_with)
    _label(model, spec)
    return _serialised(model, "audio.onnx")


def upsampler_model(upsampler: Upsampler, spec: Spec) -> bytes:
    """``upsampler.onnx``."""
    design = upsampler.spec
    sizes = {"N": 2, "H": 8, "W": 12}
    inputs = {
        name: torch.rand(*(axis if isinstance(axis, int) else sizes[axis] for axis in shape))
        for name, shape in design.inputs.items()
    }
    axes = {
        name: {i: axis for i, axis in enumerate(shape) if isinstance(axis, str)}
        for name, shape in {**design.inputs, **design.outputs}.items()
    }
    names, module = list(design.outputs), Enlarge(upsampler).eval()
    model = trace(module, tuple(inputs.values()), list(inputs), names, axes)
    _label(model, spec)
    return _serialised(model, "upsampler.onnx")


def _traced(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: tuple[str, ...],
    rows: str,
    spec: Spec,
    custom_opsets: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """Trace a module; ``rows`` names the first axis of all inputs and outputs."""
    if any(part.training for part in module.children()):
        raise ValueError(f"{type(module).__name__} is in training mode: call eval() first")
    module.eval()
    axes = {name: {0: rows} for name in [*inputs, *outputs]}
    model: onnx.ModelProto = trace(module, tuple(inputs.values()), list(inputs), outputs, axes, custom_opsets)
    _label(model, spec)
    return model


def _label(model: onnx.ModelProto, spec: Spec) -> None:
    """Say what the model belongs to; drop what only tells of this machine."""
    model.producer_name, model.producer_version = "synctalk", __version__
    properties = {"synctalk.version": __version__, "synctalk.spec": spec.digest}
    onnx.helper.set_model_props(model, properties)
    model.doc_string = ""
    for node in model.graph.node:
        node.ClearField("doc_string")
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _move_outside(tensor: Any, offset: int, length: int) -> None:
    """Refer to the values in the bundle's tensors."""
    if len(tensor.raw_data) != length:
        raise ExportError(f"{tensor.name}: {len(tensor.raw_data)} bytes traced, {length} bytes in {TENSORS}")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {"location": TENSORS, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))


def _checked(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Check a model that still has all its values inside.

    Raises: ExportError: an unexpected operator set, or not a valid model.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET} | ({NAMESPACE: DOMAIN_VERSION} if model.functions else {}):
        raise ExportError(
            f"{name}: exported for {opsets}, not opset {OPSET}: use a version of torch from the docs"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"{name}: not a valid model ({error}): use a version of torch from the docs"
        ) from error
    return model


def _serialised(model: onnx.ModelProto, name: str) -> bytes:
    serialised: bytes = _checked(model, name).SerializeToString(deterministic=True)
    return serialised

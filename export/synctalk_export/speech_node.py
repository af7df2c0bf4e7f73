"""A speech encoder inside ``audio.onnx``: the node that tracing leaves is replaced by the encoder's own graph."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper, inliner, version_converter
from synctalk.errors import ExportError
from synctalk_trainer.audio_visual.encoder import SpeechEncoder

from .plane_lookup import OPSET

__all__ = ["SPEECH_OPSETS", "with_encoder"]

_DOMAIN, _NODE = "synctalk", "SpeechEncoder"
SPEECH_OPSETS = {_DOMAIN: 1}
"""What the traced model says of the node before it is replaced."""


def with_encoder(model: Any, speech: SpeechEncoder) -> Any:
    """The model, an ``onnx.ModelProto``, with the encoder's operators in the place of its node.

    Raises: ExportError: the encoder needs operators that are not ONNX's own, or cannot be brought to our version.
    """
    inner = onnx.load_from_string(speech.model)
    domains = {entry.domain for entry in inner.opset_import if entry.domain not in ("", "ai.onnx")}
    if domains & {node.domain for node in inner.graph.node} or inner.functions:
        raise ExportError(
            f"{speech.name} uses operators of {', '.join(sorted(domains))}: export it with ONNX's own operators only"
        )
    try:
        inner = version_converter.convert_version(inner, OPSET)
    except Exception as error:  # the converter's errors share no narrower base
        raise ExportError(
            f"{speech.name} cannot be brought to opset {OPSET} ({error}): export it for that opset"
        ) from error
    model.functions.append(_as_function(inner))
    inlined = inliner.inline_local_functions(model)
    kept = [entry for entry in inlined.opset_import if entry.domain in ("", "ai.onnx")]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def _as_function(inner: Any) -> Any:
    """The encoder as the definition of the node; what follows the channel axis is flattened away."""
    graph = inner.graph
    held = {tensor.name for tensor in graph.initializer}
    (source,) = [value.name for value in graph.input if value.name not in held]
    weights = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    flat = helper.make_node("Flatten", [graph.output[0].name], ["speech_embedding"], axis=1)
    nodes = [*weights, *graph.node, flat]
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_function(_DOMAIN, _NODE, [source], ["speech_embedding"], nodes, opset)

"""Models that an audio branch hears with, inside ``audio.onnx``: the nodes that tracing leaves become their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper, inliner, version_converter
from synctalk.errors import ExportError
from synctalk_trainer.audio_visual.encoder import SpeechEncoder

from .plane_lookup import OPSET

__all__ = ["SPEECH_OPSETS", "with_models"]

_DOMAIN = "synctalk"
SPEECH_OPSETS = {_DOMAIN: 1}
"""What the traced model says of the nodes before they are replaced."""


def with_models(model: Any, heard_with: Sequence[SpeechEncoder]) -> Any:
    """The model, an ``onnx.ModelProto``, with the operators of the models that it hears with in the places of their nodes.

    Raises: ExportError: one needs operators that are not ONNX's own, or cannot be brought to our version.
    """
    for speech in heard_with:
        model.functions.append(_as_function(_usable(speech), speech.node))
    inlined = inliner.inline_local_functions(model)
    kept = [entry for entry in inlined.opset_import if entry.domain in ("", "ai.onnx")]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def _usable(speech: SpeechEncoder) -> Any:
    """A model in our version of the operators. Raises: ExportError: it cannot be brought to it."""
    inner = onnx.load_from_string(speech.model)
    domains = {entry.domain for entry in inner.opset_import if entry.domain not in ("", "ai.onnx")}
    if domains & {node.domain for node in inner.graph.node} or inner.functions:
        raise ExportError(
            f"{speech.name} uses operators of {', '.join(sorted(domains))}: export it with ONNX's own operators only"
        )
    try:
        return version_converter.convert_version(inner, OPSET)
    except Exception as error:  # the converter's errors share no narrower base
        raise ExportError(
            f"{speech.name} cannot be brought to opset {OPSET} ({error}): export it for that opset"
        ) from error


def _as_function(inner: Any, name: str) -> Any:
    """A model as the definition of the node ``name``; what follows the channel axis is flattened away."""
    graph = inner.graph
    held = {tensor.name for tensor in graph.initializer}
    (source,) = [value.name for value in graph.input if value.name not in held]
    weights = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    flat = helper.make_node("Flatten", [graph.output[0].name], [f"{name}_heard"], axis=1)
    nodes = [*weights, *graph.node, flat]
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_function(_DOMAIN, name, [source], [f"{name}_heard"], nodes, opset)

"""The plugin that TensorRT needs for ``head.onnx``: its name, and where its library is."""

from __future__ import annotations

__all__ = ["NAME", "NAMESPACE", "VERSION"]

NAME, VERSION, NAMESPACE = "PlaneLookup", "1", "synctalk"
"""As the node in ``head.onnx`` names it, and as ``csrc/tensorrt`` registers it."""

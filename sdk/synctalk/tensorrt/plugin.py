"""The plugin that TensorRT runs for the node ``synctalk::PlaneLookup``: its name, and where its library is.

Without the library TensorRT builds the node's body from its own layers: the same function, slower.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from synctalk.errors import BackendError

__all__ = ["NAME", "NAMESPACE", "VERSION", "load_plugin", "plugin_path"]

NAME, VERSION, NAMESPACE = "PlaneLookup", "1", "synctalk"
"""As the node in ``head.onnx`` names it, and as ``csrc/tensorrt`` registers it."""

_VARIABLE = "SYNCTALK_TENSORRT_PLUGIN"


def plugin_path(major: int) -> Path | None:
    """The library for a major version of TensorRT: ``$SYNCTALK_TENSORRT_PLUGIN``, or the one beside this package, or
    None."""
    if given := os.environ.get(_VARIABLE):
        return Path(given)
    beside = Path(__file__).parents[1] / f"libsynctalk_tensorrt_{major}.so"
    return beside if beside.exists() else None


def load_plugin(tensorrt: Any) -> bool:
    """Make the plugin known to a TensorRT module's registry; False where no library was built for its version.

    Raises: BackendError: a library that does not load, or that does not hold the plugin.
    """
    registry = tensorrt.get_plugin_registry()
    if registry.get_creator(NAME, VERSION, NAMESPACE) is not None:
        return True
    path = plugin_path(int(tensorrt.__version__.split(".")[0]))
    if path is None:
        return False
    if not path.exists():
        raise BackendError(f"{path}: there is no such library: correct or unset {_VARIABLE}")
    registry.load_library(str(path))
    if registry.get_creator(NAME, VERSION, NAMESPACE) is None:
        raise BackendError(
            f"{path}: no plugin {NAMESPACE}::{NAME} {VERSION} for TensorRT {tensorrt.__version__} in it: build it "
            "again with TENSORRT_INCLUDE_DIR (docs/gpu.md)"
        )
    return True

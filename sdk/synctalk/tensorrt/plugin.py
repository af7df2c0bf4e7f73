"""The plugin that TensorRT runs for the node ``synctalk::PlaneLookup``: its name, and who provides it.

A library, where one was built; else Python, where the native module has CUDA; else TensorRT builds the node's body from
its own layers: the same function, slower.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synctalk.errors import BackendError

__all__ = ["NAME", "NAMESPACE", "VERSION", "LoadedPlugin", "load_plugin", "plugin_path"]

NAME, VERSION, NAMESPACE = "PlaneLookup", "1", "synctalk"
"""As the node in ``head.onnx`` names it, and as ``csrc/tensorrt`` and ``python_plugin`` register it."""

_VARIABLE, _NONE = "SYNCTALK_TENSORRT_PLUGIN", "none"


@dataclass(frozen=True)
class LoadedPlugin:
    """What TensorRT will run for the node."""

    digest: str = ""
    """sha256 of the library or of the Python source; empty where the node's body is built."""
    library: Path | None = None

    @property
    def is_python(self) -> bool:
        return bool(self.digest) and self.library is None


def plugin_path(major: int) -> Path | None:
    """The library for a major version of TensorRT: ``$SYNCTALK_TENSORRT_PLUGIN``, or the one beside this package, or
    None."""
    if given := os.environ.get(_VARIABLE):
        return None if given == _NONE else Path(given)
    beside = Path(__file__).parents[1] / f"libsynctalk_tensorrt_{major}.so"
    return beside if beside.exists() else None


def load_plugin(tensorrt: Any) -> LoadedPlugin:
    """Make the plugin known to a TensorRT module's registry, unless it is.

    Raises: BackendError: a library that does not load, or that does not hold the plugin.
    """
    registry = tensorrt.get_plugin_registry()
    is_known = registry.get_creator(NAME, VERSION, NAMESPACE) is not None
    path = plugin_path(int(tensorrt.__version__.split(".")[0]))
    if path is not None:
        if not path.exists():
            raise BackendError(f"{path}: there is no such library: correct or unset {_VARIABLE}")
        if not is_known:
            registry.load_library(str(path))
        if registry.get_creator(NAME, VERSION, NAMESPACE) is None:
            raise BackendError(
                f"{path}: no plugin {NAMESPACE}::{NAME} {VERSION} for TensorRT {tensorrt.__version__} in it: build it "
                "again with TENSORRT_INCLUDE_DIR (docs/gpu.md)"
            )
        return LoadedPlugin(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    from synctalk import _native

    if os.environ.get(_VARIABLE) == _NONE or not _native.cuda_devices():
        return LoadedPlugin()
    from . import python_plugin

    if not is_known:
        python_plugin.register(tensorrt, registry, _native.plane_lookup_cuda)
    return LoadedPlugin(python_plugin.digest())

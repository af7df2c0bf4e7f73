"""The plugin library, as far as a machine without a GPU can tell: TensorRT's lean registry loads it and makes plugins."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from synctalk.tensorrt.plugin import NAME, NAMESPACE, VERSION, load_plugin, plugin_path

SCALES = np.array([15.0, 23.25, 127.0], np.float32)


@pytest.fixture(scope="module")
def trt() -> Any:
    """The lean runtime's bindings, with the plugin loaded."""
    try:
        trt = importlib.import_module("tensorrt_lean_bindings")
    except ImportError as error:
        pytest.skip(f"no lean runtime ({error}): docs/gpu.md says which wheels")
    major = int(trt.__version__.split(".")[0])
    if plugin_path(major) is None:
        pytest.skip(f"no plugin library for TensorRT {major}: build with TENSORRT_INCLUDE_DIR")
    assert load_plugin(trt).library == plugin_path(major)
    return trt


def _fields(trt: Any, **values: np.ndarray) -> Any:
    kinds = {"f": trt.PluginFieldType.FLOAT32, "i": trt.PluginFieldType.INT32}
    fields = [trt.PluginField(name, value, kinds[value.dtype.kind]) for name, value in values.items()]
    return trt.PluginFieldCollection(fields)


def _creator(trt: Any) -> Any:
    return trt.get_plugin_registry().get_creator(NAME, VERSION, NAMESPACE)


def test_registry_knows_the_node_by_its_name_and_version(trt: Any) -> None:
    creator = _creator(trt)
    assert (creator.name, creator.plugin_version, creator.plugin_namespace) == (NAME, VERSION, NAMESPACE)
    assert {field.name for field in creator.field_names} == {"scales", "output_type"}
    assert load_plugin(trt).digest  # a second time


@pytest.mark.parametrize("output_type", [1, 10])
def test_plugin_is_made_for_both_phases(trt: Any, output_type: int) -> None:
    """What it serialises makes an equal plugin: ``csrc/tensorrt/check_plugin.cpp``, run by the build."""
    given = _fields(trt, scales=SCALES, output_type=np.array([output_type], np.int32))
    for phase in (trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME):
        plugin = _creator(trt).create_plugin("x", given, phase)
        core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
        assert (core.plugin_name, core.plugin_version, core.plugin_namespace) == (NAME, VERSION, NAMESPACE)
        assert plugin.get_capability_interface(trt.PluginCapabilityType.BUILD).num_outputs == 1


@pytest.mark.parametrize(
    "values",
    [
        {"scales": SCALES},
        {"output_type": np.array([1], np.int32)},
        {"scales": SCALES, "output_type": np.array([7], np.int32)},
        {"scales": -SCALES, "output_type": np.array([1], np.int32)},
    ],
)
def test_fields_that_make_no_plugin_are_refused(trt: Any, values: dict[str, np.ndarray]) -> None:
    assert _creator(trt).create_plugin("bad", _fields(trt, **values), trt.TensorRTPhase.BUILD) is None

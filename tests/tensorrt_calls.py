"""Everything that synctalk asks of TensorRT and of cuda-python, held against the real bindings: one process, one version.

    python tensorrt_calls.py BINDINGS STUBS

BINDINGS: a folder with the wheels of one version; STUBS: one with the stand-ins of its libraries. Prints as JSON, for
each check, how it failed, or nothing.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from host_device import HostDevice, host_array
from synctalk import _native
from synctalk.bundle import open_bundle
from synctalk.cli import DEMO
from synctalk.errors import BackendError
from synctalk.tensorrt import builder, device, plugin, python_plugin
from synctalk.tensorrt.builder import EngineOptions, TensorRTBuilder, models_of
from synctalk.tensorrt.runner import EngineRunner
from tensorrt_double import Double, tensorrt_double

SCALES = (3.0, 7.4)
GPU = ("Some GPU", "8.9")


def real_bindings(stubs: Path) -> Any:
    for library in sorted(stubs.iterdir()):
        ctypes.CDLL(str(library))  # known by its name from here on
    return importlib.import_module("tensorrt_bindings")


def check_building(trt: Any) -> None:
    double, seen = tensorrt_double(trt, {})
    bundle = open_bundle(DEMO / "demo.avatar")
    one = TensorRTBuilder(trt=double, gpu=GPU)
    options = EngineOptions("fp32", 4, version_compatible=True, hardware_compatible=True)
    for model in models_of(bundle, options.precision, options.max_batch):
        engine, timing = one.build(bundle, model, options, b"", lambda phase, done: None)
        assert engine == timing == b"content"
        assert isinstance(one.load(engine), Double)
    for name in (
        "Builder.__init__",
        "Builder.build_serialized_network",
        "IBuilderConfig.hardware_compatibility_level=",
        "IBuilderConfig.progress_monitor=",
        "IBuilderConfig.set_flag",
        "IOptimizationProfile.set_shape",
        "OnnxParser.parse_from_file",
        "Runtime.engine_host_code_allowed=",
    ):
        assert name in seen, f"{name} was not called"


def check_library_travels_in_a_version_compatible_engine(trt: Any) -> None:
    double, seen = tensorrt_double(trt, {})
    one = TensorRTBuilder(trt=double, gpu=GPU)
    one._plugin = plugin.LoadedPlugin("ab", Path("/lib/plugin.so"))
    bundle = open_bundle(DEMO / "demo.avatar")
    options = EngineOptions(version_compatible=True)
    model = models_of(bundle, "fp32")[1]
    one.build(bundle, model, options, b"", lambda phase, done: None)
    assert "IBuilderConfig.plugins_to_serialize=" in seen
    one._plugin = plugin.LoadedPlugin("ab")
    _raises(BackendError, "Python plugin", lambda: one.build(bundle, model, options, b"", print))


def check_failures_are_told(trt: Any) -> None:
    bundle = open_bundle(DEMO / "demo.avatar")
    model = models_of(bundle, "fp32")[1]
    answers: dict[str, Callable[..., Any]] = {"OnnxParser.parse_from_file": lambda path: False}
    one = TensorRTBuilder(trt=tensorrt_double(trt, answers)[0], gpu=GPU)
    _raises(
        BackendError, "cannot read it: text", lambda: one.build(bundle, model, EngineOptions(), b"", print)
    )
    answers = {"Builder.build_serialized_network": lambda *args: None}
    one = TensorRTBuilder(trt=tensorrt_double(trt, answers)[0], gpu=GPU)
    _raises(BackendError, "built no engine", lambda: one.build(bundle, model, EngineOptions(), b"", print))


def check_progress_and_interruption(trt: Any) -> None:
    said: list[tuple[str, float]] = []
    monitor = builder._progress_monitor(trt, lambda *what: said.append(what))
    assert isinstance(monitor, trt.IProgressMonitor)
    monitor.phase_start("Tactics", None, 4)
    assert monitor.step_complete("Tactics", 1)
    monitor.phase_finish("Tactics")
    assert said == [("Tactics", 0.0), ("Tactics", 0.5), ("Tactics", 1.0)]

    def interrupt(phase: str, done: float) -> None:
        raise KeyboardInterrupt

    monitor = builder._progress_monitor(trt, interrupt)
    assert not monitor.step_complete("Tactics", 1) and monitor.was_interrupted
    logger = builder._logger(trt)
    assert isinstance(logger, trt.ILogger)
    logger.log(trt.ILogger.Severity.VERBOSE, "said")


def check_running(trt: Any) -> None:
    bundle = open_bundle(DEMO / "demo.avatar")
    double, seen = tensorrt_double(trt, {})
    engine = double.Runtime(builder._logger(trt)).deserialize_cuda_engine(b"engine")
    user_managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    for model in models_of(bundle, "fp32", 2):
        runner = EngineRunner(engine, model, 1, device=HostDevice(), user_managed=user_managed)
        runner(100)
        for name, row in (*model.inputs, *model.outputs):
            assert runner.array(name, 100).shape == (100, *row)
    for name in ("create_execution_context", "ICudaEngine.device_memory_size_v2"):
        assert any(name in one for one in seen), f"{name} was not called"
    for name in ("set_device_memory", "set_tensor_address", "set_input_shape", "execute_async_v3"):
        assert f"IExecutionContext.{name}" in seen, f"{name} was not called"
    assert "IExecutionContext.set_optimization_profile_async" in seen


def check_library_is_loaded_once(trt: Any) -> None:
    known: list[str] = []
    answers = {
        "IPluginRegistry.get_creator": lambda *names: object() if known else None,
        "IPluginRegistry.load_library": known.append,
    }
    double, _ = tensorrt_double(trt, answers)
    assert plugin.load_plugin(double) == plugin.load_plugin(double)


def check_python_plugin(trt: Any) -> None:
    double, seen = tensorrt_double(trt, {})
    python_plugin.register(trt, double.get_plugin_registry(), _on_the_host)
    assert seen == ["IPluginRegistry.register_creator"]
    creator = python_plugin.plugin_creator(trt, _on_the_host)
    assert isinstance(creator, trt.IPluginCreatorV3One)
    assert (creator.name, creator.plugin_version, creator.plugin_namespace) == (
        plugin.NAME,
        plugin.VERSION,
        plugin.NAMESPACE,
    )
    assert isinstance(creator.field_names, trt.PluginFieldCollection_)
    for output_type, kind in ((1, trt.float32), (10, trt.float16)):
        one = creator.create_plugin("x", _fields(trt, SCALES, output_type), trt.TensorRTPhase.BUILD)
        for base in (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
            assert isinstance(one, base)
        kept = {field.name: field.data for field in one.get_fields_to_serialize()}
        np.testing.assert_array_equal(kept["scales"], np.array(SCALES, np.float32))
        again = creator.create_plugin("y", one.get_fields_to_serialize(), trt.TensorRTPhase.RUNTIME)
        for each in (one, again, one.clone(), one.attach_to_context(None)):
            assert (
                each.num_outputs == 1 and each.get_capability_interface(trt.PluginCapabilityType.CORE) is each
            )
            assert each.get_output_data_types([trt.float32] + 6 * [trt.float16]) == [kind]
    for scales, output_type in (((), 1), ((-1.0,), 1), (SCALES, 7)):
        fields = _fields(trt, scales, output_type)
        _raises(
            ValueError, "expected", lambda f=fields: creator.create_plugin("z", f, trt.TensorRTPhase.BUILD)
        )


def check_python_plugin_shapes_and_formats(trt: Any) -> None:
    one = _plugin(trt, 10)
    shapes = [(-1, 3), *3 * [(2, 5, 5), (2, 9, 9)]]
    tensors = [_dynamic(trt, shape, trt.float32 if len(shape) == 2 else trt.float16) for shape in shapes]
    out = _dynamic(trt, (-1, 12), trt.float16)
    one.configure_plugin(tensors, [out])
    assert all(one.supports_format_combination(i, [*tensors, out], 7) for i in range(8))
    assert not one.supports_format_combination(1, [*tensors[:1], *tensors[:1]], 7)
    assert not _plugin(trt, 1).supports_format_combination(7, [*tensors, out], 7)
    one.on_shape_change([tensor.desc for tensor in tensors], [out.desc])
    one.set_tactic(0)
    tensors[3] = _dynamic(trt, (2, 6, 5), trt.float16)
    _raises(ValueError, "expected inputs", lambda: one.configure_plugin(tensors, [out]))

    class Expressions:  # symbolic sizes belong to TensorRT's builder: numbers take their place
        def constant(self, value: int) -> int:
            return value

        def operation(self, kind: Any, first: int, second: int) -> int:
            assert kind == trt.DimensionOperation.PROD
            return first * second

    double, _ = tensorrt_double(trt, {})
    double.DimsExprs = lambda n: [0] * n
    symbolic = python_plugin.plugin_creator(double, _on_the_host)
    two = symbolic.create_plugin("x", _fields(trt, SCALES, 1), trt.TensorRTPhase.BUILD)
    assert two.get_output_shapes(shapes, [], Expressions()) == [[-1, 12]]
    _raises(ValueError, "planes", lambda: two.get_output_shapes(shapes[:4], [], Expressions()))


def check_python_plugin_computes(trt: Any) -> None:
    generator = np.random.default_rng(0)
    positions = generator.random((50, 3), np.float32)
    planes = [generator.standard_normal((2, n, n)).astype(np.float16) for _ in range(3) for n in (5, 9)]
    expected = np.empty((50, 12), np.float32)
    _native.plane_lookup(positions, planes, list(SCALES), expected)
    arrays = [positions, *planes]
    for output_type, dtype in ((1, np.float32), (10, np.float16)):
        out = np.zeros((50, 12), dtype)
        one = _plugin(trt, output_type)
        one.enqueue(
            [_dynamic(trt, array.shape, trt.float32).desc for array in arrays],
            [_dynamic(trt, out.shape, trt.float32).desc],
            [array.ctypes.data for array in arrays],
            [out.ctypes.data],
            0,
            0,
        )
        np.testing.assert_array_equal(out, expected.astype(dtype))


def check_cuda_python(trt: Any) -> None:
    """Without a driver every call fails, but not before its arguments were taken."""
    if not str(device.why_not()).startswith("no usable GPU"):
        return  # with a GPU, and without its driver, the calls do not get so far or further
    stream, buffer, values = (
        object.__new__(device.Stream),
        object.__new__(device.Buffer),
        np.zeros(4, np.float32),
    )
    stream.handle = buffer.address = 0
    stream._is_own = False
    graph = object.__new__(device.Graph)
    graph._executable = None
    calls: list[Callable[[], Any]] = [
        device.Cuda,
        device.Stream,
        lambda: device.Buffer(16),
        lambda: device.Graph(stream, lambda: None),
        lambda: buffer.upload(values, stream),
        lambda: buffer.download(values, stream),
        lambda: graph.launch(stream),
        stream.synchronise,
    ]
    for call in calls:
        _raises(BackendError, "CUDA: cudaError", call)
    runtime = device._runtime()
    for name in ("cudaStreamDestroy", "cudaFree", "cudaGraphDestroy", "cudaGraphExecDestroy"):
        assert callable(getattr(runtime, name))
    for _ in (runtime.cudaStreamEndCapture(0), runtime.cudaGraphInstantiate(0, 0)):
        assert int(_[0])


def check_python_plugin_in_the_lean_registry(trt: Any) -> None:
    """The real registry of TensorRT's runtime, in C++, takes the creator and makes plugins with it."""
    lean = importlib.import_module("tensorrt_lean_bindings")
    registry = lean.get_plugin_registry()
    python_plugin.register(lean, registry, _on_the_host)
    creator = registry.get_creator(plugin.NAME, plugin.VERSION, plugin.NAMESPACE)
    one = creator.create_plugin("x", _fields(lean, SCALES, 10), lean.TensorRTPhase.RUNTIME)
    core = one.get_capability_interface(lean.PluginCapabilityType.CORE)
    assert (core.plugin_name, core.plugin_version, core.plugin_namespace) == (
        plugin.NAME,
        plugin.VERSION,
        plugin.NAMESPACE,
    )


def _plugin(trt: Any, output_type: int) -> Any:
    creator = python_plugin.plugin_creator(trt, _on_the_host)
    return creator.create_plugin("x", _fields(trt, SCALES, output_type), trt.TensorRTPhase.BUILD)


def _fields(trt: Any, scales: tuple[float, ...], output_type: int) -> Any:
    return trt.PluginFieldCollection(
        [
            trt.PluginField("scales", np.array(scales, np.float32), trt.PluginFieldType.FLOAT32),
            trt.PluginField("output_type", np.array([output_type], np.int32), trt.PluginFieldType.INT32),
        ]
    )


def _dynamic(trt: Any, shape: tuple[int, ...], kind: Any) -> Any:
    tensor = trt.PluginTensorDesc()
    tensor.dims, tensor.type, tensor.format = shape, kind, trt.TensorFormat.LINEAR
    dynamic = trt.DynamicPluginTensorDesc()
    dynamic.desc = tensor
    return dynamic


def _on_the_host(positions: Any, planes: list[Any], scales: list[float], out: Any, stream: int) -> None:
    """``plane_lookup_cuda`` where the addresses are of the host."""
    result = np.empty(out.shape, np.float32)
    _native.plane_lookup(_seen(positions), [_seen(plane) for plane in planes], scales, result)
    _seen(out)[:] = result


def _seen(array: Any) -> np.ndarray:
    interface = array.__cuda_array_interface__
    return host_array(interface["data"][0], interface["shape"], interface["typestr"])


def _raises(kind: Any, words: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except kind as error:
        assert words in str(error), f"{words!r} is not in {error}"
    else:
        raise AssertionError(f"did not raise {kind}")


CHECKS = {
    name.removeprefix("check_"): value for name, value in globals().items() if name.startswith("check_")
}


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    trt = real_bindings(Path(sys.argv[2]))
    failures = {"version": trt.__version__}
    for name, check in CHECKS.items():
        try:
            check(trt)
            failures[name] = ""
        except ModuleNotFoundError as error:
            failures[name] = f"skip: {error}"
        except Exception:
            failures[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(failures))


if __name__ == "__main__":
    main()

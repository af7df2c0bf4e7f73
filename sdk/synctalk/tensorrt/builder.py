"""Building engines with TensorRT 10 or 11. Not yet run on hardware.

Networks are strongly typed: TensorRT computes in the types that the ONNX file says, in both versions alike.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from synctalk.bundle import TENSORS, Bundle, upsampler_design
from synctalk.errors import BackendError

from .cache import EngineCache, EngineKey, EngineOptions
from .plugin import load_plugin

__all__ = [
    "Builder",
    "EngineOptions",
    "Model",
    "Say",
    "TensorRTBuilder",
    "engine_key",
    "engine_precision",
    "engines_of",
    "models_of",
    "why_not",
]

_LOG = logging.getLogger(__name__)

ROWS_AT_ONCE = 1 << 16
"""Of one call for one frame: samples, or rays of deferred colour. More are split."""
PICTURES_AT_ONCE = 16
"""Of the upsampler."""

Say = Callable[[str, float], None]
"""Told what TensorRT is doing, and how much of it is done, 0..1. May raise KeyboardInterrupt: building ends."""


@dataclass(frozen=True)
class Model:
    """One ONNX file to build: its inputs and outputs, and the sizes of their first axis."""

    member: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of a row: all are float32 [rows, ...]."""
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    rows: int
    """Of one frame."""
    max_batch: int = 1
    """Frames at once."""

    @property
    def profiles(self) -> tuple[tuple[int, int, int], ...]:
        """Fewest, best and most rows: for latency, and for throughput."""
        latency, throughput = self.rows, self.rows * self.max_batch
        return ((1, latency, latency),) + (((1, throughput, throughput),) if self.max_batch > 1 else ())


_FOR_THIS_MACHINE = EngineOptions()
"""Compatible with nothing else."""


class Builder(Protocol):
    """Whoever turns ONNX files into engines."""

    version: str
    gpu: str
    compute_capability: str
    plugin: str

    def build(
        self, bundle: Bundle, model: Model, options: EngineOptions, timing: bytes, say: Say
    ) -> tuple[bytes, bytes]:
        """An engine, and the timing cache with its measurements added. Raises: BackendError."""
        ...

    def load(self, engine: bytes) -> Any | None:
        """Something to run, or None where the engine does not fit."""
        ...


def engine_precision(bundle: Bundle, precision: str) -> str:
    """``fp32`` or ``fp16`` for what a user asks for; ``auto`` is what the export found good enough.

    Raises: BackendError: something else.
    """
    names = {"float32": "fp32", "float16": "fp16", "fp32": "fp32", "fp16": "fp16"}
    if precision == "auto":
        return "fp16" if "head.fp16.onnx" in bundle.manifest.files else "fp32"
    if precision in names:
        return names[precision]
    why = ": int8 gains nothing on these networks (docs/gpu.md)" if precision == "int8" else ""
    raise BackendError(
        f"TensorRT's engines do not compute in {precision}{why}: choose --precision auto, float16 or float32"
    )


def models_of(bundle: Bundle, precision: str, max_batch: int = 1, is_half: bool = False) -> tuple[Model, ...]:
    """The head and the colour network of a bundle, and for heads at half the size its upsampler.

    precision: ``fp32`` or ``fp16``. Raises: BackendError: that, or the upsampler, is not to be had.
    """
    head = "head.onnx" if precision == "fp32" else "head.fp16.onnx"
    if head not in bundle.manifest.files:
        raise BackendError(
            f"{bundle.path} has no {head}: float16 was not good enough when it was exported, or it was exported by an "
            "older version: choose --precision float32, or export the run again"
        )
    field = bundle.manifest.spec.field
    points = (("positions", (3,)), ("condition", (field.condition,)), ("expression", (field.expression,)))
    values = (("log_density", ()), ("feature", (field.feature,)))
    rays = (("feature", (field.feature,)), ("direction", (3,)), ("appearance", (field.appearance,)))
    models = (
        Model(head, points, values, ROWS_AT_ONCE, max_batch),
        Model("colour.onnx", rays, (("colour", (3,)),), ROWS_AT_ONCE, max_batch),
    )
    return (*models, _upsampler(bundle)) if is_half else models


def _upsampler(bundle: Bundle) -> Model:
    """For pictures of the bundle's own size."""
    design = upsampler_design(bundle)
    frame = bundle.manifest.frame
    sizes = {"H": frame.height // 2, "W": frame.width // 2, "2H": frame.height, "2W": frame.width}

    def rows_of(shapes: Mapping[str, tuple[str | int, ...]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple(
            (name, tuple(axis if isinstance(axis, int) else sizes[axis] for axis in shape[1:]))
            for name, shape in shapes.items()
        )

    return Model("upsampler.onnx", rows_of(design.inputs), rows_of(design.outputs), PICTURES_AT_ONCE)


def engine_key(bundle: Bundle, model: Model, options: EngineOptions, builder: Builder) -> EngineKey:
    """What the engine of a model depends on: less of TensorRT's version and of the GPU where it is compatible."""
    files = bundle.manifest.files
    content = hashlib.sha256(f"{files[model.member].sha256} {files[TENSORS].sha256}".encode()).hexdigest()
    profile = ";".join(":".join(map(str, sizes)) for sizes in model.profiles)
    any_gpu = options.hardware_compatible
    return EngineKey(
        onnx_sha256=content,
        tensorrt=f"{_major(builder.version)}, any minor" if options.version_compatible else builder.version,
        gpu="any" if any_gpu else builder.gpu,
        compute_capability="8.0 or newer" if any_gpu else builder.compute_capability,
        precision=options.precision,
        profile=profile,
        plugin=builder.plugin,
    )


def engines_of(
    bundle: Bundle,
    options: EngineOptions,
    builder: Builder,
    cache: EngineCache,
    say: Say,
    is_half: bool = False,
) -> tuple[Any, ...]:
    """The engines of ``models_of``, built where the cache has none.

    Raises: BackendError: the options are not to be had, or TensorRT cannot build.
    """
    if options.hardware_compatible and float(builder.compute_capability) < 8.0:
        raise BackendError(
            f"hardware-compatible engines begin at compute capability 8.0, and {builder.gpu} has "
            f"{builder.compute_capability}: build for this GPU alone"
        )
    loaded = []
    for model in models_of(bundle, options.precision, options.max_batch, is_half):
        key = engine_key(bundle, model, options, builder)
        here = engine_key(bundle, model, _FOR_THIS_MACHINE, builder)  # names the measurements

        def build(model: Model = model, here: EngineKey = here) -> bytes:
            engine, timing = builder.build(bundle, model, options, cache.timing(here), say)
            cache.keep_timing(here, timing)
            return engine

        loaded.append(cache.load_or_build(key, builder.load, build))
    return tuple(loaded)


def why_not() -> str | None:
    """Why engines cannot be built here, with what to do, or None."""
    from . import device

    try:
        import tensorrt
    except ImportError as error:
        return f"TensorRT is not installed ({error}): pip install 'synctalk[tensorrt]' on a machine with an NVIDIA GPU"
    if _major(tensorrt.__version__) not in (10, 11):
        return f"TensorRT {tensorrt.__version__} is neither 10 nor 11: pip install 'tensorrt-cu13>=10.14,<12'"
    return device.why_not()


def _major(version: str) -> int:
    return int(version.split(".")[0])


class TensorRTBuilder:
    """The real one."""

    def __init__(
        self, max_workspace_bytes: int = 1 << 30, trt: Any = None, gpu: tuple[str, str] | None = None
    ) -> None:
        """trt, gpu: TensorRT's module, and name and compute capability of the GPU; those of this machine unless given.

        Raises: BackendError: TensorRT or the GPU is missing, or the plugin does not load.
        """
        if trt is None:
            if reason := why_not():
                raise BackendError(f"TensorRT cannot work here: {reason}")
            import tensorrt

            trt = tensorrt
        if gpu is None:
            from .device import Cuda

            cuda = Cuda()
            gpu = cuda.name, cuda.compute_capability
        self._trt = trt
        self._logger = _logger(trt)
        self._max_workspace_bytes = max_workspace_bytes
        self.version = str(trt.__version__)
        self.gpu, self.compute_capability = gpu
        self._plugin = load_plugin(trt)
        self.plugin = self._plugin.digest
        self._runtime = trt.Runtime(self._logger)
        self._runtime.engine_host_code_allowed = (
            True  # version-compatible engines of the cache, which nobody else writes
        )

    def load(self, engine: bytes) -> Any | None:
        """A deserialised engine, or None."""
        return self._runtime.deserialize_cuda_engine(engine)

    def build(
        self, bundle: Bundle, model: Model, options: EngineOptions, timing: bytes, say: Say
    ) -> tuple[bytes, bytes]:
        """An engine and the timing cache."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = trt.OnnxParser(network, self._logger)
        with tempfile.TemporaryDirectory() as folder:  # the parser reads the planes from beside the model
            path = Path(folder) / model.member
            path.write_bytes(bundle.read(model.member))
            (Path(folder) / TENSORS).write_bytes(bundle.read(TENSORS))
            if not parser.parse_from_file(str(path)):
                errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
                raise BackendError(f"{model.member}: TensorRT {self.version} cannot read it: {errors}")
            config, cache = self._configured(builder, model, timing)
            self._make_compatible(config, options)
            monitor = config.progress_monitor = _progress_monitor(trt, say)
            engine = builder.build_serialized_network(network, config)
        if monitor.was_interrupted:
            raise KeyboardInterrupt
        if engine is None:
            raise BackendError(
                f"{model.member}: TensorRT {self.version} built no engine for {self.gpu}: see its log lines above"
            )
        return bytes(engine), bytes(cache.serialize())

    def _configured(self, builder: Any, model: Model, timing: bytes) -> tuple[Any, Any]:
        """A builder's configuration, and its timing cache."""
        trt = self._trt
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._max_workspace_bytes)
        for sizes in model.profiles:
            profile = builder.create_optimization_profile()
            for name, shape in model.inputs:
                profile.set_shape(name, *((rows, *shape) for rows in sizes))
            config.add_optimization_profile(profile)
        cache = config.create_timing_cache(timing)
        config.set_timing_cache(cache, ignore_mismatch=False)
        return config, cache

    def _make_compatible(self, config: Any, options: EngineOptions) -> None:
        trt = self._trt
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.version_compatible:
            if self._plugin.is_python:
                raise BackendError(
                    "a version-compatible engine cannot hold the Python plugin: build the plugin library "
                    "(docs/gpu.md), or do without it: SYNCTALK_TENSORRT_PLUGIN=none"
                )
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            if self._plugin.library is not None:
                config.plugins_to_serialize = [str(self._plugin.library)]


def _logger(trt: Any) -> Any:
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            _LOG.log(levels.get(severity, logging.DEBUG), "TensorRT: %s", message)

    return Logger()


def _progress_monitor(trt: Any, say: Say) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.was_interrupted = False
            self._steps: dict[str, int] = {}

        def _say(self, phase: str, done: float) -> None:
            try:
                say(phase, done)
            except KeyboardInterrupt:  # must not travel through TensorRT
                self.was_interrupted = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._say(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._say(phase_name, (step + 1) / max(1, self._steps.get(phase_name, 1)))
            return not self.was_interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._say(phase_name, 1.0)

    return Monitor()

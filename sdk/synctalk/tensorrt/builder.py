"""Building engines with TensorRT 10 or 11, on the machine that will run them. Not yet run on hardware.

Networks are strongly typed: TensorRT computes in the types that the ONNX file says, in both versions alike.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from synctalk.bundle import TENSORS, Bundle
from synctalk.errors import BackendError

from .cache import EngineCache, EngineKey
from .plugin import load_plugin, plugin_path

__all__ = [
    "PRECISIONS",
    "Builder",
    "Model",
    "Say",
    "TensorRTBuilder",
    "engine_key",
    "engines_of",
    "models_of",
    "why_not",
]

_LOG = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16")
SAMPLES_AT_ONCE = 1 << 16
"""Rows of ``head.onnx`` for one frame's largest call; more are split."""
RAYS_AT_ONCE = 1 << 13

Say = Callable[[str, float], None]
"""Told what TensorRT is doing, and how much of it is done, 0..1."""


@dataclass(frozen=True)
class Model:
    """One ONNX file to build, its input names and the sizes of their first axis."""

    member: str
    inputs: tuple[tuple[str, int], ...]
    """Name and width: all are float32 [rows, width]."""
    rows: int
    """Of one frame."""
    max_batch: int
    """Frames at once."""

    @property
    def profiles(self) -> tuple[tuple[int, int, int], ...]:
        """Fewest, best and most rows: for latency, and for throughput."""
        latency, throughput = self.rows, self.rows * self.max_batch
        return ((1, latency, latency),) + (((1, throughput, throughput),) if self.max_batch > 1 else ())


class Builder(Protocol):
    """Whoever turns ONNX files into engines."""

    version: str
    gpu: str
    compute_capability: str
    plugin: str

    def build(self, bundle: Bundle, model: Model, timing: bytes, say: Say) -> tuple[bytes, bytes]:
        """An engine, and the timing cache with its measurements added. Raises: BackendError."""
        ...

    def load(self, engine: bytes) -> Any | None:
        """Something to run, or None where the engine does not fit."""
        ...


def models_of(bundle: Bundle, precision: str, max_batch: int = 1) -> tuple[Model, Model]:
    """The head and the colour network of a bundle. Raises: BackendError: the precision is not to be had."""
    if precision not in PRECISIONS:
        raise BackendError(
            f"precision {precision!r}: choose {' or '.join(PRECISIONS)}; int8 gains nothing on these networks "
            "(docs/gpu.md)"
        )
    head = "head.onnx" if precision == "fp32" else "head.fp16.onnx"
    if head not in bundle.manifest.files:
        raise BackendError(
            f"{bundle.path} has no {head}: float16 was not good enough when it was exported, or it was exported by an "
            "older version: choose fp32, or export the run again"
        )
    field = bundle.manifest.spec.field
    points = (("positions", 3), ("condition", field.condition), ("expression", field.expression))
    rays = (("feature", field.feature), ("direction", 3), ("appearance", field.appearance))
    colour_rows = RAYS_AT_ONCE if field.deferred else SAMPLES_AT_ONCE
    return Model(head, points, SAMPLES_AT_ONCE, max_batch), Model("colour.onnx", rays, colour_rows, max_batch)


def engine_key(bundle: Bundle, model: Model, precision: str, builder: Builder) -> EngineKey:
    """What the engine of a model depends on."""
    files = bundle.manifest.files
    content = hashlib.sha256(f"{files[model.member].sha256} {files[TENSORS].sha256}".encode()).hexdigest()
    profile = ";".join(":".join(map(str, sizes)) for sizes in model.profiles)
    return EngineKey(
        onnx_sha256=content,
        tensorrt=builder.version,
        gpu=builder.gpu,
        compute_capability=builder.compute_capability,
        precision=precision,
        profile=profile,
        plugin=builder.plugin,
    )


def engines_of(
    bundle: Bundle, precision: str, max_batch: int, builder: Builder, cache: EngineCache, say: Say
) -> tuple[Any, Any]:
    """The head's and the colour network's engine, built where the cache has none.

    Raises: BackendError: the precision is not to be had, or TensorRT cannot build.
    """
    loaded = []
    for model in models_of(bundle, precision, max_batch):
        key = engine_key(bundle, model, precision, builder)

        def build(model: Model = model, key: EngineKey = key) -> bytes:
            engine, timing = builder.build(bundle, model, cache.timing(key), say)
            cache.keep_timing(key, timing)
            return engine

        loaded.append(cache.load_or_build(key, builder.load, build))
    head, colour = loaded
    return head, colour


def why_not() -> str | None:
    """Why engines cannot be built here, with what to do, or None."""
    from . import device

    try:
        import tensorrt
    except ImportError as error:
        return f"TensorRT is not installed ({error}): pip install 'synctalk[tensorrt]' on a machine with an NVIDIA GPU"
    if int(tensorrt.__version__.split(".")[0]) not in (10, 11):
        return f"TensorRT {tensorrt.__version__} is neither 10 nor 11: pip install 'tensorrt-cu13>=10.14,<12'"
    return device.why_not()


class TensorRTBuilder:
    """The real one."""

    def __init__(self, max_workspace_bytes: int = 1 << 30) -> None:
        """Raises: BackendError: TensorRT or the GPU is missing, or the plugin does not load."""
        if reason := why_not():
            raise BackendError(f"TensorRT cannot work here: {reason}")
        import tensorrt

        from . import device

        self._trt: Any = tensorrt
        self._logger = _logger(tensorrt)
        self._max_workspace_bytes = max_workspace_bytes
        self.version = str(tensorrt.__version__)
        self.gpu, self.compute_capability = device.describe()
        path = plugin_path(int(self.version.split(".")[0])) if load_plugin(tensorrt) else None
        self.plugin = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
        self._runtime = tensorrt.Runtime(self._logger)

    def load(self, engine: bytes) -> Any | None:
        """A deserialised engine, or None."""
        return self._runtime.deserialize_cuda_engine(engine)

    def build(self, bundle: Bundle, model: Model, timing: bytes, say: Say) -> tuple[bytes, bytes]:
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
            config, cache = self._configured(builder, model, timing, say)
            engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise BackendError(
                f"{model.member}: TensorRT {self.version} built no engine for {self.gpu}: see its log lines above"
            )
        return bytes(engine), bytes(cache.serialize())

    def _configured(self, builder: Any, model: Model, timing: bytes, say: Say) -> tuple[Any, Any]:
        """A builder's configuration, and its timing cache."""
        trt = self._trt
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._max_workspace_bytes)
        for sizes in model.profiles:
            profile = builder.create_optimization_profile()
            for name, width in model.inputs:
                profile.set_shape(name, *((rows, width) for rows in sizes))
            config.add_optimization_profile(profile)
        cache = config.create_timing_cache(timing)
        config.set_timing_cache(cache, ignore_mismatch=False)
        config.progress_monitor = _progress_monitor(trt, say)
        return config, cache


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
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            say(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            say(phase_name, (step + 1) / max(1, self._steps.get(phase_name, 1)))
            return True

        def phase_finish(self, phase_name: str) -> None:
            say(phase_name, 1.0)

    return Monitor()

"""Backend ``tensorrt``: engines built from the bundle's ONNX files on this machine. Not yet run on hardware.

Everything between the engines happens on the GPU, too, in the native module's kernels (``csrc/stages.h``). Beside the
protocol it draws batches, as ``native-cuda`` does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import Bundle
from synctalk.errors import BackendError
from synctalk.manifest import Frame
from synctalk.tensorrt.builder import (
    Builder,
    Model,
    Say,
    TensorRTBuilder,
    engine_precision,
    engines_of,
    models_of,
)
from synctalk.tensorrt.builder import why_not as why_no_builder
from synctalk.tensorrt.cache import EngineCache, EngineOptions
from synctalk.tensorrt.progress import shown_progress
from synctalk.tensorrt.runner import EngineRunner

from . import HeadRequest
from .half_size import drive_of, half_sized
from .native_cuda import batch_of, size_of
from .native_cuda import why_not as why_no_kernels
from .native_renderer import renderer_tensors
from .sessions import AudioNetwork, cuda_graphs

__all__ = ["TensorRT", "why_not"]

Float = NDArray[np.float32]

_N_LANES = 2
"""While one waits for how many samples there are, the other computes."""


def why_not(device: str) -> str | None:
    """Why this backend cannot work on a device, or None."""
    return why_no_kernels(device) or why_no_builder()


class TensorRT:
    """Evaluates points and colours with TensorRT, and draws with the native module's kernels between its engines."""

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        precision: str = "auto",
        builder: Builder | None = None,
        cache: EngineCache | None = None,
        runner: Callable[[Any, Model, int], EngineRunner] | None = None,
        make_stages: Callable[..., Any] | None = None,
        say: Say | None = None,
        is_half: bool = False,
    ) -> None:
        """Engines are built on first use (minutes) and kept in the user's cache; ``synctalk build-engines`` does it ahead.

        precision: float32, float16 (of the head alone, where the bundle has it), or auto, which is float16 where the
        bundle has it. builder, cache, runner, make_stages: TensorRT's own, the user's cache and the native module's
        ``CudaStages`` unless given; say: told how far building is, a bar on the terminal unless given. is_half: draw heads
        at half the size and enlarge them with ``upsampler.onnx``.

        Raises: BackendError: it cannot work on the device, or in the precision.
        """
        if builder is None:
            if reason := why_not(device):
                raise BackendError(f"backend tensorrt cannot work on device {device!r}: {reason}")
            builder = TensorRTBuilder()
        self.detail = "half" if is_half else "full"
        runner, cache = runner or _engine_runners(), cache or EngineCache()
        built = cache.options(bundle.manifest.id) or EngineOptions()
        options = replace(built, precision=engine_precision(bundle, precision))
        models = models_of(bundle, options.precision, options.max_batch, is_half)
        all_stages = [_stages_of(bundle, make_stages) for _ in range(_N_LANES)]
        with nullcontext(say) if say else shown_progress() as told:
            engines = engines_of(bundle, options, builder, cache, told, is_half)
        self._audio = AudioNetwork(bundle)
        self._lanes: queue.SimpleQueue[_Lane | _HalfLane] = queue.SimpleQueue()
        for stages in all_stages:
            runners = [
                runner(engine, model, stages.stream) for engine, model in zip(engines, models, strict=True)
            ]
            lane = _Lane(stages, runners[0], runners[1], bundle.manifest.spec.field.deferred)
            self._lanes.put(_HalfLane(lane, runners[2], bundle.manifest.frame) if is_half else lane)

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, mels, columns] -> condition [N, C]."""
        return self._audio(windows)

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1, copied to the host."""
        head: Float = self.draw([request]).numpy()[0]
        return head

    def draw(self, requests: Sequence[HeadRequest], plates: Any = None, stream: int | None = None) -> Any:
        """Queue pictures of one size, of one or many sessions: see ``NativeCuda.draw``, except that this waits until the
        rays are marched, for the number of samples alone: engines are launched in few sizes.

        Raises: ValueError: as there. BackendError: CUDA or TensorRT failed.
        """
        size = size_of(requests)
        lane = self._lanes.get()
        try:
            return lane.draw(requests, size, plates, stream)
        except RuntimeError as error:
            raise BackendError(f"tensorrt: {error}") from error
        finally:
            self._lanes.put(lane)


class _Lane:
    """A stream, and what draws on it: one batch at a time."""

    def __init__(self, stages: Any, head: EngineRunner, colour: EngineRunner, is_deferred: bool) -> None:
        self.stages, self._head, self._colour, self._is_deferred = stages, head, colour, is_deferred

    def draw(
        self, requests: Sequence[HeadRequest], size: tuple[int, int], plates: Any, stream: int | None
    ) -> Any:
        """Frames over plates, or heads."""
        self.render(requests, size, plates, stream)
        return self.stages.finish()

    def render(
        self,
        requests: Sequence[HeadRequest],
        size: tuple[int, int],
        plates: Any = None,
        stream: int | None = None,
        into: Any = None,
    ) -> None:
        """into: heads [N, H, W, 4] on the GPU to draw into, instead of frames."""
        stages = self.stages
        n_samples, n_rays = stages.begin(batch_of(requests), *size, plates, stream, into)
        most = (
            self._head.most_rows if self._is_deferred else min(self._head.most_rows, self._colour.most_rows)
        )
        for first, n in _parts(n_samples, most):
            self._evaluate(first, n)
        if self._is_deferred:
            for first, n in _parts(n_rays, self._colour.most_rows):
                stages.blend(first, n, self._coloured(first, n, None))
        else:
            stages.blend(0, n_rays, None)

    def _evaluate(self, first: int, n: int) -> None:
        """Samples [first, first + n): from positions to what their rays have accumulated."""
        head = self._head
        inputs = [head.array(name, n) for name in ("positions", "condition", "expression")]
        self.stages.fill(first, *inputs)
        head(n)
        values = head.array("feature", n)
        if not self._is_deferred:
            values = self._coloured(first, n, values)
        self.stages.weigh(first, head.array("log_density", n), values)

    def _coloured(self, first: int, n: int, features: Any) -> Any:
        """Colours [n, 3] of rays, or of the samples with those features."""
        colour = self._colour
        inputs = [colour.array(name, n) for name in ("feature", "direction", "appearance")]
        self.stages.look(first, features, *inputs)
        colour(n)
        return colour.array("colour", n)


class _HalfLane:
    """A lane whose heads are drawn at half the size, and enlarged before they are put over the plates."""

    def __init__(self, lane: _Lane, upsampler: EngineRunner, frame: Frame) -> None:
        self._lane, self._upsampler, self._size = lane, upsampler, (frame.width, frame.height)

    def draw(
        self, requests: Sequence[HeadRequest], size: tuple[int, int], plates: Any, stream: int | None
    ) -> Any:
        """Frames over plates, or heads, of the frame's own size."""
        n, upsampler, stages = len(requests), self._upsampler, self._lane.stages
        if size != self._size or n > upsampler.most_rows:
            raise ValueError(
                f"requests: detail half draws at most {upsampler.most_rows} pictures of {self._size} at once, got {n} of "
                f"{size}: ask for fewer, or use detail full"
            )
        small = [half_sized(request) for request in requests]
        upsampler.put("drive", np.stack([drive_of(request) for request in requests]))
        self._lane.render(small, size_of(small), into=upsampler.array("small", n))
        upsampler(n)
        stages.over(upsampler.array("head", n), plates, stream)
        return stages.finish()


def _parts(n: int, most: int) -> Iterator[tuple[int, int]]:
    """First and number of rows of each call, the last one shorter."""
    for first in range(0, n, most):
        yield first, min(most, n - first)


def _stages_of(bundle: Bundle, make_stages: Callable[..., Any] | None) -> Any:
    if make_stages is None:
        from synctalk import _native

        make_stages = _native.CudaStages
    try:
        return make_stages(**renderer_tensors(bundle.manifest.spec.field, bundle.tensors))
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"backend tensorrt cannot take this avatar: {error}") from error


def _engine_runners() -> Callable[[Any, Model, int], EngineRunner]:
    making, use_graphs = threading.Lock(), cuda_graphs(default=True)

    def runner(engine: Any, model: Model, stream: int) -> EngineRunner:
        return EngineRunner(engine, model, stream, use_graphs, making)

    return runner

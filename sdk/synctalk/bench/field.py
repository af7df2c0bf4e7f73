"""The field by itself: which samples a picture needs, what they cost, and how else they could be evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import entry_points

import numpy as np
from numpy.typing import NDArray

from synctalk.backends import Backend, HeadRequest
from synctalk.backends.onnx_runtime import OnnxRuntime
from synctalk.bundle import Bundle
from synctalk.errors import BackendError
from synctalk.spec import FieldSpec

__all__ = ["BASELINES", "Baseline", "FieldWork", "field_work", "load_baselines", "race"]

Float = NDArray[np.float32]

BASELINES = ("torch_eager", "torch_compile", "torch_compile_bf16", "onnxruntime")
"""Ways to evaluate the same field at the same samples: nothing is marched, composited or coloured."""

_GROUP = "synctalk.baselines"
_BLOCKS = (8_192, 65_536)
"""Samples at once: small blocks stay in cache, large ones cost fewer calls. The faster one counts."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """One other way to evaluate the field."""

    evaluate: Callable[[HeadRequest, Float], object]
    """A head and positions [block, 3] of it, 0..1: computes log density and feature."""
    blocks: tuple[int, ...]
    """How many positions at once may be asked for."""
    workers: int = 1
    """How many blocks are in flight at once."""


BaselineSource = Callable[[Bundle, int], Mapping[str, "Baseline | str"]]
"""A bundle and a number of threads -> baselines by name, or the reason why one cannot be had."""


@dataclass(frozen=True, eq=False)
class FieldWork:
    """What some pictures ask of the field."""

    requests: list[HeadRequest]
    positions: list[Float]
    """[M, 3] of each picture, ray by ray: the samples that are not hidden."""
    multiply_adds: int
    """Of all linear layers, for all pictures."""

    @property
    def n_samples(self) -> int:
        return sum(len(positions) for positions in self.positions)


def field_work(bundle: Bundle, requests: list[HeadRequest]) -> FieldWork:
    """March and evaluate pictures with ONNX Runtime, to see which samples count.

    Raises: BackendError, BundleError: ``head.onnx`` cannot be run.
    """
    twin = OnnxRuntime(bundle, "cpu")
    spec = bundle.manifest.spec.field
    found, multiply_adds = [], 0
    for request in requests:
        positions, n_rays = twin.visible_samples(request)
        found.append(positions)
        multiply_adds += _multiply_adds(spec, len(positions), n_rays)
    return FieldWork(requests, found, multiply_adds)


def _multiply_adds(spec: FieldSpec, n_samples: int, n_rays: int) -> int:
    """The linear layers of the exact field: the encoding and what a renderer saves by algebra are not subtracted."""
    sample = sum(n_out * n_in for n_out, n_in in (*spec.attention_shapes, *spec.density_shapes))
    colour = sum(n_out * n_in for n_out, n_in in spec.colour_shapes)
    return sample * n_samples + colour * (n_rays if spec.deferred else n_samples)


def load_baselines(bundle: Bundle, threads: int) -> dict[str, Baseline | str]:
    """All of ``BASELINES``, or the reason why one is not to be had here."""
    found: dict[str, Baseline | str] = dict.fromkeys(BASELINES, "nothing provides it: install synctalk whole")
    for entry in entry_points(group=_GROUP):
        try:
            source: BaselineSource = entry.load()
        except ImportError as error:
            remedy = f"needs {error.name or error}: pip install 'synctalk[train]'"
            found.update(dict.fromkeys([name for name in BASELINES if name.startswith(entry.name)], remedy))
        else:
            found.update(source(bundle, threads))
    try:
        found["onnxruntime"] = _onnxruntime(bundle, threads)
    except BackendError as error:
        found["onnxruntime"] = str(error)
    return found


def _onnxruntime(bundle: Bundle, threads: int) -> Baseline:
    twin = OnnxRuntime(bundle, "cpu")

    def evaluate(request: HeadRequest, positions: Float) -> object:
        n = len(positions)
        condition = np.broadcast_to(request.condition, (n, len(request.condition)))
        return twin.head(
            positions, condition, np.broadcast_to(request.expression, (n, len(request.expression)))
        )

    return Baseline(evaluate, _BLOCKS, workers=threads)


def race(
    work: FieldWork,
    backend: Backend,
    baselines: Mapping[str, Baseline],
    rounds: int,
    on_progress: Callable[[str], None] = lambda name: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, dict[str, float]]:
    """Samples a second of the backend (whole heads, end to end) and of each baseline (field only), taking turns.

    The best of all rounds counts, after one that only warms up: other work on the machine can slow a round, never
    speed it up. clock: seconds; ``time.process_time`` lets one thread be judged on a machine that is busy.
    """
    lanes = {(name, block): baseline for name, baseline in baselines.items() for block in baseline.blocks}
    best: dict[tuple[str, int], float] = dict.fromkeys(lanes, 0.0)
    whole = 0.0
    for turn in range(rounds + 1):
        on_progress(backend.name)
        rate = work.n_samples / _seconds(clock, lambda: [backend.render_head(one) for one in work.requests])
        whole = max(whole, rate if turn else 0.0)
        for lane, baseline in lanes.items():
            on_progress(lane[0])
            rate = _field_rate(work, baseline, lane[1], clock)
            best[lane] = max(best[lane], rate if turn else 0.0)
    return whole, {name: max(best[lane] for lane in lanes if lane[0] == name) for name in baselines}


def _field_rate(work: FieldWork, baseline: Baseline, block: int, clock: Callable[[], float]) -> float:
    """Samples a second on the pictures' own samples, each repeated up to whole blocks (at most two a picture)."""
    tasks = []
    for request, positions in zip(work.requests, work.positions, strict=True):
        n_blocks = min(max(1, len(positions) // block), max(2, 2 * max(_BLOCKS) // block))
        whole = np.resize(positions, (n_blocks * block, 3))
        tasks += [(request, np.ascontiguousarray(part)) for part in np.split(whole, n_blocks)]
    if baseline.workers == 1:
        return len(tasks) * block / _seconds(clock, lambda: [baseline.evaluate(*task) for task in tasks])
    with ThreadPoolExecutor(baseline.workers) as pool:
        return (
            len(tasks)
            * block
            / _seconds(clock, lambda: list(pool.map(lambda task: baseline.evaluate(*task), tasks)))
        )


def _seconds(clock: Callable[[], float], call: Callable[[], object]) -> float:
    began = clock()
    call()
    return clock() - began

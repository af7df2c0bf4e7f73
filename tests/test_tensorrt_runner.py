"""Running engines: sizes, padding and graphs, on a device and an engine that keep the protocols."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_device import HostDevice
from host_engine import HostEngine, host_runner, seen
from synctalk.bundle import Bundle, open_bundle
from synctalk.cli import DEMO
from synctalk.errors import BackendError
from synctalk.tensorrt.builder import Model
from synctalk.tensorrt.runner import EngineRunner


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(DEMO / "demo.avatar")


@pytest.fixture
def engine(bundle: Bundle) -> HostEngine:
    return HostEngine(bundle, HostDevice())


def _model(engine: HostEngine, max_batch: int = 1) -> Model:
    return Model("colour.onnx", tuple(engine.inputs.items()), tuple(engine.outputs.items()), 4096, max_batch)


def _runner(engine: HostEngine, max_batch: int = 1, **options: Any) -> EngineRunner:
    return host_runner(engine, _model(engine, max_batch), **options)


def _check(engine: HostEngine, runner: EngineRunner, n: int) -> None:
    generator = np.random.default_rng(n)
    feed = {name: generator.standard_normal((n, *shape), np.float32) for name, shape in engine.inputs.items()}
    for name, values in feed.items():
        seen(runner.array(name, n))[:] = values
    runner(n)
    (expected,) = engine.session.run(["colour"], feed)
    np.testing.assert_allclose(seen(runner.array("colour", n)), expected, atol=1e-6)


@pytest.mark.parametrize("use_graphs", [True, False])
def test_rows_of_any_number_are_computed(engine: HostEngine, use_graphs: bool) -> None:
    runner = _runner(engine, use_graphs=use_graphs)
    for n in (1, 2048, 2049, 1, 4096):
        _check(engine, runner, n)
    n_graphs = len(engine.device.graphs)
    runner(0)
    assert len(engine.device.graphs) == n_graphs and bool(n_graphs) == use_graphs


def test_each_size_has_one_context_and_one_graph(engine: HostEngine) -> None:
    runner = _runner(engine)
    n_buffers = len(engine.device.buffers)
    for n in (100, 2000, 2500, 3000, 4000, 50):
        _check(engine, runner, n)
    assert [context.shapes["feature"][0] for context in engine.contexts] == [2048, 3072, 4096]
    n_queued = [context.n_queued for context in engine.contexts]
    assert n_queued == [2, 2, 2]  # once before its capture, once in it
    assert [graph.n_launches for graph in engine.device.graphs] == [3, 2, 1]
    assert len({context.memory for context in engine.contexts}) == 1
    assert len(engine.device.buffers) == n_buffers  # nothing is allocated while running


def test_nothing_is_waited_for_once_a_size_is_ready(engine: HostEngine) -> None:
    runner = _runner(engine)
    runner(100)
    (stream,) = engine.device.streams.values()
    n_waits = stream.n_synchronised
    for n in (1, 2000, 100):
        runner(n)
    assert stream.n_synchronised == n_waits


def test_large_calls_use_the_profile_for_many_frames(engine: HostEngine) -> None:
    runner = _runner(engine, max_batch=3)
    assert runner.most_rows == 12_288
    for n in (4096, 4097, 12_288):
        _check(engine, runner, n)
    assert [context.profile for context in engine.contexts] == [0, 1, 1]


def test_refusals_say_what_to_do(engine: HostEngine) -> None:
    engine.has_memory = False
    with pytest.raises(BackendError, match="memory full"):
        _runner(engine)(10)
    engine.has_memory = True
    runner = _runner(engine)
    engine.inputs = {name: (width + 1,) for name, (width,) in engine.inputs.items()}
    with pytest.raises(BackendError, match="synctalk build-engines"):
        runner(10)
    with pytest.raises(ValueError, match="at most 4096"):
        runner(4097)

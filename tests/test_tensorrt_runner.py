"""Running engines: sizes, padding, graphs and joined callers, on a device and an engine that keep the protocols.

The engine computes with ONNX Runtime on whatever addresses it was given, when its stream comes to it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, host_array
from synctalk.backends.sessions import open_session
from synctalk.bundle import Bundle, open_bundle
from synctalk.cli import DEMO
from synctalk.errors import BackendError
from synctalk.tensorrt.builder import Model
from synctalk.tensorrt.runner import EngineRunner

USER_MANAGED = object()
WORKSPACE = 4096


class HostEngine:
    """``colour.onnx`` of the demo as an engine."""

    def __init__(self, bundle: Bundle, device: HostDevice) -> None:
        self.session, self.device = open_session(bundle, "colour.onnx", ["CPUExecutionProvider"]), device
        self.inputs = {one.name: one.shape[1] for one in self.session.get_inputs()}
        self.outputs = {one.name: one.shape[1] for one in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors, self.device_memory_size_v2 = len(self.names), WORKSPACE
        self.contexts: list[HostContext] = []
        self.has_memory = True

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return -1, (self.inputs | self.outputs)[name]

    def create_execution_context(self, strategy: object) -> Any:
        assert strategy is USER_MANAGED
        self.contexts.append(HostContext(self))
        return self.contexts[-1] if self.has_memory else None


class HostContext:
    def __init__(self, engine: HostEngine) -> None:
        self.engine, self.profile, self.memory = engine, -1, (0, 0)
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.n_queued = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = memory, size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile >= 0
        self.shapes[name] = shape
        return shape[1] == self.engine.inputs[name]

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory[1] >= WORKSPACE and set(self.addresses) == set(self.engine.names)
        self.n_queued += 1
        self.engine.device.streams[stream_handle].do(self._compute)
        return True

    def _compute(self) -> None:
        n = next(iter(self.shapes.values()))[0]
        feed = {name: host_array(self.addresses[name], shape).copy() for name, shape in self.shapes.items()}
        (colour,) = self.engine.session.run(["colour"], feed)
        host_array(self.addresses["colour"], (n, 3))[:] = colour


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(DEMO / "demo.avatar")


@pytest.fixture
def engine(bundle: Bundle) -> HostEngine:
    return HostEngine(bundle, HostDevice())


def _runner(engine: HostEngine, max_batch: int = 1, **options: Any) -> EngineRunner:
    model = Model("colour.onnx", tuple(engine.inputs.items()), 4096, max_batch)
    return EngineRunner(engine, model, device=engine.device, user_managed=USER_MANAGED, **options)


def _feed(engine: HostEngine, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal((n, width), np.float32) for name, width in engine.inputs.items()}


def _check(engine: HostEngine, runner: EngineRunner, n: int, seed: int = 0) -> None:
    feed = _feed(engine, n, seed)
    (expected,) = engine.session.run(["colour"], feed)
    np.testing.assert_allclose(runner(feed)["colour"], expected, atol=1e-6)


@pytest.mark.parametrize("use_graphs", [True, False])
def test_rows_of_any_number_are_computed(engine: HostEngine, use_graphs: bool) -> None:
    runner = _runner(engine, use_graphs=use_graphs)
    for n in (1, 2048, 2049, 5000, 0, 1, 4096, 13_000):
        _check(engine, runner, n, seed=n)
    assert bool(engine.device.graphs) == use_graphs


def test_each_size_has_one_context_and_one_graph(engine: HostEngine) -> None:
    runner = _runner(engine)
    for n in (100, 2000, 2500, 3000, 4000, 50):
        _check(engine, runner, n)
    assert [context.shapes["feature"][0] for context in engine.contexts] == [2048, 3072, 4096]
    assert [context.n_queued for context in engine.contexts] == [
        2,
        2,
        2,
    ]  # once before its capture, once in it
    assert [graph.n_launches for graph in engine.device.graphs] == [3, 2, 1]
    assert len({context.memory for context in engine.contexts}) == 1
    n_buffers = len(engine.device.buffers)
    _check(engine, runner, 4096)
    assert len(engine.device.buffers) == n_buffers  # nothing is allocated while running


def test_large_calls_use_the_profile_for_many_frames(engine: HostEngine) -> None:
    runner = _runner(engine, max_batch=3)
    for n in (4096, 4097, 12_288):
        _check(engine, runner, n)
    assert [context.profile for context in engine.contexts] == [0, 1, 1]


def test_callers_at_once_share_launches_and_get_their_own(engine: HostEngine) -> None:
    runner = _runner(engine, max_batch=4)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for n in (700, 5000, 1):
                _check(engine, runner, n, seed)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not errors and not any(worker.is_alive() for worker in workers)


def test_refusals_say_what_to_do(engine: HostEngine, bundle: Bundle) -> None:
    engine.has_memory = False
    with pytest.raises(BackendError, match="memory full"):
        _check(engine, _runner(engine), 10)
    other = HostEngine(bundle, HostDevice())
    model = Model("colour.onnx", tuple(other.inputs.items()), 4096, 1)
    runner = EngineRunner(other, model, device=other.device, user_managed=USER_MANAGED)
    feed = _feed(other, 10)
    other.inputs = {name: width + 1 for name, width in other.inputs.items()}
    with pytest.raises(BackendError, match="synctalk build-engines"):
        runner(feed)

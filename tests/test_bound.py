"""Sessions with bound inputs and outputs compute what plain ones do; on the CPU, where the GPU's path runs as well."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from synctalk.backends.bound import BoundSession
from synctalk.backends.sessions import cuda_graphs, open_session
from synctalk.bundle import Bundle, open_bundle
from synctalk.cli import DEMO
from synctalk.errors import BackendError
from synctalk.rows import RowBatcher, bucket_sizes

SIZES = bucket_sizes(64, 256)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(DEMO / "demo.avatar")


@pytest.mark.parametrize("member", ["head.onnx", "colour.onnx"])
def test_bound_session_equals_the_plain_one(bundle: Bundle, member: str) -> None:
    session = open_session(bundle, member, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    run = RowBatcher([BoundSession(session, SIZES, "cpu") for _ in range(2)], SIZES[-1])
    wrong: list[str] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for n in (1, 64, 65, 200, 0, 256, 700):
            feed = {one.name: generator.random((n, one.shape[1]), np.float32) for one in session.get_inputs()}
            got = run(feed)
            for name, expected in zip(names, session.run(names, feed), strict=True):
                if got[name].shape != expected.shape or not np.allclose(got[name], expected, atol=1e-5):
                    wrong.append(f"{name} of {n} rows")

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


def test_places_are_made_once_for_each_size(bundle: Bundle) -> None:
    session = open_session(bundle, "colour.onnx", ["CPUExecutionProvider"])
    lane = BoundSession(session, SIZES, "cpu")
    feed = {one.name: np.zeros((70, one.shape[1]), np.float32) for one in session.get_inputs()}
    first = lane([feed])["colour"]
    assert np.shares_memory(first, lane([feed])["colour"]) and set(lane._places) == {96}
    with pytest.raises(ValueError, match="at most 256"):
        lane([feed] * 4)


def test_graphs_are_asked_for_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_graphs(default=True) and not cuda_graphs(default=False)
    monkeypatch.setenv("SYNCTALK_CUDA_GRAPHS", "0")
    assert not cuda_graphs(default=True)
    monkeypatch.setenv("SYNCTALK_CUDA_GRAPHS", "yes")
    with pytest.raises(BackendError, match="0 or 1"):
        cuda_graphs(default=True)

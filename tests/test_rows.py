"""Rows of many callers: nothing is lost, mixed up or waited for in vain, however they meet."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from synctalk.rows import Feed, RowBatcher, bucket_of, bucket_sizes


class SumLane:
    """Adds up the columns of each row; can be held, and notes what it was given."""

    def __init__(self) -> None:
        self.sizes: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.is_running = threading.Event()
        self.error: Exception | None = None
        self._out = np.zeros(64, np.float32)  # used again and again

    def __call__(self, feeds: Sequence[Feed]) -> Feed:
        self.is_running.set()
        assert self.may_go.wait(10)
        if self.error is not None:
            raise self.error
        self.sizes.append([len(feed["x"]) for feed in feeds])
        joined = np.concatenate([feed["x"].sum(axis=1) for feed in feeds])
        self._out[: len(joined)] = joined
        return {"sum": self._out[: len(joined)]}


def _values(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 3), np.float32)


def test_long_feeds_are_cut_and_come_back_in_order() -> None:
    lane = SumLane()
    run = RowBatcher([lane], most_rows=16)
    for n in (0, 1, 16, 17, 50):
        values = _values(n, n)
        np.testing.assert_array_equal(run({"x": values})["sum"], values.sum(axis=1))
    assert lane.sizes[-1] == [2] and max(sum(sizes) for sizes in lane.sizes) == 16


def test_those_who_wait_together_share_a_call() -> None:
    lane = SumLane()
    run = RowBatcher([lane], most_rows=16)
    got: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        got[i] = run({"x": _values(4, i)})["sum"]

    lane.may_go.clear()
    workers = [threading.Thread(target=work, args=(i,)) for i in range(9)]
    workers[0].start()
    assert lane.is_running.wait(10)
    for worker in workers[1:]:
        worker.start()
    while len(run._waiting) < 8:
        threading.Event().wait(0.005)
    lane.may_go.set()
    for worker in workers:
        worker.join(10)
    assert lane.sizes == [[4], [4, 4, 4, 4], [4, 4, 4, 4]]
    for i in range(9):
        np.testing.assert_array_equal(got[i], _values(4, i).sum(axis=1))


def test_lanes_work_at_the_same_time() -> None:
    lanes = [SumLane(), SumLane()]
    for lane in lanes:
        lane.may_go.clear()
    run = RowBatcher(lanes, most_rows=16)
    workers = [threading.Thread(target=run, args=({"x": _values(4, i)},)) for i in range(2)]
    for worker in workers:
        worker.start()
    assert all(lane.is_running.wait(10) for lane in lanes)
    for lane in lanes:
        lane.may_go.set()
    for worker in workers:
        worker.join(10)
    assert [lane.sizes for lane in lanes] == [[[4]], [[4]]]


def test_failure_reaches_its_callers_and_the_lane_goes_on() -> None:
    lane = SumLane()
    run = RowBatcher([lane], most_rows=16)
    lane.error = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        run({"x": _values(40, 0)})
    lane.error = None
    assert len(run({"x": _values(40, 0)})["sum"]) == 40


def test_many_threads_get_their_own_rows() -> None:
    lanes = [SumLane(), SumLane()]
    run = RowBatcher(lanes, most_rows=32)
    wrong: list[int] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(200):
            values = generator.random((int(generator.integers(0, 70)), 3), np.float32)
            if not np.array_equal(run({"x": values})["sum"], values.sum(axis=1)):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


def test_sizes_waste_at_most_a_third() -> None:
    sizes = bucket_sizes(2048, 1 << 18)
    assert sizes[0] == 2048 and sizes[-1] == 1 << 18 and list(sizes) == sorted(set(sizes))
    for n in np.random.default_rng(0).integers(2048, 1 << 18, 500):
        size = bucket_of(int(n), sizes)
        assert n <= size and (size - n) / size <= 1 / 3 + 1e-9
    assert bucket_of(1, sizes) == 2048 and bucket_sizes(8, 8) == (8,) and bucket_sizes(8, 9) == (8, 9)
    with pytest.raises(ValueError, match="at most"):
        bucket_of((1 << 18) + 1, sizes)
    with pytest.raises(ValueError, match="fewest"):
        bucket_sizes(0, 4)

"""Rows of many callers in few calls of few sizes: what runtimes that want large, fixed shapes are fed with.

A *feed* is a mapping of names to float32 arrays [rows, ...] with equally many rows each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Feed", "Lane", "RowBatcher", "bucket_of", "bucket_sizes"]

Feed = Mapping[str, NDArray[np.float32]]
Lane = Callable[[Sequence[Feed]], Feed]
"""Evaluates the rows of several feeds, one after the other; what it returns is valid until its next call."""


def bucket_sizes(fewest: int, most: int) -> tuple[int, ...]:
    """Sizes from ``fewest`` to ``most`` rows in steps of a half of the last power of two: at most a third is padding.

    >>> bucket_sizes(4, 16)
    (4, 6, 8, 12, 16)
    """
    if not 0 < fewest <= most:
        raise ValueError(f"fewest, most: expected 0 < fewest <= most, got {fewest}, {most}")
    sizes, power = [], fewest
    while power < most:
        sizes += [power, power + power // 2]
        power *= 2
    return (*dict.fromkeys(size for size in sizes if size < most), most)


def bucket_of(n_rows: int, sizes: Sequence[int]) -> int:
    """The smallest of the sizes that so many rows fit in. Raises: ValueError: more rows than the largest."""
    for size in sizes:
        if n_rows <= size:
            return size
    raise ValueError(f"n_rows: expected at most {sizes[-1]}, got {n_rows}")


@dataclass(eq=False)
class _Call:
    """A part of what somebody asked for, no larger than a lane takes."""

    feed: Feed
    n_rows: int
    out: dict[str, NDArray[np.float32]] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.out is not None or self.error is not None


class RowBatcher:
    """Joins the calls of many threads: whoever finds a lane free takes with it all that waits. Nobody waits for company.

    Safe to call from many threads.
    """

    def __init__(self, lanes: Sequence[Lane], most_rows: int) -> None:
        """most_rows: what a lane takes in one call; larger calls are split."""
        self._most_rows = most_rows
        self._free = list(lanes)
        self._waiting: list[_Call] = []
        self._changed = threading.Condition()

    def __call__(self, feed: Feed) -> dict[str, NDArray[np.float32]]:
        """The outputs of the feed's rows, by name. Raises: whatever the lane raises."""
        calls = [_Call(part, _rows_of(part)) for part in _parts(feed, self._most_rows)]
        with self._changed:
            self._waiting += calls
        while (turn := self._turn(calls)) is not None:
            self._run(*turn)
        for call in calls:
            if call.error is not None:
                raise call.error
        outs = [call.out for call in calls if call.out is not None]
        return {name: np.concatenate([out[name] for out in outs]) for name in outs[0]}

    def _turn(self, calls: list[_Call]) -> tuple[Lane, list[_Call]] | None:
        """A free lane and what it should run, once there is one and any of the calls waits; None when all are done."""
        with self._changed:
            while not all(call.is_done for call in calls):
                if self._free and any(call in self._waiting for call in calls):
                    return self._free.pop(), self._taken()
                self._changed.wait()
        return None

    def _taken(self) -> list[_Call]:
        """The longest waiting calls that fit together."""
        n_rows, n = 0, 0
        for call in self._waiting:
            n_rows += call.n_rows
            if n_rows > self._most_rows:
                break
            n += 1
        taken, self._waiting = self._waiting[:n], self._waiting[n:]
        return taken

    def _run(self, lane: Lane, taken: list[_Call]) -> None:
        try:
            joined = lane([call.feed for call in taken])
            first = 0
            for call in taken:
                rows = slice(first, first + call.n_rows)
                call.out = {name: values[rows].copy() for name, values in joined.items()}
                first += call.n_rows
        except BaseException as error:
            for call in taken:
                call.error = error
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all()


def _rows_of(feed: Feed) -> int:
    return len(next(iter(feed.values())))


def _parts(feed: Feed, most_rows: int) -> list[Feed]:
    """The feed, cut where it is too long; a feed without rows is one part."""
    n_rows = _rows_of(feed)
    return [
        {name: values[first : first + most_rows] for name, values in feed.items()}
        for first in range(0, max(1, n_rows), most_rows)
    ]

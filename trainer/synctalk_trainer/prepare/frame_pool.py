"""Frames looked at side by side: a thread for each processor, and a MediaPipe task for each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import cv2
from synctalk.backends.sessions import usable_cpus
from synctalk_trainer.prepare.models import native_log_held_back

__all__ = ["TaskPerThread", "frame_pool"]

_MOST_THREADS = 16
"""More would wait for memory, and each may hold a MediaPipe task of some 50 MB."""


@contextmanager
def frame_pool() -> Iterator[ThreadPoolExecutor]:
    """A thread for each processor; OpenCV makes none of its own meanwhile: frames side by side are faster than
    pictures cut in parts."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(min(usable_cpus(), _MOST_THREADS)) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest of the clip
    finally:
        cv2.setNumThreads(before)


class TaskPerThread:
    """A MediaPipe task, made once in every thread that asks it: a task looks at one picture at a time."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._own = threading.local()
        self._all: list[Any] = []

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """What the thread's task answers."""
        if not hasattr(self._own, "task"):
            with native_log_held_back():
                self._own.task = self._make()
                self._all.append(self._own.task)
                return question(self._own.task)  # MediaPipe still writes while it looks for the first time
        return question(self._own.task)

    def close(self) -> None:
        """Free the tasks."""
        for task in self._all:
            task.close()
        self._all, self._own = [], threading.local()

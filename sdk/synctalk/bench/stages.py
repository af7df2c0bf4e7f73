"""Where the time of a frame goes, seen from the seam: a backend that notes when it is called.

Until the backend is asked for a head, a frame's time is audio's (resampling, mel features, the gate) but for the calls
of the audio network; after the head it is the composite's (decoding the plate, blending). Nothing is timed, and nothing
costs, unless an avatar is built on a ``TimedBackend``.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from synctalk.backends import Backend, HeadRequest

__all__ = ["STAGES", "StageClock", "TimedBackend"]

Float = NDArray[np.float32]

STAGES = ("audio", "condition", "head", "composite")
"""Audio features; the audio network; the head's field; plate and blend."""


class StageClock:
    """Adds up seconds by stage, of one thread."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._stage, self._since = "", 0.0

    def enter(self, stage: str) -> float:
        """A stage begins, and what was going on ends; ``""`` stops the clock. Returns now, in seconds."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now
        return now


class TimedBackend:
    """A backend that tells a clock what it does, and keeps every 25th head that it was asked for."""

    _KEPT_EVERY, _MOST_KEPT = 25, 3

    def __init__(self, backend: Backend, clock: StageClock) -> None:
        self.name = backend.name
        self.requests: list[HeadRequest] = []
        self._backend, self._clock = backend, clock
        self._n_heads = 0

    def condition(self, windows: Float) -> Float:
        """Mel windows [N, taps, mels, columns] -> condition [N, C]."""
        self._clock.enter("condition")
        condition = self._backend.condition(windows)
        self._clock.enter("audio")
        return condition

    def render_head(self, request: HeadRequest) -> Float:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1."""
        self._n_heads += 1
        if self._n_heads % self._KEPT_EVERY == 0 and len(self.requests) < self._MOST_KEPT:
            self.requests.append(request)
        self._clock.enter("head")
        head = self._backend.render_head(request)
        self._clock.enter("composite")
        return head

"""What a server counts, for Prometheus; labels take few values, none of them from a client."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from synctalk.frame import Frame
from synctalk.timeline import SessionStats

__all__ = ["Metrics", "Pulse"]

_AUDIBLE = 1e-4

_SECONDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0)
_DRAWING = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2)


class Metrics:
    """One server's counters."""

    def __init__(self, load: Callable[[], float], sessions: Callable[[], float]) -> None:
        """load: share of the machine's time that sessions need; sessions: how many are open."""
        self.registry = registry = CollectorRegistry()
        Gauge(
            "synctalk_load", "Share of the time there is that drawing needs", registry=registry
        ).set_function(load)
        Gauge("synctalk_sessions", "Sessions that are open", registry=registry).set_function(sessions)
        self.opened = Counter("synctalk_sessions_opened", "Sessions", ["transport"], registry=registry)
        self.refused = Counter("synctalk_refused", "What was refused", ["reason"], registry=registry)
        self.frames = Counter("synctalk_frames", "Frames that went out", registry=registry)
        self.late = Counter("synctalk_frames_late", "Frames that were not ready when due", registry=registry)
        self.repeated = Counter(
            "synctalk_frames_repeated", "Frames whose picture is the one before", registry=registry
        )
        self.interruptions = Counter("synctalk_interruptions", "Interruptions", registry=registry)
        self.first_frame = Histogram(
            "synctalk_first_frame_seconds",
            "From the first sound to the frame that plays it",
            buckets=_SECONDS,
            registry=registry,
        )
        self.drawing = Histogram(
            "synctalk_frame_seconds", "Drawing a frame", buckets=_DRAWING, registry=registry
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class Pulse:
    """What happens in one session: for its client once a second, and for ``Metrics``."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._n_frames, self._drawing_ms = 0, 0.0
        self._since = time.monotonic()
        self._pushed_at: float | None = None  # of sound of which nothing was heard yet
        self._reaction_ms: float | None = None
        self._is_heard = self._is_speaking = False

    def pushed(self) -> None:
        """Sound has come."""
        if self._pushed_at is None and not self._is_heard:
            self._pushed_at = time.monotonic()

    def silenced(self) -> None:
        """What waited was dropped."""
        self._pushed_at, self._is_heard = None, False

    def frame(self, frame: Frame) -> list[dict[str, Any]]:
        """A frame goes out; what its client should know."""
        self._n_frames += 1
        self._drawing_ms += frame.render_ms
        self._metrics.frames.inc()
        self._metrics.drawing.observe(frame.render_ms / 1000.0)
        is_audible = bool(np.abs(frame.audio).max(initial=0.0) > _AUDIBLE)
        if self._pushed_at is not None and is_audible:
            seconds = time.monotonic() - self._pushed_at
            self._reaction_ms, self._pushed_at, self._is_heard = 1000.0 * seconds, None, True
            self._metrics.first_frame.observe(seconds)
        events: list[dict[str, Any]] = []
        if frame.speaking != self._is_speaking:
            self._is_speaking = frame.speaking
            events.append({"type": "speaking", "is": frame.speaking})
        if frame.end_of_speech:
            self.silenced()
            events.append({"type": "spoken"})
        return events

    def report(self, stats: SessionStats) -> dict[str, Any]:
        """Figures since the last report."""
        now = time.monotonic()
        figures = {
            "fps": round(self._n_frames / max(1e-3, now - self._since), 1),
            "drawing_ms": round(self._drawing_ms / max(1, self._n_frames), 2),
            "reaction_ms": self._reaction_ms and round(self._reaction_ms, 1),
            "waiting_ms": round(stats.pending_ms, 1),
            "late": stats.late,
            "repeated": stats.repeated,
        }
        self._n_frames, self._drawing_ms, self._since = 0, 0.0, now
        return figures

    def settle(self, stats: SessionStats) -> None:
        """The session is over."""
        self._metrics.late.inc(stats.late)
        self._metrics.repeated.inc(stats.repeated)

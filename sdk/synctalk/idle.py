"""What a person does who is not speaking: the mouth at rest, blinks, a slight sway. Deterministic by seed.

The recorded head motion goes on in silence, so that head, torso and plate stay together; this adds what it may lack,
and leads the mouth to rest and back without a jump.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synctalk.control import eased
from synctalk.track import Track

__all__ = ["Blinks", "Mouth", "Sway"]

Float = NDArray[np.float32]

_CLOSING = (0.5, 1.0, 1.0, 0.7, 0.4, 0.15)
"""How shut the eyes are, frame by frame at 25 fps: they close in 80 ms and open in 160. Other rates stretch it."""

_MEDIAN_S, _SIGMA, _LEAST_S = 3.2, 0.55, 0.6
"""Time between blinks: log-normal, mean 3.7 s."""

_RECORDED_BLINK = 0.5
"""From this share of its range on, the recorded motion blinks itself."""

_LEAST_RANGE = 0.15
"""An avatar whose subject hardly blinked has not learned it."""

_MEMORY = 64
"""Frames that were planned and dropped are planned again: so far back values are kept."""


class Blinks:
    """How shut the eyes are at each frame. A recorded blink counts: the next one comes a full interval later."""

    def __init__(self, track: Track, channels: list[int], fps: int, seed: int, first: int = 0) -> None:
        """channels: the blink coefficients; none, or none that moves, means no blinks. first: frame to begin with."""
        recorded = track.expression[:, channels]
        least, most = recorded.min(axis=0, initial=1.0), recorded.max(axis=0, initial=0.0)
        self.is_able = bool(channels) and bool((most - least > _LEAST_RANGE).all())
        self._track, self._fps = track, fps
        self._is_recorded = (
            ((recorded - least) / (most - least) > _RECORDED_BLINK).any(axis=1)
            if self.is_able
            else np.zeros(len(track), bool)
        )
        self._random = np.random.default_rng([seed, 1])
        self._frames = [
            float(np.interp(i * 25.0 / fps, range(len(_CLOSING)), _CLOSING, right=0.0))
            for i in range(math.ceil(len(_CLOSING) * fps / 25))
        ]
        self._next = first + self._interval()
        self._values: deque[float] = deque(maxlen=_MEMORY)
        self._n = first  # frames known; the deque holds the last of them

    def __call__(self, index: int) -> float:
        """0 open .. 1 shut, for a frame at or after the last one asked for, or a few before it."""
        while self._n <= index:
            self._values.append(self._step(self._n) if self.is_able else 0.0)
            self._n += 1
        return self._values[max(index - self._n, -len(self._values))]

    def _step(self, index: int) -> float:
        since = index - self._next
        if since < 0 and self._is_recorded[self._track.index(index)]:
            self._next = index + self._interval()
        if since == len(self._frames):
            self._next = index + self._interval()
        return self._frames[since] if 0 <= since < len(self._frames) else 0.0

    def _interval(self) -> int:
        seconds = float(self._random.lognormal(math.log(_MEDIAN_S), _SIGMA))
        return round(self._fps * max(_LEAST_S, seconds))


class Sway:
    """A slow drift of the head of about half a degree, as of somebody who breathes and waits."""

    _DEGREES = (0.35, 0.45, 0.25)
    _HERTZ = ((0.23, 0.11), (0.09, 0.17), (0.07, 0.13))

    def __init__(self, fps: int, seed: int) -> None:
        self._fps = fps
        self._phases = np.random.default_rng([seed, 2]).uniform(0.0, 2.0 * np.pi, (3, 2)).tolist()

    def __call__(self, index: int, share: float) -> tuple[float, float, float]:
        """Pitch, yaw, roll in degrees at a frame; share: 0..1 of the motion."""
        at = 2.0 * math.pi * index / self._fps
        pitch, yaw, roll = (
            0.5
            * share
            * degrees
            * sum(math.sin(hertz * at + phase) for hertz, phase in zip(*waves, strict=True))
            for degrees, *waves in zip(self._DEGREES, self._HERTZ, self._phases, strict=True)
        )
        return pitch, yaw, roll


@dataclass(frozen=True, eq=False)
class Mouth:
    """Where the mouth is, frame by frame, between speech and rest: it never jumps."""

    rest: Float
    """[C] the closed mouth."""
    condition: Float
    """[C] as last shown."""
    n_spoken: int = 0
    """Frames of speech in a row."""
    calm: float = 1.0
    """How far idle motion is faded in, 0..1, in equal steps (to be eased)."""

    _ONSET = (0.45, 0.75)
    _TO_REST = 0.4
    _AT_REST = 1e-4
    _CALM_STEP = 1.0 / 15.0

    @staticmethod
    def at_rest(rest: Float) -> Mouth:
        return Mouth(rest, rest)

    def speak(self, condition: Float, is_speaking: bool) -> Mouth:
        """The next frame says this; the first two of speech lead there."""
        share = self._ONSET[self.n_spoken] if self.n_spoken < len(self._ONSET) else 1.0
        shown = (
            condition if share == 1.0 else self.condition + np.float32(share) * (condition - self.condition)
        )
        calm = self._calmed(not is_speaking)
        return Mouth(self.rest, shown, self.n_spoken + 1, calm)

    def be_quiet(self) -> Mouth:
        """The next frame has nothing to say: the mouth goes to rest."""
        if self.calm == 1.0 and self.n_spoken == 0 and self.condition is self.rest:
            return self
        left = np.float32(1.0 - self._TO_REST) * (self.condition - self.rest)
        shown = self.rest + left if np.abs(left).max(initial=0.0) > self._AT_REST else self.rest
        return Mouth(self.rest, shown, 0, self._calmed(True))

    @property
    def idle_share(self) -> float:
        """How far idle motion is faded in, 0..1, eased."""
        return eased(self.calm)

    def _calmed(self, is_calm: bool) -> float:
        step = self._CALM_STEP if is_calm else -self._CALM_STEP
        return min(1.0, max(0.0, self.calm + step))

"""The upper face of each frame: the recorded expression, with blinks and brows of its own.

New sound comes with recorded head motion, whose blinks are as rare as in that stretch and whose brows followed other words.
Blinks come at log-normal intervals, never beside a recorded one; brows rise a little with the prominence of the sound.
Deterministic by seed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synctalk.spec import expression_region
from synctalk.track import Track

__all__ = ["Blinks", "Brows", "Expression", "Source"]

Float = NDArray[np.float32]

Source: TypeAlias = Literal["generated", "recorded"]
"""``recorded``: the track's expression and nothing else."""

_CLOSING = (0.5, 1.0, 1.0, 0.7, 0.4, 0.15)
"""How shut the eyes are, frame by frame at 25 fps: they close in 80 ms and open in 160. Other rates stretch it."""

_MEDIAN_S, _SIGMA, _LEAST_S = 3.2, 0.55, 0.6
"""Time between blinks: log-normal, mean 3.7 s."""

_RECORDED_BLINK = 0.5
"""From this share of its range on, the recorded motion blinks itself."""

_LEAST_RANGE = 0.15
"""An avatar whose subject hardly blinked has not learned it."""

_LEAST_BROW_RANGE = 0.1
"""Nor to raise brows that hardly moved."""

_BROW_GAINS = {"browInnerUp": 0.5, "browOuterUpLeft": 0.35, "browOuterUpRight": 0.35}
"""How much of the way from where they are to the subject's highest brows rise at full prominence."""

_BROW_RATE = 10.0
"""1/s: raised brows reach three quarters of a lasting accent in 0.27 s."""

_MEMORY = 64
"""Frames that were planned and dropped are planned again: so far back values are kept."""


class Blinks:
    """How shut the eyes are at each frame. A recorded blink counts: the next one comes a full interval later."""

    def __init__(self, track: Track, channels: list[int], fps: int, seed: int, first: int = 0) -> None:
        """channels: the blink coefficients; none, or none that moves, means no blinks. first: frame to begin with."""
        recorded, least, most = track.expression[:, channels], track.least[channels], track.most[channels]
        self.is_able = bool(channels) and bool((most - least > _LEAST_RANGE).all())
        self._track, self._fps = track, fps
        blinks_from = least + _RECORDED_BLINK * (most - least)
        self._is_recorded = np.asarray((recorded > blinks_from).any(axis=1), bool)  # [P]
        self._random = np.random.default_rng([seed, 1])
        self._frames = [
            float(np.interp(i * 25.0 / fps, range(len(_CLOSING)), _CLOSING, right=0.0))
            for i in range(math.ceil(len(_CLOSING) * fps / 25))
        ]
        self._clear = len(self._frames) + round(_LEAST_S * fps)
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
        if index <= self._next and self._is_recorded[self._track.index(index)]:
            self._next = index + self._interval()
        if index == self._next and self._is_recorded_soon(index):
            self._next = index + 1
        since = index - self._next
        if since == len(self._frames):
            self._next = index + self._interval()
        return self._frames[since] if 0 <= since < len(self._frames) else 0.0

    def _is_recorded_soon(self, index: int) -> bool:
        """Whether a recorded blink comes before one that begins here were over and past."""
        return any(self._is_recorded[self._track.index(index + i)] for i in range(self._clear))

    def _interval(self) -> int:
        seconds = float(self._random.lognormal(math.log(_MEDIAN_S), _SIGMA))
        return round(self._fps * max(_LEAST_S, seconds))


@dataclass(frozen=True)
class Brows:
    """How raised the brows are, frame by frame: they follow prominence as a critically damped spring does."""

    height: float = 0.0
    """0..1"""
    speed: float = 0.0
    """1/s"""

    def follow(self, prominence: float, fps: int) -> Brows:
        """The next frame. prominence: 0..1; 0 while nobody speaks."""
        away = self.height - prominence
        pull = self.speed + _BROW_RATE * away
        fading = math.exp(-_BROW_RATE / fps)
        height = prominence + (away + pull / fps) * fading
        speed = (self.speed - pull * _BROW_RATE / fps) * fading
        return Brows(min(1.0, max(0.0, height)), speed)


class Expression:
    """The coefficients of each frame of one session, before anything that ``Control`` asks for."""

    def __init__(
        self, track: Track, names: Sequence[str], fps: int, *, source: Source, seed: int, first: int = 0
    ) -> None:
        """names: of the track's coefficients [E]. first: frame to begin with.

        Raises: ValueError: another source.
        """
        if source not in ("generated", "recorded"):
            raise ValueError(f"expression: expected 'generated' or 'recorded', got {source!r}")
        self.least, self.most = track.least, track.most
        self._track, self._is_generated = track, source == "generated"
        self._lids = [i for i, name in enumerate(names) if name in ("eyeBlinkLeft", "eyeBlinkRight")]
        self._lower = [i for i, name in enumerate(names) if expression_region(name) != "upper"]
        self._lower_rest = np.median(track.expression[:, self._lower], axis=0)
        self._blinks = Blinks(track, self._lids, fps, seed, first)
        is_mobile = track.most - track.least > _LEAST_BROW_RANGE
        gains = [_BROW_GAINS.get(name, 0.0) for name in names]
        self._brow_gains = np.where(is_mobile, np.array(gains, np.float32), np.float32(0.0))

    def __call__(self, index: int, brows: Brows) -> Float:
        """[E] for a frame at or after the last one asked for, or a few before it."""
        own: Float = self._track.expression[self._track.index(index)]
        if self._lower:  # recorded with other words: sound moves the mouth
            own = own.copy()
            own[self._lower] = self._lower_rest
        if not self._is_generated:
            return own
        shut = self._blinks(index)
        if shut == 0.0 and brows.height == 0.0:
            return own
        shown = own + np.float32(brows.height) * self._brow_gains * (self.most - own)
        lids = self._lids
        shown[lids] = np.maximum(own[lids], self.least[lids] + shut * (self.most[lids] - self.least[lids]))
        return np.asarray(shown, np.float32)

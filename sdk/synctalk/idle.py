"""What a person does who is not speaking: the mouth at rest, a slight sway. Deterministic by seed.

The recorded head motion goes on in silence, so that head, torso and plate stay together; this adds a sway, and leads the
mouth to rest and back without a jump. Blinks: ``synctalk.expression``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synctalk.control import eased

__all__ = ["Mouth", "Sway"]

Float = NDArray[np.float32]


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

"""The subject's own motion: which recorded frame carries which spoken frame.

A bundle holds ``P`` recorded frames: head pose, expression, and the picture behind the head. They are walked
forwards and backwards in turn, so that motion never jumps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import BundleError

__all__ = ["Track"]

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Track:
    """Recorded head motion. rotation [P, 3, 3], translation [P, 3] metres (head to camera), expression [P, E]."""

    rotation: Float
    translation: Float
    expression: Float
    expression_range: Float | None = None
    """[2, E]: the least and the most that the subject showed in all of the training, where that is known."""

    def __post_init__(self) -> None:
        lengths = {len(self.rotation), len(self.translation), len(self.expression)}
        if len(lengths) != 1 or 0 in lengths:
            raise BundleError(
                f"the motion track has parts of {sorted(lengths)} frames: export the avatar again"
            )

    @cached_property
    def least(self) -> Float:
        """[E]: the least of each coefficient that the avatar has learned."""
        own: Float = self.expression.min(axis=0)
        return own if self.expression_range is None else np.minimum(own, self.expression_range[0])

    @cached_property
    def most(self) -> Float:
        """[E]: the most of each coefficient that the avatar has learned."""
        own: Float = self.expression.max(axis=0)
        return own if self.expression_range is None else np.maximum(own, self.expression_range[1])

    def __len__(self) -> int:
        return len(self.rotation)

    def index(self, frame: int) -> int:
        """The recorded frame for spoken frame ``frame`` (>= 0): 0, 1 ... P-1, P-2 ... 1, 0, 1 ..."""
        period = max(1, 2 * len(self) - 2)
        phase = frame % period
        return min(phase, period - phase)

"""Is a clip in step? What the generic model hears is held against the mouths up to 0.4 s earlier or later.

The model has never met the person; the measures of two seconds at a time tell by how much sound and lips are apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from synctalk.spec import preset

from ..windows import AudioWindows
from .encoder import SpeechEncoder, generic_model
from .films import FPS, TalkingClip
from .mouths import standardised
from .networks import N_MEASURES

__all__ = ["REACH", "Offset", "SyncDetector", "correlation_scores"]

Float = NDArray[np.float32]

REACH = 10
"""Frames by which sound and mouth are shifted, at most."""
_SURE = 0.6
"""Share of the windows that must agree within a frame before anything is said."""
_FEWEST = 4


@dataclass(frozen=True)
class Offset:
    """What the windows of a clip say."""

    frames: int
    """By how many frames the mouth belongs later than where it is: below 0 the sound is late, above 0 the lips are."""
    agreement: float
    """Share of the windows whose own best shift is within a frame of it"""
    n_windows: int

    @property
    def is_sure(self) -> bool:
        return self.n_windows >= _FEWEST and self.agreement >= _SURE

    @property
    def ms(self) -> float:
        """Milliseconds by which the lips are late; below 0 the sound is."""
        return 1000.0 * self.frames / FPS

    @staticmethod
    def of(scores: Float) -> Offset:
        """From scores of all windows at all shifts, [windows, 2 REACH + 1]."""
        if not len(scores):
            return Offset(0, 0.0, 0)
        best = int(scores.mean(axis=0).argmax())
        agreement = float(np.mean(np.abs(scores.argmax(axis=1) - best) <= 1))
        return Offset(best - REACH, agreement, len(scores))

    def sentence(self) -> str | None:
        """What to tell people, if the clip is surely out of step by more than a frame."""
        if not self.is_sure or abs(self.frames) < 2:
            return None
        late = "the lips lag behind the sound" if self.frames > 0 else "the sound lags behind the lips"
        return (
            f"{late} by {abs(self.ms):.0f} ms ({self.agreement:.0%} of {self.n_windows} "
            f"windows agree): look at the clip; if it is so, prepare it again with --sound-shift {self.ms:.0f}"
        )


class SyncDetector:
    """Asks the generic model.

    Raises: ModelError: the installation lacks it.
    """

    def __init__(self, generic: SpeechEncoder | None = None) -> None:
        """generic: the packaged one by default."""
        self._generic = generic or generic_model()

    def scores(self, clip: TalkingClip) -> Float:
        """How well every window of 2 s fits the mouths at each shift, [windows, 2 REACH + 1]; takes apart."""
        heard = AudioWindows(clip.audio, clip.takes, len(clip.measures), preset("default"))
        said = self._generic(heard.of(np.arange(len(clip.measures))).numpy())[:, :N_MEASURES]
        motion = standardised(clip.measures, clip.valid)
        parts = [
            correlation_scores(said[first:end], motion[first:end])
            for first, end in clip.takes
            if clip.valid[first:end].any()
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 2 * REACH + 1), np.float32)

    def offset(self, clip: TalkingClip) -> Offset:
        """What the whole clip says."""
        return Offset.of(self.scores(clip))


def correlation_scores(predicted: Float, seen: Float, length: int = 50, hop: int = 10) -> Float:
    """Correlation of curves [n, K] over windows of 2 s at each shift of the second, summed over K by its strength."""
    scores = []
    for first in range(REACH, len(predicted) - REACH - length + 1, hop):
        said = predicted[first : first + length]
        said = said - said.mean(axis=0)
        row = []
        for shift in range(-REACH, REACH + 1):
            shown = seen[first + shift : first + shift + length]
            shown = shown - shown.mean(axis=0)
            norm = np.sqrt(float((said**2).sum()) * float((shown**2).sum()))
            row.append(float((said * shown).sum()) / max(norm, 1e-9))
        scores.append(row)
    return np.asarray(scores, np.float32).reshape(-1, 2 * REACH + 1)

"""The sound that was pushed into a session, given back at its own rate, piece by piece, as its frames come.

Frames carry sound at the avatar's 16 kHz; what listeners hear may stay as fine as it was made.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from synctalk.frame import Frame

__all__ = ["SourceSound"]

Pcm = NDArray[np.int16]


class _Utterance:
    def __init__(self, rate: int) -> None:
        self.rate, self.is_ended = rate, False
        self.chunks: deque[Pcm] = deque()
        self.n_taken = 0

    def take(self, n: int | None) -> Pcm:
        """The next ``n`` samples or what there is of them; all of it for None."""
        parts: list[Pcm] = []
        missing = sum(map(len, self.chunks)) if n is None else n
        while missing > 0 and self.chunks:
            chunk = self.chunks.popleft()
            parts.append(chunk[:missing])
            if len(chunk) > missing:
                self.chunks.appendleft(chunk[missing:])
            missing -= len(parts[-1])
        self.n_taken += sum(map(len, parts))
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)


class SourceSound:
    """Keep it in step with one session: push, flush and clear with it, and ``take`` for every frame."""

    def __init__(self, avatar_rate: int) -> None:
        """avatar_rate: samples a second of the frames' clock."""
        self._avatar_rate = avatar_rate
        self._utterances: deque[_Utterance] = deque()
        self.n_pushed = 0
        """Samples pushed so far, cleared ones included."""
        self.n_taken = 0
        """Samples taken or cleared so far."""

    @property
    def rate(self) -> int | None:
        """Of the utterance that is being pushed; None between utterances."""
        return None if not self._utterances or self._utterances[-1].is_ended else self._utterances[-1].rate

    def push(self, pcm: Pcm, rate: int) -> None:
        """Append samples [n] mono of one rate within an utterance."""
        if len(pcm) == 0:
            return
        if self.rate is None:
            self._utterances.append(_Utterance(rate))
        self._utterances[-1].chunks.append(pcm)
        self.n_pushed += len(pcm)

    def flush(self) -> None:
        """The utterance is complete."""
        if self._utterances:
            self._utterances[-1].is_ended = True

    def clear(self) -> None:
        """Drop what was not taken."""
        self._utterances.clear()
        self.n_taken = self.n_pushed

    def take(self, frame: Frame) -> tuple[Pcm, int] | None:
        """The samples [n] that a frame plays with, and their rate; None for an idle frame."""
        if frame.sound_pts_samples is None or not self._utterances:
            return None
        utterance = self._utterances[0]
        end = (frame.sound_pts_samples + len(frame.audio)) * utterance.rate // self._avatar_rate
        pcm = utterance.take(None if frame.end_of_speech else max(0, end - utterance.n_taken))
        self.n_taken += len(pcm)
        if frame.end_of_speech:
            self._utterances.popleft()
        return pcm, utterance.rate

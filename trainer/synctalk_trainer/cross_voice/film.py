"""The speaker on the left, the avatar on the right, and what both say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk.media import Mp4Writer, open_mp4
from synctalk.spec import FPS

from .material import FRAME_SAMPLES, RATE, Voice

__all__ = ["PairFilm", "open_film"]

Frame = NDArray[np.uint8]


class PairFilm:
    """Takes the avatar's pictures and puts the speaker's beside them, sound after sound."""

    def __init__(self, writer: Mp4Writer, voice: Voice) -> None:
        self._writer, self._voice = writer, voice
        self._sound, self._index = np.zeros(0, np.float32), 0
        self._n_sounds = 0

    def start(self, sound: NDArray[np.float32]) -> None:
        """The next sound of the voice begins."""
        self._sound, self._index = sound, 0
        self._n_sounds += 1

    def add(self, picture: Frame) -> None:
        """The avatar's next picture."""
        heard = self._sound[self._index * FRAME_SAMPLES :][:FRAME_SAMPLES]
        heard = np.pad(heard, (0, FRAME_SAMPLES - len(heard)))
        speaker = self._speaker()
        both = (
            picture if speaker is None else np.concatenate([_as_high(speaker, len(picture)), picture], axis=1)
        )
        self._writer.write(both, heard)
        self._index += 1

    def _speaker(self) -> Frame | None:
        """The speaker's picture; the last one in the rest after the sound, None where there is no film."""
        voice = self._voice
        if voice.film is None or voice.pictures is None:
            return None
        first, end = voice.film.takes[self._n_sounds - 1]
        return np.asarray(voice.pictures[min(first + self._index, end - 1)])


@contextmanager
def open_film(path: Path, voice: Voice) -> Iterator[PairFilm]:
    """A film that appears at ``path`` when the block ends well.

    Raises: MediaError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_mp4(path, FPS, RATE) as writer:
        yield PairFilm(writer, voice)


def _as_high(picture: Frame, height: int) -> Frame:
    width = round(picture.shape[1] * height / len(picture))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

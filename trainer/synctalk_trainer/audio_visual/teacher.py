"""The teacher: what a large speech model hears, mapped to the mouths of a few filmed talkers.

A small network cannot learn mouths from a dozen filmed people; recorded voices without film there are many. So Whisper's
encoder (Radford et al. 2022), which knows speech of all kinds, listens to both: a ridge regression from what it hears
to the filmed mouths then says what the mouths of all other voices would do. The teacher never runs in an avatar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk.audio import mel_filters
from synctalk.errors import ModelError
from synctalk.spec import AudioSpec

from .networks import HINTS

__all__ = ["Heard", "Teacher", "Whisper", "fit_teacher"]

Float = NDArray[np.float32]

_RATE = 16_000
_STEP = 320
"""Samples of one of Whisper's steps: 50 a second, two a frame of film."""
_CHUNK_S, _OVERLAP_S = 28, 1
"""Whisper hears 30 s at a time."""
_COLUMNS = 3000
_MEL = AudioSpec(n_fft=400, hop_samples=160, mel_min_hz=0.0, mel_max_hz=8000.0)
"""Whisper's own mel bins"""
_CONTEXT = (-4, -2, 0, 2, 4)
"""Steps around a frame that the regression sees."""
_RIDGE = 20_000.0
_LEAST_SPREAD = 1e-3


class Whisper:
    """Whisper's encoder, converted for CTranslate2. Source: Radford et al. 2022; OpenAI's weights are MIT-licensed."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """folder: ``model.bin``, ``config.json`` and the vocabulary.

        Raises: ModelError: CTranslate2 is not installed, or no such model.
        """
        try:
            import ctranslate2
        except ImportError:
            raise ModelError(
                'the teacher needs CTranslate2: pip install "synctalk[teacher]", or train without --teacher'
            ) from None
        if not (folder / "model.bin").is_file():
            raise ModelError(
                f"{folder} holds no model.bin: give a folder of Whisper converted for CTranslate2"
            )
        try:
            self._model: Any = ctranslate2.models.Whisper(
                str(folder), compute_type="float32", intra_threads=threads
            )
        except RuntimeError as error:
            raise ModelError(f"{folder} is not a Whisper model that CTranslate2 loads: {error}") from None
        self._view = ctranslate2.StorageView.from_array
        self._filters = mel_filters(_MEL)

    def hear(self, audio: Float) -> NDArray[np.float16]:
        """Mono at 16 kHz [n] -> what it hears, [ceil(n / 320), width]; 30 s at a time, a second of it as context."""
        parts = []
        for first in range(0, max(1, len(audio)), _CHUNK_S * _RATE):
            start = max(0, first - _OVERLAP_S * _RATE)
            steps = np.array(self._model.encode(self._view(self._mel(audio[start:])[None])))[0]
            skipped = (first - start) // _STEP
            parts.append(steps[skipped : skipped + _CHUNK_S * _RATE // _STEP])
        return np.concatenate(parts)[: -(-len(audio) // _STEP)].astype(np.float16)

    def _mel(self, audio: Float) -> Float:
        """Whisper's input for the first 30 s, [80, 3000]."""
        half = _MEL.n_fft // 2
        padded = np.zeros(_COLUMNS * _MEL.hop_samples + _MEL.n_fft)
        piece = audio[: len(padded) - half]
        padded[half : half + len(piece)] = piece
        n = np.arange(_MEL.n_fft)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * n / _MEL.n_fft)
        frames = np.lib.stride_tricks.sliding_window_view(padded, _MEL.n_fft)[:: _MEL.hop_samples][:_COLUMNS]
        power = self._filters @ np.abs(np.fft.rfft(frames * window, axis=1).T) ** 2
        log = np.log10(np.maximum(power, 1e-10))
        return np.ascontiguousarray((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0, np.float32)


@dataclass(frozen=True, eq=False)
class Heard:
    """A filmed talker as the teacher is fitted to him."""

    steps: NDArray[np.float16]
    """[T, width]: what Whisper hears of his sound, at least two steps a frame"""
    wanted: Float
    """[N, K]: what his mouth does"""
    frames: NDArray[np.int64]
    """[n]: frames that count"""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A linear map from what Whisper hears to the mouth."""

    weights: NDArray[np.float64]
    """[features + 1, K]"""
    axes: NDArray[np.float64]
    """[width, HINTS]: principal components of what Whisper hears, scaled to a variance of 1"""

    def says(self, steps: NDArray[np.float16], n_frames: int) -> Float:
        """What the mouth of a whole sound would do, [n_frames, K]."""
        features = _features(steps, n_frames, np.arange(n_frames))
        return np.asarray(features @ self.weights[:-1] + self.weights[-1], np.float32)

    def hints(self, steps: NDArray[np.float16], n_frames: int) -> Float:
        """The principal components of what it hears of a whole sound, [n_frames, HINTS]."""
        values = _standardised(steps, n_frames)
        at = (2 * np.arange(n_frames)).clip(0, len(values) - 1)
        return np.asarray(values[at] @ self.axes, np.float32)


def fit_teacher(talkers: Sequence[Heard], ridge: float = _RIDGE) -> Teacher:
    """Ridge regression over talkers, each of whom counts by the square root of his frames."""
    products, moments = np.zeros(()), np.zeros(())
    for talker in talkers:
        features = _features(talker.steps, len(talker.wanted), talker.frames)
        inputs = np.hstack([features, np.ones((len(features), 1))])
        weight = 1.0 / np.sqrt(len(inputs))
        products = products + weight * inputs.T @ inputs
        moments = moments + weight * inputs.T @ talker.wanted[talker.frames]
    total = sum(np.sqrt(len(talker.frames)) for talker in talkers)
    penalty = ridge * total / sum(len(talker.frames) for talker in talkers) * np.eye(len(products))
    penalty[-1, -1] = 0.0
    heard = np.concatenate([_standardised(t.steps, len(t.wanted))[2 * t.frames] for t in talkers])
    _, scale, axes = np.linalg.svd(heard - heard.mean(axis=0), full_matrices=False)
    axes = axes[:HINTS].T / np.maximum(scale[:HINTS] / np.sqrt(len(heard)), _LEAST_SPREAD)
    axes = np.pad(axes, ((0, 0), (0, HINTS - axes.shape[1])))
    return Teacher(np.linalg.solve(products + penalty, moments), axes)


def _features(steps: NDArray[np.float16], n_frames: int, frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """What the regression sees of frames, [n, features]."""
    values = _standardised(steps, n_frames)
    at = (2 * frames[:, None] + np.array(_CONTEXT)).clip(0, len(values) - 1)
    return np.asarray(values[at].reshape(len(frames), -1), np.float64)


def _standardised(steps: NDArray[np.float16], n_frames: int) -> Float:
    """Each value of Whisper's about its mean over the sound, in units of its spread, [T, width]."""
    values = steps[: 2 * n_frames].astype(np.float32)
    spread = np.maximum(values.std(axis=0), _LEAST_SPREAD)
    return np.asarray((values - values.mean(axis=0)) / spread, np.float32)

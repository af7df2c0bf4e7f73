"""The voice at hand: its level and long-term spectrum, estimated while the sound streams.

A generic model of speech must hear a quiet, a telephone's and a dark voice alike. ``VoiceStream`` keeps running means over the
columns in which somebody seems to speak. A stream starts from the averages of
many voices and settles within two seconds of speech; every column moves the estimate a little, so nothing jumps.
The audio branch gets the estimate as one more column of each window, and takes it off. All values are in units of the mel features (``synctalk.audio``: 12.5 dB).
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from synctalk.audio import loudness

__all__ = ["N_SHAPE", "VoiceStream", "at_usual_level", "average_voice", "shape_basis", "with_voice"]

Float = NDArray[np.float32]
Double = NDArray[np.float64]

N_SHAPE = 8
"""Cosines over the mel axis that describe a long-term spectrum: tilt, curvature, where the formants lie on average."""
_AVERAGE = (-15.482, 1.313, -0.841, 1.160, -0.700, -0.248, -0.647, -0.498)
"""Cosine coefficients of the long-term spectrum of many voices (379 speakers, 13 languages); the first is its level."""
_LEVEL_PRIOR, _SHAPE_PRIOR = 8.0, 60.0
"""Columns of speech that the averages of many voices count for"""
_MEMORY = 640.0
"""Columns of speech after which the oldest ones fade: eight seconds."""
_FLOOR_COLUMNS = 120
"""Columns over which the least loudness is the background's."""
_ABOVE_FLOOR_DB, _BELOW_PEAK_DB = 10.0, 25.0
_PEAK_FALL_DB = 0.04
"""dB a column"""
_FAINTEST_DB = -105.0
"""What is fainter is nobody's voice."""


def _cosines(n_mels: int) -> Double:
    """Orthonormal cosines over the mel axis, [N_SHAPE, n_mels]; the first is constant."""
    at = (np.arange(n_mels) + 0.5) / n_mels
    rows = np.cos(np.pi * np.arange(N_SHAPE)[:, None] * at) * np.sqrt(2.0 / n_mels)
    rows[0] /= np.sqrt(2.0)
    return np.asarray(rows)


def shape_basis(n_mels: int) -> Double:
    """Cosines that tell voices apart, the level's left out, [N_SHAPE - 1, n_mels]."""
    return _cosines(n_mels)[1:]


def average_voice(n_mels: int) -> Double:
    """Long-term spectrum of many voices, [n_mels]."""
    return np.asarray(np.array(_AVERAGE) @ _cosines(n_mels))


class VoiceStream:
    """Push mel columns; get what is known of the voice after each: its long-term spectrum, smooth over the mel axis."""

    def __init__(self, n_mels: int) -> None:
        self._basis = _cosines(n_mels)
        self._known = np.array(_AVERAGE, np.float64)  # cosine coefficients
        self._n_level, self._n_shape = _LEVEL_PRIOR, _SHAPE_PRIOR
        self._recent: deque[float] = deque([_FAINTEST_DB] * _FLOOR_COLUMNS, _FLOOR_COLUMNS)
        self._peak = _FAINTEST_DB

    def push(self, mel: Float) -> Float:
        """Take the next columns, [k, n_mels]; return the voice's spectrum as known at each, float32 [k, n_mels]."""
        coefficients = mel.astype(np.float64) @ self._basis.T  # [k, N_SHAPE]
        known = np.empty_like(coefficients)
        for i, decibel in enumerate(loudness(mel)):
            if self._is_voice(float(decibel)):
                self._learn(coefficients[i])
            known[i] = self._known
        return np.asarray(known @ self._basis, np.float32)

    def _is_voice(self, decibel: float) -> bool:
        """Whether a column is well above the background and not far below the loudest of late."""
        self._recent.append(decibel)
        self._peak = max(decibel, self._peak - _PEAK_FALL_DB)
        floor = max(min(self._recent), _FAINTEST_DB)
        return decibel > floor + _ABOVE_FLOOR_DB and decibel > self._peak - _BELOW_PEAK_DB

    def _learn(self, coefficients: Double) -> None:
        self._n_level = min(self._n_level + 1.0, _MEMORY)
        self._n_shape = min(self._n_shape + 1.0, _MEMORY)
        change = coefficients - self._known
        self._known[0] += change[0] / self._n_level
        self._known[1:] += change[1:] / self._n_shape


def at_usual_level(mel: Float, known: Float) -> Float:
    """Mel columns as if the voice were as loud as most, float32 [k, n_mels]; known: [k, n_mels] (``VoiceStream``)."""
    usual = average_voice(mel.shape[1]).mean()
    return np.asarray(mel + (usual - known.mean(axis=1, keepdims=True)), np.float32)


def with_voice(windows: Float, known: Float) -> Float:
    """Windows with the voice as one more column, float32 [..., n_mels, columns + 1].

    windows: [..., n_mels, columns]; known: [..., n_mels], what is known at each window's newest column.
    """
    column = np.broadcast_to(known[..., None], (*windows.shape[:-1], 1))
    return np.concatenate([windows, column], axis=-1)

"""How prominent speech is from frame to frame: higher and louder than this voice's usual. Causal, deterministic.

Brows rise with accents of pitch more than of loudness. Source: Cavé et al. 1996 (eyebrow movements and F0).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prosody", "pitch_hz"]

Float = NDArray[np.float32]

_LOWEST_HZ, _HIGHEST_HZ = 70.0, 400.0
_VOICED = 0.5
"""Least autocorrelation, of 1, of a sound that has a pitch."""
_FIRST_PEAK = 0.85
"""The first peak of that share of the highest one is the period: higher ones may be two or three of them."""
_MEMORY_S = 2.5
"""Over how much speech the usual pitch and loudness are kept."""
_LEAST_SEMITONES, _LEAST_DB = 1.5, 4.0
"""A voice that varies less is taken to vary so much."""
_PITCH_SHARE = 0.65
_FULL = 2.0
"""Deviations above the usual that count as fully prominent."""
_UNVOICED_KEEPS = 0.8
"""A consonant lets the pitch of the vowel before fade, frame by frame."""


def pitch_hz(samples: Float, rate: int) -> float:
    """The pitch of a piece of sound [n], 70..400 Hz, or 0 where it has none."""
    n = len(samples)
    longest = int(rate / _LOWEST_HZ)
    if n < 2 * longest:
        return 0.0
    spectrum = np.fft.rfft(samples - samples.mean(dtype=np.float64), 1 << (2 * n - 1).bit_length())
    products = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[: longest + 2]
    if products[0] <= 1e-9 * n:
        return 0.0
    alike = products / products[0] * (n / (n - np.arange(longest + 2)))
    shortest = math.ceil(rate / _HIGHEST_HZ)
    inner = alike[shortest : longest + 1]
    is_peak = (inner > alike[shortest - 1 : longest]) & (inner >= alike[shortest + 1 : longest + 2])
    peaks = np.flatnonzero(is_peak & (inner > _VOICED))
    if not len(peaks):
        return 0.0
    first = int(peaks[np.argmax(inner[peaks] > _FIRST_PEAK * inner[peaks].max())])
    return rate / (shortest + first)


class _Usual:
    """Mean and deviation of a value over the last seconds in which it was there."""

    def __init__(self, memory: float, least: float) -> None:
        self._memory, self._least = memory, least
        self._n, self._mean, self._variance = 0, 0.0, 0.0

    def above(self, value: float) -> float:
        """How many deviations the next value lies above the usual; 0 for the first one."""
        self._n += 1
        share = max(1.0 / self._n, 1.0 / self._memory)
        away = value - self._mean if self._n > 1 else 0.0
        self._mean += share * (value - self._mean)
        self._variance = (1.0 - share) * (self._variance + share * away * away)
        return away / max(self._least, math.sqrt(self._variance))


class Prosody:
    """One voice, frame after frame."""

    def __init__(self, rate: int, fps: int) -> None:
        self._rate = rate
        self._pitch = _Usual(_MEMORY_S * fps, _LEAST_SEMITONES)
        self._loudness = _Usual(_MEMORY_S * fps, _LEAST_DB)
        self._height = 0.0

    def prominence(self, samples: Float, is_speaking: bool) -> float:
        """0..1 for the sound about the next frame, [n]; 0, and nothing learned of the voice, where nobody speaks."""
        if not is_speaking or len(samples) == 0:
            self._height = 0.0
            return 0.0
        power = float(np.mean(np.square(samples, dtype=np.float64)))
        volume = self._loudness.above(10.0 * math.log10(power + 1e-10))
        hertz = pitch_hz(samples, self._rate)
        self._height = self._pitch.above(12.0 * math.log2(hertz)) if hertz else self._height * _UNVOICED_KEEPS
        accent = _PITCH_SHARE * self._height + (1.0 - _PITCH_SHARE) * volume
        return min(1.0, max(0.0, accent / _FULL))

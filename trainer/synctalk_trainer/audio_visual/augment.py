"""The same words from another mouth, room and telephone, at the same time.

Everything here keeps timing: what is said at a sample is still said there, but for ``at_speed``, which tells by how much
time was stretched. Sound is float32 mono at 16 kHz.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve

__all__ = [
    "Variation",
    "at_speed",
    "breaths",
    "clipped",
    "in_noise",
    "in_room",
    "music",
    "noises",
    "through_codec",
    "through_telephone",
    "varied",
    "with_formants",
]

Float = NDArray[np.float32]

_RATE = 16_000
_CODECS = (
    ("libopus", "ogg", 8_000),
    ("libopus", "ogg", 16_000),
    ("aac", "adts", 24_000),
    ("libmp3lame", "mp3", 32_000),
)
_ENVELOPE_HZ = 300.0
_MAX_GAIN = 2.3
"""Formants are smoothed over so many Hz; a bin is changed by a factor of 10 at most (natural logarithm)."""
_MAX_DELAY = 4_000
"""Samples that a codec may be late, at most: its delay is measured and taken off."""


@dataclass(frozen=True)
class Variation:
    """How likely each change is, and how far it may go."""

    speed: tuple[float, float] = (0.82, 1.2)
    formants: float = 0.16
    """Formants are scaled by up to this share, without touching pitch and time."""
    room: float = 0.35
    codec: float = 0.3
    noise: float = 0.6
    noise_db: tuple[float, float] = (5.0, 35.0)
    """Speech over noise"""
    music: float = 0.12
    breath: float = 0.15
    telephone: float = 0.12
    clipping: float = 0.1


def varied(audio: Float, generator: np.random.Generator, variation: Variation) -> tuple[Float, float]:
    """A random variation of a sound, and its speed: what was at ``t`` seconds is at ``t / speed``."""
    speed = float(generator.uniform(*variation.speed))
    sound = at_speed(audio, speed)
    sound = with_formants(sound, float(generator.uniform(1 - variation.formants, 1 + variation.formants)))
    if generator.random() < variation.room:
        sound = in_room(sound, generator)
    if generator.random() < variation.noise:
        sound = in_noise(sound, float(generator.uniform(*variation.noise_db)), generator)
    if generator.random() < variation.music:
        sound = _mixed(sound, music(len(sound), generator), float(generator.uniform(8, 30)))
    if generator.random() < variation.breath:
        sound = _mixed(sound, breaths(len(sound), generator), float(generator.uniform(8, 25)))
    if generator.random() < variation.telephone:
        sound = through_telephone(sound, generator)
    if generator.random() < variation.clipping:
        sound = clipped(sound, float(generator.uniform(2, 12)))
    if generator.random() < variation.codec:
        name, container, bits = _CODECS[int(generator.integers(len(_CODECS)))]
        sound = through_codec(sound, name, container, bits)
    loudest = max(float(np.abs(sound).max()), 1e-6)
    return (sound * (10 ** generator.uniform(-2.0, -0.05) / loudest)).astype(np.float32), speed


def at_speed(audio: Float, speed: float) -> Float:
    """Played faster (or slower, below 1), as a tape would: pitch and formants move along."""
    return np.asarray(soxr.resample(audio, _RATE * speed, _RATE, "HQ"), np.float32)


def with_formants(audio: Float, factor: float, n_fft: int = 512) -> Float:
    """Formants scaled by ``factor``; pitch and time stay. The smooth envelope of every short spectrum is stretched.

    Only magnitudes change, by a gain without phase, so that nothing moves in time.
    """
    hop = n_fft // 4
    frequencies, _, spectrum = signal.stft(audio, nperseg=n_fft, noverlap=n_fft - hop)
    level = np.log(np.abs(spectrum) + 1e-5)
    width = max(3, int(_ENVELOPE_HZ / (_RATE / n_fft)))
    envelope = uniform_filter1d(uniform_filter1d(level, width, axis=0), width, axis=0)
    bins = np.arange(len(frequencies))
    at = np.minimum(bins / factor, len(bins) - 1)
    below = at.astype(int).clip(max=len(bins) - 2)
    share = (at - below)[:, None]
    stretched = envelope[below] * (1 - share) + envelope[below + 1] * share
    gain = np.exp((stretched - envelope).clip(-_MAX_GAIN, _MAX_GAIN))
    _, sound = signal.istft(spectrum * gain, nperseg=n_fft, noverlap=n_fft - hop)
    whole = np.zeros(len(audio), np.float32)
    whole[: min(len(audio), len(sound))] = sound[: len(audio)]
    return whole


def in_room(audio: Float, generator: np.random.Generator) -> Float:
    """With the decaying echo of a room of 0.1 to 0.6 s; the direct sound comes first, undelayed."""
    decay_s = float(generator.uniform(0.1, 0.6))
    n = int(decay_s * _RATE)
    tail = generator.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail[: int(0.002 * _RATE)] = 0
    wet = 10 ** (-generator.uniform(2, 14) / 20)
    response = tail * wet / np.linalg.norm(tail)
    response[0] = 1.0
    return np.asarray(fftconvolve(audio, response)[: len(audio)], np.float32)


def in_noise(audio: Float, speech_over_noise_db: float, generator: np.random.Generator) -> Float:
    """With steady noise whose spectrum falls by 0 to 9 dB an octave."""
    white = np.fft.rfft(generator.standard_normal(len(audio)))
    slope = float(generator.uniform(0, 1.5))
    white *= np.maximum(np.arange(len(white)), 20.0) ** -slope
    noise = np.fft.irfft(white, len(audio))
    level = float(np.sqrt(np.mean(audio**2))) * 10 ** (-speech_over_noise_db / 20)
    return (audio + noise * (level / max(float(noise.std()), 1e-12))).astype(np.float32)


def _mixed(sound: Float, other: Float, over_db: float) -> Float:
    """Speech with another sound, so many decibels quieter."""
    level = float(np.sqrt(np.mean(sound**2))) * 10 ** (-over_db / 20)
    return (sound + other * (level / max(float(other.std()), 1e-9))).astype(np.float32)


def through_telephone(audio: Float, generator: np.random.Generator) -> Float:
    """What a telephone or a cheap microphone lets through: a band whose ends vary. Without delay."""
    low, high = float(generator.uniform(80, 400)), float(generator.uniform(2_800, 5_500))
    band = signal.butter(3, (low, high), "bandpass", fs=_RATE, output="sos")
    return np.asarray(signal.sosfiltfilt(band, audio), np.float32)


def clipped(audio: Float, drive_db: float) -> Float:
    """Recorded too loud: so many decibels above what fits."""
    loudest = max(float(np.abs(audio).max()), 1e-6)
    driven = (audio / loudest * 10 ** (drive_db / 20)).clip(-1, 1)
    return np.asarray(driven * loudest, np.float32)


def music(n: int, generator: np.random.Generator) -> Float:
    """Chords that fade, with a beat: nobody speaks. [n] about 1 at its loudest."""
    sound = np.zeros(n)
    beat = int(generator.uniform(0.25, 0.8) * _RATE)
    for start in range(0, n, beat):
        after = np.arange(min(2 * _RATE, n - start)) / _RATE
        fade = np.exp(-after / generator.uniform(0.1, 0.6))
        chord = np.zeros(len(after))
        for _ in range(int(generator.integers(1, 4))):
            tone = 55.0 * 2 ** float(generator.integers(12, 48) / 12)
            for harmonic in range(1, int(generator.integers(2, 8))):
                chord += fade * np.sin(2 * np.pi * tone * harmonic * after) / harmonic
        if generator.random() < 0.6:
            chord += 2 * np.exp(-after / 0.03) * generator.standard_normal(len(after))
        sound[start : start + len(after)] += chord
    return (sound / max(float(np.abs(sound).max()), 1e-9)).astype(np.float32)


def breaths(n: int, generator: np.random.Generator) -> Float:
    """Somebody breathes: humps of soft noise, 0.3 to 1 s each, every few seconds. [n] about 1 at its loudest."""
    sound = np.zeros(n)
    at = int(generator.uniform(0, 1.5) * _RATE)
    low, high = float(generator.uniform(300, 800)), float(generator.uniform(2_000, 6_000))
    band = signal.butter(2, (low, high), "bandpass", fs=_RATE, output="sos")
    while at < n:
        length = int(generator.uniform(0.3, 1.0) * _RATE)
        hump = np.sin(np.pi * np.arange(length) / length) ** 2 * generator.standard_normal(length)
        end = min(n, at + length)
        sound[at:end] += hump[: end - at]
        at = end + int(generator.uniform(1.0, 4.0) * _RATE)
    sound = signal.sosfilt(band, sound)
    return np.asarray(sound / max(float(np.abs(sound).max()), 1e-9), np.float32)


def noises(n: int, generator: np.random.Generator) -> Float:
    """A room, a street, a hum, knocks: coloured noise whose level drifts, tones, short hits. [n] about 1 at its loudest."""
    sound = in_noise(np.full(n, 1e-6, np.float32), -80.0, generator).astype(np.float64)
    sound /= max(float(np.abs(sound).max()), 1e-9)
    knots = generator.uniform(0.2, 1.0, 2 + n // _RATE)
    sound *= np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)
    if generator.random() < 0.3:
        hum = float(generator.choice([50.0, 60.0, 100.0, 120.0, 440.0]))
        sound += 0.5 * np.sin(2 * np.pi * hum * np.arange(n) / _RATE)
    for _ in range(int(generator.integers(0, 6))):
        at, length = int(generator.integers(0, n)), int(generator.uniform(0.02, 0.15) * _RATE)
        hit = np.exp(-np.arange(length) / (0.2 * length)) * generator.standard_normal(length)
        sound[at : at + length] += 1.5 * hit[: max(0, n - at)]
    return (sound / max(float(np.abs(sound).max()), 1e-9)).astype(np.float32)


def through_codec(audio: Float, name: str, container: str, bits_per_second: int) -> Float:
    """Compressed and back by FFmpeg, the codec's delay taken off."""
    buffer = io.BytesIO()
    rate = 48_000 if name == "libopus" else _RATE
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(name, rate=rate, layout="mono")
        stream.bit_rate = bits_per_second
        frame = av.AudioFrame.from_ndarray(
            (np.asarray(soxr.resample(audio, _RATE, rate)).clip(-1, 1) * 32767).astype(np.int16)[None],
            format="s16",
            layout="mono",
        )
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    buffer.seek(0)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=_RATE)
    with av.open(buffer, "r") as coded:
        blocks = [part.to_ndarray()[0] for f in coded.decode(audio=0) for part in resampler.resample(f)]
        blocks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return _in_place(np.concatenate(blocks), audio)


def _in_place(late: Float, audio: Float) -> Float:
    """``late`` moved to where it fits ``audio`` best, with its length."""
    n = 1 << (len(audio) + len(late) + _MAX_DELAY).bit_length()
    match = np.fft.irfft(np.fft.rfft(late, n) * np.conj(np.fft.rfft(audio, n)), n)
    reach = np.concatenate([match[-_MAX_DELAY:], match[: _MAX_DELAY + 1]])
    delay = int(np.argmax(reach)) - _MAX_DELAY
    moved = late[delay:] if delay >= 0 else np.concatenate([np.zeros(-delay, np.float32), late])
    whole = np.zeros(len(audio), np.float32)
    whole[: min(len(audio), len(moved))] = moved[: len(audio)]
    return whole

"""Sound in, mel features out: the only place they are computed, in training and at run time.

Samples are float32 mono in -1..1. Mel column ``c`` is centred at sample ``c * hop_samples``; outside the
sound there is silence (``AudioSpec.silence``). Every stream here (``Resampler``, ``MelStream``, ``SpeechGate``) returns
the same values for every way of cutting the sound into chunks; the whole-file functions are one push and a flush.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import soxr
from numpy.typing import ArrayLike, NDArray

from synctalk.errors import MediaError
from synctalk.spec import AudioSpec, Spec

__all__ = [
    "MAX_CHANNELS",
    "MelStream",
    "Resampler",
    "SpeechGate",
    "channels_last",
    "downmix",
    "frame_count",
    "last_column",
    "loudness",
    "mel_filters",
    "mel_spectrogram",
    "resample",
    "speech_activity",
    "tap_windows",
    "to_mono",
    "whole_rate",
    "window_starts",
]

Float = NDArray[np.float32]
Double = NDArray[np.float64]

_MIN_MAGNITUDE = 1e-5
_REFERENCE_DB = 20.0
_RANGE_DB = 100.0
_INTEGER_SCALES = {np.dtype(np.int8): 2.0**7, np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}
_RATES_HZ = (1_000, 768_000)
_LOUDEST = 8.0
"""Floats beyond are integers that were not scaled; between 1 and this they are clipped."""
MAX_CHANNELS = 8
"""An axis that is longer than this holds samples."""


def whole_rate(rate: object) -> int:
    """A sample rate, given as any whole number (also NumPy's, or 16000.0).

    Raises: TypeError: no number; ValueError: not whole; MediaError: outside 1 kHz .. 768 kHz.
    """
    try:
        if isinstance(rate, bool | str | bytes) or rate is None:
            raise TypeError
        value = float(rate)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"sample_rate: expected samples a second, such as 16000, got {rate!r}") from None
    if value != value // 1:
        raise ValueError(f"sample_rate: expected a whole number of samples a second, got {rate!r}")
    if not _RATES_HZ[0] <= value <= _RATES_HZ[1]:
        raise MediaError(
            f"sample rate {value:.0f} Hz is outside 1000..768000 Hz: check the rate that was given"
        )
    return int(value)


def channels_last(values: NDArray[Any], is_first: bool | None = None) -> tuple[NDArray[Any], bool | None]:
    """Samples [n], or [n, channels] from either order, and whether channels came first, where that is unmistakable.

    is_first: what an earlier chunk of the same sound showed, for chunks that are shorter than they have channels.
    Raises: MediaError: more dimensions, too many channels, an order that cannot be told or that has changed.
    """
    if values.ndim == 1:
        return values, is_first
    if values.ndim != 2 or (len(values) and values.shape[1] == 0 and len(values) > MAX_CHANNELS):
        raise MediaError(f"samples have shape {values.shape}: give [n] or [n, channels]")
    rows, columns = values.shape
    if values.size == 0:
        return np.zeros(0, values.dtype), is_first
    shows = None if (rows <= MAX_CHANNELS) == (columns <= MAX_CHANNELS) else rows <= MAX_CHANNELS
    if shows is None and rows > MAX_CHANNELS:
        raise MediaError(
            f"samples have shape {values.shape}: give [n, channels] of at most {MAX_CHANNELS} channels"
        )
    if shows is not None and is_first is not None and shows != is_first:
        raise MediaError(
            f"a chunk of shape {values.shape} has its channels on the other axis than those before: "
            "give [n, channels] throughout"
        )
    known = is_first if shows is None else shows
    if known is None and columns > 1:
        raise MediaError(
            f"samples of shape {values.shape} may be {rows} samples of {columns} channels, or the other way round: "
            f"give [n], or [n, channels] of more than {MAX_CHANNELS} samples first"
        )
    return (values.T if known else values), known


def to_mono(samples: ArrayLike) -> Float:
    """Bring samples to float32 mono in -1..1; a new array.

    samples: [n], [n, channels] or [channels, n] (``channels_last``); int8, int16, int32, uint8 (128 is zero), int64
    that fit into 16 bits (what lists of numbers become), or any float. Floats are in -1..1; louder ones are clipped.
    Channels are averaged.

    Raises: MediaError: another dtype or shape, a NaN or infinity, or floats of the size of integers.
    """
    return downmix(channels_last(np.asarray(samples))[0])


def downmix(values: NDArray[Any]) -> Float:
    """As ``to_mono``, of samples [n] or [n, channels] whose order is known."""
    floats = _as_floats(values)
    if floats.size and not np.isfinite(peak := np.abs(floats).max()):
        raise MediaError("samples contain NaN or infinity: clean the sound first")
    if floats.size and peak > _LOUDEST:
        raise MediaError(
            f"float samples reach {peak:.0f}, expected -1..1: divide them by 32768, or give them as int16"
        )
    mono = floats.mean(axis=1, dtype=np.float64) if floats.ndim == 2 else floats
    return np.clip(np.asarray(mono, np.float32), np.float32(-1.0), np.float32(1.0))


def _as_floats(values: NDArray[Any]) -> NDArray[Any]:
    dtype = values.dtype.newbyteorder("=")
    if dtype in _INTEGER_SCALES:
        return np.asarray(values / _INTEGER_SCALES[dtype])
    if dtype == np.uint8:
        return np.asarray((values - 128.0) / 128.0)
    if dtype == np.int64:
        if values.size and max(-int(values.min()), int(values.max())) > 2**15:
            raise MediaError(
                "integers of 64 bits beyond 16 bits have no known full scale: give int16, int32 or float"
            )
        return np.asarray(values / 2.0**15)
    if values.dtype.kind == "f":
        return values
    raise MediaError(f"samples have dtype {values.dtype}: give int16, int32, uint8 or float")


class Resampler:
    """Stateful conversion of chunks of any rate, dtype and channel count to float32 mono."""

    def __init__(self, rate: int, target_rate: int = 16_000) -> None:
        """rate: samples a second of what will be pushed.

        Raises: MediaError: a rate outside 1 kHz .. 768 kHz.
        """
        rate = whole_rate(rate)
        self._stream = (
            None if rate == target_rate else soxr.ResampleStream(rate, target_rate, 1, "float32", "HQ")
        )

    def push(self, chunk: ArrayLike) -> Float:
        """Take a chunk ([n] or [n, channels], see ``to_mono``); return the samples that are ready, [m]."""
        mono = to_mono(chunk)
        return mono if self._stream is None else self._run(mono, last=False)

    def flush(self) -> Float:
        """End the sound; return its last samples, [m]."""
        silence = np.zeros(0, np.float32)
        return silence if self._stream is None else self._run(silence, last=True)

    def _run(self, mono: Float, last: bool) -> Float:
        assert self._stream is not None
        return np.asarray(self._stream.resample_chunk(mono, last=last), np.float32)


def resample(samples: ArrayLike, rate: int, target_rate: int = 16_000) -> Float:
    """Convert a whole sound to float32 mono at ``target_rate``; equal to ``Resampler`` on its chunks."""
    resampler = Resampler(rate, target_rate)
    return np.concatenate([resampler.push(samples), resampler.flush()])


def frame_count(n_samples: int, rate: int, fps: int) -> int:
    """Frames that a sound lasts, ``ceil(fps * seconds)``."""
    return -(-n_samples * fps // rate)


def _hz_to_mel(hz: Double) -> Double:
    """Slaney's scale: linear below 1 kHz (66.7 Hz a mel), logarithmic above (27 mel to 6.4 kHz)."""
    log_step = np.log(6.4) / 27.0
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, 15.0 + np.log(np.maximum(hz, 1.0) / 1000.0) / log_step)


def _mel_to_hz(mel: Double) -> Double:
    log_step = np.log(6.4) / 27.0
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(log_step * (mel - 15.0)))


@lru_cache
def mel_filters(spec: AudioSpec) -> Double:
    """Triangles of unit area on Slaney's mel scale, float64 [n_mels, n_fft // 2 + 1] (read-only).

    Source: Slaney, Auditory Toolbox, 1998.
    """
    ends = _hz_to_mel(np.array([spec.mel_min_hz, spec.mel_max_hz]))
    corners = _mel_to_hz(np.linspace(ends[0], ends[1], spec.n_mels + 2))  # Hz
    bins = np.arange(spec.n_fft // 2 + 1) * (spec.sample_rate / spec.n_fft)  # Hz
    low, mid, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = np.maximum(0.0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)))
    filters: Double = triangles * (2.0 / (high - low))
    filters.setflags(write=False)
    return filters


class MelStream:
    """Mel features of a growing sound: push samples, get the columns that no later sample can change."""

    def __init__(self, spec: AudioSpec) -> None:
        self._spec = spec
        self._filters = mel_filters(spec)
        n = np.arange(spec.n_fft)
        self._window = 0.5 - 0.5 * np.cos(2.0 * np.pi * n / spec.n_fft)
        self._last = 0.0
        self._n_samples = 0
        self._n_columns = 0
        self._pending = np.zeros(spec.n_fft // 2)  # starts at the next column's first sample

    def push(self, samples: Float) -> Float:
        """Take float32 samples at the spec's rate, [n]; return the finished columns, float32 [k, n_mels]."""
        values = np.asarray(samples, np.float64)
        if values.size == 0:
            return self._columns(0)
        shifted = np.concatenate([[self._last], values[:-1]])
        self._last = float(values[-1])
        self._n_samples += len(values)
        self._pending = np.concatenate([self._pending, values - self._spec.preemphasis * shifted])
        ready = (len(self._pending) - self._spec.n_fft) // self._spec.hop_samples + 1
        return self._columns(max(0, ready))

    def flush(self) -> Float:
        """End the sound: the columns whose window reaches past its end (zeros there), [k, n_mels].

        In all there are ``1 + n_samples // hop_samples`` columns, none for an empty sound.
        """
        if self._n_samples == 0:
            return self._columns(0)
        n_columns = 1 + self._n_samples // self._spec.hop_samples
        self._pending = np.concatenate([self._pending, np.zeros(self._spec.n_fft)])
        return self._columns(n_columns - self._n_columns)

    def _columns(self, n: int) -> Float:
        spec = self._spec
        if n == 0:
            return np.zeros((0, spec.n_mels), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(self._pending, spec.n_fft)[:: spec.hop_samples][:n]
        magnitudes = np.abs(np.fft.rfft(frames * self._window, axis=1))  # [n, bins]
        # One matrix-vector product a column: a matrix product rounds differently for each number of columns.
        mel = np.stack([self._filters @ column for column in magnitudes])  # [n, mels]
        decibel = 20.0 * np.log10(np.maximum(_MIN_MAGNITUDE, mel)) - _REFERENCE_DB
        self._pending = self._pending[n * spec.hop_samples :]
        self._n_columns += n
        scaled: Float = np.clip(8.0 * (decibel + _RANGE_DB) / _RANGE_DB - 4.0, spec.silence, 4.0).astype(
            np.float32
        )
        return scaled


def mel_spectrogram(samples: Float, spec: AudioSpec) -> Float:
    """Mel features of a whole sound, float32 [columns, n_mels] in ``spec.silence``..4.

    samples: float32 [n] at ``spec.sample_rate``. Column ``c`` is centred at sample ``c * hop_samples``; there are
    ``1 + n // hop_samples`` (0 for an empty sound). Pre-emphasis, periodic Hann window, zeros outside the sound,
    magnitudes, ``mel_filters``, decibel, 8 units for 100 dB.
    """
    stream = MelStream(spec)
    return np.concatenate([stream.push(samples), stream.flush()])


def _first_columns(frame_indices: NDArray[np.int64], spec: AudioSpec, fps: int) -> NDArray[np.int64]:
    base = frame_indices * spec.sample_rate // (fps * spec.hop_samples)  # floor, also below 0
    return base + spec.window_future_columns - spec.window_columns


def window_starts(n_frames: int, spec: AudioSpec, fps: int) -> NDArray[np.int64]:
    """First mel column of the windows of frames 0 .. n_frames - 1, int64 [n_frames]; may be negative."""
    return _first_columns(np.arange(n_frames, dtype=np.int64), spec, fps)


def last_column(frame_index: int, spec: AudioSpec, fps: int) -> int:
    """The last mel column that a frame sees; its condition can be had once that column is there."""
    base = (frame_index + spec.taps_future) * spec.sample_rate // (fps * spec.hop_samples)
    return base + spec.window_future_columns - 1


def tap_windows(
    mel: Float, frame_indices: Sequence[int] | NDArray[np.int64], spec: Spec, first_column: int = 0
) -> Float:
    """Windows that the audio branch sees for some frames, float32 [N, taps, n_mels, window_columns].

    mel: [columns, n_mels], its first row being column ``first_column`` of the sound. Columns that ``mel`` does
    not hold are silence.
    """
    audio = spec.audio
    frames = np.asarray(frame_indices, np.int64)
    taps = frames[:, None] + np.arange(-audio.taps_past, audio.taps_future + 1)  # [N, taps]
    starts = _first_columns(taps, audio, spec.fps)
    columns = starts[..., None] + np.arange(audio.window_columns) - first_column  # [N, taps, columns]
    held = (columns >= 0) & (columns < len(mel))
    padded = np.concatenate(
        [np.asarray(mel, np.float32), np.full((1, audio.n_mels), audio.silence, np.float32)]
    )
    windows = padded[np.where(held, columns, len(mel))]  # [N, taps, columns, mels]
    return np.ascontiguousarray(windows.swapaxes(-1, -2))


def loudness(mel: Float) -> Float:
    """How loud each mel column is, float32 [columns], dB (digital silence: -100, loud speech: about -40).

    mel: [columns, n_mels]. It is the mean power over the mel bins, after pre-emphasis.
    """
    decibel = (np.asarray(mel, np.float64) + 4.0) * (_RANGE_DB / 8.0) - _RANGE_DB
    power = np.mean(10.0 ** (decibel / 10.0), axis=1)
    return np.asarray(10.0 * np.log10(power), np.float32)


class SpeechGate:
    """Whether somebody speaks, 0..1 at each mel column: causal, with hysteresis, a short hold and soft edges.

    It opens ``_OPEN_DB`` above the noise floor (tracked: falls at once, rises slowly), but never more than
    ``_RANGE_BELOW_PEAK_DB`` below the recent peak, and stays open for ``_HOLD_S`` after the last loud column.
    """

    _OPEN_DB = 12.0
    _CLOSE_DB = 7.0
    _FLOOR_START_DB = -80.0
    _FLOOR_RISE_DB_S = 4.0
    _PEAK_START_DB = -50.0
    _PEAK_FALL_DB_S = 3.0
    _RANGE_BELOW_PEAK_DB = 30.0
    _ATTACK_S = 0.05
    _RELEASE_S = 0.10
    _HOLD_S = 0.10

    def __init__(self, spec: Spec) -> None:
        audio = spec.audio
        self._columns_s = audio.sample_rate / audio.hop_samples
        ahead_s = last_column(0, audio, spec.fps) / self._columns_s
        self._hold = round((self._HOLD_S + ahead_s) * self._columns_s)  # columns are read ``ahead_s`` early
        self._floor = self._FLOOR_START_DB
        self._peak = self._PEAK_START_DB
        self._n_quiet = self._hold
        self._is_open = False
        self._level = 0.0

    def push(self, mel: Float) -> Float:
        """Take the next columns, [k, n_mels]; return how open the gate is at each, float32 [k]."""
        return np.array([self._step(float(decibel)) for decibel in loudness(mel)], np.float32)

    def _step(self, decibel: float) -> float:
        self._floor = min(decibel, self._floor + self._FLOOR_RISE_DB_S / self._columns_s)
        self._floor = max(self._floor, self._FLOOR_START_DB)
        self._peak = max(decibel, self._peak - self._PEAK_FALL_DB_S / self._columns_s, self._PEAK_START_DB)
        threshold = max(self._floor + self._OPEN_DB, self._peak - self._RANGE_BELOW_PEAK_DB)
        threshold = min(threshold, self._peak - 10.0)
        if self._is_open:
            threshold -= self._OPEN_DB - self._CLOSE_DB
        self._n_quiet = 0 if decibel > threshold else self._n_quiet + 1
        self._is_open = self._n_quiet <= self._hold and (self._is_open or self._n_quiet == 0)
        step = 1.0 / (self._ATTACK_S if self._is_open else -self._RELEASE_S) / self._columns_s
        self._level = min(1.0, max(0.0, self._level + step))
        return self._level


def speech_activity(mel: Float, n_frames: int, spec: Spec) -> Float:
    """How much somebody speaks at each frame, float32 [n_frames] in 0..1: ``SpeechGate`` at its last column.

    mel: [columns, n_mels] of the whole sound. The gate is open when a word begins, since it looks as far ahead as
    the condition does, and no further.
    """
    last = np.array([last_column(i, spec.audio, spec.fps) for i in range(n_frames)], np.int64)
    n_missing = max(0, int(last.max(initial=-1)) + 1 - len(mel))
    silence = np.full((n_missing, spec.audio.n_mels), spec.audio.silence, np.float32)
    return SpeechGate(spec).push(np.concatenate([mel, silence]))[np.maximum(last, 0)]

"""From sound to one condition a frame, as the sound arrives.

The learned encoder answers every sound, also a hum or a room's noise; ``shape_condition`` closes the mouth where
nobody speaks. ``ConditionStream`` gives the same conditions, bit for bit, for every way of cutting the sound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synctalk.audio import (
    MelStream,
    Resampler,
    SpeechGate,
    frame_count,
    last_column,
    tap_windows,
    to_mono,
)
from synctalk.prosody import Prosody
from synctalk.spec import Spec
from synctalk.voice import VoiceStream, at_usual_level, with_voice

__all__ = ["ConditionStream", "Shaping", "Spoken", "Utterance", "calmed", "shape_condition"]

Float = NDArray[np.float32]
Encoder = Callable[[Float], Float]
"""Mel windows [N, taps, n_mels, columns] to raw conditions [N, C]."""

_SPEAKING = 0.5
_PROSODY_SAMPLES = 1024
"""Four periods of the lowest voice, at 16 kHz."""


@dataclass(frozen=True, eq=False)
class Shaping:
    """How raw conditions become those that are rendered; all in the units of the condition."""

    rest: Float
    """[C] the closed, silent mouth."""
    mean: Float
    """[C] the mean over the training speech."""
    gain: float = 1.0
    """How far the mouth moves about its mean; learned encoders move it too little."""

    @staticmethod
    def none(n: int) -> Shaping:
        """Rest and mean 0, gain 1: the condition as it is while somebody speaks, zero in silence."""
        return Shaping(np.zeros(n, np.float32), np.zeros(n, np.float32))


def shape_condition(condition: Float, gate: ArrayLike, shaping: Shaping) -> Float:
    """``rest + gate * (gain * (condition - mean) + mean - rest)``, float32 [..., C].

    condition: [..., C] raw; gate: [...] in 0..1, 1 where somebody speaks.
    """
    open_ = np.asarray(gate, np.float32)[..., None]
    spoken = np.float32(shaping.gain) * (condition - shaping.mean) + shaping.mean
    return np.asarray(shaping.rest + open_ * (spoken - shaping.rest), np.float32)


def calmed(condition: Float, before: Float, share: float) -> Float:
    """Raw conditions [..., C] with a share of those of the frame before, [..., C]."""
    return np.asarray((1 - np.float32(share)) * condition + np.float32(share) * before, np.float32)


@dataclass(frozen=True, eq=False)
class Spoken:
    """What one frame says."""

    index: int
    condition: Float
    """[C], shaped."""
    audio: Float
    """[n] the samples that the frame plays with, at the spec's rate; the last frame's may be fewer."""
    is_speaking: bool
    is_last: bool
    prominence: float
    """0..1: how much higher and louder than usual the voice is (``synctalk.prosody``)."""


class ConditionStream:
    """Push sound of any rate, dtype and channel count; get each frame as soon as its look-ahead is there.

    ``push`` and ``flush`` are generators: take all they give before the next call.
    """

    def __init__(self, spec: Spec, rate: int, encode: Encoder, shaping: Shaping) -> None:
        """rate: samples a second of what will be pushed. Raises: MediaError: an impossible rate."""
        self._spec, self._rate, self._encode, self._shaping = spec, rate, encode, shaping
        self._resampler = Resampler(rate, spec.audio.sample_rate)
        self._mel_stream = MelStream(spec.audio)
        self._gate = SpeechGate(spec)
        self._voice = VoiceStream(spec.audio.n_mels) if spec.audio.hears_voice else None
        self._prosody = Prosody(spec.audio.sample_rate, spec.fps)
        self._before: Float | None = None  # the raw condition of the frame before
        self._frame_samples = spec.audio.sample_rate // spec.fps
        self._n_pushed = 0  # at the sound's own rate
        self._n_samples = 0  # at the spec's rate
        self._next = 0
        self._audio = np.zeros(0, np.float32)  # from the next frame's first sample
        self._first_column = 0
        self._mel = np.zeros((0, spec.audio.n_mels), np.float32)  # from ``_first_column``
        self._known = self._mel  # the voice as known at each column, from ``_first_column``
        self._gates = np.zeros(0, np.float32)  # from ``_first_column``

    def retarget(self, encode: Encoder, shaping: Shaping) -> None:
        """Go on with another avatar's voice, whose audio settings are the same."""
        self._encode, self._shaping, self._before = encode, shaping, None

    def push(self, chunk: ArrayLike) -> Iterator[Spoken]:
        """Take a chunk, [n] or [n, channels]. Raises: MediaError: samples that are no sound."""
        mono = to_mono(chunk)
        self._n_pushed += len(mono)
        self._take(self._resampler.push(mono))
        # A frame that ends where the sound so far ends may be the last one: it waits.
        while self._n_samples > (self._next + 1) * self._frame_samples and self._is_seen(self._next):
            yield self._frame(is_last=False)

    def flush(self) -> Iterator[Spoken]:
        """End the sound; the frames that waited. In all there are ``ceil(fps * seconds)``."""
        self._take(self._resampler.flush())
        self._grow(self._mel_stream.flush())
        n_frames = frame_count(self._n_pushed, self._rate, self._spec.fps)
        n_columns = last_column(n_frames - 1, self._spec.audio, self._spec.fps) + 1
        n_missing = max(0, n_columns - self._first_column - len(self._mel))
        self._grow(np.full((n_missing, self._spec.audio.n_mels), self._spec.audio.silence, np.float32))
        while self._next < n_frames:
            yield self._frame(is_last=self._next == n_frames - 1)

    def _take(self, samples: Float) -> None:
        self._n_samples += len(samples)
        self._audio = np.concatenate([self._audio, samples])
        self._grow(self._mel_stream.push(samples))

    def _grow(self, columns: Float) -> None:
        self._mel = np.concatenate([self._mel, columns])
        if self._voice is not None:
            known = self._voice.push(columns)
            self._known = np.concatenate([self._known, known])
            columns = at_usual_level(columns, known)
        self._gates = np.concatenate([self._gates, self._gate.push(columns)])

    def _is_seen(self, frame: int) -> bool:
        return last_column(frame, self._spec.audio, self._spec.fps) < self._first_column + len(self._mel)

    def _frame(self, is_last: bool) -> Spoken:
        index, audio = self._next, self._spec.audio
        # One frame at a time: an encoder may round differently for each number of windows.
        newest = last_column(index, audio, self._spec.fps) - self._first_column
        oldest = newest + 1 - audio.window_columns
        if audio.n_taps == 1 and oldest >= 0:  # the same, four times as fast
            windows = np.ascontiguousarray(self._mel[oldest : newest + 1].T)[None, None]
        else:
            windows = tap_windows(self._mel, [index], self._spec, self._first_column)
        if self._voice is not None:
            windows = with_voice(windows, self._known[newest])
        gate = float(self._gates[max(0, newest)])
        raw = self._encode(windows)[0]
        before = raw if self._before is None else self._before
        self._before = raw
        condition = shape_condition(calmed(raw, before, audio.calm), gate, self._shaping)
        is_speaking = gate > _SPEAKING
        prominence = self._prosody.prominence(self._heard(), is_speaking)
        own = self._audio[: self._frame_samples]
        spoken = Spoken(index, condition, own, is_speaking, is_last, prominence)
        self._audio = self._audio[self._frame_samples :]
        self._next += 1
        self._forget()
        return spoken

    def _heard(self) -> Float:
        """The newest sound that a frame may know of, however it came in pieces: columns start every ``hop_samples``."""
        end = self._spec.audio.lookahead_samples - self._spec.audio.hop_samples
        return self._audio[max(0, end - _PROSODY_SAMPLES) : end]

    def _forget(self) -> None:
        """Drop the columns that no later frame sees."""
        audio = self._spec.audio
        oldest = last_column(self._next - audio.n_taps + 1, audio, self._spec.fps) - audio.window_columns + 1
        n = min(max(0, oldest - self._first_column), len(self._mel))
        self._mel, self._known, self._gates = self._mel[n:], self._known[n:], self._gates[n:]
        self._first_column += n


class Utterance:
    """One sound, from the first push to ``flush``: chunks in, spoken frames out, computed when asked for."""

    def __init__(self, stream: ConditionStream, rate: int) -> None:
        self.rate, self.stream = rate, stream
        self.pushed_s = 0.0
        self.played_s = 0.0
        self.is_ended = False
        self._chunks: deque[Float] = deque()
        self._ready: Iterator[Spoken] = iter(())
        self._is_flushed = False

    def push(self, mono: Float) -> None:
        """Append samples at the utterance's rate."""
        self.pushed_s += len(mono) / self.rate
        piece = max(1, self.rate // 4)  # large chunks in pieces, so that the first frame comes soon
        self._chunks.extend(mono[i : i + piece] for i in range(0, len(mono), piece))

    def next(self) -> Spoken | None:
        """The next frame, or None until there is more sound."""
        while True:
            if (spoken := next(self._ready, None)) is not None:
                return spoken
            if self._chunks:
                self._ready = self.stream.push(self._chunks.popleft())
            elif self.is_ended and not self._is_flushed:
                self._is_flushed = True
                self._ready = self.stream.flush()
            else:
                return None

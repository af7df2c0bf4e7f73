"""Sounds as training sees them: mel columns, what is known of the voice, and what the mouth does, side by side.

Four kinds of sounds: films (the mouth is measured), recorded voices (the teacher says what their mouths would do),
synthetic speech (the synthesiser says when lips touch), and sounds that nobody speaks. All lie in a few flat arrays, with
silence around each, so that a window needs no bounds. What nobody knows of a frame is NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk.audio import mel_spectrogram
from synctalk.errors import DatasetError
from synctalk.spec import preset
from synctalk.voice import VoiceStream

from .augment import Variation, varied
from .films import FPS, SHORTEST, TalkingClip
from .mouths import MEASURES, SHUT_APERTURE, standardised
from .networks import HINTS, OUTPUTS

__all__ = ["AUDIO", "KINDS", "Corpus", "CorpusBuilder", "film_labels", "speaking"]

Float = NDArray[np.float32]
Ints = NDArray[np.int64]

AUDIO = preset("default").audio
KINDS = ("film", "voice", "synthetic", "nobody")

_PADDING = AUDIO.window_columns
_HELD_EVERY = 11
_SHUT, _SPEAKING = len(MEASURES), len(MEASURES) + 1
_FRAME_SAMPLES = AUDIO.sample_rate // FPS
_PAUSE_DB, _PAUSE_FRAMES = 28.0, 5
"""So far under a sound's loud frames nobody speaks, if it lasts 200 ms."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Everything that is trained on, and what is held out of it."""

    mel: NDArray[np.float16]
    """[columns, mels] of all sounds, padded with silence"""
    known: NDArray[np.float16]
    """[columns, mels] the voice as known at each column"""
    labels: NDArray[np.float16]
    """[frames, OUTPUTS + HINTS]: measures standardised, shut and speaking 0..1, what the teacher hears; NaN where nobody
    knows"""
    sounds: Ints
    """[n, 5]: column of the sound's own time 0, first frame, frames, index of its kind, whether held out"""

    def segment(self, sound: int, frames: Ints) -> tuple[Float, Float, Ints]:
        """The mel columns [80, T] that consecutive frames hear, the voice at the last of them [80], and where in the
        columns each frame's window begins, [n]."""
        base = frames * AUDIO.sample_rate // (FPS * AUDIO.hop_samples)
        first = self.sounds[sound, 0] + base + AUDIO.window_future_columns - AUDIO.window_columns
        end = first[-1] + AUDIO.window_columns
        columns = self.mel[first[0] : end].astype(np.float32)
        return columns.T, self.known[end - 1].astype(np.float32), first - first[0]

    def said(self, sound: int, frames: Ints) -> Float:
        """Labels of a sound's frames, [n, OUTPUTS + HINTS]."""
        return np.asarray(self.labels[self.sounds[sound, 1] + frames], np.float32)

    def save(self, path: Path) -> None:
        """Write under a temporary name and rename."""
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez(file, **{each.name: getattr(self, each.name) for each in fields(self)})
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> Corpus:
        """The inverse of ``save``."""
        with np.load(path, allow_pickle=False) as archive:
            return Corpus(**{each.name: archive[each.name] for each in fields(Corpus)})


@dataclass
class CorpusBuilder:
    """Gathers sounds; ``build`` makes the corpus of them."""

    generator: np.random.Generator
    variation: Variation = field(default_factory=Variation)
    _mel: list[NDArray[np.float16]] = field(default_factory=list)
    _known: list[NDArray[np.float16]] = field(default_factory=list)
    _labels: list[NDArray[np.float16]] = field(default_factory=list)
    _sounds: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    _n_columns: int = 0
    _n_frames: int = 0

    @property
    def n_sounds(self) -> int:
        """Sounds so far, variations among them."""
        return len(self._sounds)

    def add_film(self, clip: TalkingClip, n_variations: int, hints: Float | None = None) -> None:
        """Every take as it is and in so many variations; every 11th take, or the last 1/11 of a single one, is held out
        as it is. hints: [N, HINTS] of the teacher."""
        labels = film_labels(clip)
        if hints is not None:
            labels = np.hstack([labels, hints])
        for first, end, is_held in _parts(clip.takes):
            if end - first < SHORTEST or clip.valid[first:end].mean() < 0.9:
                continue
            sound = clip.audio[first * _FRAME_SAMPLES : end * _FRAME_SAMPLES]
            self._append(sound, labels[first:end], "film", is_held, n_variations)

    def add_sound(self, kind: str, sound: Float, labels: Float, is_held: bool, n_variations: int) -> None:
        """A sound [n] that is not filmed, with its labels [N, OUTPUTS], or hints behind them; held-out ones are not varied."""
        self._append(sound, labels, kind, is_held, n_variations)

    def build(self) -> Corpus:
        """Raises: DatasetError: nothing was long enough."""
        if not self._sounds:
            raise DatasetError(f"no sound of {SHORTEST} frames (2 s): give longer films or recordings")
        return Corpus(
            np.concatenate(self._mel),
            np.concatenate(self._known),
            np.concatenate(self._labels),
            np.array(self._sounds, np.int64),
        )

    def _append(self, sound: Float, labels: Float, kind: str, is_held: bool, n_variations: int) -> None:
        self._store(sound, labels, kind, is_held)
        for _ in range(0 if is_held else n_variations):
            other, speed = varied(sound, self.generator, self.variation)
            at = np.arange(int((len(labels) - 1) / speed) + 1) * speed  # frames of the original
            below = np.minimum(at.astype(np.int64), len(labels) - 2)
            share = (at - below)[:, None]
            self._store(other, labels[below] * (1 - share) + labels[below + 1] * share, kind, is_held)

    def _store(self, sound: Float, labels: Float, kind: str, is_held: bool) -> None:
        if len(labels) < SHORTEST:
            return
        n_missing = len(OUTPUTS) + HINTS - labels.shape[1]
        labels = np.pad(labels, ((0, 0), (0, n_missing)), constant_values=np.nan)
        silence = np.full((_PADDING, AUDIO.n_mels), AUDIO.silence, np.float32)
        mel = np.concatenate([silence, mel_spectrogram(sound, AUDIO), silence])
        own = (self._n_columns + _PADDING, self._n_frames, len(labels), KINDS.index(kind), int(is_held))
        self._sounds.append(own)
        self._mel.append(mel.astype(np.float16))
        self._known.append(VoiceStream(AUDIO.n_mels).push(mel).astype(np.float16))
        self._labels.append(labels.astype(np.float16))
        self._n_columns += len(mel)
        self._n_frames += len(labels)


def film_labels(clip: TalkingClip) -> Float:
    """What is known of a filmed talker's frames, [N, OUTPUTS]; NaN where no face was found."""
    labels = np.empty((len(clip.measures), len(OUTPUTS)), np.float32)
    labels[:, :_SHUT] = standardised(clip.measures, clip.valid)
    labels[:, _SHUT] = clip.measures[:, 0] < SHUT_APERTURE
    labels[~clip.valid] = np.nan
    labels[:, _SPEAKING] = speaking(clip.audio, len(labels))
    return labels


def speaking(clean: Float, n_frames: int) -> Float:
    """Whether somebody speaks in a frame of a sound without noise, float32 [n_frames]; pauses under 200 ms are speech."""
    padded = np.zeros(n_frames * _FRAME_SAMPLES, np.float32)
    padded[: min(len(clean), len(padded))] = clean[: len(padded)]
    power = np.square(padded.reshape(n_frames, -1)).mean(axis=1)
    decibel = 10 * np.log10(power + 1e-12)
    loud = decibel > np.percentile(decibel, 90) - _PAUSE_DB
    for first, end in _gaps(loud):
        if end - first < _PAUSE_FRAMES:
            loud[first:end] = True
    return np.asarray(loud, np.float32)


def _gaps(loud: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Stretches without sound between loud frames."""
    sounding = np.flatnonzero(loud)
    for before, after in itertools.pairwise(sounding):
        if after > before + 1:
            yield int(before) + 1, int(after)


def _parts(takes: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int, bool]]:
    """Takes and whether each is held out; the end of a single take is cut off."""
    if len(takes) >= _HELD_EVERY:
        yield from ((a, b, k % _HELD_EVERY == _HELD_EVERY - 1) for k, (a, b) in enumerate(takes))
        return
    first, end = takes[0][0], takes[-1][1]
    cut = end - (end - first) // _HELD_EVERY
    for a, b in takes:
        yield from ((x, y, h) for x, y, h in ((a, min(b, cut), False), (max(a, cut), b, True)) if y > x)

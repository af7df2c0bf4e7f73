"""Talking clips as training sees them: mel columns and mouths, side by side, many variations of each.

A clip is a prepared dataset, or a video from which ``synctalk prepare`` makes one with its first two steps. Synthetic
utterances join them. All clips lie in a few flat arrays, with silence around each, so that a window needs no bounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk.audio import SILENCE, mel_spectrogram
from synctalk.errors import DatasetError
from synctalk.spec import AudioSpec

from ..dataset import read_wave
from .augment import Variation, varied
from .mouths import MEASURES, landmark_measures, standardised
from .voices import Voices

__all__ = [
    "AUDIO",
    "FPS",
    "SHORTEST",
    "STEPS",
    "VIDEOS",
    "Corpus",
    "CorpusBuilder",
    "TalkingClip",
    "find_clips",
    "hash_of",
    "read_clip",
]

Float = NDArray[np.float32]
Ints = NDArray[np.int64]

FPS = 25
AUDIO = AudioSpec(window_columns=16)
"""What the encoder hears for a frame: 16 mel columns, 8 of them after the frame's own."""

_PADDING = 32
"""Columns of silence before and after each clip"""
SHORTEST = 50
"""Frames of a clip, at least: two seconds."""
_NO_VISEME = -1
STEPS = ("sound", "landmarks")
"""What ``synctalk prepare`` must do with a video, and the steps before these, for ``read_clip``."""
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
"""What is taken for a video."""
_HELD_EVERY = 11


@dataclass(frozen=True)
class TalkingClip:
    """Sound and mouth of a real clip, take by take."""

    name: str
    audio: Float
    """[n] mono, 16 kHz, sample 0 at the start of frame 0"""
    measures: Float
    """[N, measures] as they were seen: ``mouths.standardised`` comes later"""
    valid: NDArray[np.bool_]
    takes: tuple[tuple[int, int], ...]


def find_clips(folders: Sequence[Path], cache: Path, prepare: Callable[[Path, Path], None]) -> list[Path]:
    """Datasets in or under the folders; videos there are prepared into ``cache`` by ``prepare(video, dataset)``.

    Raises: DatasetError: a folder holds neither.
    """
    found: list[Path] = []
    for folder in folders:
        datasets = [path.parent for path in sorted(folder.rglob("dataset.json"))]
        videos = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in VIDEOS]
        videos = [p for p in videos if not any(p.is_relative_to(d) for d in datasets)]
        if not datasets and not videos:
            raise DatasetError(
                f"{folder} holds no talking clips: give a folder of videos ({', '.join(VIDEOS)}) or of datasets that "
                "`synctalk prepare` wrote"
            )
        for video in videos:
            target = cache / f"{video.stem}-{abs(hash_of(video)):08x}"
            prepare(video, target)
            datasets.append(target)
        found += datasets
    return found


def hash_of(path: Path) -> int:
    """A number that tells paths apart, the same in every run."""
    import zlib

    return zlib.crc32(str(path.resolve()).encode())


def read_clip(path: Path) -> TalkingClip:
    """What this training needs of a dataset: its sound and landmarks; pictures and poses may be missing.

    Raises: DatasetError: missing, damaged, or hardly any face.
    """
    again = f"run `synctalk prepare VIDEO -o {path} --steps {','.join(STEPS)}`"
    try:
        info = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
        with np.load(path / "landmarks.npz", allow_pickle=False) as archive:
            points, valid = archive["points"], np.asarray(archive["valid"], bool)
        takes = tuple((int(first), int(end)) for first, end in info["takes"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} is not a dataset with landmarks ({error}): {again}") from None
    if valid.sum() < SHORTEST:
        raise DatasetError(
            f"{path}: a face was found in {int(valid.sum())} frames, at least {SHORTEST} are needed: leave this clip out"
        )
    return TalkingClip(path.name, read_wave(path / "audio.wav"), landmark_measures(points), valid, takes)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Everything that is trained on, and what is held out of it."""

    mel: NDArray[np.float16]
    """[columns, mels] of all clips, padded with silence"""
    measures: Float
    """[frames, measures], standardised"""
    viseme: NDArray[np.int8]
    """[frames]: index into ``voices.VISEME_NAMES``, -1 where nobody knows"""
    clips: Ints
    """[n, 5]: column of the clip's own time 0, first frame, frames, whether real, whether held out"""

    def windows(self, clip: int, frames: Ints) -> Float:
        """Mel windows [n, 1, 80, 16] of a clip's frames."""
        mel, starts = self.segment(clip, frames)
        windows = np.lib.stride_tricks.sliding_window_view(
            mel, AUDIO.window_columns, axis=1
        )  # [80, T - 15, 16]
        return np.ascontiguousarray(windows[:, starts].swapaxes(0, 1)[:, None])

    def segment(self, clip: int, frames: Ints) -> tuple[Float, Ints]:
        """The mel columns [80, T] that consecutive frames hear, and where in them each one's window begins, [n]."""
        base = frames * AUDIO.sample_rate // (FPS * AUDIO.hop_samples)
        first = self.clips[clip, 0] + base + AUDIO.window_future_columns - AUDIO.window_columns
        columns = self.mel[first[0] : first[-1] + AUDIO.window_columns]
        return columns.astype(np.float32).T, first - first[0]

    def mouths(self, clip: int, frames: Ints) -> tuple[Float, NDArray[np.int8]]:
        """Measures [n, measures] and visemes [n] of a clip's frames."""
        index = self.clips[clip, 1] + frames
        return self.measures[index], self.viseme[index]

    def save(self, path: Path) -> None:
        """Write under a temporary name and rename."""
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez(file, mel=self.mel, measures=self.measures, viseme=self.viseme, clips=self.clips)
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> Corpus:
        """The inverse of ``save``."""
        with np.load(path, allow_pickle=False) as archive:
            return Corpus(archive["mel"], archive["measures"], archive["viseme"], archive["clips"])


class CorpusBuilder:
    """Gathers clips; ``build`` makes the corpus of them."""

    def __init__(self, generator: np.random.Generator, variation: Variation | None = None) -> None:
        self._generator = generator
        self._variation = variation or Variation()
        self._mel: list[NDArray[np.float16]] = []
        self._measures: list[Float] = []
        self._viseme: list[NDArray[np.int8]] = []
        self._clips: list[tuple[int, int, int, int, int]] = []
        self._n_columns = self._n_frames = 0

    def add_real(self, clip: TalkingClip, n_variations: int, holdout: bool) -> None:
        """Every take as it is and in so many variations. ``holdout``: every 11th take, or the last 1/11 of a single one,
        is kept for validation, and only as it is."""
        motion = standardised(clip.measures, clip.valid)
        for first, end, is_held in _parts(clip.takes, holdout):
            if end - first < SHORTEST or clip.valid[first:end].mean() < 0.9:
                continue
            sound = clip.audio[first * AUDIO.sample_rate // FPS : end * AUDIO.sample_rate // FPS]
            labels = np.full(end - first, _NO_VISEME)
            self._append(sound, motion[first:end], labels, True, is_held, 0 if is_held else n_variations)

    def add_synthetic(self, voices: Voices, n: int) -> Iterator[int]:
        """So many utterances, four of five varied; yields after each."""
        said = []
        for k in range(n):
            said.append(voices.say())
            yield k + 1
        everything = np.concatenate([u.measures for u in said])
        mean, spread = everything.mean(axis=0), everything.std(axis=0)
        for k, utterance in enumerate(said):
            motion = ((utterance.measures - mean) / spread).clip(-4, 4).astype(np.float32)
            held = k % 50 == 49
            is_plain = held or k % 5 == 0
            self._append(
                utterance.audio, motion, utterance.viseme, False, held, 0 if is_plain else 1, is_plain
            )

    def build(self) -> Corpus:
        """Raises: DatasetError: nothing was long enough."""
        if not self._clips:
            raise DatasetError(f"no take of {SHORTEST} frames (2 s) with a face in it: give longer clips")
        return Corpus(
            np.concatenate(self._mel),
            np.concatenate(self._measures),
            np.concatenate(self._viseme),
            np.array(self._clips, np.int64),
        )

    def _append(
        self,
        sound: Float,
        motion: Float,
        viseme: Ints,
        is_real: bool,
        is_held: bool,
        n_variations: int,
        with_plain: bool = True,
    ) -> None:
        if with_plain:
            self._store(sound, motion, viseme, is_real, is_held)
        for _ in range(n_variations):
            other, speed = varied(sound, self._generator, self._variation)
            at = np.arange(int((len(motion) - 1) / speed) + 1) * speed  # frames of the original
            moved = [np.interp(at, np.arange(len(motion)), motion[:, k]) for k in range(len(MEASURES))]
            nearest = np.minimum(np.round(at).astype(np.int64), len(motion) - 1)
            self._store(other, np.stack(moved, axis=1).astype(np.float32), viseme[nearest], is_real, is_held)

    def _store(self, sound: Float, motion: Float, viseme: Ints, is_real: bool, is_held: bool) -> None:
        if len(motion) < SHORTEST:
            return
        silence = np.full((_PADDING, AUDIO.n_mels), SILENCE, np.float16)
        mel = np.concatenate([silence, mel_spectrogram(sound, AUDIO).astype(np.float16), silence])
        self._clips.append(
            (self._n_columns + _PADDING, self._n_frames, len(motion), int(is_real), int(is_held))
        )
        self._mel.append(mel)
        self._measures.append(motion)
        self._viseme.append(viseme.astype(np.int8))
        self._n_columns += len(mel)
        self._n_frames += len(motion)


def _parts(takes: tuple[tuple[int, int], ...], holdout: bool) -> Iterator[tuple[int, int, bool]]:
    """Takes and whether each is held out; a single take is cut."""
    if not holdout:
        yield from ((first, end, False) for first, end in takes)
    elif len(takes) >= _HELD_EVERY:
        yield from ((a, b, k % _HELD_EVERY == _HELD_EVERY - 1) for k, (a, b) in enumerate(takes))
    else:
        first, end = takes[0][0], takes[-1][1]
        cut = end - (end - first) // _HELD_EVERY
        for a, b in takes:
            yield from ((x, y, h) for x, y, h in ((a, min(b, cut), False), (max(a, cut), b, True)) if y > x)

"""What avatars are asked to say: filmed talkers, plain sounds, and sentences of espeak-ng whose p, b, m are known.

Sounds are 16 kHz mono. A filmed talker is a prepared dataset (``prepare --steps sound,landmarks`` suffices) or a
video, which is prepared with those steps; each of its takes is a sound of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk.audio import resample
from synctalk.errors import MediaError
from synctalk.media import read_audio

from ..audio_visual.films import VIDEOS, find_clips, hash_of, read_clip
from ..audio_visual.languages import TEXTS
from ..audio_visual.voices import Voices, ipa_shapes
from ..drive import frame_loudness
from .figures import Film, Interval

__all__ = ["REST_S", "Prepare", "Voice", "espeak_voices", "open_voices", "read_film", "sound_digest"]

Prepare = Callable[[Path, Path], None]
"""Makes a dataset of a video: ``prepare(video, dataset)``"""

RATE, FRAME_SAMPLES = 16_000, 640
REST_S = 1.0
"""Silence after the last sound of a voice, so that every one has a mouth at rest to look at"""
_VIDEOS = (*VIDEOS, ".mpg", ".mpeg")
_SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac")


@dataclass(frozen=True, eq=False)
class Voice:
    """Sounds of one person, and the person's film where there is one."""

    name: str
    sounds: tuple[NDArray[np.float32], ...]
    contacts: tuple[tuple[Interval, ...] | None, ...]
    """Of each sound, when p, b or m is heard; None where nobody knows"""
    film: Film | None = None
    """Its takes are the sounds"""
    audio: NDArray[np.float32] | None = None
    """The sound of the whole film"""
    pictures: NDArray[np.uint8] | None = None
    """[N, S, S, 3]: the film; memory-mapped"""

    @property
    def n_frames(self) -> int:
        """Frames to be spoken, without the rest."""
        return sum(-(-len(sound) // FRAME_SAMPLES) for sound in self.sounds)

    def spoken(self) -> Iterator[NDArray[np.float32]]:
        """The sounds as an avatar is to speak them: a second of silence follows the last one."""
        yield from self.sounds[:-1]
        yield np.concatenate([self.sounds[-1], np.zeros(round(REST_S * RATE), np.float32)])

    def only(self, ranges: Sequence[tuple[int, int]]) -> Voice:
        """A filmed voice with other takes: frames [first, end) of the film."""
        if self.film is None or self.audio is None:
            raise ValueError(f"{self.name} has no film to take frames from")
        return dataclasses.replace(
            self,
            sounds=tuple(self.audio[a * FRAME_SAMPLES : b * FRAME_SAMPLES] for a, b in ranges),
            contacts=(None,) * len(ranges),
            film=dataclasses.replace(self.film, takes=tuple(ranges)),
        )

    def first(self, n_frames: int) -> Voice:
        """About the first so many frames."""
        if self.film is not None:
            return self.only(list(_first(self.film.takes, n_frames)))
        pieces = list(_first([(0, -(-len(sound) // FRAME_SAMPLES)) for sound in self.sounds], n_frames))
        sounds = [sound[: end * FRAME_SAMPLES] for sound, (_, end) in zip(self.sounds, pieces, strict=False)]
        contacts = [
            None if known is None else tuple(one for one in known if one[1] * RATE <= len(sound))
            for known, sound in zip(self.contacts, sounds, strict=False)
        ]
        return dataclasses.replace(self, sounds=tuple(sounds), contacts=tuple(contacts))


def _first(ranges: Sequence[tuple[int, int]], n: int) -> Iterator[tuple[int, int]]:
    for first, end in ranges:
        if n <= 0:
            return
        yield first, min(end, first + n)
        n -= end - first


def sound_digest(audio: NDArray[np.float32]) -> str:
    """Tells sounds apart, whatever their file is called."""
    return hashlib.sha256(np.ascontiguousarray(audio, np.float32).tobytes()).hexdigest()


def read_film(path: Path) -> tuple[Film, NDArray[np.float32]]:
    """The filmed mouth of a dataset, and its sound.

    Raises: DatasetError: missing, damaged, or hardly any face.
    """
    clip = read_clip(path)
    n = len(clip.valid)
    return Film(clip.measures[:, 0], clip.valid, frame_loudness(clip.audio, n), clip.takes), clip.audio


def open_voices(
    paths: Sequence[Path], cache: Path, prepare: Prepare, phonemes: Path | None = None
) -> list[Voice]:
    """The voices of datasets, videos, sounds, and folders of them, each with a name of its own.

    phonemes: a folder with ``NAME.phonemes.json``, or such a file for a single sound; they may lie beside the sounds, too.

    Raises: MediaError, DatasetError: what is given is no voice.
    """
    files = [file for path in paths for file in _expanded(path, cache, prepare)]
    sounds = [file for file in files if file.suffix.lower() in _SOUNDS]
    if phonemes is not None and phonemes.is_file() and len(sounds) != 1:
        raise MediaError(
            f"{phonemes} holds the times of one sound, but {len(sounds)} sounds are given: give a folder of "
            "NAME.phonemes.json"
        )
    voices = [_read_sound(file, phonemes) if file in sounds else _read_dataset(file, cache) for file in files]
    return _named_apart(voices)


def _expanded(path: Path, cache: Path, prepare: Prepare) -> list[Path]:
    """Datasets and sound files that a path stands for."""
    if path.is_dir():
        sounds = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _SOUNDS]
        is_dataset = (path / "dataset.json").exists()
        return sounds if sounds and not is_dataset else find_clips([path], cache, prepare)
    if path.suffix.lower() in _SOUNDS:
        return [path]
    if path.suffix.lower() in _VIDEOS and path.is_file():
        dataset = cache / f"{path.stem}-{hash_of(path):08x}"
        prepare(path, dataset)
        return [dataset]
    raise MediaError(
        f"{path} is no voice: give a dataset, a video ({', '.join(_VIDEOS)}) or a sound ({', '.join(_SOUNDS)})"
    )


def _read_dataset(path: Path, cache: Path) -> Voice:
    name = (
        path.name.rpartition("-")[0] if path.parent == cache else path.name
    )  # without the hash of a video's path
    film, audio = read_film(path)
    pictures = path / "frames.npy"
    whole = Voice(name, (), (), film, audio, np.load(pictures, "r") if pictures.exists() else None)
    return whole.only(film.takes)


def _read_sound(path: Path, phonemes: Path | None) -> Voice:
    samples, rate = read_audio(path)
    sound = resample(samples, rate, RATE)
    return Voice(path.stem, (sound,), (_contacts_of(path, phonemes, len(sound) / RATE),))


def _contacts_of(sound: Path, given: Path | None, seconds: float) -> tuple[Interval, ...] | None:
    """Times of p, b, m from the file that was given or that lies beside the sound; None without one."""
    folder = sound.parent if given is None else given
    file = given if given is not None and given.is_file() else folder / f"{sound.stem}.phonemes.json"
    if not file.exists():
        return None
    try:
        intervals = tuple((float(start), float(end)) for start, end in json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise MediaError(
            f"{file} is not a list of [start_s, end_s] of p, b, m ({error}): write it anew"
        ) from None
    if wrong := [one for one in intervals if not 0 <= one[0] < one[1] <= seconds + 0.1]:
        raise MediaError(f"{file}: {wrong[0]} does not lie in the {seconds:.2f} s of {sound.name}")
    return intervals


def espeak_voices(n: int, seed: int = 0) -> list[Voice]:
    """``n`` sentences of espeak-ng, one after the other in every language; a voice for each language.

    Raises: MediaError: espeak-ng is missing.
    """
    speaker, languages = Voices(np.random.default_rng(seed)), list(TEXTS)
    said: dict[str, list[tuple[NDArray[np.float32], tuple[Interval, ...]]]] = {}
    for k in range(n):
        utterance = speaker.say(1, languages[k % len(languages)])
        contacts = tuple((p.start, p.end) for p in utterance.phonemes if ipa_shapes(p.name)[0] == "p")
        said.setdefault(utterance.language, []).append((utterance.audio, contacts))
    return [
        Voice(f"espeak-{language}", tuple(a for a, _ in sentences), tuple(c for _, c in sentences))
        for language, sentences in said.items()
    ]


def _named_apart(voices: Sequence[Voice]) -> list[Voice]:
    names: dict[str, int] = {}
    apart = []
    for voice in voices:
        n = names[voice.name] = names.get(voice.name, 0) + 1
        apart.append(voice if n == 1 else dataclasses.replace(voice, name=f"{voice.name}-{n}"))
    return apart

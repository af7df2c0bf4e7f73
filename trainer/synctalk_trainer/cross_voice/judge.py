"""Every avatar with every voice: spoken, watched, and measured; what is finished is kept beside the result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk.avatar import Avatar
from synctalk.errors import TrainingError
from synctalk.media import atomic_path

from ..drive import Spoken, watch
from ..measure import Detect
from ..run import without_nan, write_json
from .figures import Filmed, filmed_figures, lip_figures, missed
from .film import PairFilm, open_film
from .material import RATE, Voice
from .subjects import Subject

__all__ = ["Options", "Pair", "Progress", "film_path", "judge_all", "write_figures"]

Progress = Callable[[str, int, int], None]
"""Told a pair's name, its frames done and its frames in all"""

_VERSION = 1
_ARRAYS = ("opening", "found", "loudness")
_NUMBERS = ("expected", "flicker", "flicker_peak", "seconds")


@dataclass(frozen=True)
class Options:
    """How to judge."""

    film: bool = False
    """Write a film of each pair."""
    frames: int | None = None
    """About so many frames of each voice only."""
    force: bool = False
    """Speak again what is finished."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One avatar with one voice."""

    subject: Subject
    voice: Voice
    is_own: bool
    """The avatar's own voice, of which only held-out frames are judged"""
    spoken: tuple[Spoken, ...] = ()

    @property
    def name(self) -> str:
        """A file's name."""
        return re.sub(r"[^\w.-]+", "_", f"{self.subject.name}--{self.voice.name}")

    @cached_property
    def filmed(self) -> Filmed | None:
        """The speaker's filmed mouth, where there is one."""
        return None if self.voice.film is None else filmed_figures(self.voice.film)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """``figures.lip_figures`` with what it is about; NaN where nothing can be measured."""
        values = lip_figures(self.spoken, self.voice.film, self.subject.filmed, self.voice.contacts)
        about = {"avatar": self.subject.name, "voice": self.voice.name, "own_voice": self.is_own}
        return {**about, **values, "missed": missed(values)}


def judge_all(
    subjects: Sequence[Subject],
    voices: Sequence[Voice],
    detect: Detect,
    folder: Path,
    options: Options,
    progress: Progress,
    load: Callable[[Subject], Avatar] = Subject.load,
) -> Iterator[Pair]:
    """Measure every pair, one after the other; each is kept in ``folder`` as soon as it is finished.

    Raises: BundleError, TrainingError: an avatar that cannot be loaded.
    """
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        avatar: Avatar | None = None
        for voice in voices:
            pair = _pair(subject, voice, options)
            kept = None if options.force else _read(folder, pair)
            if kept is None or (options.film and not film_path(folder, pair).exists()):
                avatar = avatar or load(subject)
                kept = _speak(pair, avatar, detect, folder, options, progress)
                _write(folder, pair, kept)
            progress(pair.name, 1, 1)
            yield dataclasses.replace(pair, spoken=kept)


def _pair(subject: Subject, voice: Voice, options: Options) -> Pair:
    heard = subject.hears(voice)
    if options.frames is not None:
        heard = heard.first(options.frames)
    return Pair(subject, heard, subject.is_own(voice))


def film_path(folder: Path, pair: Pair) -> Path:
    """Where the film of a pair lies."""
    return folder / "films" / f"{pair.name}.mp4"


def _speak(
    pair: Pair, avatar: Avatar, detect: Detect, folder: Path, options: Options, progress: Progress
) -> tuple[Spoken, ...]:
    """Let the avatar speak all sounds of the voice."""
    sounds, done = list(pair.voice.spoken()), 0
    total = sum(-(-len(sound) * 25 // RATE) for sound in sounds)
    spoken = []
    with ExitStack() as stack:
        film: PairFilm | None = None
        if options.film:
            film = stack.enter_context(open_film(film_path(folder, pair), pair.voice))
        else:
            film_path(folder, pair).unlink(missing_ok=True)  # of other frames

        def seen(picture: NDArray[np.uint8]) -> None:
            nonlocal done
            done += 1
            progress(pair.name, done, total)
            if film is not None:
                film.add(picture)

        for sound in sounds:
            if film is not None:
                film.start(sound)
            spoken.append(watch(lambda s: (f.image for f in avatar.speak(s, RATE)), sound, detect, seen))
    return tuple(spoken)


def _key(pair: Pair) -> str:
    """What the frames of a pair depend on."""
    digest = hashlib.sha256(json.dumps([_VERSION, pair.subject.id]).encode())
    for sound in pair.voice.spoken():
        digest.update(hashlib.sha256(np.ascontiguousarray(sound, np.float32).tobytes()).digest())
    return digest.hexdigest()


def _file(folder: Path, pair: Pair) -> Path:
    return folder / "pairs" / f"{pair.name}.npz"


def _write(folder: Path, pair: Pair, spoken: Sequence[Spoken]) -> None:
    arrays: dict[str, Any] = {"key": np.array(_key(pair)), "n": np.array(len(spoken))}
    for k, one in enumerate(spoken):
        arrays |= {f"{name}_{k}": np.asarray(getattr(one, name)) for name in (*_ARRAYS, *_NUMBERS)}
    with atomic_path(_file(folder, pair)) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read(folder: Path, pair: Pair) -> tuple[Spoken, ...] | None:
    """What was kept of this very pair; None if there is nothing of it.

    Raises: TrainingError: it is damaged.
    """
    path = _file(folder, pair)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != _key(pair):
                return None
            return tuple(
                Spoken(
                    *(kept[f"{name}_{k}"] for name in _ARRAYS),
                    *(kept[f"{name}_{k}"].item() for name in _NUMBERS),
                )
                for k in range(int(kept["n"]))
            )
    except (OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}): delete it and run this again") from None


def write_figures(pairs: Sequence[Pair], folder: Path) -> None:
    """Write ``voices.json``: the figures of all pairs, null for what was not measured, and the subjects' films."""
    subjects = {pair.subject.name: pair.subject for pair in pairs}
    avatars = {
        name: {
            "id": subject.id,
            "own": None if subject.filmed is None else dataclasses.asdict(subject.filmed),
        }
        for name, subject in subjects.items()
    }
    write_json(
        folder / "voices.json",
        {
            "format": "synctalk-voices",
            "version": _VERSION,
            "avatars": without_nan(avatars),
            "pairs": [without_nan(pair.figures) for pair in pairs],
        },
    )

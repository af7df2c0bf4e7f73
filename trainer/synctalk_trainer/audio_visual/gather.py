"""From a request to a corpus, kept beside the training so that going on needs no second gathering."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from synctalk.audio import resample
from synctalk.errors import DatasetError
from synctalk.media import read_audio

from ..prepare import Options
from ..prepare import prepare as prepare_video
from ..run import read_json, write_json
from .augment import breaths, music, noises
from .corpus import AUDIO, Corpus, CorpusBuilder, film_labels, speaking
from .films import FPS, SHORTEST, STEPS, TalkingClip, find_clips, read_clip
from .networks import HINTS, N_MEASURES, OUTPUTS
from .teacher import Heard, Teacher, Whisper, fit_teacher
from .voices import VISEME_NAMES, Voices

__all__ = ["Request", "add_nobody", "add_utterance", "add_voice", "gather", "hear_film"]

Float = NDArray[np.float32]

_SOUNDS = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a")
_HELD_EVERY = 11
_SHUT_VISEME, _REST_VISEME = VISEME_NAMES.index("p"), VISEME_NAMES.index("rest")
_NOBODY_S = 10.0
_LONGEST_S = 60.0
"""A recording is heard up to here: many voices matter, not much of one."""


@dataclass(frozen=True)
class Request:
    """What the corpus is made of."""

    folders: tuple[str, ...]
    """Videos or prepared datasets"""
    voices: tuple[str, ...] = ()
    """Folders of recorded speech without film"""
    teacher: str | None = None
    """Whisper for CTranslate2; labels the voices"""
    utterances: int = 0
    """Synthetic ones"""
    variations: int = 2
    seed: int = 0


def gather(request: Request, folder: Path, landmarker: Path | None, console: Console) -> Corpus:
    """The corpus of this request: the one that lies in ``folder``, or a new one.

    Raises: DatasetError: nothing to train on. ModelError: no such teacher. MediaError: espeak-ng is missing, or a video or
    sound cannot be used.
    """
    file, note = folder / "corpus.npz", folder / "corpus.json"
    wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(request).items()}
    if file.exists() and note.exists() and read_json(note, "delete this folder") == wanted:
        return Corpus.load(file)
    if not request.folders:
        raise DatasetError("nothing to learn mouths from: give folders of films of talking people")
    if request.voices and request.teacher is None:
        raise DatasetError("voices without film need --teacher, which says what their mouths would do")

    def prepared(video: Path, dataset: Path) -> None:
        prepare_video(
            video, dataset, Options(landmarker=landmarker, shortest_s=SHORTEST / FPS), STEPS, False, console
        )

    paths = find_clips([Path(path) for path in request.folders], folder / "clips", prepared)
    films = [read_clip(path) for path in track(paths, "films", console=console)]
    builder = CorpusBuilder(np.random.default_rng(request.seed))
    if request.teacher is None:
        for film in track(films, "sounds of the films", console=console):
            builder.add_film(film, request.variations)
    else:
        _add_taught(builder, films, request, Whisper(Path(request.teacher)), console)
    if request.utterances:
        voices = Voices(builder.generator)
        for k in track(range(request.utterances), "synthetic speech", console=console):
            add_utterance(builder, voices, k % _HELD_EVERY == 0)
    add_nobody(builder, max(10, builder.n_sounds // 20))
    corpus = builder.build()
    corpus.save(file)
    write_json(note, wanted)
    return corpus


def _add_taught(
    builder: CorpusBuilder, films: list[TalkingClip], request: Request, whisper: Whisper, console: Console
) -> None:
    """Films, and voices without film, with what the teacher says of them."""
    heard = [hear_film(film, whisper) for film in track(films, "the teacher hears films", console=console)]
    teacher = fit_teacher(heard)
    for film, one in zip(track(films, "sounds of the films", console=console), heard, strict=True):
        builder.add_film(film, request.variations, teacher.hints(one.steps, len(film.measures)))
    for k, path in enumerate(track(_sounds(request.voices), "the teacher hears voices", console=console)):
        sound = _read(path)
        add_voice(builder, sound, whisper.hear(sound), teacher, k % _HELD_EVERY == 0, request.variations)


def hear_film(film: TalkingClip, whisper: Whisper) -> Heard:
    """A filmed talker as the teacher is fitted to him."""
    wanted = film_labels(film)[:, : N_MEASURES + 1]
    return Heard(whisper.hear(film.audio), wanted, np.flatnonzero(np.isfinite(wanted).all(axis=1)))


def add_voice(
    builder: CorpusBuilder,
    sound: Float,
    steps: NDArray[np.float16],
    teacher: Teacher,
    is_held: bool,
    n_variations: int,
) -> None:
    """A recorded voice [n], with what the teacher, who hears ``steps``, says that its mouth would do."""
    n_frames = _n_frames(sound)
    said = teacher.says(steps, n_frames)
    labels = np.empty((n_frames, len(OUTPUTS) + HINTS), np.float32)
    labels[:, :N_MEASURES] = said[:, :N_MEASURES].clip(-4, 4)
    labels[:, N_MEASURES] = said[:, N_MEASURES].clip(0, 1)
    labels[:, N_MEASURES + 1] = speaking(sound, n_frames)
    labels[:, len(OUTPUTS) :] = teacher.hints(steps, n_frames).clip(-5, 5)
    builder.add_sound("voice", sound, labels, is_held, n_variations)


def add_utterance(builder: CorpusBuilder, voices: Voices, is_held: bool) -> None:
    """A synthetic utterance: the synthesiser knows when lips touch and when it speaks; people's mouths it does not know."""
    said = voices.say()
    n_frames = min(len(said.viseme), _n_frames(said.audio))
    labels = np.full((n_frames, len(OUTPUTS)), np.nan, np.float32)
    labels[:, N_MEASURES] = np.where(
        said.viseme[:n_frames] == _REST_VISEME, np.nan, said.viseme[:n_frames] == _SHUT_VISEME
    )
    labels[:, N_MEASURES + 1] = speaking(said.audio, n_frames)
    builder.add_sound("synthetic", said.audio, labels, is_held, 1)


def add_nobody(builder: CorpusBuilder, n: int) -> None:
    """Sounds that nobody speaks, ten seconds each: noise, music, breath."""
    samples = round(_NOBODY_S * AUDIO.sample_rate)
    labels = np.full((round(_NOBODY_S * FPS), len(OUTPUTS)), np.nan, np.float32)
    labels[:, N_MEASURES + 1] = 0.0
    for k in range(n):
        make = (noises, music, breaths)[k % 3]
        level = 10 ** builder.generator.uniform(-2.0, -0.1)
        sound = make(samples, builder.generator) * np.float32(level)
        builder.add_sound("nobody", sound, labels, k % _HELD_EVERY == 0, 0)


def _sounds(folders: tuple[str, ...]) -> list[Path]:
    """Sound files in or under the folders. Raises: DatasetError: none."""
    found = [
        path
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix.lower() in _SOUNDS
    ]
    if folders and not found:
        raise DatasetError(f"{', '.join(folders)} holds no recordings ({', '.join(_SOUNDS)})")
    return found


def _read(path: Path) -> Float:
    """The beginning of a recording, mono at 16 kHz."""
    samples, rate = read_audio(path)
    return resample(samples[: round(_LONGEST_S * rate)], rate, AUDIO.sample_rate)


def _n_frames(sound: Float) -> int:
    """Whole frames that a sound lasts."""
    return len(sound) * FPS // AUDIO.sample_rate

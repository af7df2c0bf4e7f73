"""``synctalk evaluate --voices``: all avatars with all voices, with progress, and what people read afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from synctalk.errors import TrainingError

from ..audio_visual.films import STEPS
from ..detect import picture_detector
from ..prepare import Options as PrepareOptions
from ..prepare import prepare
from .judge import Options, Pair, judge_all
from .material import Voice, espeak_voices, open_voices
from .report import figure_table, write_report
from .subjects import Subject, is_run, open_subject

__all__ = ["Request", "evaluate_voices"]

_SHORTEST_S = 2.0
_WIDTH = 160
"""Columns of the table where it goes into a file"""
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    avatars: tuple[Path, ...]
    """Runs and bundles"""
    voices: tuple[Path, ...]
    espeak: int = 0
    """Sentences of espeak-ng"""
    phonemes: Path | None = None
    own: Path | None = None
    """Dataset of the avatar's own film"""
    holdout: str | None = None
    out: Path | None = None
    landmarker: Path | None = None
    film: bool = False
    frames: int | None = None
    force: bool = False

    @property
    def folder(self) -> Path:
        """Where the result goes: into a single run, or what was asked for."""
        if self.out is not None:
            return self.out
        one = self.avatars[0]
        return (
            one / "evaluation_voices" if len(self.avatars) == 1 and is_run(one) else Path("evaluation_voices")
        )


def evaluate_voices(request: Request, json_file: Path | None = None) -> bool:
    """Do it, print the table, and say whether every pair meets its bars.

    Raises: TrainingError: stopped by Ctrl-C (what was finished is reported and kept), or avatars that cannot be told
    apart. SyncTalkError: an avatar or a voice that cannot be used.
    """
    console, folder = Console(highlight=False), request.folder
    if request.own is not None and len(request.avatars) > 1:
        raise TrainingError("--own and --dataset are of one avatar, but several are given")
    folder.mkdir(parents=True, exist_ok=True)
    voices = _voices(request, folder, console)
    subjects = _subjects(request, folder, console)
    pairs: list[Pair] = []
    n_pairs = len(subjects) * len(voices)
    options = Options(request.film, request.frames, request.force)
    try:
        with picture_detector(request.landmarker) as detect, _Bars(console, n_pairs) as bars:
            for pair in judge_all(subjects, voices, detect, folder, options, bars.frame):
                pairs.append(pair)
                bars.pair()
    except KeyboardInterrupt:
        raise TrainingError(
            f"stopped: {len(pairs)} of {n_pairs} pairs are finished and kept in {folder}; the same command goes on"
        ) from None
    finally:
        if pairs:
            write_report(pairs, folder)
    if json_file is not None:
        json_file.write_bytes((folder / "voices.json").read_bytes())
    _say(pairs, console)
    console.print(f"\n{folder / 'report.html'}")
    return not any(pair.figures["missed"] for pair in pairs)


def _voices(request: Request, folder: Path, console: Console) -> list[Voice]:
    options = PrepareOptions(landmarker=request.landmarker, shortest_s=_SHORTEST_S)

    def prepared(video: Path, dataset: Path) -> None:
        prepare(video, dataset, options, STEPS, False, console)

    voices = open_voices(request.voices, folder / "clips", prepared, request.phonemes)
    return voices + (espeak_voices(request.espeak) if request.espeak else [])


def _subjects(request: Request, folder: Path, console: Console) -> list[Subject]:
    subjects = []
    for path in request.avatars:
        with console.status(f"opening {escape(str(path))}"):
            subjects.append(open_subject(path, folder / "bundles", request.own, request.holdout))
    names = [subject.name for subject in subjects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TrainingError(
            f"several avatars are called {', '.join(twice)}: rename them, so that they can be told apart"
        )
    return subjects


def _say(pairs: list[Pair], console: Console) -> None:
    wide = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
    wide.print(figure_table(pairs))
    for pair in pairs:
        for sentence in pair.figures["missed"]:
            console.print(f"- {escape(pair.subject.name)}, {escape(pair.voice.name)}: {sentence}")


class _Bars:
    """A bar of all pairs and one of the frames of the pair that is spoken."""

    def __init__(self, console: Console, n_pairs: int) -> None:
        self._progress = Progress(*_COLUMNS, console=console, transient=True, disable=not console.is_terminal)
        self._all = self._progress.add_task("pairs", total=n_pairs)
        self._one = self._progress.add_task("", total=None)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def frame(self, name: str, done: int, total: int) -> None:
        """Frames of a pair are done."""
        self._progress.update(self._one, description=escape(name), completed=done, total=total)

    def pair(self) -> None:
        """A pair is finished."""
        self._progress.advance(self._all)

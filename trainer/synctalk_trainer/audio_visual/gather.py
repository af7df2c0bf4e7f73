"""From a request to a corpus, kept beside the training so that going on needs no second gathering."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from synctalk.errors import DatasetError

from ..prepare import Options
from ..prepare import prepare as prepare_video
from ..run import read_json, write_json
from .corpus import STEPS, Corpus, CorpusBuilder, find_clips, read_clip
from .voices import Voices

__all__ = ["Request", "gather"]


@dataclass(frozen=True)
class Request:
    """What the corpus is made of."""

    folders: tuple[str, ...]
    """Videos or prepared datasets"""
    utterances: int
    variations: int
    head: str | None = None
    """The ICT-FaceKit light mesh"""
    seed: int = 0


def gather(request: Request, folder: Path, landmarker: Path | None, console: Console) -> Corpus:
    """The corpus of this request: the one that lies in ``folder``, or a new one.

    Raises: DatasetError: nothing to train on. MediaError: espeak-ng is missing, a video cannot be used.
    """
    file, note = folder / "corpus.npz", folder / "corpus.json"
    wanted = dataclasses.asdict(request) | {"folders": list(request.folders)}
    if file.exists() and note.exists() and read_json(note, "delete this folder") == wanted:
        return Corpus.load(file)
    if not request.folders and not request.utterances:
        raise DatasetError("nothing to train on: give folders of talking clips, --utterances, or both")
    generator = np.random.default_rng(request.seed)
    builder = CorpusBuilder(generator)

    def prepared(video: Path, dataset: Path) -> None:
        prepare_video(video, dataset, Options(landmarker=landmarker), STEPS, False, console)

    clips = find_clips([Path(path) for path in request.folders], folder / "clips", prepared)
    for path in track(clips, "gathering clips", console=console):
        builder.add_real(read_clip(path), request.variations, True)
    if request.utterances:
        voices = Voices(generator, None if request.head is None else Path(request.head))
        said = builder.add_synthetic(voices, request.utterances)
        for _ in track(said, "synthetic speech", total=request.utterances, console=console):
            pass
    corpus = builder.build()
    corpus.save(file)
    write_json(note, wanted)
    return corpus

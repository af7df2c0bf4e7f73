"""Filmed talkers: prepared datasets, or videos from which ``synctalk prepare`` makes them with its first steps."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk.errors import DatasetError

from ..dataset import read_wave
from .mouths import landmark_measures

__all__ = ["FPS", "SHORTEST", "STEPS", "VIDEOS", "TalkingClip", "find_clips", "hash_of", "read_clip"]

Float = NDArray[np.float32]

FPS = 25
SHORTEST = 50
"""Frames of a clip, at least: two seconds."""
STEPS = ("sound", "landmarks")
"""What ``synctalk prepare`` must do with a video, and the steps before these, for ``read_clip``."""
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")
"""What is taken for a video."""


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

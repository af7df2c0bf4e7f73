"""Avatars to be judged: bundles, and runs, which are exported first, so that what is measured is what users get."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synctalk.avatar import Avatar
from synctalk.bundle import open_bundle
from synctalk.errors import TrainingError

from ..run import read_json, settings_of, write_json
from ..split import HOLDOUT_LAST, segments, split
from .figures import Film, Filmed, filmed_figures
from .material import Voice, read_film, sound_digest

__all__ = ["Subject", "is_run", "open_subject"]

_FPS = 25


@dataclass(frozen=True, eq=False)
class Subject:
    """An avatar, and its person's own film where that is known."""

    name: str
    bundle: Path
    id: str
    """Tells bundles apart: a digest of all their files"""
    film: Film | None = None
    filmed: Filmed | None = None
    sound: str | None = None
    """``sound_digest`` of the film"""
    held: tuple[tuple[int, int], ...] = ()
    """[first, end) of the frames that were not trained on"""

    def hears(self, voice: Voice) -> Voice:
        """The voice as this avatar is judged with it: of its own only what was held out."""
        return voice.only(self.held) if self.is_own(voice) else voice

    def is_own(self, voice: Voice) -> bool:
        """Whether the avatar was made from this voice's film."""
        return self.sound is not None and voice.audio is not None and sound_digest(voice.audio) == self.sound

    def load(self) -> Avatar:
        """Raises: TrainingError: not 25 frames a second."""
        avatar = Avatar.from_bundle(self.bundle)
        if avatar.fps != _FPS:
            raise TrainingError(f"{self.bundle} has {avatar.fps} frames a second: {_FPS} can be measured")
        return avatar


def is_run(path: Path) -> bool:
    """Whether a path is a folder of ``synctalk train`` and not a bundle."""
    return (path / "run.json").exists()


def open_subject(path: Path, folder: Path, own: Path | None = None, holdout: str | None = None) -> Subject:
    """A run or a bundle.

    folder: takes the bundle of a run; one that lies there is used again unless the run was trained on. own: the dataset
    of the avatar's own film; the run's where it is left out. holdout: which of its frames are held out, see ``split``.

    Raises: TrainingError: no checkpoint, an export that fails. BundleError: no bundle. DatasetError: no film.
    """
    bundle = path
    if is_run(path):
        settings = settings_of(path)
        own, holdout = own or Path(settings.dataset), holdout or settings.holdout
        bundle = _exported(path, own, folder)
    identity = _identity(bundle)
    name = path.resolve().name.removesuffix(".avatar")
    if own is None:
        return Subject(name, bundle, identity)
    film, audio = read_film(own)
    held = _held_out(film.takes, len(film.valid), holdout or HOLDOUT_LAST)
    return Subject(name, bundle, identity, film, filmed_figures(film), sound_digest(audio), held)


def _identity(bundle: Path) -> str:
    files = open_bundle(bundle).manifest.files
    listed = json.dumps({name: entry.sha256 for name, entry in sorted(files.items())})
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _held_out(takes: Sequence[tuple[int, int]], n_frames: int, holdout: str) -> tuple[tuple[int, int], ...]:
    _, held = split(takes, n_frames, holdout)
    return tuple((int(held[part.start]), int(held[part.stop - 1]) + 1) for part in segments(held, takes))


def _exported(run: Path, dataset: Path, folder: Path) -> Path:
    """The bundle of a run's checkpoint, made by ``synctalk export`` where it is not there yet."""
    name = run.resolve().name
    bundle, note = folder / f"{name}.avatar", folder / f"{name}.json"
    checkpoint = run / "checkpoint.safetensors"
    if not checkpoint.exists():
        raise TrainingError(f"{run} has no checkpoint yet: let `synctalk train` go on")
    wanted = {"checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    if bundle.exists() and note.exists() and read_json(note, "delete it") == wanted:
        return bundle
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "synctalk", "export", run, "-o", bundle, "--dataset", dataset]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise TrainingError(f"{run} cannot be exported: {last[0]}. See `synctalk export {run} -o {bundle}`.")
    write_json(note, wanted)
    return bundle

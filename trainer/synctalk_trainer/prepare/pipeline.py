"""From a video to a dataset: the steps, in order, each done again only when something it depends on has changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from synctalk.errors import DatasetError, MediaError
from synctalk_trainer.prepare.expression import run_expression
from synctalk_trainer.prepare.landmarks import Landmarker, MediaPipeLandmarker, run_landmarks
from synctalk_trainer.prepare.masks import run_masks
from synctalk_trainer.prepare.media import run_media, run_sound
from synctalk_trainer.prepare.plate import run_plate
from synctalk_trainer.prepare.pose import run_landmark_pose
from synctalk_trainer.prepare.pose_step import run_pose
from synctalk_trainer.prepare.report import run_report
from synctalk_trainer.prepare.segmenter import MediaPipeSegmenter, Segmenter
from synctalk_trainer.prepare.sync import run_sync
from synctalk_trainer.prepare.tracks import run_tracks
from synctalk_trainer.prepare.workspace import Options, Workspace

__all__ = ["STEPS", "Detectors", "Step", "Summary", "prepare"]


@dataclass(frozen=True)
class Step:
    """One step: its key is the hash of its version, its options and the keys of the steps it needs."""

    name: str
    version: int
    needs: tuple[str, ...]
    writes: tuple[str, ...]
    run: Callable[[Workspace, Detectors], None]
    options: Callable[[Options], Any] = lambda options: None
    """The options it depends on, as JSON values."""

    def key(self, work: Workspace, keys: dict[str, str], source: str) -> str:
        """Hex digest of everything that the step's result depends on."""
        parts = [
            self.name,
            self.version,
            self.options(work.options),
            [keys[name] for name in self.needs],
            source,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Summary:
    """What ``prepare`` did."""

    folder: Path
    n_frames: int
    size: int
    done: tuple[str, ...]
    """Steps that ran."""
    kept: tuple[str, ...]
    """Steps whose results were there."""
    warnings: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Detectors:
    """What finds faces and persons; MediaPipe's models unless something else is given."""

    landmarker: Landmarker
    segmenter: Segmenter


def _run_media(work: Workspace, detectors: Detectors) -> None:
    run_media(work, detectors.landmarker)


def _run_landmarks(work: Workspace, detectors: Detectors) -> None:
    run_landmarks(work, detectors.landmarker)


def _run_masks(work: Workspace, detectors: Detectors) -> None:
    run_masks(work, detectors.segmenter)


def _takes(options: Options) -> str | None:
    if options.takes is None:
        return None
    if not options.takes.is_file():
        raise MediaError(f"no such file: {options.takes}. Give --takes a JSON file, or leave it out.")
    return hashlib.sha256(options.takes.read_bytes()).hexdigest()


STEPS: tuple[Step, ...] = (
    Step("media", 2, (), ("frames.npy",), _run_media, lambda options: options.size),
    Step(
        "sound",
        1,
        ("media",),
        ("audio.wav",),
        lambda work, _: run_sound(work),
        lambda options: options.sound_shift_ms,
    ),
    Step("landmarks", 1, ("media",), ("landmarks.npz",), _run_landmarks, _takes),
    Step("masks", 1, ("landmarks",), ("masks.npy",), _run_masks),
    Step("plate", 2, ("masks",), ("background.png", "plates.npy"), lambda work, _: run_plate(work)),
    Step(
        "landmark_pose",
        1,
        ("landmarks",),
        ("landmark_pose.npz",),
        lambda work, _: run_landmark_pose(work),
    ),
    Step("tracks", 5, ("landmark_pose", "masks"), ("tracks.npz",), lambda work, _: run_tracks(work)),
    Step(
        "pose",
        3,
        ("tracks",),
        ("pose.npz",),
        lambda work, _: run_pose(work),
        lambda options: options.poses,
    ),
    Step("expression", 2, ("landmarks",), ("expression.npz",), lambda work, _: run_expression(work)),
    Step("sync", 1, ("landmarks", "sound"), ("sync.json",), lambda work, _: run_sync(work)),
    Step(
        "report",
        1,
        ("masks", "plate", "pose", "expression"),
        ("report.html",),
        lambda work, _: run_report(work),
    ),
)
"""All steps, in order."""


def prepare(
    video: Path | None,
    folder: Path,
    options: Options | None = None,
    steps: tuple[str, ...] = (),
    force: bool = False,
    console: Console | None = None,
    detectors: Detectors | None = None,
) -> Summary:
    """Make a dataset, or bring one up to date.

    video: None where the folder holds a dataset already and ``media`` need not run. steps: only these (and what they
    need and lack); all by default. force: run the named steps though nothing changed.

    Raises: MediaError: the video cannot be used; DatasetError: a step name that is unknown, a damaged folder;
    ModelError: a model file is missing or wrong, told before the first step.
    """
    unknown = sorted(set(steps) - {step.name for step in STEPS})
    if unknown:
        names = ", ".join(step.name for step in STEPS)
        raise DatasetError(f"unknown step {', '.join(unknown)}: choose from {names}")
    work = Workspace.open(folder, video, options or Options())
    wanted = _wanted(steps)
    source = _source_digest(work)
    keys: dict[str, str] = {}
    done, kept = [], []
    columns = (TextColumn("{task.description:<11}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with (
        nullcontext(detectors) if detectors else _mediapipe(work.options) as found,
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress,
    ):
        for step in STEPS:
            keys[step.name] = step.key(work, keys, source)
            if step.name not in wanted:
                continue
            is_asked = not steps or step.name in steps
            if _is_current(work, step, keys[step.name]) and not (force and is_asked):
                kept.append(step.name)
                continue
            task = progress.add_task(step.name, total=1.0)
            work.advance = lambda fraction, task=task: progress.update(task, completed=fraction)  # type: ignore[misc]
            _run(work, step, keys[step.name], found)
            progress.update(task, completed=1.0)
            done.append(step.name)
    warnings = tuple(work.info["warnings"])
    return Summary(folder, work.n_frames, work.size, tuple(done), tuple(kept), warnings)


@contextmanager
def _mediapipe(options: Options) -> Iterator[Detectors]:
    """MediaPipe's models: their files are checked now, and loaded when they are first asked for."""
    landmarker, segmenter = MediaPipeLandmarker(options.landmarker), MediaPipeSegmenter(options.segmenter)
    try:
        yield Detectors(landmarker, segmenter)
    finally:
        landmarker.close()
        segmenter.close()


def _wanted(steps: tuple[str, ...]) -> set[str]:
    """The named steps and all they need; all without names."""
    table = {step.name: step for step in STEPS}
    wanted, todo = set(), list(steps or table)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo.extend(table[name].needs)
    return wanted


def _source_digest(work: Workspace) -> str:
    """What identifies the video: its content; without one, the digest that the dataset remembers."""
    if work.video is not None and work.video.is_file():
        with work.video.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if work.video is None and "source" in work.info:
        return str(work.info["source"]["sha256"])
    raise MediaError(f"no such file: {work.video}. Give a video of one person speaking.")


def _is_current(work: Workspace, step: Step, key: str) -> bool:
    noted = work.info["steps"].get(step.name, {})
    return noted.get("key") == key and all((work.folder / name).exists() for name in step.writes)


def _run(work: Workspace, step: Step, key: str, detectors: Detectors) -> None:
    if work.info["steps"].pop(step.name, None):
        work.save()  # stopped half-way, the step counts as not done
    work.forget_warnings(step.name)
    started = time.perf_counter()
    step.run(work, detectors)
    seconds = round(time.perf_counter() - started, 2)
    work.info["steps"][step.name] = {"version": step.version, "key": key, "seconds": seconds}
    work.save()

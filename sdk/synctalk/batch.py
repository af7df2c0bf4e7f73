"""Many sounds, one mp4 each, several at once on one loaded avatar; one that fails does not stop the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from synctalk.avatar import Avatar
from synctalk.errors import MediaError
from synctalk.expression import Source
from synctalk.frame import Frame
from synctalk.outputs import check_film
from synctalk.paste import Paste
from synctalk.sound_file import claimed_frames

__all__ = ["Result", "Task", "is_finished", "plan", "render_threads", "speak_all"]


@dataclass(frozen=True)
class Task:
    """A sound, and where its mp4 goes."""

    audio: Path
    out: Path


@dataclass(frozen=True)
class Result:
    """What became of a task."""

    task: Task
    n_frames: int = 0
    render_ms: float = 0.0
    """What its frames took, encoding apart."""
    error: Exception | None = None
    """Why there is no mp4."""


OnFrame = Callable[[Task, Frame, int | None], None]
"""Told of each frame, and how many its sound will have (as its file claims; None where it does not say); on a thread of
its own for each of the jobs."""


class _StoppedError(Exception):
    """Nobody waits for the results any more."""


def plan(sounds: Sequence[Path], folder: Path) -> list[Task]:
    """A task for each sound: ``folder/NAME.mp4``.

    Raises: MediaError: two sounds of one name, a sound that an mp4 would replace, or a folder that cannot be written.
    """
    tasks = [Task(sound, folder / f"{sound.stem}.mp4") for sound in sounds]
    (out, n_sounds), *_ = Counter(task.out for task in tasks).most_common(1)
    if n_sounds > 1:
        raise MediaError(f"{n_sounds} sounds would become {out}: rename them, or speak them into two folders")
    for task in tasks:
        check_film(task.out, task.audio)
    return tasks


def is_finished(task: Task, avatar_path: Path) -> bool:
    """Whether the mp4 is there, and neither sound nor avatar has been changed since."""
    if not task.out.is_file():
        return False
    made = task.out.stat().st_mtime
    return all(source.stat().st_mtime <= made for source in (task.audio, avatar_path) if source.exists())


def render_threads(n_cpus: int, jobs: int, backend: str) -> int:
    """How many threads to load an avatar with that so many jobs share.

    In the native module each job works itself, beside the pool's threads; in ONNX Runtime's backend it waits for them.
    """
    return n_cpus if backend == "onnxruntime" else max(1, n_cpus - jobs + 1)


def speak_all(
    avatar: Avatar,
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    on_frame: OnFrame | None = None,
    expression: Source = "generated",
    paste: Paste | None = None,
) -> Iterator[Result]:
    """Speak every sound, ``jobs`` at a time; results come as they are ready. expression, paste: as for ``Avatar.save``.

    An mp4 appears under its name when it is whole. Leaving the iteration early stops what is under way.
    """
    is_stopped = threading.Event()

    def speak(task: Task) -> Result:
        render_ms = 0.0

        def watch(frame: Frame) -> None:
            nonlocal render_ms
            render_ms += frame.render_ms
            if is_stopped.is_set():
                raise _StoppedError
            if on_frame is not None:
                on_frame(task, frame, n_frames)

        try:
            n_frames = claimed_frames(task.audio, avatar.fps)
            n_written = avatar.save(task.out, task.audio, on_frame=watch, expression=expression, paste=paste)
            return Result(task, n_written, render_ms)
        except Exception as error:  # whatever it is, it is this sound's, and the others go on
            return Result(task, error=error)

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="synctalk-speak")
    try:
        for future in as_completed([pool.submit(speak, task) for task in tasks]):
            yield future.result()
    finally:
        is_stopped.set()
        pool.shutdown(cancel_futures=True)

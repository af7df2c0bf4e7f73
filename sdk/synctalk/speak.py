"""The command ``synctalk speak``, and the speaking of ``synctalk demo``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from synctalk.errors import MediaError, SyncTalkError
from synctalk.outputs import check_film

if TYPE_CHECKING:
    from synctalk.avatar import Avatar, Frame
    from synctalk.backends import BackendName, Detail, Device, Precision
    from synctalk.batch import Result, Task
    from synctalk.expression import Source
    from synctalk.paste import Paste

__all__ = ["say", "shown", "speak"]

_OUT = Console(highlight=False, soft_wrap=True)
_ERR = Console(stderr=True, highlight=False, soft_wrap=True)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())


def speak(
    avatar: Annotated[Path, typer.Argument(metavar="AVATAR", help="A bundle: an .avatar file or folder.")],
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO...", help="Speech: sound or video files.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Where the mp4 goes: a file, or a folder."),
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Sounds at once.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Speak finished sounds of a folder again.")] = False,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="auto, native-cuda, native-cpu, onnxruntime or tensorrt.")
    ] = "auto",
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads; all by default.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto, float32, int16, int8 (native-cpu) or float16 (native-cuda)."
        ),
    ] = "auto",
    detail: Annotated[
        str, typer.Option(metavar="NAME", help="auto, full or half (heads at half the size, upsampled).")
    ] = "auto",
    expression: Annotated[
        str,
        typer.Option(metavar="NAME", help="generated (blinks, brows that follow the voice) or recorded."),
    ] = "generated",
    paste: Annotated[
        Path | None,
        typer.Option(metavar="VIDEO", help="Put the frames back into the video the avatar was made from."),
    ] = None,
    allow_expired_consent: Annotated[
        bool, typer.Option(help="Use an avatar although the consent to its use has ended; it is logged.")
    ] = False,
) -> None:
    """Let an avatar speak sounds; write an mp4 (H.264 + AAC) of each.

    Into a folder (several sounds always go into one) only what is missing or older than its sound or avatar is written:
    run it again to go on. A sound that fails is told of at the end; the others are spoken.

    Examples:

        synctalk speak may.avatar hello.wav -o hello.mp4
        synctalk speak may.avatar lines/*.wav -o out/ --jobs 2
        synctalk speak may.avatar hello.mp3 --backend onnxruntime --threads 1
        synctalk speak may.avatar hello.wav --paste may.mp4 -o hello.mp4
    """
    from synctalk.avatar import Avatar
    from synctalk.backends.sessions import usable_cpus
    from synctalk.batch import Task, is_finished, plan, render_threads

    if expression not in ("generated", "recorded"):
        raise typer.BadParameter(f"--expression is generated or recorded, not {expression}")
    is_folder = len(audio) > 1 or (out is not None and (out.is_dir() or not out.suffix))
    if len(audio) > 1 and out is not None and out.suffix and not out.is_dir():
        raise typer.BadParameter(f"{len(audio)} sounds need a folder, such as -o out/, not {out}")
    if is_folder:
        folder = out or Path("out")
        folder.mkdir(parents=True, exist_ok=True)
        tasks = plan(audio, folder)
        tasks = [task for task in tasks if force or not is_finished(task, avatar)]
        if n_finished := len(audio) - len(tasks):
            _OUT.print(f"{n_finished} of {len(audio)} finished already (--force speaks them again)")
    else:
        tasks = [Task(audio[0], out or Path("out.mp4"))]
    if not tasks:
        return
    for task in tasks:  # before anything is loaded
        check_film(task.out, *audio, avatar, paste)
    jobs = min(jobs, len(tasks))
    began = time.perf_counter()
    loaded = Avatar.from_bundle(
        avatar,
        cast("Device", device),
        cast("BackendName", backend),
        render_threads(threads or usable_cpus(), jobs, backend),
        cast("Precision", precision),
        cast("Detail", detail),
        allow_expired_consent=allow_expired_consent,
    )
    source = None if paste is None else loaded.onto(paste)
    say(loaded, tasks, jobs, time.perf_counter() - began, cast("Source", expression), source)


def say(
    avatar: Avatar,
    tasks: Sequence[Task],
    jobs: int,
    loading_s: float,
    expression: Source = "generated",
    paste: Paste | None = None,
) -> None:
    """Speak with progress bars; say where the files are, how fast it went, and what failed.

    Raises: SyncTalkError: some failed.
    """
    from synctalk.batch import speak_all

    began, results = time.perf_counter(), []
    with _Bars(len(tasks)) as bars:
        for result in speak_all(
            avatar, tasks, jobs=jobs, on_frame=bars.advance, expression=expression, paste=paste
        ):
            results.append(result)
            bars.end(result)
            if result.error is None:
                size = "{} x {}".format(*(avatar.size if paste is None else paste.size))
                seconds = result.n_frames / avatar.fps
                where = escape(shown(result.task.out))
                _OUT.print(f"{where}: {result.n_frames} frames of {size}, {seconds:.1f} s")
    if n_frames := sum(result.n_frames for result in results):
        taken, render_ms = time.perf_counter() - began, sum(result.render_ms for result in results)
        _OUT.print(
            f"  {n_frames / taken:.0f} fps, {n_frames / avatar.fps / taken:.1f} x real time with encoding "
            f"({render_ms / n_frames:.1f} ms a frame without; {avatar.info().backend}); "
            f"loaded in {loading_s:.1f} s"
        )
    _check([result for result in results if result.error is not None], len(tasks))


def shown(path: Path) -> str:
    """A path as short as it can be given from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _check(failed: list[Result], n_tasks: int) -> None:
    if not failed:
        return
    first = failed[0].error
    if n_tasks == 1 and first is not None:
        raise first
    listed = "\n".join(f"  {shown(one.task.audio)}: {_reason(one.error)}" for one in failed)
    raise MediaError(
        f"{len(failed)} of {n_tasks} sounds were not spoken:\n{listed}\n"
        "Mend these and run it again: what is finished is left alone."
    ) from first


def _reason(error: Exception | None) -> str:
    return str(error) if isinstance(error, SyncTalkError | OSError) else f"{type(error).__name__}: {error}"


class _Bars:
    """A bar of all sounds where there are several, and one of each that is being spoken."""

    def __init__(self, n_tasks: int) -> None:
        self._progress = Progress(*_COLUMNS, console=_ERR, transient=True, disable=not _ERR.is_terminal)
        self._all = self._progress.add_task("all", total=n_tasks, visible=n_tasks > 1)
        self._bars: dict[Task, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, task: Task, frame: Frame, n_frames: int | None) -> None:
        if task not in self._bars:
            self._bars[task] = self._progress.add_task(escape(task.audio.name), total=n_frames)
        self._progress.advance(self._bars[task])

    def end(self, result: Result) -> None:
        self._progress.advance(self._all)
        if result.task in self._bars:
            self._progress.remove_task(self._bars.pop(result.task))

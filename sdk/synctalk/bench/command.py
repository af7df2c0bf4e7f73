"""The command ``synctalk bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from synctalk.outputs import check_output

__all__ = ["bench"]


def bench(
    avatar: Annotated[
        Path | None, typer.Argument(metavar="AVATAR", help="A bundle: an .avatar file or folder.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another sound than the demo sentence.")
    ] = None,
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
    sessions: Annotated[
        int, typer.Option(metavar="N", min=1, help="Streams in turn on the one loaded avatar.")
    ] = 1,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.1, help="How long frames are timed.")] = 10.0,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Race PyTorch, torch.compile and ONNX Runtime (minutes).")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report for programs.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the report as a PNG (needs matplotlib).")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Measure nothing; set two reports side by side."),
    ] = None,
) -> None:
    """Measure how fast an avatar is on this machine, from sound to picture.

    Examples:

        synctalk bench may.avatar
        synctalk bench may.avatar --baseline --json may.json --plot may.png
        synctalk bench --compare before.json after.json
    """
    from . import report

    out = Console(highlight=False, soft_wrap=True)
    if compare is not None:
        first, second = (report.read_report(path) for path in compare)
        out.print(escape(report.compare(first, second)))
        return
    if avatar is None:
        raise typer.BadParameter("give an AVATAR, or two reports with --compare")
    from .measure import SENTENCE, Settings, benchmark
    from .plot import check_plotting, draw_report

    if plot is not None:
        check_plotting()
    for file in (json_file, plot):
        if file is not None:
            check_output(file, avatar, audio)
    settings = Settings(
        avatar,
        audio or SENTENCE,
        backend,
        device,
        threads,
        precision,
        detail,
        sessions,
        seconds,
        baseline,
    )
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("loading", total=1.0)

        def show(what: str, share: float) -> None:
            """Nothing done yet is shown as a bar that moves."""
            progress.update(bar, description=what, completed=share, total=1.0 if share else None)

        result = benchmark(settings, show)
    out.print(escape(report.summary(result.report)))
    if json_file is not None:
        report.write_report(result.report, json_file)
    if plot is not None:
        draw_report(result.report, result.frame_s, plot)

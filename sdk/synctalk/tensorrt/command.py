"""``synctalk build-engines``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["build_engines"]


def build_engines(
    avatar: Annotated[Path, typer.Argument(metavar="AVATAR", help="A bundle: an .avatar file or folder.")],
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="fp32, or fp16 where the bundle has it.")
    ] = "fp16",
    max_batch: Annotated[int, typer.Option(min=1, max=64, help="Frames in one call, at most.")] = 1,
) -> None:
    """Build TensorRT engines for an avatar on this machine's GPU, and keep them in your cache.

    `--backend tensorrt` does so by itself on first use; this does it ahead. Engines fit one GPU model, one version of
    TensorRT and one avatar; those that do not fit are built again.

    Examples:

      synctalk build-engines may.avatar

      synctalk build-engines may.avatar --precision fp32 --max-batch 8
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from synctalk.bundle import open_bundle

    from .builder import TensorRTBuilder, engines_of, models_of
    from .cache import EngineCache

    bundle = open_bundle(avatar)
    models_of(
        bundle, precision, max_batch
    )  # a precision that cannot be had is refused before the GPU is looked for
    builder, cache = TensorRTBuilder(), EngineCache()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(TextColumn("{task.description}"), BarColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("reading", total=1.0)
        engines_of(
            bundle,
            precision,
            max_batch,
            builder,
            cache,
            lambda phase, done: progress.update(bar, description=phase, completed=done),
        )
    console.print(f"engines for {builder.gpu}, TensorRT {builder.version}, {precision}: {cache.folder}")

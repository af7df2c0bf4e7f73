"""``synctalk build-engines``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["build_engines"]


def build_engines(
    avatar: Annotated[Path, typer.Argument(metavar="AVATAR", help="A bundle: an .avatar file or folder.")],
    precision: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto (float16 where the bundle has it), float16 or float32."),
    ] = "auto",
    max_batch: Annotated[int, typer.Option(min=1, max=64, help="Frames in one call, at most.")] = 1,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Fit every minor version of this TensorRT.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Fit every GPU from RTX 30 on.")
    ] = False,
) -> None:
    """Build TensorRT engines for an avatar on this machine's GPU, and keep them in your cache.

    `--backend tensorrt` does so by itself on first use; this does it ahead, and decides how the avatar's engines are
    built from then on. Engines fit one avatar, one version of TensorRT and one GPU model unless you ask for more; those
    that do not fit are built again.

    Examples:

      synctalk build-engines may.avatar

      synctalk build-engines may.avatar --precision float32 --max-batch 8
    """
    from rich.console import Console

    from synctalk.bundle import open_bundle

    from .builder import EngineOptions, TensorRTBuilder, engine_precision, engines_of, models_of
    from .cache import EngineCache
    from .progress import shown_progress

    bundle = open_bundle(avatar)
    chosen, is_half = engine_precision(bundle, precision), "upsampler.onnx" in bundle.manifest.files
    models_of(bundle, chosen, max_batch)  # what cannot be had is refused before the GPU is looked for
    builder, cache = TensorRTBuilder(), EngineCache()
    options = EngineOptions(chosen, max_batch, version_compatible, hardware_compatible)
    with shown_progress() as say:
        engines_of(bundle, options, builder, cache, say, is_half)
    cache.keep_options(bundle.manifest.id, options)
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"engines for {builder.gpu}, TensorRT {builder.version}, {chosen}: {cache.folder}"
    )

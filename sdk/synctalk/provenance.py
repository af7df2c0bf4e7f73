"""``synctalk detect`` and ``synctalk sign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["detect", "sign"]


def detect(
    film: Annotated[Path, typer.Argument(metavar="FILE", help="A video or a picture.")],
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Try all sizes, not only the common ones: slow.")
    ] = False,
) -> None:
    """Say whether a video was made by synctalk, by its content credentials and by the invisible mark in its frames.

    Every two seconds are looked at by themselves. The exit code is 0 where the mark is found and 1 where it is not.

    Examples:

        synctalk detect out.mp4
        synctalk detect cut_and_resized.mp4 --thorough
    """
    from synctalk.credentials import credentials_of
    from synctalk.errors import MediaError
    from synctalk.media import VideoFrames
    from synctalk.watermark import detect_spans

    signed = credentials_of(film)
    typer.echo(f"{film}: content credentials: {signed or 'none'}")
    spans = list(detect_spans(VideoFrames(str(film)), is_thorough=thorough))
    if not spans:
        raise MediaError(f"{film} holds no frames.")
    marked = [span for span in spans if span.is_marked]
    score = max(span.score for span in spans)
    typer.echo(
        f"{film}: mark found in {len(marked)} of {len(spans)} spans of two seconds (best score {score:.1f})"
    )
    if marked:
        typer.echo(f"made with synctalk; shown at {marked[0].scale:.2f} of its size")
        return
    typer.echo("no mark: not made with synctalk, or its mark was removed or switched off")
    raise typer.Exit(1)


def sign(
    avatar: Annotated[Path, typer.Argument(metavar="AVATAR", help="A bundle: an .avatar file or folder.")],
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ed25519 private key (PEM); your own, made on first use, by default."
        ),
    ] = None,
) -> None:
    """Sign an avatar, so that others can check that it is yours and unchanged.

    Examples:

        synctalk sign may.avatar
        synctalk sign may.avatar --key studio.pem
    """
    from synctalk.signing import sign_bundle

    public = sign_bundle(avatar, key)
    typer.echo(f"{avatar}: signed. Others check it with:\n  synctalk verify {avatar.name} --key {public}")

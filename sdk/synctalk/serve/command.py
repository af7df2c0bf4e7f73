"""The command ``synctalk serve``."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape

from synctalk.errors import SyncTalkError

if TYPE_CHECKING:
    from synctalk.backends import BackendName, Device

__all__ = ["serve"]

_DEMO = Path(__file__).parents[1] / "demo" / "demo.avatar"


def serve(
    avatars: Annotated[
        list[Path] | None, typer.Argument(metavar="AVATAR", help="Bundles; the demo avatar if left out.")
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen. Others need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="TCP port.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", envvar="SYNCTALK_TOKEN", help="What clients must show; 16 characters or more."
        ),
    ] = None,
    tts: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Speaks texts: text on its input, a wav on its output."),
    ] = None,
    max_sessions: Annotated[int, typer.Option(metavar="N", min=1, help="Conversations at once.")] = 16,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Another site whose pages may connect.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificate: serves https.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's key.")] = None,
    ice_server: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A STUN server for WebRTC across networks.")
    ] = None,
    mock: Annotated[
        bool, typer.Option("--mock", help="A drawn face without weights, to test an app.")
    ] = False,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="auto, native-cuda, native-cpu, onnxruntime or tensorrt.")
    ] = "auto",
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads; all by default.")
    ] = None,
) -> None:
    """Serve avatars to browsers and apps: WebRTC, WebSocket, a web page. On this machine alone unless told.

    Examples:

        synctalk serve may.avatar
        synctalk serve may.avatar lee.avatar --tts "espeak-ng --stdin --stdout"
        SYNCTALK_TOKEN=... synctalk serve may.avatar --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    """
    try:
        from .app import create_app
        from .server import create_server
    except ImportError as error:
        raise SyncTalkError(
            f"serve needs {error.name or error}, which is not installed: pip install 'synctalk[serve]'"
        ) from error
    from synctalk.avatar import Avatar

    from .settings import ServeSettings

    settings = ServeSettings(
        host=host,
        port=port,
        token=token or None,
        allowed_origins=tuple(allow_origin or ()),
        speech_command=_program(tts),
        ice_servers=tuple(ice_server or ()),
        certificate=tls_cert,
        certificate_key=tls_key,
        max_sessions=max_sessions,
    )
    out = Console(highlight=False, soft_wrap=True)
    paths = avatars or ([] if mock else [_DEMO])
    loaded: dict[str, Avatar] = {"mock": Avatar.mock()} if mock else {}
    for path in paths:
        loaded[_free(path.stem, loaded)] = Avatar.from_bundle(
            path, device=cast("Device", device), backend=cast("BackendName", backend), threads=threads
        )
    server = create_server(create_app(loaded, settings), settings)
    secure = "s" if tls_cert else ""
    shown = f"[{host}]" if ":" in host else host
    listed = ", ".join(loaded)
    out.print(f"{escape(listed)}: http{secure}://{shown}:{port}/   (Ctrl-C stops)")
    server.run()
    if not server.started:
        raise SyncTalkError(f"cannot listen on {host}:{port}: is another program there? Try --port")


def _program(command: str | None) -> tuple[str, ...]:
    """Raises: SyncTalkError: there is no such program."""
    words = tuple(shlex.split(command or ""))
    if words and shutil.which(words[0]) is None:
        raise SyncTalkError(f"--tts: there is no program {words[0]!r} here: install it, or give its path")
    return words


def _free(name: str, taken: Collection[str]) -> str:
    """A name that is not taken yet."""
    if name not in taken:
        return name
    return next(free for n in count(2) if (free := f"{name}-{n}") not in taken)

"""The ``synctalk`` command. Commands of the trainer and of the exporter join it by the entry-point group
``synctalk.commands``: a function with typer annotations, or a ``typer.Typer``."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from synctalk._version import __version__
from synctalk.bench.command import bench
from synctalk.errors import BundleError, SyncTalkError
from synctalk.outputs import check_film
from synctalk.provenance import detect, sign
from synctalk.serve.command import serve
from synctalk.speak import say, shown, speak
from synctalk.tensorrt.command import build_engines

__all__ = ["app", "main"]

DEMO = Path(__file__).parent / "demo"  # avatar.DEMO, without importing what it needs
_EXTRAS = {"synctalk_trainer": "train", "synctalk_export": "export"}
"""Which extra brings what a package's commands import."""

_FILMS = (".mp4", ".mov", ".m4v")

_USE, _MAKE, _CHECK = "Use an avatar", "Make an avatar", "Check"

_OUT = Console(highlight=False, soft_wrap=True)
_ERR = Console(stderr=True, highlight=False, soft_wrap=True)


class _Group(TyperGroup):
    """Our commands, then those of the other packages, which are imported only to be listed or run."""

    _ORDER = ("demo", "speak", "serve", "info", "prepare", "train", "evaluate", "export", "sign")
    _LAST = ("bench", "verify", "detect", "doctor")

    def list_commands(self, ctx: Any) -> list[str]:
        names = {*self.commands, *_foreign()}
        others = sorted(names - {*self._ORDER, *self._LAST})
        return [name for name in (*self._ORDER, *others, *self._LAST) if name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in _foreign():
            command = _load(_foreign()[cmd_name])
            command.rich_help_panel = _MAKE
            self.add_command(command, cmd_name)
        return super().get_command(ctx, cmd_name)


def _foreign() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="synctalk.commands")}


def _load(entry: EntryPoint) -> Any:
    """A command of another package; where its imports are missing, one that says what to install."""
    try:
        target = entry.load()
    except ImportError as error:
        return _missing(entry, error)
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(entry.name)(target)
    return typer.main.get_command(single)


def _missing(entry: EntryPoint, error: ImportError) -> TyperCommand:
    extra = _EXTRAS.get(entry.module.split(".")[0], "train")
    remedy = f"pip install 'synctalk[{extra}]'"

    def fail(**_arguments: Any) -> NoReturn:
        raise SyncTalkError(f"{entry.name} needs {error.name or error}, which is not installed: {remedy}")

    return TyperCommand(
        name=entry.name,
        callback=fail,
        help=escape(f"Needs {error.name or error}: {remedy}"),
        rich_markup_mode="rich",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, rich_markup_mode="rich")

_Avatar = Annotated[Path, typer.Argument(metavar="AVATAR", help="A bundle: an .avatar file or folder.")]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        _OUT.print(f"synctalk {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Talking avatars: sound in, video out, in real time. Train one from a few minutes of your own video.

    See one speak:

        synctalk demo

    Let one say your words:

        synctalk speak may.avatar hello.wav -o hello.mp4

    Make your own:

        synctalk prepare video.mp4 -o dataset
        synctalk train dataset -o run
        synctalk export run -o may.avatar
    """


@app.command(rich_help_panel=_USE)
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where the mp4 goes.")] = Path(
        "out/demo.mp4"
    ),
    avatar: Annotated[Path, typer.Option(metavar="AVATAR", help="Another avatar.")] = DEMO / "demo.avatar",
    audio: Annotated[Path, typer.Option(metavar="AUDIO", help="Another sound.")] = DEMO / "sentence.wav",
) -> None:
    """Let the demo avatar introduce itself. It is a computer-generated person.

    Examples:

        synctalk demo
        synctalk demo --audio my_voice.wav -o me.mp4
    """
    if not avatar.exists():
        raise BundleError(
            f"there is no avatar at {avatar}. Install synctalk whole (pip install synctalk, or git clone and "
            "make demo), or give one with --avatar."
        )
    from synctalk.avatar import Avatar
    from synctalk.batch import Task

    out.parent.mkdir(parents=True, exist_ok=True)
    check_film(out, audio, avatar)
    began = time.perf_counter()
    loaded = Avatar.from_bundle(avatar)
    say(loaded, [Task(audio, out)], 1, time.perf_counter() - began)
    _OUT.print(
        "\nWhat to try next:\n"
        f"  synctalk speak {shown(avatar)} YOUR_SPEECH.wav -o hello.mp4     your own words\n"
        "  synctalk doctor                                  what this machine can do\n"
        "  synctalk prepare YOUR_VIDEO.mp4 -o dataset       train your own avatar (README.md)"
    )


@app.command(rich_help_panel=_USE)
def info(
    avatar: _Avatar,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Say what an avatar is: size, licence, consent, how it was trained.

    Examples:

        synctalk info may.avatar
        synctalk info may.avatar --json
    """
    from synctalk.bundle import open_bundle
    from synctalk.info import describe

    values = describe(open_bundle(avatar)).to_dict()
    del values["backend"]  # nothing was loaded
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for part, item in items:
            name = f"{key}.{part}" if part else key
            _OUT.print(f"{name.replace('_', ' '):24} {escape(str(item))}")


@app.command(rich_help_panel=_CHECK)
def verify(
    avatar: _Avatar,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The maker's public key, which `synctalk sign` printed."),
    ] = None,
) -> None:
    """Check all files, hashes and shapes of an avatar; with a key, its maker and every byte. Of a film, its credentials.

    The exit code is 0 where all is well and 1 where something is not.

    Examples:

        synctalk verify may.avatar
        synctalk verify hello.mp4
        synctalk verify may.avatar --key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29
    """
    from synctalk.bundle import verify_bundle

    if avatar.suffix.lower() in _FILMS:
        _verify_film(avatar)
        return
    if findings := verify_bundle(avatar):
        listed = "\n".join(f"  {finding}" for finding in findings)
        raise BundleError(f"{avatar} is not sound:\n{listed}\nGet the bundle again, or export the run again.")
    _OUT.print(f"{avatar}: all files, hashes and shapes are as they should be")
    if key is not None:
        from synctalk.signing import check_signature

        _OUT.print(f"signed with {check_signature(avatar, key)}; not one byte was changed since")


def _verify_film(film: Path) -> None:
    from synctalk.credentials import credentials_of
    from synctalk.errors import MediaError

    signed = credentials_of(film)
    if signed is None or not signed.is_intact:
        raise MediaError(
            f"{film}: content credentials: {signed or 'none'}. `synctalk detect` looks for the mark in its pictures."
        )
    _OUT.print(escape(f"{film}: content credentials: {signed}"))


app.command(rich_help_panel=_USE)(speak)
app.command(rich_help_panel=_USE)(serve)
app.command(rich_help_panel=_CHECK)(bench)
app.command(rich_help_panel=_CHECK)(detect)
app.command(rich_help_panel=_MAKE)(sign)
app.command("build-engines", rich_help_panel=_USE)(build_engines)


@app.command(rich_help_panel=_CHECK)
def doctor() -> None:
    """Say what this installation can do, and what it lacks.

    The exit code is 1 where no backend works.

    Examples:

        synctalk doctor
    """
    from synctalk.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "[green]ok[/]     " if finding.is_ok else "[yellow]missing[/]"
        _OUT.print(f"{mark}  {finding.what:24} {escape(finding.detail)}")
    if not any(finding.is_ok for finding in findings if finding.is_backend):
        raise SyncTalkError("no backend works here: see the reasons above")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; the program's exit code is 0, 1 (a mistake to mend), 2 (usage) or 130 (Ctrl-C)."""
    given = sys.argv[1:] if arguments is None else arguments
    is_debug = "--debug" in given
    # The option is known to the whole program: it may stand after the command, too.
    rest = [argument for argument in given if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # file names that a terminal cannot show are no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=rest, prog_name="synctalk")
    except BrokenPipeError:  # nobody reads on: `synctalk … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        _ERR.print("stopped")
        sys.exit(130)
    except Exception as error:
        if is_debug:
            raise
        _ERR.print(f"[red]error:[/] {escape(_message(error))}")
        sys.exit(1)
    sys.exit(0)


def _message(error: Exception) -> str:
    if isinstance(error, SyncTalkError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}\nThis is a fault of synctalk: run it again with --debug and report it."


if __name__ == "__main__":
    main()

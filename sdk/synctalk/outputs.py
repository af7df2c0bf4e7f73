"""Files that are written: checked before the work begins, whole or not at all, and never one of the inputs."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synctalk.errors import MediaError

__all__ = ["atomic_path", "check_film", "check_output", "check_space"]

_FILMS = (".mp4", ".m4v")
_PREFIX = ".synctalk-"
"""Of temporary files: short, since names end at 255 bytes."""


def check_output(target: str | os.PathLike[str], *inputs: str | os.PathLike[str] | None) -> None:
    """See that a file can be written, and that it is none of the files that are read, by whatever name or link.

    inputs: paths; a folder stands for all files in it, None for none.
    Raises: MediaError: it would replace an input, or cannot be written, with the reason.
    """
    path = Path(target)
    for source in inputs:
        if source is not None and _is_same(path, Path(source)):
            raise MediaError(
                f"{path} is an input ({source}) and would be replaced: choose another name with -o"
            )
    if reason := _why_not(path):
        raise MediaError(f"cannot write {path}: {reason}. Choose another name.")
    _temporary(path).unlink()


def _why_not(path: Path) -> str | None:
    """Why what is there cannot be replaced, or None."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if not stat.S_ISREG(mode):
        return "it is no ordinary file"
    return None if os.access(path, os.W_OK) else "it is write-protected"


def _is_same(target: Path, source: Path) -> bool:
    try:
        if not target.exists() or not source.exists():
            return target.resolve() == source.resolve()
        if source.is_dir():
            return source.resolve() in target.resolve().parents
        return target.samefile(source)
    except OSError:
        return False  # what cannot be looked at cannot be read


def _temporary(target: Path) -> Path:
    """A new file beside a target."""
    try:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise MediaError(
            f"cannot write {target}: {error.strerror}. Choose a folder that exists and may be written."
        ) from error
    os.close(handle)
    return Path(name)


def check_film(target: str | os.PathLike[str], *inputs: str | os.PathLike[str] | None) -> None:
    """As ``check_output``, for an mp4. Raises: MediaError: the name promises another format, too."""
    suffix = Path(target).suffix
    if suffix.lower() not in _FILMS:
        raise MediaError(
            f"cannot write {target}: films are mp4 (H.264, AAC), not {suffix or 'without a suffix'}: "
            f"name it {Path(target).with_suffix('.mp4').name}"
        )
    check_output(target, *inputs)


def check_space(target: str | os.PathLike[str], n_bytes: float) -> None:
    """Raises: MediaError: so many bytes cannot fit beside a target."""
    free = shutil.disk_usage(Path(target).parent).free
    if n_bytes > free:
        raise MediaError(
            f"cannot write {target}: it needs about {n_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free. "
            "Make room, or choose another folder."
        )


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Raises: MediaError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    temporary = _temporary(target)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    try:
        temporary.replace(target)
    except OSError as error:
        raise MediaError(f"cannot write {target}: {error.strerror}. What was made is {temporary}.") from error

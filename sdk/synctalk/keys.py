"""The user's private keys: made on first use, kept where only the user reads them.

They lie in ``$SYNCTALK_CONFIG_DIR``, else ``$XDG_CONFIG_HOME/synctalk``, else ``~/.config/synctalk``. ``cryptography``
is imported on first use.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from synctalk.errors import SyncTalkError

__all__ = ["config_dir", "need_cryptography", "private_file"]


def config_dir() -> Path:
    """The folder of the user's keys; it may not be there yet."""
    if own := os.environ.get("SYNCTALK_CONFIG_DIR"):
        return Path(own)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "synctalk"


def private_file(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of a private file, made where it is missing, readable by its owner alone.

    Raises: SyncTalkError: it cannot be read or written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # mode 0600
                file.write(make())
                file.flush()
                with suppress(FileExistsError):  # the first of several wins, and all use its key
                    os.link(file.name, path)
        return path.read_bytes()
    except OSError as error:
        raise SyncTalkError(
            f"{path}: {error.strerror}: choose a folder for keys with SYNCTALK_CONFIG_DIR"
        ) from None


def need_cryptography(what: str) -> None:
    """Raises: SyncTalkError: the library that signs is not installed."""
    if find_spec("cryptography") is None:
        raise SyncTalkError(f"{what} needs cryptography, which is not installed: pip install cryptography")

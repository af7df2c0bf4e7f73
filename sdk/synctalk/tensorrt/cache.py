"""Engines on disk: one file for everything an engine depends on, written whole or not at all, and never trusted.

An engine is machine code. It is only ever loaded from the user's own cache, where nobody else may write, after its
sha256 and all that it was built for were compared; what does not fit is deleted and built again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from synctalk.errors import BackendError

__all__ = ["EngineCache", "EngineKey", "EngineOptions", "default_folder"]

_LOG = logging.getLogger(__name__)
_MAX_HEADER = 1 << 16

Loaded = TypeVar("Loaded")


def default_folder() -> Path:
    """``$SYNCTALK_ENGINES``, or ``synctalk/engines`` in the user's cache folder."""
    if given := os.environ.get("SYNCTALK_ENGINES"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synctalk" / "engines"


@dataclass(frozen=True)
class EngineOptions:
    """What a user chooses of an avatar's engines."""

    precision: str = "fp32"
    max_batch: int = 1
    """Frames at once."""
    version_compatible: bool = False
    """Runs in every minor version of one major version of TensorRT."""
    hardware_compatible: bool = False
    """Runs on every GPU from compute capability 8.0 on."""


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on."""

    onnx_sha256: str
    """Of the ONNX file and of the tensors that it keeps outside."""
    tensorrt: str
    """Version, all four numbers; of a version-compatible engine only the first."""
    gpu: str
    compute_capability: str
    """Of a hardware-compatible engine the least."""
    precision: str
    profile: str
    """Sizes that it was optimised for."""
    plugin: str
    """sha256 of the plugin library, or empty where the node's body was built."""

    @property
    def digest(self) -> str:
        """Names the file."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def timing_digest(self) -> str:
        """Names the timing cache: measurements that engines of one GPU and version share."""
        return hashlib.sha256(f"{self.tensorrt} {self.gpu} {self.compute_capability}".encode()).hexdigest()[
            :32
        ]


class EngineCache:
    """A folder of engines. Safe to use from many processes."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises: BackendError: the folder cannot be made, or others may write to it."""
        self.folder = folder or default_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self.folder.stat()
        except OSError as error:
            raise BackendError(
                f"{self.folder}: {error.strerror}: name another folder with SYNCTALK_ENGINES"
            ) from None
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BackendError(
                f"{self.folder}: others may write there, and engines are code: chmod 700 {self.folder}, or name "
                "another folder with SYNCTALK_ENGINES"
            )

    def load_or_build(
        self, key: EngineKey, load: Callable[[bytes], Loaded | None], build: Callable[[], bytes]
    ) -> Loaded:
        """The engine of a key, from its file or built and written.

        load: makes something usable of an engine's bytes, or None where TensorRT rejects them. One process builds, others wait.

        Raises: BackendError: a fresh engine does not load either. What ``build`` raises.
        """
        with self._locked(key.digest):
            path = self.folder / f"{key.digest}.engine"
            kept = _read(path, asdict(key))
            loaded = load(kept) if kept is not None else None
            if loaded is not None:
                return loaded
            if path.exists():
                _LOG.warning("%s is damaged or stale: building it again", path)
                path.unlink()
            content = build()
            loaded = load(content)
            if loaded is None:
                raise BackendError(
                    f"TensorRT {key.tensorrt} rejects the engine that it just built for {key.gpu}: look at its log "
                    "lines above; synctalk doctor names versions that do not match"
                )
            _write(path, asdict(key), content)
            return loaded

    def timing(self, key: EngineKey) -> bytes:
        """The timing cache for a key's GPU and version; empty where there is none."""
        return _read(self.folder / f"{key.timing_digest}.timing", {"timing": key.timing_digest}) or b""

    def keep_timing(self, key: EngineKey, content: bytes) -> None:
        """Write the timing cache."""
        _write(self.folder / f"{key.timing_digest}.timing", {"timing": key.timing_digest}, content)

    def options(self, avatar: str) -> EngineOptions | None:
        """How the user last built an avatar's engines, or None. avatar: the manifest's id."""
        kept = _read(self._options_path(avatar), {"avatar": avatar})
        return EngineOptions(**json.loads(kept)) if kept is not None else None

    def keep_options(self, avatar: str, options: EngineOptions) -> None:
        """Let the backend build an avatar's engines so from now on."""
        _write(self._options_path(avatar), {"avatar": avatar}, json.dumps(asdict(options)).encode())

    def _options_path(self, avatar: str) -> Path:
        return self.folder / f"{hashlib.sha256(avatar.encode()).hexdigest()[:32]}.options"

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, also by a crash
            yield


def _read(path: Path, expected: dict[str, str]) -> bytes | None:
    """The content of a file that was written for ``expected``, or None."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(_MAX_HEADER))
            content = file.read()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return None
    if not isinstance(header, dict) or header.get("for") != expected:
        return None
    return content if hashlib.sha256(content).hexdigest() == header.get("sha256") else None


def _write(path: Path, made_for: dict[str, str], content: bytes) -> None:
    """A line of JSON, then the content."""
    header = {"for": made_for, "sha256": hashlib.sha256(content).hexdigest()}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n" + content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

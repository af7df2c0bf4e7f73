"""Real-time talking avatars: sound in, frames out.

    from synctalk import Avatar

    for frame in Avatar.from_bundle("may.avatar").speak("hello.wav"):
        show(frame.image)

Names are imported on first use: ``import synctalk`` itself is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from synctalk._version import __version__

if TYPE_CHECKING:
    from synctalk.avatar import Avatar, Frame
    from synctalk.errors import (
        BackendError,
        BundleError,
        DatasetError,
        ExportError,
        MediaError,
        ModelError,
        SyncTalkError,
        TrainingError,
    )

__all__ = [
    "Avatar",
    "BackendError",
    "BundleError",
    "DatasetError",
    "ExportError",
    "Frame",
    "MediaError",
    "ModelError",
    "SyncTalkError",
    "TrainingError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'synctalk' has no attribute {name!r}")
    home = "synctalk.avatar" if name in ("Avatar", "Frame") else "synctalk.errors"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__

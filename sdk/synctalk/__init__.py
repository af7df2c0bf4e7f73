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
    from synctalk.avatar import Avatar
    from synctalk.control import Control
    from synctalk.errors import (
        BackendError,
        BundleError,
        CapacityError,
        DatasetError,
        ExportError,
        MediaError,
        ModelError,
        SyncTalkError,
        TrainingError,
    )
    from synctalk.executor import Executor
    from synctalk.frame import Frame
    from synctalk.info import AvatarInfo
    from synctalk.session import Session, SyncSession
    from synctalk.timeline import Interrupted, Limits, SessionStats

__all__ = [
    "Avatar",
    "AvatarInfo",
    "BackendError",
    "BundleError",
    "CapacityError",
    "Control",
    "DatasetError",
    "Executor",
    "ExportError",
    "Frame",
    "Interrupted",
    "Limits",
    "MediaError",
    "ModelError",
    "Session",
    "SessionStats",
    "SyncSession",
    "SyncTalkError",
    "TrainingError",
    "__version__",
]

_HOMES = {
    "Avatar": "avatar",
    "AvatarInfo": "info",
    "Control": "control",
    "Executor": "executor",
    "Frame": "frame",
    "Interrupted": "timeline",
    "Limits": "timeline",
    "Session": "session",
    "SessionStats": "timeline",
    "SyncSession": "session",
}
"""Where names live that are not errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'synctalk' has no attribute {name!r}")
    return getattr(import_module(f"synctalk.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__

"""What can go wrong, as one tree.

``SyncTalkError`` is the root of all mistakes a user can make and mend: its message says what was got, what was
expected and what to do. Mistakes of the calling program are ``ValueError`` and ``TypeError``.

    SyncTalkError
    ├── MediaError      a video, picture or sound that cannot be read, or lacks what is needed
    ├── DatasetError    a prepared dataset that is missing, incomplete or damaged
    ├── TrainingError   a run that cannot start, go on or be read
    ├── ExportError     a run that cannot become a bundle (parity, missing parts)
    ├── BundleError     a bundle that is missing, damaged, newer than this version, or unsafe
    ├── BackendError    a backend that is asked for and cannot work here
    ├── CapacityError   a session, or sound, that does not fit: it would make others stutter
    └── ModelError      a model file (landmarks, segmentation) that is missing or not the pinned one
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "BackendError",
    "BundleError",
    "CapacityError",
    "DatasetError",
    "ExportError",
    "MediaError",
    "ModelError",
    "SyncTalkError",
    "TrainingError",
]


class SyncTalkError(Exception):
    """Root of every error that a user can mend; the message ends with what to do."""


class MediaError(SyncTalkError):
    """A video, picture or sound that cannot be read, or lacks what is needed."""


class DatasetError(SyncTalkError):
    """A prepared dataset that is missing, incomplete or damaged."""


class TrainingError(SyncTalkError):
    """A run that cannot start, go on or be read."""


class ExportError(SyncTalkError):
    """A run that cannot become a bundle."""


class BundleError(SyncTalkError):
    """A bundle that is missing, damaged, newer than this version, or unsafe."""

    def __init__(self, message: str, *, needed_version: str | None = None) -> None:
        super().__init__(message)
        self.needed_version = needed_version
        """The synctalk that reads it, such as ``0.3.0``, where it was made by a newer one; else None."""


class BackendError(SyncTalkError):
    """A backend that was asked for and cannot work here."""

    def __init__(self, message: str, *, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})
        """Where ``auto`` found none: name of each backend -> why it cannot work here."""


class CapacityError(SyncTalkError):
    """A session, or sound, for which there is no room; the message says why and what would help."""

    def __init__(self, message: str, *, limit: float | None = None, load: float | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        """The most there may be: sessions, share of the machine's time, or seconds of waiting sound; None: not said."""
        self.load = load
        """What there would be, in the same unit."""


class ModelError(SyncTalkError):
    """A model file that is missing or is not the pinned one."""

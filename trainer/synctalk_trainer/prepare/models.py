"""Model files of other projects: found beside the project, in the cache, or downloaded once from their pinned address."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from synctalk.errors import ModelError
from synctalk.media import atomic_path

__all__ = ["FACE_LANDMARKER", "SELFIE_SEGMENTER", "ModelFile", "find_model"]

_LOG = logging.getLogger(__name__)
_SITE = "https://storage.googleapis.com/mediapipe-models"


@dataclass(frozen=True)
class ModelFile:
    """One pinned file."""

    name: str
    url: str
    sha256: str
    option: str
    """The command line's option that names a local copy."""
    variable: str
    """The environment variable that does."""


FACE_LANDMARKER = ModelFile(
    "face_landmarker.task",
    f"{_SITE}/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    "--landmarker",
    "SYNCTALK_LANDMARKER",
)
SELFIE_SEGMENTER = ModelFile(
    "selfie_segmentation.tflite",
    "https://storage.googleapis.com/mediapipe-assets/selfie_segmentation.tflite?generation=1683332563830600",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    "--segmenter",
    "SYNCTALK_SEGMENTER",
)


def find_model(model: ModelFile, given: Path | None = None) -> Path:
    """The checked local copy of a model file.

    Looked for, in this order: ``given``; the environment variable; ``models/`` of the folder named by SYNCTALK_SHARED;
    the user's cache folder. Not there: downloaded into the cache.

    Raises: ModelError: a file that is missing or is not the pinned one, or a download that failed.
    """
    named = given or (Path(os.environ[model.variable]) if os.environ.get(model.variable) else None)
    if named is not None:
        if not named.is_file():
            raise ModelError(f"no such file: {named}. Give {model.option} a copy of {model.url}")
        return _checked(named, model)
    shared = os.environ.get("SYNCTALK_SHARED")
    if shared and (Path(shared) / "models" / model.name).is_file():
        return _checked(Path(shared) / "models" / model.name, model)
    cached = _cache_folder() / model.name
    if not cached.is_file():
        _download(model, cached)
    return _checked(cached, model)


def _cache_folder() -> Path:
    base = os.environ.get("SYNCTALK_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "synctalk"


def _checked(path: Path, model: ModelFile) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != model.sha256:
        raise ModelError(
            f"{path} is not the pinned {model.name}: sha256 {digest[:12]}…, expected {model.sha256[:12]}…. "
            f"Delete it, or give {model.option} a copy of {model.url}"
        )
    return path


def _download(model: ModelFile, target: Path) -> None:
    _LOG.warning("downloading %s once from %s into %s", model.name, model.url, target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(model.url, timeout=30) as reply, atomic_path(target) as temporary:
            temporary.write_bytes(reply.read())
            _checked(temporary, model)
    except OSError as error:
        raise ModelError(
            f"cannot download {model.url}: {error}. Fetch it by other means and name it by {model.option} FILE."
        ) from None

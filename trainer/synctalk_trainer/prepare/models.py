"""MediaPipe's model files, packaged with the trainer, and a quiet way to load them."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from synctalk.errors import ModelError

__all__ = ["FACE_LANDMARKER", "SELFIE_SEGMENTER", "ModelFile", "find_model", "native_log_held_back"]

_SITE = "https://storage.googleapis.com"


@dataclass(frozen=True)
class ModelFile:
    """One pinned file of this package."""

    name: str
    url: str
    """Where it comes from."""
    sha256: str
    option: str
    """The command line's option that names another copy."""


FACE_LANDMARKER = ModelFile(
    "face_landmarker.task",
    f"{_SITE}/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    "--landmarker",
)
SELFIE_SEGMENTER = ModelFile(
    "selfie_segmentation.tflite",
    f"{_SITE}/mediapipe-assets/selfie_segmentation.tflite?generation=1683332563830600",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    "--segmenter",
)


def find_model(model: ModelFile, given: Path | None = None) -> Path:
    """The packaged file, or the copy that the user names, checked.

    Raises: ModelError: it is missing or is not the pinned file.
    """
    path = given or Path(__file__).with_name(model.name)
    remedy = f"{'Leave the option out' if given else 'Install synctalk again'}, or give {model.option} a copy of {model.url}"
    if not path.is_file():
        raise ModelError(f"no such file: {path}. {remedy}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != model.sha256:
        raise ModelError(
            f"{path} is not the pinned {model.name}: sha256 {digest[:12]}…, expected {model.sha256[:12]}…. {remedy}"
        )
    return path


_STDERR = Lock()
"""Two redirections at once would restore each other's."""
_LOG_LINE = re.compile(rb"[IWEF]\d{4} |WARNING: All log messages before absl|INFO: Created TensorFlow Lite")


@contextmanager
def native_log_held_back() -> Iterator[None]:
    """Keep log lines of MediaPipe, absl and TensorFlow Lite off file descriptor 2.

    They are written by native code, so that Python's ``sys.stderr`` and ``logging`` do not see them. What else is written
    meanwhile follows when the block ends, and where the block fails, everything does.
    """
    if sys.stderr is None:  # nothing to keep clean
        yield
        return
    with _STDERR, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        is_well = False
        try:
            yield
            is_well = True
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            for line in held:
                if not (is_well and _LOG_LINE.match(line)):
                    os.write(2, line)

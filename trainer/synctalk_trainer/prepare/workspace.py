"""The dataset folder while it is being made: its ``dataset.json``, its arrays, what the steps say.

All files are written to a temporary name and renamed (``docs/formats.md``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from synctalk.errors import DatasetError, MediaError
from synctalk.media import atomic_path
from synctalk.spec import FPS
from synctalk_trainer.dataset import VERSION

__all__ = ["ArrayWriter", "Options", "Workspace", "write_arrays"]

_HEADER_BYTES = 128


@dataclass(frozen=True)
class Options:
    """What the user may choose."""

    size: int | None = None
    """Side of the pictures; None: the crop's side, at most 512."""
    takes: Path | None = None
    """A JSON file with ``takes`` [[first, end), ...] or ``frames_per_take``; None: cuts are looked for."""
    poses: Literal["stabilised", "landmarks"] = "stabilised"
    """Head poses by bundle adjustment of point tracks, or those of the landmarks alone."""
    sound_shift_ms: float = 0.0
    """How much later the sound is heard than the file says, for clips out of step."""
    landmarker: Path | None = None
    """Another copy of MediaPipe's face_landmarker.task than the packaged one."""
    segmenter: Path | None = None
    """Another copy of MediaPipe's selfie_segmentation.tflite than the packaged one."""
    shortest_s: float = 5.0
    """Shorter videos are refused."""


@dataclass
class Workspace:
    """What a step works with. ``info`` is the content of ``dataset.json``."""

    folder: Path
    video: Path | None
    options: Options
    info: dict[str, Any] = field(default_factory=dict)
    advance: Callable[[float], None] = lambda fraction: None
    """Told the fraction of the step that is done."""

    @staticmethod
    def open(folder: Path, video: Path | None, options: Options) -> Workspace:
        """A new folder, or one that holds a dataset already.

        Raises: DatasetError: dataset.json is damaged or newer; MediaError: the folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(f"cannot make the folder {folder}: {error.strerror}. Choose another.") from None
        info: dict[str, Any] = {"format": "synctalk-dataset", "version": VERSION, "fps": FPS, "steps": {}}
        file = folder / "dataset.json"
        if file.exists():
            try:
                info = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DatasetError(f"{file} is damaged ({error}): delete it and prepare again") from None
            if info.get("format") != "synctalk-dataset" or int(info.get("version", 0)) > VERSION:
                raise DatasetError(f"{file} is not a dataset of this version: choose another folder")
        info.setdefault("warnings", [])
        return Workspace(folder, video, options, info)

    @property
    def n_frames(self) -> int:
        return int(self.info["n_frames"])

    @property
    def size(self) -> int:
        return int(self.info["size"])

    @property
    def takes(self) -> list[tuple[int, int]]:
        """[first, end) of each take; the whole clip before cuts were looked for."""
        return [(int(first), int(end)) for first, end in self.info.get("takes") or [(0, self.n_frames)]]

    def warn(self, step: str, code: str, message: str, at_s: list[tuple[float, float]] | None = None) -> None:
        """Note a warning. at_s: spans [from, to] in seconds of the dataset's clock."""
        spans = [[round(first, 2), round(last, 2)] for first, last in at_s or []]
        self.info["warnings"].append({"step": step, "code": code, "message": message, "at_s": spans})

    def forget_warnings(self, step: str) -> None:
        """Drop what an earlier run of a step warned of."""
        self.info["warnings"] = [w for w in self.info["warnings"] if w["step"] != step]

    def save(self) -> None:
        """Write ``dataset.json``."""
        with atomic_path(self.folder / "dataset.json") as temporary:
            temporary.write_text(json.dumps(self.info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def map(self, name: str) -> NDArray[np.uint8]:
        """A memory-mapped array that an earlier step wrote."""
        array: NDArray[np.uint8] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        return array

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of an ``.npz`` that an earlier step wrote."""
        with np.load(self.folder / name, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}


class ArrayWriter:
    """Appends pictures to an ``.npy`` file whose length is known only at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._shape: tuple[int, ...] = ()
        self.n = 0
        file.write(bytes(_HEADER_BYTES))

    def append(self, picture: NDArray[np.uint8]) -> None:
        """Add one item; all have the same shape."""
        self._shape = picture.shape
        self._file.write(np.ascontiguousarray(picture, np.uint8).tobytes())
        self.n += 1

    def _finish(self) -> None:
        self._file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.n, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        if self._file.tell() != _HEADER_BYTES:
            raise RuntimeError(f"the header took {self._file.tell()} bytes instead of {_HEADER_BYTES}")

    @staticmethod
    @contextmanager
    def open(path: Path) -> Iterator[ArrayWriter]:
        """A writer of ``path``, which appears when the block ends well."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            writer = ArrayWriter(file)
            yield writer
            writer._finish()


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write an ``.npz``."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)

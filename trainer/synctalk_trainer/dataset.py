"""A prepared dataset, read: typed, checked at the door, pictures memory-mapped. Its files: ``docs/formats.md``."""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk.errors import DatasetError
from synctalk.geometry import Camera
from synctalk.spec import EXPRESSION_NAMES, FPS

from .mouth import mouth_shape

__all__ = ["BACKGROUND", "HEAD", "TORSO", "VERSION", "Dataset", "read_wave"]

VERSION = 1
BACKGROUND, TORSO, HEAD = 0, 1, 2
"""Labels in ``masks``."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Dataset:
    """A clip of ``n_frames`` square pictures with everything that training needs to know about them."""

    path: Path
    info: dict[str, Any]
    """``dataset.json``"""
    takes: tuple[tuple[int, int], ...]
    """[first, end) of each take"""
    audio: Float
    """[n] mono at 16 kHz in -1..1; sample 0 is the start of frame 0"""
    frames: NDArray[np.uint8]
    """[N, S, S, 3]"""
    plates: NDArray[np.uint8]
    """[N, S, S, 3]: each frame with the head painted out"""
    masks: NDArray[np.uint8]
    """[N, S, S]: BACKGROUND, TORSO or HEAD"""
    background: NDArray[np.uint8]
    """[S, S, 3]"""
    landmarks: Float
    """[N, 478, 3] pixels"""
    valid: NDArray[np.bool_]
    """[N]: whether a face was found and its pose fitted"""
    rotation: Float
    """[N, 3, 3] head to camera"""
    translation: Float
    """[N, 3] metres"""
    points_m: Float
    """[478, 3]: the rigid mean mesh in head space"""
    expression_names: tuple[str, ...]
    """E ARKit names, as they were asked for"""
    expression: Float
    """[N, E] in 0..1, in the order of ``expression_names``"""
    camera: Camera

    @property
    def n_frames(self) -> int:
        return len(self.frames)

    def take_of(self, frame: int) -> int:
        """Index of the take that holds a frame."""
        starts = [first for first, _ in self.takes]
        return int(np.searchsorted(starts, frame, side="right")) - 1

    def mouth_shape(self, n: int) -> Float:
        """The ``n`` first principal components of the mouth's motion, [N, n] (``mouth.mouth_shape``)."""
        pose = (self.rotation, self.translation, self.points_m, self.valid)
        return mouth_shape(self.landmarks, self.camera, *pose, n)

    @staticmethod
    def open(path: str | Path, expression_names: tuple[str, ...] = EXPRESSION_NAMES) -> Dataset:
        """Read a dataset. expression_names: the coefficients that are wanted; the file says which of its columns they are.

        Raises: DatasetError: missing, incomplete, damaged, written by a newer version, or without one of the names.
        """
        path = Path(path)
        info = _read_info(path)
        n, size = int(info["n_frames"]), int(info["size"])
        landmarks = _read_npz(path, "landmarks.npz", ("points", "valid"))
        pose = _read_npz(
            path, "pose.npz", ("rotation", "translation", "focal_px", "centre", "valid", "points_m")
        )
        centre = np.asarray(pose["centre"], np.float64).reshape(2)
        picture = (n, size, size)
        return Dataset(
            path=path,
            info=info,
            takes=tuple((int(first), int(end)) for first, end in info["takes"]),
            audio=read_wave(path / "audio.wav"),
            frames=_map(path, "frames.npy", (*picture, 3)),
            plates=_map(path, "plates.npy", (*picture, 3)),
            masks=_map(path, "masks.npy", picture),
            background=_read_picture(path / "background.png"),
            landmarks=_shaped(landmarks["points"], (n, 478, 3), "landmarks.npz"),
            valid=np.asarray(landmarks["valid"], bool) & np.asarray(pose["valid"], bool),
            rotation=_shaped(pose["rotation"], (n, 3, 3), "pose.npz"),
            translation=_shaped(pose["translation"], (n, 3), "pose.npz"),
            points_m=_shaped(pose["points_m"], (478, 3), "pose.npz"),
            expression_names=expression_names,
            expression=_read_expression(path, n, expression_names),
            camera=Camera(size, size, float(pose["focal_px"]), float(centre[0]), float(centre[1])),
        )


def _again(name: str) -> str:
    return f"{name}: run `synctalk prepare` on the same folder again, it redoes what is missing"


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{path} holds no dataset.json: give the folder that `synctalk prepare -o` wrote"
        ) from None
    except ValueError as error:
        raise DatasetError(
            f"{path}/dataset.json is damaged ({error}): run `synctalk prepare` again"
        ) from None
    if not isinstance(info, dict) or info.get("format") != "synctalk-dataset":
        raise DatasetError(f"{path}/dataset.json is not a synctalk dataset")
    if info.get("version", 0) > VERSION:
        raise DatasetError(
            f"{path} was written by a newer synctalk (version {info['version']}): update synctalk"
        )
    if info.get("fps") != FPS:
        raise DatasetError(
            f"{path} has {info.get('fps')} frames a second, expected {FPS}: prepare the video again, which makes them so"
        )
    return info


def _read_npz(path: Path, name: str, keys: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path / name, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys}
    except FileNotFoundError:
        raise DatasetError(_again(f"{path / name} is missing")) from None
    except (KeyError, ValueError, OSError) as error:
        raise DatasetError(_again(f"{path / name} is damaged ({error})")) from None


def _read_expression(path: Path, n: int, wanted: tuple[str, ...]) -> Float:
    """The columns of ``expression.npz`` that have the wanted names, [n, E]."""
    stored = _read_npz(path, "expression.npz", ("values", "names"))
    names = [str(name) for name in stored["names"]]
    values = _shaped(stored["values"], (n, len(names)), "expression.npz")
    if len(set(names)) != len(names):
        raise DatasetError(_again(f"expression.npz names a column twice: {names}"))
    if missing := sorted(set(wanted) - set(names)):
        raise DatasetError(
            f"{path / 'expression.npz'} has no {', '.join(missing)}; it has {', '.join(names)}: choose among them, or run "
            "`synctalk prepare` on the same folder again with --steps expression"
        )
    return np.ascontiguousarray(values[:, [names.index(name) for name in wanted]])


def _map(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        array = np.load(path / name, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(_again(f"{path / name} is missing")) from None
    except (ValueError, OSError) as error:
        raise DatasetError(_again(f"{path / name} is damaged ({error})")) from None
    if array.shape != shape or array.dtype != np.uint8:
        raise DatasetError(
            _again(f"{path / name} has shape {array.shape} {array.dtype}, expected {shape} uint8")
        )
    mapped: NDArray[np.uint8] = array
    return mapped


def _shaped(array: NDArray[Any], shape: tuple[int, ...], name: str) -> Float:
    matches = array.ndim == len(shape) and all(
        want in (-1, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not matches:
        raise DatasetError(_again(f"{name} has shape {array.shape}, expected {shape}"))
    return np.ascontiguousarray(array, np.float32)


def read_wave(path: Path) -> Float:
    """``audio.wav`` of a dataset, [n] in -1..1. Raises: DatasetError: missing, damaged or of another kind."""
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (16_000, 1, 2):
                raise DatasetError(_again(f"{path} is not 16 kHz mono 16-bit"))
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except FileNotFoundError:
        raise DatasetError(_again(f"{path} is missing")) from None
    except (wave.Error, EOFError) as error:
        raise DatasetError(_again(f"{path} is damaged ({error})")) from None
    return (samples / np.float32(32768)).astype(np.float32)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DatasetError(_again(f"{path} is missing or damaged"))
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)

"""The fixed square around the head, in pixels of the upright source picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk.errors import MediaError
from synctalk_trainer.prepare.landmarks import Landmarker
from synctalk_trainer.prepare.source import Source
from synctalk_trainer.prepare.workspace import Workspace

__all__ = ["Crop", "crop_around", "find_crop"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]

_SIDE_PER_FACE = 2.1
"""Side of the crop over the face's height (chin to hairline): room for hair and shoulders."""
_SMALLEST_FACE_PX = 60.0
_HAIR_PER_FACE = 0.28
"""How far hair reaches above the hairline, in face heights."""


@dataclass(frozen=True)
class Crop:
    """A square, pixels of the upright source."""

    x: float
    y: float
    side: float

    def to_dict(self) -> dict[str, float]:
        return {"x": self.x, "y": self.y, "side": self.side}

    def cut(self, picture: Picture, size: int) -> Picture:
        """The square, resized to ``size``."""
        x, y, side = round(self.x), round(self.y), round(self.side)
        square = picture[y : y + side, x : x + side]
        if square.shape[:2] == (size, size):
            return np.ascontiguousarray(square)
        method = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(square, (size, size), interpolation=method), np.uint8)


def crop_around(boxes: Float, width: int, height: int) -> Crop:
    """The square for face boxes [n, 4] (x0, y0, x1, y1).

    The whole picture where it is square already and the faces lie well inside it; else 2.1 face heights plus the way
    the face moves, shifted into the picture, and as large as the picture at most.
    """
    low, high = np.quantile(boxes[:, :2], 0.02, axis=0), np.quantile(boxes[:, 2:], 0.98, axis=0)
    face = float(np.median(boxes[:, 3] - boxes[:, 1]))
    centre = (low + high) / 2
    moves = float((high - low).max()) - face
    short = min(width, height)
    is_square = abs(width - height) <= 0.02 * short
    is_centred = abs(centre[0] - width / 2) < 0.12 * short and abs(centre[1] - height / 2) < 0.15 * short
    if is_square and is_centred and _SIDE_PER_FACE * face > 0.75 * short:
        return Crop((width - short) // 2, (height - short) // 2, short)
    side = min(short, round((_SIDE_PER_FACE * face + max(0.0, moves)) / 2) * 2)
    x, y = centre - side / 2
    return Crop(round(min(max(x, 0), width - side)), round(min(max(y, 0), height - side)), side)


def find_crop(pictures: Iterable[Picture], landmarker: Landmarker, source: Source, work: Workspace) -> Crop:
    """Look for the face in sample pictures and choose the square.

    Raises: MediaError: no face, or one too small.
    """
    boxes = []
    for picture in pictures:
        faces = landmarker.detect(picture)
        if faces:
            points = max(faces, key=lambda face: float(np.ptp(face.points[:, 1]))).points[:, :2]
            boxes.append(np.concatenate([points.min(axis=0), points.max(axis=0)]))
    if not boxes:
        raise MediaError(
            f"no face was found anywhere in {source.name}. Give a video of one person who looks towards the camera, "
            "well lit, the face at least a tenth of the picture's height."
        )
    stacked = np.asarray(boxes, np.float32)
    face = float(np.median(stacked[:, 3] - stacked[:, 1]))
    if face < _SMALLEST_FACE_PX:
        raise MediaError(
            f"the face in {source.name} is only {face:.0f} pixels high; at least {_SMALLEST_FACE_PX:.0f} are needed, "
            "250 are good. Film closer, or give the video at its full resolution."
        )
    crop = crop_around(stacked, source.width, source.height)
    top = float(stacked[:, 1].min()) - _HAIR_PER_FACE * face
    sides = float(stacked[:, 0].min()), source.width - float(stacked[:, 2].max())
    if top < 0 or min(sides) < 0 or float(stacked[:, 3].max()) > source.height:
        work.warn(
            "media",
            "clipped_head",
            "the head reaches over the picture's border: what is cut off cannot be learned. Film with room above the head.",
        )
    return crop

"""Landmarks of single pictures: evaluation must not let a tracker smooth over what a frame shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .measure import Detect, Frame

__all__ = ["picture_detector"]

_N_POINTS = 478


@contextmanager
def picture_detector(model: Path) -> Iterator[Detect]:
    """A landmark finder that looks at each picture by itself (MediaPipe's IMAGE mode, one thread, 10 to 15 ms each).

    model: ``face_landmarker.task``. The finder takes pictures uint8 [H, W, 3] and returns points [n, 478, 3] in pixels
    (z in the same unit) and whether a face was found [n]; points without a face are zero.
    """
    import mediapipe as mp
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(model)), num_faces=1
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:

        def points_of(picture: Frame) -> NDArray[np.float32] | None:
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
            faces = landmarker.detect(image).face_landmarks
            if not faces:
                return None
            height, width = picture.shape[:2]
            unit = np.array([[p.x, p.y, p.z] for p in faces[0]], np.float32)
            return unit * np.array([width, height, width], np.float32)

        def detect(pictures: list[Frame]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            found = [points_of(picture) for picture in pictures]
            missing = np.zeros((_N_POINTS, 3), np.float32)
            points = np.stack([missing if p is None else p for p in found])
            return points, np.array([p is not None for p in found])

        yield detect

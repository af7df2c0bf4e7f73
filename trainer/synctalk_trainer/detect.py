"""Landmarks of single pictures for evaluation, found just as prepare finds them: each picture by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .measure import Detect, Frame
from .prepare.landmarks import N_POINTS, Landmarker, MediaPipeLandmarker

__all__ = ["largest_faces", "picture_detector"]


def largest_faces(
    landmarker: Landmarker, pictures: list[Frame]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The largest face of each picture: points [n, 478, 3] in pixels, zero without a face, and whether there is one [n]."""
    points, found = np.zeros((len(pictures), N_POINTS, 3), np.float32), np.zeros(len(pictures), bool)
    for i, picture in enumerate(pictures):
        faces = landmarker.detect(picture)
        if faces:
            points[i] = max((face.points for face in faces), key=lambda p: float(np.ptp(p[:, 1])))
            found[i] = True
    return points, found


@contextmanager
def picture_detector(given: Path | None) -> Iterator[Detect]:
    """MediaPipe's landmarks, 10 to 20 ms a picture on one thread. given: as for ``MediaPipeLandmarker``."""
    landmarker = MediaPipeLandmarker(given)
    try:
        yield partial(largest_faces, landmarker)
    finally:
        landmarker.close()

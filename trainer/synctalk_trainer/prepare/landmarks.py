"""Step ``landmarks``: 478 face points, 52 blendshapes and MediaPipe's head transformation in every frame.

Each picture is looked at by itself (MediaPipe's IMAGE mode): no smoothing that lags, no memory across cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.checks import Observations, check
from synctalk_trainer.prepare.frame_pool import TaskPerThread, frame_pool
from synctalk_trainer.prepare.models import FACE_LANDMARKER, find_model
from synctalk_trainer.prepare.workspace import Workspace, write_arrays

__all__ = ["N_BLENDSHAPES", "N_POINTS", "Face", "Landmarker", "MediaPipeLandmarker", "run_landmarks"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]

N_POINTS, N_BLENDSHAPES = 478, 52


@dataclass(frozen=True)
class Face:
    """One face in one picture."""

    points: Float
    """[478, 3] pixels; z smaller is nearer"""
    blendshapes: Float
    """[52] in 0..1"""
    transform: Float
    """[4, 4] MediaPipe's facial transformation"""


class Landmarker(Protocol):
    """Finds faces in a picture; called from several threads."""

    def detect(self, picture: Picture) -> list[Face]:
        """Faces (two at most) in a picture, uint8 [H, W, 3]."""
        ...


class MediaPipeLandmarker:
    """MediaPipe's FaceLandmarker, loaded on first use; threads may ask side by side.

    Raises: ModelError: no model file, or a wrong one.
    """

    def __init__(self, given: Path | None = None) -> None:
        """given: a copy of the model file; the packaged one by default."""
        file = find_model(FACE_LANDMARKER, given)
        self._tasks = TaskPerThread(lambda: _face_landmarker(file))

    def detect(self, picture: Picture) -> list[Face]:
        import mediapipe

        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
        found = self._tasks.ask(lambda task: task.detect(image))
        height, width = picture.shape[:2]
        scale = np.array([width, height, width], np.float32)
        return [
            Face(
                np.array([(p.x, p.y, p.z) for p in points], np.float32) * scale,
                np.array([shape.score for shape in shapes], np.float32),
                np.asarray(transform, np.float32),
            )
            for points, shapes, transform in zip(
                found.face_landmarks,
                found.face_blendshapes,
                found.facial_transformation_matrixes,
                strict=True,
            )
        ]

    def close(self) -> None:
        """Free the model."""
        self._tasks.close()


def _face_landmarker(file: Path) -> Any:
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(file)),
        running_mode=vision.RunningMode.IMAGE,
        num_faces=2,
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=True,
    )
    return vision.FaceLandmarker.create_from_options(options)


def run_landmarks(work: Workspace, landmarker: Landmarker) -> None:
    """Write ``landmarks.npz``; find cuts and note the takes.

    Raises: MediaError: no face, two people, or cuts that leave takes shorter than 2 s.
    """
    frames = work.map("frames.npy")
    n = len(frames)
    points = np.zeros((n, N_POINTS, 3), np.float32)
    blendshapes = np.zeros((n, N_BLENDSHAPES), np.float32)
    transforms = np.tile(np.eye(4, dtype=np.float32), (n, 1, 1))
    valid = np.zeros(n, bool)
    second = np.zeros(n, np.float32)
    change = np.zeros(n, np.float32)
    before: Float | None = None
    small_before: Float | None = None

    def look(i: int) -> tuple[Float, list[Face]]:
        small = cv2.resize(frames[i], (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
        return small, landmarker.detect(frames[i])

    with frame_pool() as pool:
        for i, (small, faces) in enumerate(pool.map(look, range(n))):
            change[i] = 0.0 if small_before is None else float(np.abs(small - small_before).mean())
            small_before = small
            if faces:
                heights = [float(np.ptp(face.points[:, 1])) for face in faces]
                best = _same_person(faces, heights, before)
                valid[i] = True
                points[i], blendshapes[i], transforms[i] = best.points, best.blendshapes, best.transform
                before = best.points[:, :2].mean(axis=0)
                second[i] = sorted(heights)[-2] / max(heights) if len(faces) > 1 else 0.0
            work.advance((i + 1) / n)
    check(work, Observations(points, valid, second, change))
    write_arrays(
        work.folder / "landmarks.npz",
        points=points,
        valid=valid,
        blendshapes=blendshapes,
        transforms=transforms,
    )


def _same_person(faces: list[Face], heights: list[float], before: Float | None) -> Face:
    """The largest face, or among faces of similar height the one nearest to where it was."""
    if before is None or len(faces) == 1:
        return faces[int(np.argmax(heights))]
    large = [face for face, height in zip(faces, heights, strict=True) if height > 0.6 * max(heights)]
    return min(large, key=lambda face: float(np.linalg.norm(face.points[:, :2].mean(axis=0) - before)))

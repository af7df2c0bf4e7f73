"""Trivial predictors that every quality table carries: a figure that does not beat them means nothing.

``mean``: the mean training frame. ``oracle``: the training frame whose landmarks lie nearest to those of the frame to
be predicted, which no predictor driven by sound could look up. Both bring the torso and background of training frames.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pictures", "mean_frame", "nearest_landmarks", "nearest_pose"]

_METRES_PER_RADIAN = 0.1
"""What a turn of the head weighs against a shift: about the radius of a head."""


class Pictures(Protocol):
    """Frames [N, S, S, 3] uint8 that may lie on disk."""

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


def mean_frame(frames: Pictures, train: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The mean of the training frames, uint8 [S, S, 3]; reads one frame at a time."""
    total = np.zeros(np.shape(frames[int(train[0])]), np.float64)
    for frame in train:
        total += frames[int(frame)]
    return np.asarray(np.rint(total / len(train)), np.uint8)


def nearest_landmarks(
    points: NDArray[np.float32], train: NDArray[np.int64], held: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each held-out frame the training frame with the least mean squared landmark distance, [H].

    points: [N, P, >=2] crop pixels, of which x and y of all points count, unweighted.
    """
    flat = np.asarray(points[..., :2], np.float64).reshape(len(points), -1)
    flat = flat - flat[train].mean(axis=0)
    return np.asarray(train[_squared_distances(flat[held], flat[train]).argmin(axis=1)], np.int64)


def nearest_pose(
    rotation: NDArray[np.float32],
    translation: NDArray[np.float32],
    train: NDArray[np.int64],
    held: NDArray[np.int64],
) -> NDArray[np.int64]:
    """For each held-out frame the training frame with the most similar head pose, [H].

    rotation: [N, 3, 3], translation: [N, 3] metres. A radian counts as ``_METRES_PER_RADIAN``: the Frobenius distance
    of two rotations is sqrt(2) times the angle between them, to first order.
    """
    turn = np.asarray(rotation, np.float64).reshape(-1, 9) * (_METRES_PER_RADIAN / np.sqrt(2))
    pose = np.concatenate([turn, np.asarray(translation, np.float64)], axis=1)
    return np.asarray(train[_squared_distances(pose[held], pose[train]).argmin(axis=1)], np.int64)


def _squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """[A, D], [B, D] -> [A, B]"""
    cross = a @ b.T
    squared: NDArray[np.float64] = np.square(a).sum(axis=1)[:, None] - 2 * cross + np.square(b).sum(axis=1)
    return squared

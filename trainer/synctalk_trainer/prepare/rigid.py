"""Rigid bodies seen by a pinhole camera: projection, its derivatives, rotations as vectors, robust weights.

Poses take head space to camera space (``synctalk/geometry.py``); picture coordinates are relative to the principal
point. Arrays are float64; leading axes broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "cross_matrix",
    "exp_rotation",
    "huber_weights",
    "left_jacobian",
    "log_rotation",
    "pixel_jacobian",
    "project_points",
]

Double = NDArray[np.float64]


def project_points(
    rotation: Double, translation: Double, points: Double, focal: float, centre: float = 0.0
) -> Double:
    """Pixels [N, K, 2] of points [K, 3] under poses [N, 3, 3] and [N, 3]."""
    seen = points @ rotation.transpose(0, 2, 1) + translation[:, None]
    projected: Double = focal * seen[..., :2] / seen[..., 2:] + centre
    return projected


def pixel_jacobian(seen: Double, focal: float) -> Double:
    """d(pixel) / d(camera point): [..., 2, 3] at camera points [..., 3]."""
    inverse = 1.0 / seen[..., 2]
    jacobian = np.zeros((*seen.shape[:-1], 2, 3))
    jacobian[..., 0, 0] = jacobian[..., 1, 1] = focal * inverse
    jacobian[..., :, 2] = -focal * seen[..., :2] * inverse[..., None] ** 2
    return jacobian


def cross_matrix(vectors: Double) -> Double:
    """Matrices [..., 3, 3] that take the cross product with vectors [..., 3]."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*vectors.shape[:-1], 3, 3)


def exp_rotation(vectors: Double) -> Double:
    """Rotation matrices [N, 3, 3] of rotation vectors [N, 3], radians."""
    from scipy.spatial.transform import Rotation

    matrices: Double = Rotation.from_rotvec(vectors).as_matrix()
    return matrices


def log_rotation(matrices: Double) -> Double:
    """Rotation vectors [N, 3] of rotation matrices [N, 3, 3]."""
    from scipy.spatial.transform import Rotation

    vectors: Double = Rotation.from_matrix(matrices).as_rotvec()
    return vectors


def left_jacobian(vectors: Double) -> Double:
    """Matrices J [N, 3, 3] with exp(v + d) = exp(J d) exp(v) to first order."""
    angle = np.linalg.norm(vectors, axis=-1)[:, None, None]
    cross = cross_matrix(vectors)
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    second = np.where(small, 1 / 6, (safe - np.sin(safe)) / safe**3)
    jacobian: Double = np.eye(3) + first * cross + second * (cross @ cross)
    return jacobian


def huber_weights(residual: Double, delta: float) -> Double:
    """Huber's weights [...] of residual vectors [..., 2]."""
    distance = np.linalg.norm(residual, axis=-1)
    return np.asarray(np.minimum(1.0, delta / np.maximum(distance, 1e-12)))

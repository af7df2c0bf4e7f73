"""The mouth's shape as a few numbers: what the audio branch learns to predict before and while the field is trained.

Lip and chin points are taken relative to where the rigid mesh says they would rest, turned upright and scaled to
metres, so that head motion drops out. Spans across the opening, which no error of the pose can touch, count several
times. The principal components of it all, scaled by the first one's deviation, are the targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from synctalk.geometry import Camera, project

__all__ = ["CHIN", "INNER_LIPS", "LIPS", "NOSE_BASE", "aperture", "mouth_shape"]

Float = NDArray[np.float32]

OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)
LIPS = OUTER_LIPS + INNER_LIPS
CHIN = (152, 148, 176, 377, 400)
NOSE_BASE = 2
"""Where nose and upper lip meet: speech moves what lies lower."""
_SPANS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402), (61, 291), (78, 308))
"""Inner upper to inner lower lip, five times; corner to corner, outer and inner"""
_SPAN_WEIGHT = 3.0


def aperture(points: NDArray[np.floating]) -> Float:
    """Opening of the inner lips over the distance of the outer eye corners; 0 without a face. points: [N, 478, >=2] -> [N]."""
    opening = np.linalg.norm(points[:, 13, :2] - points[:, 14, :2], axis=-1)
    width = np.linalg.norm(points[:, 33, :2] - points[:, 263, :2], axis=-1)
    return np.asarray(opening / np.maximum(width, 1e-6), np.float32)


def mouth_shape(
    points: Float,
    camera: Camera,
    rotation: Float,
    translation: Float,
    mesh_m: Float,
    valid: NDArray[np.bool_],
    n: int,
) -> Float:
    """The ``n`` first principal components of the mouth's motion, [N, n]; the first has unit deviation, the others less.

    points: [N, 478, >=2] pixels; rotation [N, 3, 3]; translation [N, 3]; mesh_m [478, 3].
    """
    index = list(LIPS + CHIN)
    rest = project(camera, rotation, translation, mesh_m[index])  # [N, P, 2]
    per_pixel_m = (translation[:, 2] / camera.focal_px)[:, None, None]
    roll = rotation[:, :2, :2] / np.linalg.norm(rotation[:, :2, :2], axis=1, keepdims=True)
    offset = np.einsum("npi,nij->npj", points[:, index, :2] - rest, roll) * per_pixel_m
    first, second = np.array(_SPANS).T
    spans = (
        np.linalg.norm(points[:, first, :2] - points[:, second, :2], axis=-1) * per_pixel_m[..., 0]
    )  # [N, spans]
    flat = np.concatenate([offset.reshape(len(points), -1), _SPAN_WEIGHT * spans], axis=1)
    mean = flat[valid].mean(axis=0)
    _, scale, axes = np.linalg.svd(flat[valid] - mean, full_matrices=False)
    unit = scale[0] / np.sqrt(valid.sum())
    return np.asarray((flat - mean) @ axes[:n].T / unit, np.float32)

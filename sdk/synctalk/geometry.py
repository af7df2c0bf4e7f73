"""Axes, cameras and rays: the conventions that every other part shares.

Head space, metres, right-handed: +x to the subject's left (the right of the picture when the face looks at the camera),
+y up, +z out of the face. The scale is fixed by the outer eye corners (mesh points 33 and 263), which are 0.0889 m
apart; orientation and origin are those of the MediaPipe canonical face mesh (its origin lies inside the head, about
at the height of the nose bridge's root, between the ears). The field lives in the box ``FieldSpec.box_min_m .. box_max_m``.

Camera space, metres (OpenCV): +x right, +y down, +z forward. A head pose is the rigid map ``camera = R @ head + t``.
Picture: pixel (column u, row v) has its centre at (u + 0.5, v + 0.5); the origin is the upper left corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "head_turn", "pixel_rays", "project"]

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, square pixels.

    ``focal_px`` and the principal point are in pixels of a ``width`` x ``height`` picture.
    """

    width: int
    height: int
    focal_px: float
    centre_x: float
    centre_y: float

    def resized(self, width: int, height: int) -> Camera:
        """The same camera seen at another picture size (same aspect ratio)."""
        factor = width / self.width
        return Camera(width, height, self.focal_px * factor, self.centre_x * factor, self.centre_y * factor)


def project(camera: Camera, rotation: Float, translation: Float, points: Float) -> Float:
    """Project head-space points to the picture.

    rotation: [..., 3, 3], translation: [..., 3], points: [P, 3] metres. Returns [..., P, 2] pixels (u, v).
    """
    seen = np.einsum("...ij,pj->...pi", rotation, points)  # [..., P, 3]
    seen = seen + np.asarray(translation)[..., None, :]
    depth = seen[..., 2:]
    centre = np.array([camera.centre_x, camera.centre_y], seen.dtype)
    projected: Float = camera.focal_px * seen[..., :2] / depth + centre
    return projected


def pixel_rays(camera: Camera, rotation: Float, translation: Float, pixels: Float) -> tuple[Float, Float]:
    """Rays through pixel centres, in head space.

    rotation: [3, 3], translation: [3], pixels: [R, 2] (column u, row v), whole numbers for pixel centres.
    Returns origins [R, 3] (metres) and unit directions [R, 3], float32.
    """
    u = (pixels[:, 0] + 0.5 - camera.centre_x) / camera.focal_px
    v = (pixels[:, 1] + 0.5 - camera.centre_y) / camera.focal_px
    in_camera = np.stack([u, v, np.ones_like(u)], axis=-1)  # [R, 3]
    directions = in_camera @ rotation  # R^T d, row-wise
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    origin = -translation @ rotation  # -R^T t
    origins = np.broadcast_to(origin, directions.shape)
    return np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32)


def head_turn(pitch_deg: float, yaw_deg: float, roll_deg: float) -> Float:
    """A turn in head space, float32 [3, 3]: pitch up, yaw to the subject's left, roll to the subject's left shoulder.

    ``pose @ head_turn(...)`` turns the head about its own axes before the pose is applied; roll comes first.
    """
    pitch, yaw, roll = math.radians(-pitch_deg), math.radians(yaw_deg), math.radians(-roll_deg)
    (cx, cy, cz), (sx, sy, sz) = map(math.cos, (pitch, yaw, roll)), map(math.sin, (pitch, yaw, roll))
    turn = (  # about y, after about x, after about z
        (cy * cz + sy * sx * sz, sy * sx * cz - cy * sz, sy * cx),
        (cx * sz, cx * cz, -sx),
        (cy * sx * sz - sy * cz, sy * sz + cy * sx * cz, cy * cx),
    )
    return np.array(turn, np.float32)

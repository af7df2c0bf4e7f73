"""The head's surface as a key frame sees it, and how every pixel of it moves under another pose.

A patch of skin is compared with another view of itself. The views differ by more than a shift, and not by one affine
map of the whole face: nose, cheeks and forehead slant differently, and lie at different depths. What such a map
leaves over pulls matches by tenths of a pixel, always in the same direction for the same turn of the head, which
bundle adjustment cannot tell from a head that turns less.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.rigid import Double

__all__ = ["Surface", "surface_of"]

_CELL = 0.03
"""Side of a cell of the surface, in face heights."""
_SMOOTHING = 1e-3
"""How freely the surface passes by its points: depths of the mesh and of tracks are good to some millimetres."""
_BEYOND_M = 0.02
"""The surface goes on this far beyond the nearest and the farthest of its points."""


@dataclass(frozen=True)
class Surface:
    """The part of the head that an area of a picture shows, in cells of ``cell`` x ``cell`` pixels."""

    points: NDArray[np.float32]
    """[R, C, 3] head space, metres: what the middle of each cell shows"""
    cell: int
    shape: tuple[int, int]
    """Height and width of the area in pixels"""

    def bend(
        self, rotation: Double, translation: Double, focal: float, size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each pixel of the area lies in a frame with this pose: x and y [H, W]; whole numbers are pixel centres."""
        seen = self.points @ rotation.T.astype(np.float32) + translation.astype(np.float32)
        maps = seen[..., :2] * (np.float32(focal) / seen[..., 2:]) + np.float32(size / 2 - 0.5)
        height, width = self.shape
        return self._spread(maps[..., 0])[:height, :width], self._spread(maps[..., 1])[:height, :width]

    def _spread(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        rows, columns = cells.shape
        wide = (columns * self.cell, rows * self.cell)
        return np.asarray(cv2.resize(np.ascontiguousarray(cells), wide, interpolation=cv2.INTER_LINEAR))

    def at(self, places: NDArray[np.float32]) -> Double:
        """Head-space points [P, 3] that pixels [P, 2] of the area show."""
        inside = np.clip(np.round((places + 0.5) / self.cell - 0.5), 0, None).astype(int)
        row = np.minimum(inside[:, 1], self.points.shape[0] - 1)
        column = np.minimum(inside[:, 0], self.points.shape[1] - 1)
        return np.asarray(self.points[row, column], np.float64)


def surface_of(
    points: Double,
    rotation: Double,
    translation: Double,
    focal: float,
    size: int,
    corner: tuple[int, int],
    shape: tuple[int, int],
    face_px: float,
) -> Surface:
    """The smooth surface (thin-plate spline) through points [K, 3] of the head, as the pose shows it.

    corner, shape: the area of the picture, (x, y) of its upper left pixel and (height, width). face_px: the face's height.
    """
    from scipy.interpolate import RBFInterpolator

    camera = points @ rotation.T + translation
    metre_px = focal / float(np.median(camera[:, 2]))
    unit = face_px / metre_px  # metres per face height
    seen = focal * camera[:, :2] / camera[:, 2:] + size / 2 - np.array(corner)
    cell = max(int(_CELL * face_px), 1)
    rows, columns = (-(-side // cell) for side in shape)
    y, x = ((np.arange(n) + 0.5) * cell for n in (rows, columns))
    middle = np.stack(np.meshgrid(x, y), axis=-1)  # [R, C, 2]
    depth = RBFInterpolator(
        seen / face_px, camera[:, 2] / unit, smoothing=_SMOOTHING, kernel="thin_plate_spline"
    )(middle.reshape(-1, 2) / face_px)
    low, high = camera[:, 2].min() - _BEYOND_M, camera[:, 2].max() + _BEYOND_M
    z = np.clip(depth * unit, low, high).reshape(rows, columns, 1)
    ray = np.concatenate([(middle + np.array(corner) - size / 2) / focal, np.ones_like(z)], axis=-1)
    return Surface(((ray * z - translation) @ rotation).astype(np.float32), cell, shape)

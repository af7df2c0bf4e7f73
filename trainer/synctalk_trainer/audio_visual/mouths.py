"""A mouth as a few lengths that mean the same on every face: seen by a landmark detector, or posed by expressions.

All lengths are fractions of the distance of the outer eye corners; ``standardised`` takes off a clip's own mean and
spread, so that what is left is motion. Order: ``MEASURES``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..mouth import aperture
from ..synthetic.rig import Head

__all__ = ["MEASURES", "SHUT_APERTURE", "landmark_measures", "posed_measures", "standardised"]

Float = NDArray[np.float32]

MEASURES = ("opening", "opening_sides", "inner_width", "outer_height", "outer_width", "jaw", "upper_lip")

SHUT_APERTURE = 0.015
"""Inner lips that are less far apart touch: on film an opening is either below 0.01 or well above 0.02."""
_MEDIAPIPE = ((13, 14), ((82, 87), (312, 317)), (78, 308), (0, 17), (61, 291), (2, 152), (2, 13))
_USUAL = ((62, 66), ((61, 67), (63, 65)), (60, 64), (51, 57), (48, 54), (33, 8), (33, 62))
"""Pairs of points in MediaPipe's 478 and among the 68 usual landmarks; two pairs are averaged"""
_EYES_USUAL = (36, 45)


def landmark_measures(points: NDArray[np.floating]) -> Float:
    """points: [N, 478, >=2] pixels -> [N, measures]; the first is ``mouth.aperture``."""
    width = np.linalg.norm(points[:, 33, :2] - points[:, 263, :2], axis=-1)
    lengths = _lengths(points[..., :2], _MEDIAPIPE) / np.maximum(width, 1e-6)[:, None]
    lengths[:, 0] = aperture(points)
    return np.asarray(lengths, np.float32)


def posed_measures(head: Head, names: tuple[str, ...], coefficients: NDArray[np.floating]) -> Float:
    """Expression coefficients [N, K] of a rigged head, seen from the front -> [N, measures]."""
    rest = head.vertices[head.landmarks, :2].astype(np.float64)  # [68, 2]
    index = np.array([head.names.index(name) for name in names])
    offsets = head.deltas[np.ix_(index, head.landmarks)][..., :2].astype(np.float64)  # [K, 68, 2]
    points = rest + np.einsum("nk,kpd->npd", coefficients, offsets)
    width = np.linalg.norm(rest[_EYES_USUAL[0]] - rest[_EYES_USUAL[1]])
    return (_lengths(points, _USUAL) / width).astype(np.float32)


def standardised(measures: Float, valid: NDArray[np.bool_]) -> Float:
    """Motion about the clip's mean in units of its spread, within ±4; 0 in frames without a face."""
    seen = measures[valid]
    spread = np.maximum(seen.std(axis=0), 1e-4)
    values = ((measures - seen.mean(axis=0)) / spread).clip(-4, 4)
    return np.where(valid[:, None], values, 0).astype(np.float32)


def _lengths(points: NDArray[np.floating], pairs: tuple[tuple[object, object], ...]) -> NDArray[np.float64]:
    """Mean length of each pair or pairs, [N, measures]."""
    columns = []
    for pair in pairs:
        ends = np.array(pair, np.int64).reshape(-1, 2)
        columns.append(np.linalg.norm(points[:, ends[:, 0]] - points[:, ends[:, 1]], axis=-1).mean(axis=1))
    return np.stack(columns, axis=1).astype(np.float64)

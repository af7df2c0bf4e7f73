"""Step ``landmark_pose``: rigid head poses from the face mesh alone, with one focal length and one mean shape.

What the stabiliser starts from (``stabilise.py``). Adjustment of the face mesh's stable points: poses by damped Gauss-Newton over all frames at once, the shape by
linear least squares held to its first estimate, in turn; the focal length by search. Axes: ``synctalk/geometry.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.face_mesh import ANCHORS_CM, STABLE
from synctalk_trainer.prepare.rigid import (
    Double,
    cross_matrix,
    exp_rotation,
    huber_weights,
    pixel_jacobian,
    project_points,
)
from synctalk_trainer.prepare.workspace import Workspace, write_arrays

__all__ = [
    "Fit",
    "fit_poses",
    "refine_shape",
    "run_landmark_pose",
    "smooth_poses",
    "spread_poses",
    "to_canonical",
]

Flags = NDArray[np.bool_]

_EYES_M = 0.0889
_FLIP = np.diag([1.0, -1.0, -1.0])
"""Head axes (y up, z out of the face) of a face that looks into the camera (y down, z forward)."""
_SEARCH_FRAMES = 120
_FOCALS = tuple(np.geomspace(1.2, 8.0, 12))
"""Focal lengths tried, in picture sides."""
_FLAT = 0.10
"""Focal lengths whose error is within this share of the best are equally good: the usual one wins."""
_USUAL_FOCAL = 3.0
_HUBER = 0.004
"""Residuals beyond this share of the picture's side count linearly."""
_HOLD = 0.02
"""How strongly the shape is held to its first estimate, relative to the frames' evidence."""
_CHUNK = 1000


@dataclass(frozen=True)
class Fit:
    """Poses [N, 3, 3] and [N, 3] (head to camera, metres), mean shape [478, 3], focal length and errors in pixels."""

    rotation: Double
    translation: Double
    points_m: Double
    focal_px: float
    errors: tuple[tuple[float, float], ...]
    """(focal_px, mean robust error) of the search"""


def run_landmark_pose(work: Workspace) -> None:
    """Write ``landmark_pose.npz``."""
    faces = work.arrays("landmarks.npz")
    valid = faces["valid"]
    size = work.size
    fit = fit_poses(faces["points"][valid].astype(np.float64), size, work.advance)
    rotation, translation = spread_poses(fit, valid)
    rotation, translation, window = smooth_poses(
        rotation, translation, faces["points"], valid, fit, size, work.takes
    )
    error = np.zeros(len(valid), np.float32)
    stable = list(STABLE)
    seen = project_points(rotation, translation, fit.points_m[stable], fit.focal_px, size / 2)
    error[valid] = np.linalg.norm(seen - faces["points"][:, stable, :2], axis=-1).mean(axis=1)[valid]
    write_arrays(
        work.folder / "landmark_pose.npz",
        rotation=rotation.astype(np.float32),
        translation=translation.astype(np.float32),
        focal_px=np.array(fit.focal_px, np.float32),
        centre=np.array([size / 2, size / 2], np.float32),
        valid=valid,
        reprojection_px=error,
        points_m=fit.points_m.astype(np.float32),
    )
    work.info["landmark_pose"] = {
        "focal_px": round(fit.focal_px, 2),
        "reprojection_px": round(float(error[valid].mean()), 3),
        "smoothing_frames": window,
        "focal_errors": [[round(focal, 1), round(err, 4)] for focal, err in fit.errors],
    }


def fit_poses(points: Double, size: int, advance: object = None) -> Fit:
    """Fit poses to mesh points [N, 478, 3] (pixels; z smaller is nearer) in pictures of side ``size``."""
    centred = points - np.array([size / 2, size / 2, 0.0])
    rotation, offset, scale = _align(centred)
    shape = _mean_shape(centred, rotation, offset, scale)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _SEARCH_FRAMES)).astype(int))
    stable = np.array(STABLE)
    trial = centred[chosen][:, stable, :2]
    start = _Bundle(rotation[chosen], offset[chosen], scale[chosen], shape[stable])
    delta = _HUBER * size
    tried = [(focal * size, *start.adjust(trial, focal * size, delta, rounds=6)) for focal in _FOCALS]
    errors = tuple((focal, error) for focal, _, error in tried)
    focal = _best_focal(errors, size)
    adjusted, _ = start.adjust(trial, focal, delta, rounds=15)
    everywhere = _Bundle(rotation, offset, scale, adjusted.shape)
    poses = [
        everywhere.poses(centred[i : i + _CHUNK, stable, :2], slice(i, i + _CHUNK), focal, delta)
        for i in range(0, len(points), _CHUNK)
    ]
    all_rotations = np.concatenate([pose[0] for pose in poses])
    all_translations = np.concatenate([pose[1] for pose in poses])
    full = refine_shape(
        centred[chosen][..., :2], all_rotations[chosen], all_translations[chosen], shape, focal, delta
    )
    full[stable] = adjusted.shape
    return to_canonical(all_rotations, all_translations, full, focal, errors)


def _best_focal(errors: tuple[tuple[float, float], ...], size: int) -> float:
    """The usual focal length where it is as good as the best, else the nearest to it among the equally good."""
    least = min(error for _, error in errors)
    good = [focal for focal, error in errors if error <= least * (1 + _FLAT)]
    return min(good, key=lambda focal: abs(np.log(focal / (_USUAL_FOCAL * size))))


def _align(centred: Double) -> tuple[Double, Double, Double]:
    """Weak-perspective first poses: rotation [N, 3, 3], offset [N, 3] px and scale [N] px per metre (Umeyama 1991)."""
    index = list(ANCHORS_CM)
    model = np.array(list(ANCHORS_CM.values())) / 100  # [A, 3]
    seen = centred[:, index]  # [N, A, 3]
    mean_model, mean_seen = model.mean(axis=0), seen.mean(axis=1)
    a, b = model - mean_model, seen - mean_seen[:, None]
    u, s, vt = np.linalg.svd(np.einsum("nai,aj->nij", b, a))
    sign = np.ones_like(s)
    sign[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation = (u * sign[:, None]) @ vt
    scale = (s * sign).sum(axis=1) / (a**2).sum()
    offset = mean_seen - scale[:, None] * (rotation @ mean_model)
    return rotation, offset, scale


def _mean_shape(centred: Double, rotation: Double, offset: Double, scale: Double) -> Double:
    """The median over frames of the mesh in head space: [478, 3] metres."""
    chosen = np.unique(np.linspace(0, len(centred) - 1, min(len(centred), _SEARCH_FRAMES)).astype(int))
    local = (centred[chosen] - offset[chosen, None]) / scale[chosen, None, None]
    shape: Double = np.median(local @ rotation[chosen], axis=0)  # R^T x, row-wise
    return shape


@dataclass(frozen=True)
class _Bundle:
    """Weak-perspective poses of M frames and the shape [K, 3] of some points: the start of an adjustment."""

    rotation: Double
    offset: Double
    scale: Double
    shape: Double

    def _start(self, focal: float, frames: slice = slice(None)) -> tuple[Double, Double]:
        depth = focal / self.scale[frames]
        return self.rotation[frames], np.stack(
            [self.offset[frames, 0] / self.scale[frames], self.offset[frames, 1] / self.scale[frames], depth],
            axis=1,
        )

    def poses(
        self, seen: Double, frames: slice, focal: float, delta: float, rounds: int = 12
    ) -> tuple[Double, Double]:
        """Poses of some frames with the shape as it is."""
        rotation, translation = self._start(focal, frames)
        for _ in range(rounds):
            rotation, translation = _step(seen, rotation, translation, self.shape, focal, delta)
        return rotation, translation

    def adjust(self, seen: Double, focal: float, delta: float, rounds: int) -> tuple[_Bundle, float]:
        """Poses and shape in turn; the bundle with the new shape, and the mean robust error in pixels."""
        rotation, translation = self._start(focal)
        shape = self.shape
        for _ in range(rounds):
            for _ in range(3):
                rotation, translation = _step(seen, rotation, translation, shape, focal, delta)
            shape = refine_shape(seen, rotation, translation, self.shape, focal, delta)
        for _ in range(3):
            rotation, translation = _step(seen, rotation, translation, shape, focal, delta)
        distance = np.linalg.norm(project_points(rotation, translation, shape, focal, 0.0) - seen, axis=-1)
        robust = np.where(distance < delta, distance**2 / (2 * delta), distance - delta / 2)
        return _Bundle(self.rotation, self.offset, self.scale, shape), float(robust.mean())


def _step(
    target: Double, rotation: Double, translation: Double, shape: Double, focal: float, delta: float
) -> tuple[Double, Double]:
    """One damped Gauss-Newton step of all poses; rotation changes by exp(w) R."""
    turned = shape @ rotation.transpose(0, 2, 1)  # [N, K, 3]
    seen = turned + translation[:, None]
    residual = focal * seen[..., :2] / seen[..., 2:] - target
    d_point = pixel_jacobian(seen, focal)
    columns = np.concatenate([-d_point @ cross_matrix(turned), d_point], axis=-1)  # [N, K, 2, 6]
    weighted = columns * huber_weights(residual, delta)[..., None, None]
    n = len(target)
    flat, flat_weighted = columns.reshape(n, -1, 6), weighted.reshape(n, -1, 6)
    normal = flat_weighted.transpose(0, 2, 1) @ flat
    normal += 1e-6 * np.eye(6) * np.einsum("nii->n", normal)[:, None, None] / 6
    slope = flat_weighted.transpose(0, 2, 1) @ residual.reshape(n, -1, 1)
    change = -np.linalg.solve(normal, slope)[..., 0]
    return exp_rotation(change[:, :3]) @ rotation, translation + change[:, 3:]


def refine_shape(
    target: Double, rotation: Double, translation: Double, prior: Double, focal: float, delta: float
) -> Double:
    """The shape [K, 3] that fits all frames best, held to ``prior``: two Gauss-Newton steps."""
    shape = prior.copy()
    for _ in range(2):
        seen = shape @ rotation.transpose(0, 2, 1) + translation[:, None]
        residual = focal * seen[..., :2] / seen[..., 2:] - target
        columns = pixel_jacobian(seen, focal) @ rotation[:, None]  # [N, K, 2, 3]
        weighted = columns * huber_weights(residual, delta)[..., None, None]
        k = shape.shape[0]
        left = weighted.transpose(1, 3, 0, 2).reshape(k, 3, -1)
        normal = left @ columns.transpose(1, 0, 2, 3).reshape(k, -1, 3)
        slope = (left @ residual.transpose(1, 0, 2).reshape(k, -1, 1))[..., 0]
        hold = _HOLD * np.einsum("kii->k", normal)[:, None, None] * np.eye(3)
        shape = (
            shape
            - np.linalg.solve(normal + hold, slope[..., None] + hold @ (shape - prior)[..., None])[..., 0]
        )
    return shape


def to_canonical(
    rotation: Double,
    translation: Double,
    points: Double,
    focal: float,
    errors: tuple[tuple[float, float], ...],
) -> Fit:
    """Fix what projection leaves open: scale by the eye corners, orientation and origin by the canonical mesh."""
    turn, offset, _ = _align(points[None])
    turn, offset = turn[0], offset[0]
    eyes = float(np.linalg.norm(points[33] - points[263])) / _EYES_M
    moved = (points - offset) @ turn / eyes  # canonical axes and origin, metres
    new_rotation = rotation @ turn
    new_translation = (translation + rotation @ offset) / eyes
    return Fit(new_rotation, new_translation, moved, focal, errors)


def spread_poses(fit: Fit, valid: Flags) -> tuple[Double, Double]:
    """Poses of all frames: those without a face lie between their neighbours."""
    from scipy.spatial.transform import Rotation

    frames, known = np.arange(len(valid)), np.flatnonzero(valid)
    mean = Rotation.from_matrix(fit.rotation).mean()
    vectors = (mean.inv() * Rotation.from_matrix(fit.rotation)).as_rotvec()
    spread = np.stack([np.interp(frames, known, column) for column in vectors.T], axis=1)
    translation = np.stack([np.interp(frames, known, column) for column in fit.translation.T], axis=1)
    return (mean * Rotation.from_rotvec(spread)).as_matrix(), translation


def smooth_poses(
    rotation: Double,
    translation: Double,
    points: NDArray[np.float32],
    valid: Flags,
    fit: Fit,
    size: int,
    takes: list[tuple[int, int]],
) -> tuple[Double, Double, int]:
    """Smooth poses within takes without lag; the longest of some windows that fits the points nearly as well.

    Returns rotation, translation and the window in frames (0: as they were).
    """
    stable = list(STABLE)
    target = points[valid][:, stable, :2]

    def error(turn: Double, move: Double) -> float:
        seen = project_points(turn[valid], move[valid], fit.points_m[stable], fit.focal_px, size / 2)
        return float(np.linalg.norm(seen - target, axis=-1).mean())

    best = (rotation, translation, 0)
    allowed = error(rotation, translation) * 1.05
    for window in (5, 7, 9, 11):
        candidate = _smoothed(rotation, translation, takes, window)
        if error(*candidate) > allowed:
            break
        best = (*candidate, window)
    return best


def _smoothed(
    rotation: Double, translation: Double, takes: list[tuple[int, int]], window: int
) -> tuple[Double, Double]:
    from scipy.signal import savgol_filter
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_matrix(rotation)
    mean = turns.mean()
    values = np.concatenate([(mean.inv() * turns).as_rotvec(), translation], axis=1)
    for first, end in takes:
        if end - first >= window:
            values[first:end] = savgol_filter(values[first:end], window, 2, axis=0)
    return (mean * Rotation.from_rotvec(values[:, :3])).as_matrix(), values[:, 3:]

"""Bundle adjustment: head poses, rigid points and the focal length that explain where points were seen.

Two Gauss-Newton problems with analytic derivatives and Huber weights. ``adjust_structure``: poses, points and focal
length of some hundred frames together, exactly, by the Schur complement (every pose block is eliminated, what is left
is dense). ``adjust_poses``: poses of all frames of a clip with known points and a temporal prior on their second
difference; the system is banded, its cost grows with the number of frames. The prior looks both ways: no lag.
Poses are [v, t] per frame: rotation exp(v) @ reference, translation t in metres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.rigid import (
    Double,
    cross_matrix,
    exp_rotation,
    huber_weights,
    left_jacobian,
    pixel_jacobian,
)

__all__ = [
    "FocalPrior",
    "MotionPrior",
    "Sightings",
    "Structure",
    "adjust_points",
    "adjust_poses",
    "adjust_structure",
    "derivatives",
    "pose_normals",
    "predict",
]

Indices = NDArray[np.int64]

_CHUNK = 60_000
_LEAST_DAMPING = 1e-8
_FOCAL_STEP = 0.3
"""How far the log focal length goes in one step; the rest of the step is cut with it."""


@dataclass(frozen=True)
class Sightings:
    """M times that a point was seen in a frame, sorted by frame."""

    frame: Indices
    """[M]"""
    point: Indices
    """[M]"""
    xy: Double
    """[M, 2] pixels from the principal point"""
    weight: Double
    """[M] how much each is trusted: 1 / variance in pixels^2, before Huber"""

    def where(self, keep: NDArray[np.bool_] | slice) -> Sightings:
        """Some of them."""
        return Sightings(self.frame[keep], self.point[keep], self.xy[keep], self.weight[keep])


@dataclass(frozen=True)
class Structure:
    """What is estimated. ``reference`` [3, 3], poses [F, 6], points [P, 3] metres, focal length in pixels."""

    reference: Double
    poses: Double
    points: Double
    focal: float

    @property
    def rotation(self) -> Double:
        """[F, 3, 3] head to camera"""
        return exp_rotation(self.poses[:, :3]) @ self.reference

    @property
    def translation(self) -> Double:
        """[F, 3] metres"""
        return self.poses[:, 3:]


@dataclass(frozen=True)
class FocalPrior:
    """What is known of the focal length beforehand."""

    focal: float
    deviation: float
    """Standard deviation of its logarithm"""


@dataclass(frozen=True)
class MotionPrior:
    """How heads move: the second difference of each pose parameter is small, seldom large."""

    weight: Double
    """[6] of the squared second difference"""
    limit: Double
    """[6] second differences beyond it count linearly (Huber)"""


def _seen(model: Structure, rotation: Double, seen: Sightings) -> tuple[Double, Double]:
    """Points turned [M, 3], and in camera space [M, 3]."""
    turned = np.einsum("mij,mj->mi", rotation[seen.frame], model.points[seen.point])
    return turned, turned + model.poses[seen.frame, 3:]


def predict(model: Structure, seen: Sightings) -> Double:
    """Where the points should be seen: [M, 2] pixels from the principal point."""
    _, camera = _seen(model, model.rotation, seen)
    predicted: Double = model.focal * camera[:, :2] / camera[:, 2:]
    return predicted


def derivatives(model: Structure, seen: Sightings) -> tuple[Double, Double, Double, Double]:
    """Residuals [M, 2] (predicted - seen) and their derivatives by pose [M, 2, 6], point [M, 2, 3], log focal [M, 2]."""
    rotation = model.rotation
    turned, camera = _seen(model, rotation, seen)
    predicted = model.focal * camera[:, :2] / camera[:, 2:]
    by_camera = pixel_jacobian(camera, model.focal)
    spin = cross_matrix(turned) @ left_jacobian(model.poses[:, :3])[seen.frame]
    by_pose = np.concatenate([-by_camera @ spin, by_camera], axis=-1)
    return predicted - seen.xy, by_pose, by_camera @ rotation[seen.frame], predicted


def _sum_by(index: Indices, values: Double, n: int) -> Double:
    """Sums [n, ...] of values [M, ...] with the same index."""
    flat = values.reshape(len(values), -1)
    sums = np.empty((n, flat.shape[1]))
    for i, column in enumerate(flat.T):
        sums[:, i] = np.bincount(index, column, n)
    return sums.reshape(n, *values.shape[1:])


def _scattered(place: Indices, values: Double, shape: tuple[int, ...]) -> Double:
    """Sums [shape] of values with the same place in the flattened shape; place: of the values' shape, or broadcast to it."""
    flat = np.broadcast_to(place, values.shape).ravel()
    sums = np.asarray(np.bincount(flat, values.ravel(), int(np.prod(shape))), np.float64)
    return sums.reshape(shape)


def _robust_cost(residual: Double, weight: Double, delta: float) -> float:
    distance = np.linalg.norm(residual, axis=-1)
    rho = np.where(distance < delta, distance**2, 2 * delta * distance - delta**2)
    return float((weight * rho).sum())


def adjust_structure(
    model: Structure,
    seen: Sightings,
    delta: float,
    hold_m: Double,
    focal_prior: FocalPrior | None,
    rounds: int = 15,
) -> tuple[Structure, float]:
    """Fit poses, points and, given a prior for it, the focal length.

    delta: Huber's limit in pixels. hold_m: [P] how far (standard deviation, metres) points may be from where they start.
    focal_prior: None holds the focal length.
    Returns the model, and the standard deviation of the log focal length (0 when held), by the curvature of
    the cost with everything else adjusted.
    """
    start, damping = model.points, _LEAST_DAMPING
    cost = _structure_cost(model, seen, delta, hold_m, focal_prior, start)
    for _ in range(rounds):
        step, _ = _structure_step(model, seen, delta, hold_m, focal_prior, start, damping)
        trial_cost = _structure_cost(step, seen, delta, hold_m, focal_prior, start)
        if trial_cost < cost:
            gain, model, cost = 1 - trial_cost / cost, step, trial_cost
            if gain < 1e-6 and damping < 1e-4:
                break
            damping = max(damping / 10, _LEAST_DAMPING)
        else:
            damping = min(damping * 20, 1e3)
    if focal_prior is None:
        return model, 0.0
    _, deviation = _structure_step(model, seen, delta, hold_m, focal_prior, start, _LEAST_DAMPING)
    return model, deviation


def _structure_cost(
    model: Structure,
    seen: Sightings,
    delta: float,
    hold_m: Double,
    focal_prior: FocalPrior | None,
    start: Double,
) -> float:
    cost = _robust_cost(predict(model, seen) - seen.xy, seen.weight, delta)
    cost += float((((model.points - start) / hold_m[:, None]) ** 2).sum())
    if focal_prior is not None:
        cost += float(np.log(model.focal / focal_prior.focal) / focal_prior.deviation) ** 2
    return cost


def _structure_step(
    model: Structure,
    seen: Sightings,
    delta: float,
    hold_m: Double,
    focal_prior: FocalPrior | None,
    start: Double,
    damping: float,
) -> tuple[Structure, float]:
    """One Levenberg-Marquardt step, and the standard deviation of the log focal length by the (damped) curvature.

    Unknowns besides the poses: points, then log focal length. The distance changes in proportion to the focal length, so
    that the head keeps its size: with the distance held, cost falls only along a narrow, curved valley, and damped steps
    stop on its slope.
    """
    from scipy.linalg import cho_factor, cho_solve

    n_frames, n_points = len(model.poses), len(model.points)
    n = 3 * n_points + 1
    residual, by_pose, by_point, by_focal = derivatives(model, seen)
    by_focal = by_focal + by_pose[..., 5] * model.poses[seen.frame, 5, None]  # the distance goes with it
    root = np.sqrt(seen.weight * huber_weights(residual, delta))[:, None]
    residual, by_pose = residual * root, by_pose * root[..., None]
    rest = np.concatenate([by_point * root[..., None], (by_focal * root)[..., None]], axis=-1)  # [M, 2, 4]
    blocks = _sum_by(seen.frame, by_pose.transpose(0, 2, 1) @ by_pose, n_frames)
    blocks += damping * np.einsum("fii,ij->fij", blocks, np.eye(6)) / 6 + 1e-9 * np.eye(6)
    whiten = np.linalg.inv(np.linalg.cholesky(blocks))  # [F, 6, 6]
    slope_pose = _sum_by(seen.frame, np.einsum("mri,mr->mi", by_pose, residual), n_frames)
    # cross terms, whitened: [6 F, n]
    cross = whiten[seen.frame] @ (by_pose.transpose(0, 2, 1) @ rest)  # [M, 6, 4]
    columns = np.concatenate(
        [3 * seen.point[:, None] + np.arange(3), np.full((len(seen.point), 1), n - 1)], axis=1
    )  # [M, 4]
    rows = 6 * seen.frame[:, None] + np.arange(6)
    mixed = _scattered(n * rows[:, :, None] + columns[:, None], cross, (6 * n_frames, n))
    own = _scattered(
        (n * columns[:, :, None] + columns[:, None])[:, None], rest[..., :, None] * rest[..., None, :], (n, n)
    )
    slope = _scattered(columns[:, None], rest * residual[..., None], (n,))
    place = np.arange(n - 1)
    stiff = np.repeat(1 / hold_m**2, 3)
    own[place, place] += stiff
    slope[:-1] += stiff * (model.points - start).ravel()
    if focal_prior is None:
        mixed[:, -1] = 0.0
        own[-1], own[:, -1], own[-1, -1], slope[-1] = 0.0, 0.0, 1.0, 0.0
    else:
        own[-1, -1] += 1 / focal_prior.deviation**2
        slope[-1] += np.log(model.focal / focal_prior.focal) / focal_prior.deviation**2
    reduced = own - mixed.T @ mixed
    whitened = np.einsum("fij,fj->fi", whiten, slope_pose)
    right = slope - mixed.T @ whitened.ravel()
    reduced[np.arange(n), np.arange(n)] += damping * np.diag(own)
    factor = cho_factor(reduced, lower=True, overwrite_a=True)
    unit = np.zeros(n)
    unit[-1] = 1.0
    solved = cho_solve(factor, np.stack([right, unit], axis=1))
    change = -solved[:, 0]
    back = whitened + (mixed @ change).reshape(n_frames, 6)
    share = min(1.0, _FOCAL_STEP / max(abs(change[-1]), 1e-12))
    zoom = float(np.exp(share * change[-1]))
    poses = model.poses - share * np.einsum("fji,fj->fi", whiten, back)
    poses[:, 5] *= zoom
    points = model.points + share * change[:-1].reshape(-1, 3)
    moved = replace(model, poses=poses, points=points, focal=model.focal * zoom)
    return moved, float(np.sqrt(max(solved[-1, 1], 0.0)))


def adjust_points(model: Structure, seen: Sightings, delta: float, hold_m: Double) -> Structure:
    """One Gauss-Newton step of all points with the poses as they are."""
    n = len(model.points)
    normal, slope = np.zeros((n, 3, 3)), np.zeros((n, 3))
    for first in range(0, len(seen.frame), _CHUNK):
        part = seen.where(slice(first, first + _CHUNK))
        residual, _, by_point, _ = derivatives(model, part)
        weight = (part.weight * huber_weights(residual, delta))[:, None, None]
        normal += _sum_by(part.point, weight * by_point.transpose(0, 2, 1) @ by_point, n)
        slope += _sum_by(part.point, (weight * by_point.transpose(0, 2, 1) @ residual[..., None])[..., 0], n)
    normal += np.eye(3) / hold_m[:, None, None] ** 2
    return replace(model, points=model.points - np.linalg.solve(normal, slope[..., None])[..., 0])


def pose_normals(model: Structure, seen: Sightings, delta: float) -> tuple[Double, Double]:
    """Normal matrices [F, 6, 6] and slopes [F, 6] of the poses, robustly weighted."""
    n = len(model.poses)
    normal, slope = np.zeros((n, 6, 6)), np.zeros((n, 6))
    for first in range(0, len(seen.frame), _CHUNK):
        part = seen.where(slice(first, first + _CHUNK))
        low, high = int(part.frame[0]), int(part.frame[-1]) + 1
        local = replace(part, frame=part.frame - low)
        residual, by_pose, _, _ = derivatives(replace(model, poses=model.poses[low:high]), local)
        weighted = by_pose * (part.weight * huber_weights(residual, delta))[:, None, None]
        normal[low:high] += _sum_by(local.frame, weighted.transpose(0, 2, 1) @ by_pose, high - low)
        slope[low:high] += _sum_by(local.frame, np.einsum("mri,mr->mi", weighted, residual), high - low)
    return normal, slope


def adjust_poses(
    model: Structure,
    seen: Sightings,
    delta: float,
    prior: MotionPrior,
    takes: list[tuple[int, int]],
    pull: Double,
    rounds: int = 6,
) -> Structure:
    """Fit all poses with the points as they are.

    takes: [first, end) of spans that the prior does not leave. pull: [F, 6] weight that draws parameters to where they started: what holds
    frames without sightings.
    """
    from scipy.linalg import solveh_banded

    start = model.poses
    for _ in range(rounds):
        normal, slope = pose_normals(model, seen, delta)
        normal[:, range(6), range(6)] += pull
        slope += pull * (model.poses - start)
        band = _band(normal)
        for first, end in takes:
            _add_prior(band, slope, model.poses, first, end, prior)
        change = solveh_banded(band, slope.ravel(), lower=True, check_finite=False).reshape(-1, 6)
        model = replace(model, poses=model.poses - change)
        if np.abs(change).max() < 1e-6:
            break
    return model


def _band(blocks: Double) -> Double:
    """Lower banded form [13, 6 F] of block-diagonal matrices [F, 6, 6], with room for the prior."""
    band = np.zeros((13, 6 * len(blocks)))
    for row in range(6):
        for column in range(row + 1):
            band[row - column, column::6] = blocks[:, row, column]
    return band


def _add_prior(band: Double, slope: Double, poses: Double, first: int, end: int, prior: MotionPrior) -> None:
    """Add the prior on second differences of one take to the banded system; quick turns count linearly (Huber)."""
    if end - first < 3:
        return
    bend = poses[first : end - 2] - 2 * poses[first + 1 : end - 1] + poses[first + 2 : end]  # [n, 6]
    weight = prior.weight * np.minimum(1.0, prior.limit / np.maximum(np.abs(bend), 1e-15))
    factors = (1.0, -2.0, 1.0)
    for a in range(3):
        slope[first + a : end - 2 + a] += factors[a] * weight * bend
        for b in range(a + 1):
            entries = band[6 * (a - b)].reshape(-1, 6)  # lower band: row of the offset, column of the earlier
            entries[first + b : end - 2 + b] += factors[a] * factors[b] * weight

"""The Head-Sync Stabilizer: smooth, exact head poses from landmark poses and point tracks.

Landmark poses and tracks → bundle adjustment of some hundred frames for points and focal length → poses of all frames
with a temporal prior whose strength comes from the clip → mesh and axes. ``docs/stabilizer.md`` has the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.bundle_adjust import (
    FocalPrior,
    MotionPrior,
    Sightings,
    Structure,
    adjust_points,
    adjust_poses,
    adjust_structure,
    pose_normals,
    predict,
)
from synctalk_trainer.prepare.face_mesh import ANCHORS_CM
from synctalk_trainer.prepare.pose import Fit, refine_shape, to_canonical
from synctalk_trainer.prepare.rigid import Double, log_rotation

__all__ = ["FEW_TRACKS", "Clip", "Stabilised", "stabilise"]

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

FEW_TRACKS = 12
"""With fewer tracks a frame's pose is doubtful."""
_STRUCTURE_FRAMES, _MAX_POINTS, _MIN_SIGHTINGS = 240, 420, 8
_LANDMARK_WEIGHT = 0.001
"""What one mesh point counts against one track: it wanders with the face's expression and view."""
_HOLD_M = 0.012
_USUAL_FOCAL, _USUAL_SPREAD, _LANDMARK_SPREAD = 3.0, 0.5, 0.25
"""Focal length, in picture sides, that is expected of a clip that does not tell; spread of its logarithm, and of the
landmarks' focal length around the true one."""
_FOCAL_DOUBT = 8.0
"""Tracks err alike, on hair above all, and a fiftieth of a pixel is a fifth of the focal length: it is known this many times
worse than the curvature of the cost promises, by the errors in computer-generated clips."""
_FIRST_SIGMA = 0.001
"""Of the picture's side: how exact a track is before its residuals are known."""
_HUBER = 2.0
"""Residuals beyond this many standard deviations count linearly."""
_TOO_LOOSE = 2.5
"""Tracks with this many times the usual residual do not move with the skull."""
_GOOD_SHARE = 0.3
"""This share of the tracks is taken to be as good as tracks get."""
_INDEPENDENT = 20
"""A track errs alike in frames that see it alike: in the structure it counts like this many independent sightings."""
_LEAST_MOTION = np.repeat([1e-12, 1e-14], 3)
"""Variances (rad^2, m^2) of noise and of second differences below which no head stays."""
_LOOSE_PULL = np.repeat([1 / np.radians(3.0) ** 2, 1 / 0.005**2], 3)
"""What draws a frame without sightings to the line between its neighbours."""


@dataclass(frozen=True)
class Clip:
    """What the stabiliser starts from. N frames; pixels from the principal point; P tracked points."""

    fit: Fit
    """Poses of the landmarks, every frame [N]"""
    landmarks: Double
    """[N, 478, 2]"""
    valid: Flags
    takes: list[tuple[int, int]]
    size: int
    tracks: Sightings
    start_m: Double
    """[P, 3] first places of the tracked points"""
    key_frames: Indices


@dataclass(frozen=True)
class Stabilised:
    """Poses in head axes with the mesh, and what tells how good they are."""

    fit: Fit
    track_px: Double
    """[N] mean distance of tracks from where the pose puts them; NaN where there are none"""
    n_tracks: Indices
    """[N]"""
    points_m: Double
    """[Q, 3] tracked points that move with the skull, head space"""
    sigma_px: float
    """Standard deviation of a track in x or y"""
    focal_deviation: float
    """Standard deviation of the log focal length"""

    def is_trusted(self, valid: Flags) -> bool:
        """Whether most frames with a face have tracks enough."""
        return bool((self.n_tracks < FEW_TRACKS)[valid].mean() <= 0.5)


def stabilise(clip: Clip, advance: Callable[[float], None] = lambda fraction: None) -> Stabilised:
    """Poses of all frames, exact and smooth; those of frames without a face lie between their neighbours."""
    n_tracked = len(clip.start_m)
    model = _start(clip)
    found = _settle_structure(model, _sightings(clip), clip, n_tracked)
    advance(0.3)
    delta = _HUBER * found.sigma
    model = _adjusted(found.model, found.seen, MotionPrior(np.zeros(6), np.ones(6)), clip, delta, rounds=6)
    seen = found.seen
    model = adjust_points(model, seen, delta, np.full(len(model.points), _HOLD_M))
    advance(0.6)
    model = _adjusted(model, seen, MotionPrior(np.zeros(6), np.ones(6)), clip, delta, rounds=4)
    prior = _motion_prior(model, seen, clip, delta)
    model = _adjusted(model, seen, prior, clip, delta, rounds=8)
    advance(0.9)
    distance, n_tracks = _distances(model, seen, n_tracked, len(clip.valid))
    used = np.unique(seen.point[seen.point < n_tracked])
    fit, points = _with_mesh(model, clip, model.points[used])
    return Stabilised(
        fit=fit,
        track_px=distance,
        n_tracks=n_tracks,
        points_m=points,
        sigma_px=found.sigma,
        focal_deviation=found.focal_deviation,
    )


def _start(clip: Clip) -> Structure:
    reference = clip.fit.rotation[clip.key_frames[0]]
    vectors = log_rotation(clip.fit.rotation @ reference.T)
    points = np.concatenate([clip.start_m, clip.fit.points_m[list(ANCHORS_CM)]])
    poses = np.concatenate([vectors, clip.fit.translation], axis=1)
    return Structure(reference, poses, points, clip.fit.focal_px)


def _sightings(clip: Clip) -> Sightings:
    """Tracks, and some mesh points that hold what tracks leave open; weights relative to a track."""
    known, anchors = np.flatnonzero(clip.valid), list(ANCHORS_CM)
    frame = np.concatenate([clip.tracks.frame, np.repeat(known, len(anchors))])
    point = np.concatenate(
        [clip.tracks.point, np.tile(len(clip.start_m) + np.arange(len(anchors)), len(known))]
    )
    xy = np.concatenate([clip.tracks.xy, clip.landmarks[known][:, anchors].reshape(-1, 2)])
    light = np.full(len(known) * len(anchors), _LANDMARK_WEIGHT)
    weight = np.concatenate([clip.tracks.weight, light])
    order = np.argsort(frame, kind="stable")
    return Sightings(frame[order], point[order], xy[order], weight[order])


@dataclass(frozen=True)
class _Found:
    """Points and focal length, with the sightings weighted by what a track turned out to be worth."""

    model: Structure
    seen: Sightings
    sigma: float
    focal_deviation: float


def _structure_frames(clip: Clip) -> Indices:
    """Frames spread over the clip and over the sides that the head shows."""
    known = np.flatnonzero(clip.valid)
    spread = known[np.linspace(0, len(known) - 1, min(len(known), _STRUCTURE_FRAMES * 3 // 4)).astype(int)]
    towards = clip.fit.rotation[known, 2]
    away = np.linalg.norm(towards - np.median(towards, axis=0), axis=1)
    far = known[np.argsort(-away)[: 4 * (_STRUCTURE_FRAMES // 4) : 4]]
    return np.unique(np.concatenate([clip.key_frames, spread, far]))


def _subset(
    model: Structure, seen: Sightings, frames: Indices, points: Indices
) -> tuple[Structure, Sightings]:
    """The model of some frames and points, and its sightings."""
    new_frame, new_point = np.full(len(model.poses), -1), np.full(len(model.points), -1)
    new_frame[frames], new_point[points] = np.arange(len(frames)), np.arange(len(points))
    part = seen.where((new_frame[seen.frame] >= 0) & (new_point[seen.point] >= 0))
    small = replace(model, poses=model.poses[frames], points=model.points[points])
    return small, replace(part, frame=new_frame[part.frame], point=new_point[part.point])


def _settle_structure(model: Structure, seen: Sightings, clip: Clip, n_tracked: int) -> _Found:
    """Points and focal length from some hundred frames: with the landmarks' focal length first, then with its own."""
    frames = _structure_frames(clip)
    count = np.bincount(seen.point[np.isin(seen.frame, frames)], minlength=len(model.points))
    count[count < _MIN_SIGHTINGS] = 0
    tracked = np.argsort(-count[:n_tracked], kind="stable")[:_MAX_POINTS]
    points = np.concatenate([np.sort(tracked[count[tracked] > 0]), np.arange(n_tracked, len(model.points))])
    worth, sigma = np.full(len(model.points), 1 / (_FIRST_SIGMA * clip.size) ** 2), _FIRST_SIGMA * clip.size
    hold = np.full(len(model.points), _HOLD_M)
    expected = _expected_focal(clip)
    for prior in (None, None, None, expected, expected):
        points = points[worth[points] > 0]
        small, part = _subset(model, _weighted(seen, worth), frames, points)
        per_point = max(len(part.frame) / max(len(points), 1), 1.0)
        part = replace(part, weight=part.weight * min(1.0, _INDEPENDENT / per_point))
        small, deviation = adjust_structure(small, part, _HUBER * sigma, hold[points], prior, 30)
        model = replace(_merged(model, small, frames, points), focal=small.focal)
        everywhere, all_seen = _subset(model, seen, frames, np.arange(len(model.points)))
        loose = worth <= 0
        worth, sigma = _trusted(everywhere, all_seen, n_tracked)
        worth[loose] = 0.0
    in_structure = np.zeros(len(model.points), bool)
    in_structure[points] = True
    worth[~in_structure] = 0.0
    seen = _weighted(seen, worth)
    return _Found(model, seen.where(seen.weight > 0), sigma, _FOCAL_DOUBT * deviation)


def _expected_focal(clip: Clip) -> FocalPrior:
    """The landmarks' focal length and the usual one, as strong as it takes against curvature that promises too much."""
    weights = np.array([_LANDMARK_SPREAD, _USUAL_SPREAD]) ** -2
    logs = np.log([clip.fit.focal_px, _USUAL_FOCAL * clip.size])
    return FocalPrior(float(np.exp(np.average(logs, weights=weights))), weights.sum() ** -0.5 / _FOCAL_DOUBT)


def _weighted(seen: Sightings, worth: Double) -> Sightings:
    return replace(seen, weight=seen.weight * worth[seen.point])


def _merged(model: Structure, small: Structure, frames: Indices, points: Indices) -> Structure:
    poses, places = model.poses.copy(), model.points.copy()
    poses[frames], places[points] = small.poses, small.points
    return replace(model, poses=poses, points=places)


def _spreads(model: Structure, seen: Sightings) -> Double:
    """Usual distance [P] of each point's sightings from where they should be, as a standard deviation in x or y, pixels;
    infinite without sightings."""
    distance = np.linalg.norm(predict(model, seen) - seen.xy, axis=1)
    order = np.lexsort((distance, seen.point))
    count = np.bincount(seen.point, minlength=len(model.points))
    middle = np.cumsum(count) - count + count // 2
    usual = np.full(len(model.points), np.inf)
    usual[count > 0] = distance[order][middle[count > 0]] / 1.177
    return usual


def _trusted(model: Structure, seen: Sightings, n_tracked: int) -> tuple[Double, float]:
    """What each point's sightings are worth [P], 1 / pixels^2, and the usual spread. Points that do not move with the
    skull are worth nothing, mesh points what the usual point is."""
    spread = _spreads(model, seen)
    known = spread[:n_tracked][np.isfinite(spread[:n_tracked])]
    sigma = float(np.quantile(known, _GOOD_SHARE)) if len(known) else float(np.median(spread[n_tracked:])) / 5
    worth = 1 / (spread**2 + (0.3 * sigma) ** 2)
    worth[spread > _TOO_LOOSE * sigma] = 0.0
    worth[n_tracked:] = 1 / sigma**2
    return worth, sigma


def _adjusted(
    model: Structure, seen: Sightings, prior: MotionPrior, clip: Clip, delta: float, rounds: int
) -> Structure:
    """All poses; frames without a face start, and are lightly held, between their neighbours."""
    poses = model.poses.copy()
    for first, end in clip.takes:
        known = first + np.flatnonzero(clip.valid[first:end])
        if 0 < len(known) < end - first:
            missing = first + np.flatnonzero(~clip.valid[first:end])
            for column in range(6):
                poses[missing, column] = np.interp(missing, known, poses[known, column])
    pull = np.where(clip.valid[:, None], 1e-6, 1.0) * _LOOSE_PULL
    return adjust_poses(replace(model, poses=poses), seen, delta, prior, clip.takes, pull, rounds)


def _motion_prior(model: Structure, seen: Sightings, clip: Clip, delta: float) -> MotionPrior:
    """The prior under which this clip's own motion and noise are likely.

    Fourth differences are nearly all noise (variance 70 n), second ones are motion and noise (a + 6 n).
    """
    normal, _ = pose_normals(model, seen, delta)
    formal = np.median(np.diagonal(np.linalg.inv(normal[clip.valid]), axis1=1, axis2=2), axis=0)  # [6]
    second, fourth = [np.zeros((0, 6))], [np.zeros((0, 6))]
    for first, end in clip.takes:
        known = clip.valid[first:end]
        bend = np.diff(model.poses[first:end], 2, axis=0)
        second.append(bend[known[:-2] & known[1:-1] & known[2:]])
        if len(known) > 4:
            is_whole = np.lib.stride_tricks.sliding_window_view(known, 5).all(axis=1)
            fourth.append(np.diff(bend, 2, axis=0)[is_whole])
    bends, shakes = np.concatenate(second), np.concatenate(fourth)
    if len(shakes) < _MIN_SIGHTINGS:
        return MotionPrior(np.zeros(6), np.ones(6))
    noise = np.maximum((1.4826 * np.median(np.abs(shakes), axis=0)) ** 2 / 70, _LEAST_MOTION)
    spread = np.mean(np.square(bends), axis=0)
    motion = np.maximum(np.maximum(spread - 6 * noise, 0.05 * spread), _LEAST_MOTION)
    return MotionPrior(noise / (motion * formal), 2 * np.sqrt(motion))


def _distances(model: Structure, seen: Sightings, n_tracked: int, n: int) -> tuple[Double, Indices]:
    """Mean distance [N] of tracks in each frame, NaN without any, and their number [N]."""
    seen = seen.where(seen.point < n_tracked)
    distance = np.linalg.norm(predict(model, seen) - seen.xy, axis=1)
    count = np.bincount(seen.frame, minlength=n)
    total = np.bincount(seen.frame, distance, n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def _with_mesh(model: Structure, clip: Clip, tracked: Double) -> tuple[Fit, Double]:
    """Fit the whole mesh to the landmarks under the new poses, and choose scale and axes by it: of tracked points, too."""
    chosen = np.flatnonzero(clip.valid)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), 400)).astype(int)]
    rotation, translation = model.rotation, model.translation
    mesh = refine_shape(
        clip.landmarks[chosen],
        rotation[chosen],
        translation[chosen],
        clip.fit.points_m,
        model.focal,
        0.004 * clip.size,
    )
    fit = to_canonical(rotation, translation, np.concatenate([mesh, tracked]), model.focal, ())
    return replace(fit, points_m=fit.points_m[: len(mesh)]), fit.points_m[len(mesh) :]

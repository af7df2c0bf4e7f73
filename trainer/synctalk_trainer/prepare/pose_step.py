"""Step ``pose``: the stabilised head poses, or those of the landmarks, written with a diagnosis of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk.spec import FPS
from synctalk_trainer.prepare.bundle_adjust import Sightings
from synctalk_trainer.prepare.checks import spans_of, times_of
from synctalk_trainer.prepare.face_mesh import STABLE
from synctalk_trainer.prepare.rigid import Double, project_points
from synctalk_trainer.prepare.stabilise import FEW_TRACKS, Clip, Stabilised, stabilise
from synctalk_trainer.prepare.tracks import clip_of
from synctalk_trainer.prepare.workspace import Workspace, write_arrays

__all__ = ["diagnose", "focal_words", "read_clip", "run_pose", "turning_range", "warn_of_poses"]

Flags = NDArray[np.bool_]

_LOOSE = 3.0
"""Frames whose tracks fit this many times worse than usual are suspicious."""
_JUMP_DEG = 6.0
"""A second difference of the rotation that no head makes from frame to frame."""
_SHORT_SPAN = 3
_TURNS_ENOUGH_DEG = 20.0
_FOCAL_TOLERANCE = 0.05


def run_pose(work: Workspace) -> None:
    """Write ``pose.npz``."""
    if work.options.poses == "landmarks":
        _keep_landmark_poses(work)
        return
    clip = read_clip(work)
    done = stabilise(clip, work.advance)
    if not done.is_trusted(clip.valid):
        _keep_landmark_poses(work)
        work.warn(
            "pose",
            "few_tracks",
            "too little texture on the head to follow points in most frames: the poses are those of the face mesh, and "
            "shake more. A sharper or larger picture of the head helps.",
        )
        return
    fit, stable = done.fit, list(STABLE)
    mesh_px = np.zeros(len(clip.valid))
    seen = project_points(fit.rotation, fit.translation, fit.points_m[stable], fit.focal_px)
    away = np.linalg.norm(seen - clip.landmarks[:, stable], axis=-1).mean(axis=1)
    mesh_px[clip.valid] = away[clip.valid]
    write_arrays(
        work.folder / "pose.npz",
        rotation=fit.rotation.astype(np.float32),
        translation=fit.translation.astype(np.float32),
        focal_px=np.array(fit.focal_px, np.float32),
        centre=np.array([work.size / 2, work.size / 2], np.float32),
        valid=clip.valid,
        reprojection_px=mesh_px.astype(np.float32),
        points_m=fit.points_m.astype(np.float32),
        track_px=done.track_px.astype(np.float32),
        n_tracks=done.n_tracks.astype(np.int32),
    )
    work.info["pose"] = diagnose(done, clip)
    warn_of_poses(work, done, clip)


def _keep_landmark_poses(work: Workspace) -> None:
    write_arrays(work.folder / "pose.npz", **work.arrays("landmark_pose.npz"))
    work.info["pose"] = {**work.info.get("landmark_pose", {}), "poses": "landmarks"}


def read_clip(work: Workspace) -> Clip:
    """What earlier steps found."""
    tracks = work.arrays("tracks.npz")
    seen = Sightings(
        tracks["frame"].astype(np.int64),
        tracks["point"].astype(np.int64),
        tracks["xy"] - np.full(2, work.size / 2),
        tracks["weight"].astype(np.float64),
    )
    start = tracks["start_m"].astype(np.float64)
    return clip_of(work, seen, start, tracks["key_frames"].astype(np.int64))


def turning_range(rotation: Double) -> tuple[float, float]:
    """Degrees that the head turns sideways, and up and down: 1st to 99th percentile of rotations [N, 3, 3]."""
    towards = -rotation[:, 2]  # to the camera, in head space
    sideways = np.degrees(np.arctan2(towards[:, 0], towards[:, 2]))
    upwards = np.degrees(np.arcsin(np.clip(towards[:, 1], -1, 1)))
    low, high = np.percentile(np.stack([sideways, upwards]), (1, 99), axis=1)
    return float(high[0] - low[0]), float(high[1] - low[1])


def diagnose(done: Stabilised, clip: Clip) -> dict[str, Any]:
    """How good the poses are, for ``dataset.json`` and the report."""
    turns = [round(turn, 1) for turn in turning_range(done.fit.rotation[clip.valid])]
    known = done.track_px[np.isfinite(done.track_px)]
    is_weak = max(turns) < _TURNS_ENOUGH_DEG or done.focal_deviation > _FOCAL_TOLERANCE
    return {
        "poses": "stabilised",
        "focal_px": round(done.fit.focal_px, 2),
        "focal_is_weak": bool(is_weak),
        "focal_deviation": round(done.focal_deviation, 4),
        "turns_deg": turns,
        "reprojection_px": round(float(known.mean()), 3) if len(known) else None,
        "track_sigma_px": round(done.sigma_px, 3),
        "tracks": len(done.points_m),
        "tracks_per_frame": float(np.median(done.n_tracks[clip.valid])),
    }


def focal_words(pose: dict[str, Any]) -> str:
    """How far a diagnosis trusts its focal length, and what is missing."""
    deviation, turn = f"{100 * pose['focal_deviation']:.1f} %", max(pose["turns_deg"])
    if not pose["focal_is_weak"]:
        return f"determined to {deviation}"
    missing = (
        f"the head turns by {turn}° at most, and {_TURNS_ENOUGH_DEG:.0f}° or more would tell"
        if turn < _TURNS_ENOUGH_DEG
        else "the head turns enough, but the points on it are not followed exactly enough"
    )
    return f"weakly determined by this clip, to {deviation} (harmless for training): {missing}"


def warn_of_poses(work: Workspace, done: Stabilised, clip: Clip) -> None:
    """Warn of the places where the poses are doubtful."""
    few = clip.valid & (done.n_tracks < FEW_TRACKS)
    _warn_of(
        work,
        few,
        "few_tracks",
        "few points of the head could be followed at {}: hidden, blurred or turned away?",
    )
    usual = np.nanmedian(done.track_px) if np.isfinite(done.track_px).any() else np.inf
    loose = clip.valid & (np.nan_to_num(done.track_px) > _LOOSE * usual)
    _warn_of(work, loose, "loose_tracks", "the followed points do not move as one head at {}: look there")
    _warn_of(work, _jumps(done.fit.rotation, clip.takes), "jump", "the head's pose jumps at {}: look there")


def _jumps(rotation: Double, takes: list[tuple[int, int]]) -> Flags:
    from synctalk_trainer.prepare.rigid import log_rotation

    turned = log_rotation(rotation[1:] @ rotation[:-1].transpose(0, 2, 1))
    is_jump = np.zeros(len(rotation), bool)
    is_jump[1:-1] = np.linalg.norm(np.diff(turned, axis=0), axis=1) > np.radians(_JUMP_DEG)
    for first, end in takes:
        is_jump[max(first - 1, 0) : first + 2] = False
        is_jump[max(end - 2, 0) : end + 1] = False
    return is_jump


def _warn_of(work: Workspace, where: Flags, code: str, message: str) -> None:
    """message: with braces where the times belong."""
    spans = [(low, high) for low, high in spans_of(where) if (high - low) * FPS >= _SHORT_SPAN]
    if spans:
        work.warn("pose", code, message.format(times_of(spans)), spans)

"""Poses are found again from projected points; expression is smooth and clipped."""

from __future__ import annotations

import numpy as np
import pytest
from fake_faces import mesh_m
from scipy.spatial.transform import Rotation
from synctalk.spec import EXPRESSION_NAMES
from synctalk_trainer.prepare.expression import BLENDSHAPES, expression_of
from synctalk_trainer.prepare.pose import fit_poses, smooth_poses, spread_poses

SIZE, FOCAL = 256, 3.0 * 256
FLIP = np.diag([1.0, -1.0, -1.0])


def seen(n: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(n) / 25
    angles = np.stack([0.2 * np.sin(time * 2), 0.25 * np.sin(time * 3 + 1), 0.1 * np.sin(time)], axis=1)
    rotation = FLIP @ Rotation.from_rotvec(angles).as_matrix()
    translation = np.stack(
        [0.02 * np.sin(time), 0.01 * np.cos(time), 0.9 + 0.03 * np.sin(time * 0.7)], axis=1
    )
    camera = mesh_m() @ rotation.transpose(0, 2, 1) + translation[:, None]
    points = np.empty_like(camera)
    points[..., :2] = FOCAL * camera[..., :2] / camera[..., 2:] + SIZE / 2
    points[..., 2] = (camera[..., 2] - translation[:, None, 2]) * FOCAL / 0.9
    return points + rng.normal(0, noise, points.shape), rotation, translation


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees((Rotation.from_matrix(a).inv() * Rotation.from_matrix(b)).magnitude())


def test_poses_are_recovered() -> None:
    points, rotation, translation = seen(60, 0.3)
    fit = fit_poses(points, SIZE)
    assert degrees(fit.rotation, rotation).mean() < 1.0
    assert abs(np.linalg.norm(fit.points_m[33] - fit.points_m[263]) - 0.0889) < 1e-6
    scale = FOCAL / translation[:, 2]
    assert np.abs(fit.focal_px / fit.translation[:, 2] / scale - 1).max() < 0.03


def test_smoothing_lowers_jitter_without_lag() -> None:
    points, rotation, _ = seen(60, 0.8)
    fit = fit_poses(points, SIZE)
    valid = np.ones(60, bool)
    turned, _, window = smooth_poses(
        fit.rotation, fit.translation, points.astype(np.float32), valid, fit, SIZE, [(0, 60)]
    )
    assert window >= 5
    assert degrees(turned[1:], turned[:-1]).std() <= degrees(fit.rotation[1:], fit.rotation[:-1]).std()
    assert degrees(turned, rotation).mean() <= degrees(fit.rotation, rotation).mean() + 0.05


def test_frames_without_a_face_lie_between_their_neighbours() -> None:
    points, rotation, _ = seen(60, 0.0)
    valid = np.ones(60, bool)
    valid[20:25] = False
    turned, moved = spread_poses(fit_poses(points[valid], SIZE), valid)
    assert turned.shape == (60, 3, 3)
    assert np.isfinite(moved).all()
    assert degrees(turned, rotation)[20:25].max() < 2.5


def test_expression_is_smooth_interpolated_and_clipped() -> None:
    rng = np.random.default_rng(1)
    shapes = rng.uniform(0, 1, (60, 52)).astype(np.float32)
    valid = np.ones(60, bool)
    valid[10:14] = False
    shapes[10:14] = 9.0
    values = expression_of(shapes, valid, [(0, 30), (30, 60)])
    assert values.shape == (60, len(BLENDSHAPES) - 1)
    assert values.min() >= 0
    assert values.max() <= 1
    constant = expression_of(np.full((60, 52), 0.4, np.float32), valid, [(0, 60)])
    np.testing.assert_allclose(constant, 0.4, atol=1e-6)
    assert set(EXPRESSION_NAMES) <= set(BLENDSHAPES)


def test_blendshapes_are_mediapipes() -> None:
    """In its order: their columns are taken by place."""
    vision = pytest.importorskip("mediapipe.tasks.python.vision.face_landmarker")
    theirs = [shape.name.lower().replace("_", "") for shape in vision.Blendshapes]
    assert [name.lower().replace("_", "") for name in BLENDSHAPES] == theirs

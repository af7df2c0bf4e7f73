"""A small prepared dataset for tests: a ball of a head with eyes and a mouth that opens with the sound."""

from __future__ import annotations

import json
import wave
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from synctalk.geometry import Camera, project
from synctalk_trainer.mouth import CHIN, INNER_LIPS, LIPS
from synctalk_trainer.prepare.expression import BLENDSHAPES

SIZE = 48
RADIUS_M = 0.08


def _mesh(generator: np.random.Generator) -> np.ndarray:
    """478 points on the front of the ball, [478, 3] metres; eye corners and lips where they belong."""
    points = generator.uniform((-0.06, -0.06, 0.0), (0.06, 0.06, 0.0), (478, 3))
    points[[33, 263], :2] = (-0.0445, 0.02), (0.0445, 0.02)
    points[[159, 145, 386, 374], :2] = (-0.03, 0.025), (-0.03, 0.015), (0.03, 0.025), (0.03, 0.015)
    angle = np.linspace(0, 2 * np.pi, len(LIPS))
    points[list(LIPS), :2] = np.stack([0.02 * np.cos(angle), -0.03 + 0.005 * np.sin(angle)], axis=-1)
    points[2, :2] = (0.0, -0.01)  # below the nose
    points[[13, 14], :2] = (0.0, -0.028), (0.0, -0.032)
    points[list(CHIN), :2] = (0.0, -0.058)
    points[:, 2] = np.sqrt(np.maximum(0.0, RADIUS_M**2 - (points[:, :2] ** 2).sum(axis=1)))
    return points.astype(np.float32)


def _sound(n_frames: int, opening: np.ndarray) -> np.ndarray:
    time = np.arange(n_frames * 640) / 16_000
    loud = np.interp(time, np.arange(n_frames) / 25, opening)
    tone = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 9))
    return (loud * tone * 0.2 * 32_767).astype("<i2")


def write_tiny_dataset(path: Path, n_frames: int = 75, takes: int = 1, seed: int = 0) -> Path:
    """Write a dataset of ``docs/formats.md`` and return its folder."""
    path.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    camera = Camera(SIZE, SIZE, 110.0, SIZE / 2, SIZE / 2)
    mesh = _mesh(generator)
    turn = 0.15 * np.sin(np.arange(n_frames) / 7)
    facing = np.diag([1.0, -1.0, -1.0])
    rotation = np.stack(
        [facing @ np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]) for a in turn]
    ).astype(np.float32)
    translation = np.tile(np.array([0.0, 0.0, 0.6], np.float32), (n_frames, 1))
    opening = np.clip(
        np.interp(np.arange(n_frames) / 3, np.arange(n_frames), generator.random(n_frames)), 0.1, 1
    )
    points = np.zeros((n_frames, 478, 3), np.float32)
    points[..., :2] = project(camera, rotation, translation, mesh)
    points[:, list(INNER_LIPS), 1] += opening[:, None] * np.linspace(-1, 2, len(INNER_LIPS))
    points[:, 14, 1] += 3 * opening
    v, u = np.mgrid[:SIZE, :SIZE]
    head = np.hypot(u - SIZE / 2, v - SIZE / 2) < 0.98 * camera.focal_px * RADIUS_M / 0.6
    plate = np.stack([u * 3, v * 3, np.full_like(u, 90)], axis=-1).astype(np.uint8)
    frames, masks = np.repeat(plate[None], n_frames, axis=0), np.zeros((n_frames, SIZE, SIZE), np.uint8)
    masks[:, head] = 2
    for i in range(n_frames):
        frames[i][head] = (205, 150, 120)
        cv2.circle(frames[i], points[i, 159, :2].astype(int).tolist(), 2, (20, 40, 90), -1)
        cv2.circle(frames[i], points[i, 386, :2].astype(int).tolist(), 2, (20, 40, 90), -1)
        middle = points[i, [13, 14], :2].mean(axis=0).astype(int).tolist()
        cv2.ellipse(frames[i], middle, (5, 1 + round(3 * opening[i])), 0, 0, 360, (120, 20, 30), -1)
    np.save(path / "frames.npy", frames)
    np.save(path / "plates.npy", np.repeat(plate[None], n_frames, axis=0))
    np.save(path / "masks.npy", masks)
    cv2.imwrite(str(path / "background.png"), plate[..., ::-1])
    valid = np.ones(n_frames, bool)
    np.savez(path / "landmarks.npz", points=points, valid=valid)
    np.savez(
        path / "pose.npz",
        rotation=rotation,
        translation=translation,
        focal_px=camera.focal_px,
        centre=np.array([camera.centre_x, camera.centre_y]),
        valid=valid,
        points_m=mesh,
    )
    values = np.zeros((n_frames, len(BLENDSHAPES) - 1), np.float32)
    np.savez(path / "expression.npz", values=values, names=np.array(BLENDSHAPES[1:]))
    with wave.open(str(path / "audio.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(_sound(n_frames, opening).tobytes())
    edges = np.linspace(0, n_frames, takes + 1).astype(int)
    info = {
        "format": "synctalk-dataset",
        "version": 1,
        "fps": 25,
        "size": SIZE,
        "n_frames": n_frames,
        "source": {"name": "ball.mp4", "width": 64, "height": 48},
        "crop": {"x": 8.0, "y": 0.0, "side": 48.0},
        "takes": [[int(a), int(b)] for a, b in pairwise(edges)],
        "steps": {},
        "warnings": [],
    }
    (path / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    return path

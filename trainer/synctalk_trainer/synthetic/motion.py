"""How a person moves while speaking: head and torso, blinks, gaze, brows. All draws come from one generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from synctalk_trainer.synthetic.rig import Floats
from synctalk_trainer.synthetic.speech import Speech, mouth_shapes

__all__ = ["Motion", "move"]

_NECK_PIVOT = np.array([0.0, -0.075, -0.035], np.float32)
"""Where the head turns, head space, metres."""

_TO_CAMERA = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Motion:
    """N frames of head and torso poses (to the camera), expression [N, K] and gaze [N, 2] (yaw left, pitch up, degrees)."""

    rotation: Floats
    translation: Floats
    torso_rotation: Floats
    torso_translation: Floats
    expression: Floats
    gaze: Floats


def _drift(n: int, period_s: float, fps: float, generator: np.random.Generator) -> Floats:
    """Smooth noise of unit variance that swings about once in ``period_s``."""
    sigma = max(period_s * fps / 6.0, 1.0)
    pad = int(4 * sigma)
    noise = gaussian_filter1d(generator.standard_normal(n + 2 * pad), sigma)[pad : pad + n]
    smooth: Floats = noise * np.sqrt(2.0 * sigma * np.sqrt(np.pi))
    return smooth


def _bumps(n: int, fps: float, times: list[float], rise_s: float, fall_s: float) -> Floats:
    """One smooth bump of height 1 at each time."""
    curve = np.zeros(n)
    time = np.arange(n) / fps
    for at in times:
        away = np.where(time < at, (at - time) / rise_s, (time - at) / fall_s)
        curve = np.maximum(curve, np.where(away < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(away, 1)), 0))
    return curve


def _rotations(yaw: Floats, pitch: Floats, roll: Floats) -> Floats:
    """Rotations [N, 3, 3] in head axes from degrees: yaw to the subject's left, pitch up, roll to the subject's left."""
    a, b, c = np.radians(yaw), -np.radians(pitch), -np.radians(roll)
    zero, one = np.zeros_like(a), np.ones_like(a)

    def matrix(*rows: Floats) -> Floats:
        return np.stack(rows, -1).reshape(-1, 3, 3)

    about_y = matrix(np.cos(a), zero, np.sin(a), zero, one, zero, -np.sin(a), zero, np.cos(a))
    about_x = matrix(one, zero, zero, zero, np.cos(b), -np.sin(b), zero, np.sin(b), np.cos(b))
    about_z = matrix(np.cos(c), -np.sin(c), zero, np.sin(c), np.cos(c), zero, zero, zero, one)
    return np.asarray(about_y @ about_x @ about_z)


def _blinks(n: int, fps: float, generator: np.random.Generator) -> Floats:
    """Lid closure 0..1: closes in about 80 ms, opens in about 160."""
    closed = np.zeros(n)
    at = float(generator.uniform(0.6, 2.0))
    time = np.arange(n) / fps
    while at < n / fps:
        down, hold, up = (
            generator.uniform(0.06, 0.09),
            generator.uniform(0.03, 0.06),
            generator.uniform(0.11, 0.18),
        )
        curve = np.interp(
            time, [at - down, at, at + hold, at + hold + 0.4 * up, at + hold + up], [0, 1, 1, 0.35, 0]
        )
        closed = np.maximum(closed, curve)
        at += float(np.clip(generator.lognormal(np.log(3.0), 0.5), 0.7, 9.0))
    return closed


def _saccades(n: int, fps: float, generator: np.random.Generator) -> Floats:
    """Where the eyes go, degrees [n, 2]: mostly the camera, sometimes a little away."""
    gaze = np.zeros((n, 2))
    at = 0.0
    while at < n / fps:
        away = generator.random() < 0.35
        target = generator.normal(0, (5.0, 2.5) if away else (0.7, 0.5))
        gaze[int(at * fps) :] = target
        at += float(generator.uniform(0.3, 0.9) if away else generator.lognormal(np.log(1.6), 0.5))
    return gaze


def move(
    speech: Speech,
    names: tuple[str, ...],
    n_frames: int,
    fps: float,
    start: Floats,
    generator: np.random.Generator,
    turn: float = 1.0,
) -> Motion:
    """Everything that moves in a clip.

    start: where the head's origin rests in camera space, metres [3]; turn: factor on the head's angles (1: yaw spreads
    by 5 degrees).
    """

    def drift(*parts: tuple[float, float]) -> Floats:
        return np.asarray(sum(size * _drift(n_frames, period, fps, generator) for period, size in parts))

    stressed = [0.5 * (p.start + p.end) for p in speech.phonemes if p.is_stressed]
    nods = _bumps(n_frames, fps, [t for t in stressed if generator.random() < 0.5], 0.18, 0.3)
    raised = _bumps(n_frames, fps, [t for t in stressed if generator.random() < 0.22], 0.2, 0.35)
    frown = np.clip(drift((4.0, 0.10)) - 0.05, 0, 0.4)
    yaw, pitch = drift((5.0, 5.0), (1.3, 1.0)), drift((4.0, 2.4), (1.1, 0.7)) - 2.2 * nods
    roll = drift((5.0, 1.8), (1.5, 0.4))
    yaw, pitch, roll = turn * yaw, turn * pitch, turn * roll
    head = _rotations(yaw, pitch, roll)
    torso = _rotations(*(0.15 * gaussian_filter1d(angle, 0.4 * fps) for angle in (yaw, 0.4 * pitch, roll)))
    sway = np.stack([drift((6.0, 0.006)), drift((5.0, 0.003)), drift((6.0, 0.007))], 1)
    lag = 0.4 * gaussian_filter1d(sway, 0.4 * fps, axis=0)
    rotation, torso_rotation = _TO_CAMERA @ head, _TO_CAMERA @ torso
    rest = start + _TO_CAMERA @ _NECK_PIVOT
    expression = mouth_shapes(speech, names, n_frames, fps)
    gaze = _saccades(n_frames, fps, generator)
    gaze = (gaze - np.stack([yaw, pitch], 1)).clip(-22, 22)
    _add(expression, names, _upper_face(_blinks(n_frames, fps, generator), raised, frown, gaze))
    mood = 0.06 + np.clip(drift((8.0, 0.05)), -0.05, 0.12)
    _add(expression, names, {"mouthSmileLeft": mood, "mouthSmileRight": mood})
    return Motion(
        rotation.astype(np.float32),
        (rest + sway * (1, -1, -1) - rotation @ _NECK_PIVOT).astype(np.float32),
        torso_rotation.astype(np.float32),
        (rest + lag * (1, -1, -1) - torso_rotation @ _NECK_PIVOT).astype(np.float32),
        np.clip(expression, 0, 1).astype(np.float32),
        gaze.astype(np.float32),
    )


def _upper_face(blink: Floats, raised: Floats, frown: Floats, gaze: Floats) -> dict[str, Floats]:
    """Coefficients of lids and brows; lids follow the gaze."""
    curves: dict[str, Floats] = {}
    for side in ("Left", "Right"):
        curves["eyeBlink" + side] = 0.10 + 0.90 * blink
        curves["eyeSquint" + side] = np.full(len(blink), 0.12)
        curves["browInnerUp" + side] = 0.45 * raised
        curves["browOuterUp" + side] = 0.40 * raised
        curves["browDown" + side] = frown * (1 - raised)
        curves["eyeLookUp" + side] = np.clip(gaze[:, 1] / 25.0, 0, 1) * (1 - blink)
        curves["eyeLookDown" + side] = np.clip(-gaze[:, 1] / 25.0, 0, 1) * (1 - blink)
    return curves


def _add(expression: Floats, names: tuple[str, ...], curves: dict[str, Floats]) -> None:
    """Add curves [N] to the columns of the same names; a head that lacks one goes without."""
    for name, curve in curves.items():
        if name in names:
            expression[:, names.index(name)] += curve.astype(np.float32)

"""Step ``expression``: all coefficients that a field can be driven by, from MediaPipe's blendshapes, by name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.workspace import Workspace, write_arrays

__all__ = ["BLENDSHAPES", "expression_of", "run_expression"]

Float = NDArray[np.float32]

BLENDSHAPES: tuple[str, ...] = (
    *("_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight"),
    *("eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft"),
    *("eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft"),
    *("eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimpleLeft"),
    *("mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft"),
    *("mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker"),
    *("mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft"),
    *("mouthUpperUpRight", "noseSneerLeft", "noseSneerRight"),
)
"""MediaPipe's 52 names, in its order."""

_NAMES = BLENDSHAPES[1:]

_WINDOW, _DEGREE = 5, 3


def run_expression(work: Workspace) -> None:
    """Write ``expression.npz``."""
    faces = work.arrays("landmarks.npz")
    values = expression_of(faces["blendshapes"], faces["valid"], work.takes)
    write_arrays(work.folder / "expression.npz", values=values, names=np.array(_NAMES))


def expression_of(blendshapes: Float, valid: NDArray[np.bool_], takes: list[tuple[int, int]]) -> Float:
    """Coefficients [N, 51] in 0..1, of all names but ``_neutral``: interpolated over frames without a face and smoothed, within takes.

    blendshapes: [N, 52], valid: [N].
    """
    from scipy.signal import savgol_filter

    values = blendshapes[:, 1:].astype(np.float64)
    usual = np.median(values[valid], axis=0)
    for first, end in takes:
        known = first + np.flatnonzero(valid[first:end])
        if len(known) == 0:
            values[first:end] = usual
            continue
        for column in values.T:
            column[first:end] = np.interp(np.arange(first, end), known, column[known])
        if end - first >= _WINDOW:
            values[first:end] = savgol_filter(values[first:end], _WINDOW, _DEGREE, axis=0)
    return values.clip(0, 1).astype(np.float32)

"""Figures of quality on pictures, landmarks and curves. Every function is pure.

Pictures are [H, W, 3] RGB on the scale 0..255 (uint8 or float). Landmarks are MediaPipe's 478 points in pixels,
[N, 478, >=2]. Curves are [N], one value a frame; a curve comes with ``parts``, the slices of unbroken frames
(``split.segments``), so that nothing is measured across a cut. What cannot be measured (no variation, no frames) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .mouth import LIPS

__all__ = [
    "SSIM_BORDER",
    "Box",
    "FlickerMeter",
    "best_lag",
    "blink_events",
    "blink_f1",
    "decibel",
    "eye_openness",
    "gain",
    "inter_ocular",
    "jitter",
    "landmark_box",
    "landmark_distance",
    "luma",
    "pearson",
    "psnr",
    "squared_error",
    "ssim_map",
]

Float = NDArray[np.float32]
Picture = NDArray[np.uint8] | NDArray[np.floating]

_PEAK = 255.0
SSIM_BORDER = 5
"""Pixels at the border of ``ssim_map`` whose window leaves the picture; leave them out of a mean."""

_EYES = ((159, 145, 33, 133), (386, 374, 362, 263))
"""Upper lid, lower lid, outer or inner corner, the other corner."""


@dataclass(frozen=True)
class Box:
    """Pixels ``x0 <= x < x1``, ``y0 <= y < y1``."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a picture."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def landmark_box(points: NDArray[np.floating], margin_px: float, size: int) -> Box:
    """The rectangle around points [P, >=2] and a margin, clipped to a picture of ``size`` x ``size``."""
    low = np.floor(points[:, :2].min(axis=0) - margin_px).astype(int).clip(0, size - 1)
    high = np.ceil(points[:, :2].max(axis=0) + margin_px).astype(int).clip(1, size)
    return Box(int(low[0]), int(low[1]), int(max(high[0], low[0] + 1)), int(max(high[1], low[1] + 1)))


def squared_error(picture: Picture, truth: Picture) -> Float:
    """Squared difference of each pixel, mean over its channels: [H, W]."""
    difference = np.asarray(picture, np.float32) - np.asarray(truth, np.float32)
    return np.asarray(np.einsum("hwc,hwc->hw", difference, difference) / difference.shape[2], np.float32)


def decibel(error: NDArray[np.floating]) -> float:
    """Peak signal-to-noise ratio of squared errors, dB: 10 log10(255^2 / mean).

    No error gives infinity, no pixels NaN.
    """
    if not error.size:
        return float("nan")
    mean = float(np.mean(error, dtype=np.float64))
    return float("inf") if mean == 0 else float(10 * np.log10(_PEAK**2 / mean))


def psnr(picture: Picture, truth: Picture, mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio of a picture, dB. mask: [H, W], the pixels that count; all without one."""
    error = squared_error(picture, truth)
    return decibel(error if mask is None else error[mask])


def luma(picture: Picture) -> Float:
    """Brightness [H, W] of an RGB picture, BT.601 weights."""
    weights = np.array([[0.299, 0.587, 0.114]], np.float32)
    return np.asarray(cv2.transform(np.asarray(picture, np.float32), weights), np.float32)


def ssim_map(picture: Picture, truth: Picture) -> Float:
    """Structural similarity of the luma at every pixel, [H, W]; the usual figure is the mean without the border.

    Gaussian window of 11 x 11 with sigma 1.5, population variances, C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2; at the
    border the picture is mirrored. Source: Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13.
    """

    def smooth(values: Float) -> Float:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT), np.float32)

    a, b = luma(picture), luma(truth)
    mean_a, mean_b = smooth(a), smooth(b)
    spread = smooth(a * a + b * b) - mean_a**2 - mean_b**2  # both variances
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (spread + c2)
    return np.asarray(numerator / denominator, np.float32)


def inter_ocular(points: NDArray[np.floating]) -> Float:
    """Distance of the outer eye corners (points 33 and 263), pixels. points: [N, 478, >=2] -> [N]."""
    return np.asarray(np.linalg.norm(points[:, 33, :2] - points[:, 263, :2], axis=-1), np.float32)


def landmark_distance(
    points: NDArray[np.floating],
    truth: NDArray[np.floating],
    index: Sequence[int] = LIPS,
    centred: bool = True,
) -> Float:
    """Mean distance of landmarks in each frame, pixels: [N, 478, >=2] twice -> [N].

    ``index``: the points that count, by default MediaPipe's 40 lip points. ``centred``: each set's mean is taken off
    first, so that only the shape counts, as LMD is usually given; without it head motion counts too. Source: Chen et
    al. 2018, "Lip movements generation at a glance" (there on dlib's 20 mouth points).
    """
    a, b = points[:, list(index), :2], truth[:, list(index), :2]
    if centred:
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return np.asarray(np.linalg.norm(a - b, axis=-1).mean(axis=1), np.float32)


def eye_openness(points: NDArray[np.floating]) -> Float:
    """Distance of the lids over the width of the eye, mean of both eyes: [N, 478, >=2] -> [N].

    Source: Soukupová and Čech 2016 (eye aspect ratio, here with one pair of lid points).
    """
    ratios = [
        np.linalg.norm(points[:, up, :2] - points[:, down, :2], axis=-1)
        / np.linalg.norm(points[:, a, :2] - points[:, b, :2], axis=-1).clip(min=1e-6)
        for up, down, a, b in _EYES
    ]
    return np.asarray(np.mean(ratios, axis=0), np.float32)


def pearson(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's correlation of two curves; NaN where one of them is constant or they are shorter than 3."""
    if len(a) < 3:
        return float("nan")
    x, y = a - np.mean(a, dtype=np.float64), b - np.mean(b, dtype=np.float64)
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float("nan") if scale < 1e-12 else float(x @ y / scale)


def gain(curve: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Ratio of standard deviations, curve over truth: 1 is the true amplitude. NaN for a constant truth."""
    deviation = float(np.std(truth, dtype=np.float64)) if len(truth) else 0.0
    return float("nan") if deviation < 1e-9 else float(np.std(curve, dtype=np.float64)) / deviation


def best_lag(
    curve: NDArray[np.floating], truth: NDArray[np.floating], parts: Sequence[slice], reach: int = 5
) -> tuple[int, float]:
    """The shift in frames at which a curve follows the truth best, and the correlation there.

    Positive: the curve is late. Pairs (truth[t], curve[t + lag]) are taken within parts only, and every lag within
    +-``reach`` is scored on the same stretch of truth (``reach`` frames at the ends of each part are left out), so that
    lags compete on equal terms. (0, NaN) where nothing can be measured.
    """
    inner = [range(p.start + reach, p.stop - reach) for p in parts]
    index = np.array([t for part in inner for t in part], np.int64)
    scores = {lag: pearson(curve[index + lag], truth[index]) for lag in range(-reach, reach + 1)}
    finite = {lag: score for lag, score in scores.items() if np.isfinite(score)}
    if not finite:
        return 0, float("nan")
    best = max(finite, key=lambda lag: (finite[lag], -abs(lag)))
    return best, finite[best]


def jitter(curve: NDArray[np.floating], parts: Sequence[slice]) -> float:
    """Mean absolute second difference within parts, in the curve's unit; [N] or, for points, [N, ...] (norm of the last axis)."""
    steps = [np.diff(curve[part], n=2, axis=0) for part in parts]
    joined = np.concatenate(steps) if steps else np.zeros(0)
    if not len(joined):
        return float("nan")
    size = np.abs(joined) if joined.ndim == 1 else np.linalg.norm(joined, axis=-1)
    return float(np.mean(size, dtype=np.float64))


def blink_events(
    openness: NDArray[np.floating], parts: Sequence[slice], closed: float = 0.6
) -> list[tuple[int, int]]:
    """Blinks [first, end): frames where the eyes are open less than ``closed`` times the curve's own median.

    Runs longer than 15 frames (0.6 s) are closed eyes, not blinks.
    """
    if not len(openness):
        return []
    shut = openness < closed * np.median(openness)
    events = []
    for part in parts:
        padded = np.concatenate([[False], shut[part], [False]]).astype(np.int8)
        edges = np.flatnonzero(np.diff(padded)) + part.start
        events += [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a <= 15]
    return events


def blink_f1(
    openness: NDArray[np.floating], truth: NDArray[np.floating], parts: Sequence[slice], tolerance: int = 3
) -> float:
    """F1 score of blinks found in a render against those of the truth; NaN where the truth has none.

    A blink is found when the middles of the two events lie within ``tolerance`` frames; each is matched once.
    """
    rendered = [(a + b - 1) / 2 for a, b in blink_events(openness, parts)]
    wanted = [(a + b - 1) / 2 for a, b in blink_events(truth, parts)]
    if not wanted:
        return float("nan")
    matched = 0
    left = list(rendered)
    for middle in wanted:
        near = min(left, key=lambda other: abs(other - middle), default=None)
        if near is not None and abs(near - middle) <= tolerance:
            left.remove(near)
            matched += 1
    return 2 * matched / (len(rendered) + len(wanted))


class FlickerMeter:
    """Mean absolute second temporal difference of brightness (0..255) inside a mask: how restless a picture is.

    Push consecutive frames; ``restart`` at a cut. A still or evenly changing picture scores 0. Compare with the same
    figure of the true frames, which have noise of their own.
    """

    def __init__(self) -> None:
        self._recent: list[Float] = []
        self._total = 0.0
        self._pixels = 0

    def restart(self) -> None:
        """Forget the frames so far: the next one follows a cut."""
        self._recent.clear()

    def push(self, picture: Picture, mask: NDArray[np.bool_] | None = None) -> None:
        """Take the next frame [H, W, 3]; mask [H, W] says which pixels of it count."""
        self._recent.append(luma(picture))
        if len(self._recent) < 3:
            return
        a, b, c = self._recent
        bend = np.abs(a - 2 * b + c)
        if mask is not None:
            bend = bend[mask]
        self._total += float(bend.sum(dtype=np.float64))
        self._pixels += bend.size
        del self._recent[0]

    @property
    def value(self) -> float:
        """The mean so far; NaN before three frames in a row."""
        return self._total / self._pixels if self._pixels else float("nan")

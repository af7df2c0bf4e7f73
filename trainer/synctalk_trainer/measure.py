"""How good a trained head is on frames it never saw.

The head of a held-out frame is rendered from that frame's sound, pose and expression, and put on two backgrounds:

``own``    (the published protocol, what the main figures use) the frame's own torso and background: outside the
           head mask, grown by 1/64 of the side, the truth itself; inside it the plate of that very frame.
``model``  the plate of the training frame with the nearest head pose: nothing of the held-out picture is used.

Regions: ``head`` the head mask; ``face`` the rectangle of all landmarks and 10 px; ``mouth`` that of the lip landmarks
and 8 px; ``full`` the whole picture. Pictures are compared after rounding to 8 bits, figures are means over frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from . import metrics
from .baselines import Pictures, mean_frame, nearest_landmarks, nearest_pose
from .dataset import HEAD
from .mouth import LIPS, aperture
from .split import segments

__all__ = [
    "Clip",
    "Curves",
    "Detect",
    "Evaluated",
    "Frame",
    "HeadRenderer",
    "baseline_scores",
    "compose",
    "measure",
    "own_background",
]

Frame = NDArray[np.uint8]
Detect = Callable[[list[Frame]], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Pictures [S, S, 3] -> landmarks [n, 478, 3] in pixels and whether a face was found [n]."""

_GROW_SHARE = 64
_MOUTH_MARGIN_PX, _FACE_MARGIN_PX = 8, 10
_MAX_PSNR = 100.0
_FPS = 25
_AT_ONCE = 64


class HeadRenderer(Protocol):
    """A trained head: ``Run`` in training, anything else in tests."""

    def render(self, frame_index: int, /) -> NDArray[np.float32]:
        """The head of a frame, driven by its sound, pose and expression: premultiplied RGBA [S, S, 4], 0..1."""
        ...


class Clip(Protocol):
    """What evaluation reads of a dataset (docs/formats.md)."""

    @property
    def frames(self) -> Pictures: ...
    @property
    def plates(self) -> Pictures: ...
    @property
    def masks(self) -> Pictures: ...
    @property
    def landmarks(self) -> NDArray[np.float32]: ...
    @property
    def rotation(self) -> NDArray[np.float32]: ...
    @property
    def translation(self) -> NDArray[np.float32]: ...
    @property
    def takes(self) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True)
class Regions:
    """Where a frame is judged."""

    head: NDArray[np.bool_]
    """[S, S]"""
    head_grown: NDArray[np.bool_]
    """[S, S]"""
    face: metrics.Box
    mouth: metrics.Box

    @staticmethod
    def of(clip: Clip, frame: int) -> Regions:
        head = np.asarray(clip.masks[frame]) == HEAD
        points, size = clip.landmarks[frame], len(head)
        reach = max(1, round(size / _GROW_SHARE))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        return Regions(
            head,
            cv2.dilate(head.astype(np.uint8), disc) > 0,
            metrics.landmark_box(points, _FACE_MARGIN_PX, size),
            metrics.landmark_box(points[list(LIPS)], _MOUTH_MARGIN_PX, size),
        )

    @property
    def hair(self) -> NDArray[np.bool_]:
        """[S, S]: the head mask around the face's box, hair and ears; all of it where the box leaves none."""
        around = self.head.copy()
        around[self.face.slices] = False
        return around if around.any() else self.head

    def score(self, picture: Frame, truth: Frame) -> dict[str, float]:
        """PSNR (at most 100 dB) and SSIM of one picture in every region."""
        face, mouth = self.face.slices, self.mouth.slices
        error, ssim = metrics.squared_error(picture, truth), metrics.ssim_map(picture, truth)
        inner = np.s_[metrics.SSIM_BORDER : -metrics.SSIM_BORDER, metrics.SSIM_BORDER : -metrics.SSIM_BORDER]
        scores = {
            "psnr_full": metrics.decibel(error),
            "psnr_head": metrics.decibel(error[self.head]),
            "psnr_face": metrics.decibel(error[face]),
            "psnr_mouth": metrics.decibel(error[mouth]),
            "psnr_hair": metrics.decibel(error[self.hair]),
        }
        scores = {name: min(value, _MAX_PSNR) for name, value in scores.items()}
        scores["ssim_full"] = float(ssim[inner].mean())
        scores["ssim_head"] = float(ssim[self.head].mean()) if self.head.any() else float("nan")
        scores["ssim_mouth"] = float(ssim[mouth].mean())
        return scores


@dataclass(frozen=True)
class Curves:
    """One value a frame, for the frames where a face is found both in the truth and in the render."""

    frames: NDArray[np.int64]
    parts: list[slice]
    lips: NDArray[np.float32]
    lips_truth: NDArray[np.float32]
    eyes: NDArray[np.float32]
    eyes_truth: NDArray[np.float32]


@dataclass(frozen=True)
class Evaluated:
    """What ``measure`` found, for the report."""

    figures: dict[str, Any]
    frames: NDArray[np.int64]
    pictures: NDArray[np.uint8]
    """[H, S, S, 3] the renders, composed by the ``own`` protocol (memory-mapped)"""
    per_frame: dict[str, NDArray[np.float64]]
    """[H] each figure of ``Regions.score``, ``own`` protocol"""
    curves: Curves


def compose(rgba: NDArray[np.float32], behind: Frame) -> Frame:
    """Premultiplied RGBA [S, S, 4] in 0..1 over a picture [S, S, 3], rounded to 8 bits.

    Raises: ValueError: NaN or infinity in the render, or another size.
    """
    if rgba.shape != (*behind.shape[:2], 4):
        raise ValueError(f"a render of shape {rgba.shape} does not fit a frame of shape {behind.shape}")
    if not np.isfinite(rgba).all():
        raise ValueError("the render contains NaN or infinity")
    return np.asarray((255 * rgba[..., :3] + (1 - rgba[..., 3:]) * behind + 0.5).clip(0, 255), np.uint8)


def own_background(clip: Clip, frame: int, regions: Regions) -> Frame:
    """The background of the ``own`` protocol: the plate under the grown head mask, the truth elsewhere."""
    inside = regions.head_grown[..., None]
    return np.where(inside, np.asarray(clip.plates[frame]), np.asarray(clip.frames[frame]))


def measure(
    clip: Clip,
    renderer: HeadRenderer,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    detect: Detect,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Render the held-out frames and compute every figure. ``folder`` takes the renders (``frames.npy``).

    ``progress``: called with frames done and frames in all.
    """
    parts = segments(held, clip.takes)
    model_plate = nearest_pose(clip.rotation, clip.translation, train, held)
    size = len(np.asarray(clip.frames[int(held[0])]))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "frames.npy.tmp"
    pictures = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(held), size, size, 3))
    own: list[dict[str, float]] = []
    model: list[dict[str, float]] = []
    flicker, flicker_truth = metrics.FlickerMeter(), metrics.FlickerMeter()
    for part in parts:
        flicker.restart()
        flicker_truth.restart()
        for i in range(part.start, part.stop):
            frame = int(held[i])
            truth, regions, rgba = (
                np.asarray(clip.frames[frame]),
                Regions.of(clip, frame),
                renderer.render(frame),
            )
            pictures[i] = compose(rgba, own_background(clip, frame, regions))
            own.append(regions.score(pictures[i], truth))
            model.append(regions.score(compose(rgba, np.asarray(clip.plates[int(model_plate[i])])), truth))
            flicker.push(pictures[i], regions.head)
            flicker_truth.push(truth, regions.head)
            if progress is not None:
                progress(i + 1, len(held))
    pictures.flush()
    temporary.replace(folder / "frames.npy")
    truths = [clip.frames[int(i)] for i in held]
    landmarks, curves = _landmark_figures(pictures, truths, held, clip.takes, detect)
    per_frame = _columns(own)
    figures = {
        "protocol": "own",
        "frames": len(held),
        **_means(per_frame),
        **landmarks,
        "flicker": flicker.value,
        "flicker_truth": flicker_truth.value,
        "model_background": _means(_columns(model)),
    }
    return Evaluated(figures, held, pictures, per_frame, curves)


def _columns(rows: list[dict[str, float]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _means(columns: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    kept = {name: values[np.isfinite(values)] for name, values in columns.items()}
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in kept.items()}


def _detect_all(detect: Detect, pictures: Sequence[Frame] | NDArray[np.uint8]) -> tuple[Any, Any]:
    chunks = [detect(list(pictures[i : i + _AT_ONCE])) for i in range(0, len(pictures), _AT_ONCE)]
    return np.concatenate([c[0] for c in chunks]), np.concatenate([c[1] for c in chunks])


def _landmark_figures(
    pictures: NDArray[np.uint8],
    truths: Sequence[Frame],
    held: NDArray[np.int64],
    takes: Sequence[Sequence[int]],
    detect: Detect,
) -> tuple[dict[str, float], Curves]:
    """Figures on landmarks; both sides are found by the same detector on pictures of the same size."""
    points, found = _detect_all(detect, pictures)
    points_truth, found_truth = _detect_all(detect, truths)
    both = found & found_truth
    points, points_truth, kept = points[both], points_truth[both], held[both]
    parts = segments(kept, takes)
    curves = Curves(
        kept,
        parts,
        aperture(points),
        aperture(points_truth),
        metrics.eye_openness(points),
        metrics.eye_openness(points_truth),
    )
    scale = metrics.inter_ocular(points_truth)
    shape = metrics.landmark_distance(points, points_truth)
    raw = metrics.landmark_distance(points, points_truth, centred=False)
    lag, lag_r = metrics.best_lag(curves.lips, curves.lips_truth, parts)
    bridge = [168, 6, 197, 195]
    figures = {
        "frames_without_face": int(np.count_nonzero(~found)),
        "lmd_px": _mean(shape),
        "lmd_iod": _mean(shape / scale),
        "lmd_raw_px": _mean(raw),
        "lmd_raw_iod": _mean(raw / scale),
        "lip_r": metrics.pearson(curves.lips, curves.lips_truth),
        "lip_gain": metrics.gain(curves.lips, curves.lips_truth),
        "lip_lag_ms": 1000.0 * lag / _FPS if np.isfinite(lag_r) else float("nan"),
        "lip_r_at_lag": lag_r,
        "lip_jitter": metrics.jitter(curves.lips, parts),
        "lip_jitter_truth": metrics.jitter(curves.lips_truth, parts),
        "head_jitter_px": metrics.jitter(points[:, bridge, :2].mean(axis=1), parts),
        "head_jitter_truth_px": metrics.jitter(points_truth[:, bridge, :2].mean(axis=1), parts),
        "blink_f1": metrics.blink_f1(curves.eyes, curves.eyes_truth, parts),
        "blinks_truth": len(metrics.blink_events(curves.eyes_truth, parts)),
    }
    return figures, curves


def _mean(values: NDArray[np.floating]) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")


def baseline_scores(
    clip: Clip, train: NDArray[np.int64], held: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """Figures of the ``mean`` training frame and the landmark ``oracle``, as whole pictures.

    ``psnr_full_own`` is the full frame with the truth outside the grown head mask: what compares with the figures of
    the ``own`` protocol. The oracle's landmark figures come from the dataset's landmarks.
    """
    mean = mean_frame(clip.frames, train)
    nearest = nearest_landmarks(clip.landmarks, train, held)
    rows: dict[str, list[dict[str, float]]] = {"mean": [], "oracle": []}
    for frame, near in zip(held, nearest, strict=True):
        truth, regions = np.asarray(clip.frames[int(frame)]), Regions.of(clip, int(frame))
        for name, picture in (("mean", mean), ("oracle", np.asarray(clip.frames[int(near)]))):
            pasted = np.where(regions.head_grown[..., None], picture, truth)
            scores = regions.score(picture, truth)
            scores["psnr_full_own"] = min(metrics.psnr(pasted, truth), _MAX_PSNR)
            rows[name].append(scores)
    figures = {name: _means(_columns(scores)) for name, scores in rows.items()}
    found, truth_points = clip.landmarks[nearest], clip.landmarks[held]
    figures["oracle"]["lmd_px"] = _mean(metrics.landmark_distance(found, truth_points))
    figures["oracle"]["lip_r"] = metrics.pearson(aperture(found), aperture(truth_points))
    return figures

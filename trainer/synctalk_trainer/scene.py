"""A prepared dataset as training sees it: where to look in each frame, the rays there, and the audio of each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.geometry import Camera, pixel_rays
from synctalk.spec import Spec
from torch import Tensor

from .dataset import Dataset
from .mouth import LIPS, aperture
from .rendering import RayBatch
from .windows import AudioWindows

__all__ = ["Batch", "Scene", "least_opacity"]

Float = NDArray[np.float32]
Ints = NDArray[np.int64]

_EYES = (33, 133, 159, 145, 263, 362, 386, 374, 70, 105, 336, 300)
_HEAD_LABEL = 2
_COVER = 1.5
"""Beside its mask the head may be so much more opaque than it must be."""
_REGION_SHARES = (0.40, 0.28, 0.20, 0.12)
"""Share of the rays drawn in: the head's rectangle, the face's, the mouth's, the eyes'."""
_BLINK_SHARES = (0.20, 0.10, 0.10, 0.60)
"""The same of a frame with its eyes shut: a clip has few of them, and the lids are small."""
_LEAST_BLINK = 0.2
"""Lids that fall by less are never shut."""


@dataclass(frozen=True)
class Batch:
    """Pixels of some frames, the same number for each."""

    rays: RayBatch
    truth: Tensor
    """[R, 3] in 0..1"""
    plate: Tensor
    """[R, 3] in 0..1: what is behind the head"""
    opacity: Tensor
    """[R] in 0..1, the head's: 1 inside its mask, and beside it as little as can explain what painting the head out changed
    (the chin's shadow, loose hair)"""

    def to(self, device: torch.device) -> Batch:
        """The same pixels with their colours on a device; rays stay where marching wants them."""
        return Batch(self.rays, self.truth.to(device), self.plate.to(device), self.opacity.to(device))


def least_opacity(seen: NDArray[np.uint8], plate: NDArray[np.uint8]) -> Float:
    """How opaque something must be to make the picture of the plate, a little more than at least; [...] of [..., 3].

    A shadow that darkens a neck by a fifth is 30 % opaque: it fades as it does in the picture, over any neck.
    """
    ahead, behind = seen.astype(np.float32), plate.astype(np.float32)
    darker = (behind - ahead) / np.maximum(behind, 1)
    lighter = (ahead - behind) / np.maximum(255 - behind, 1)
    return np.asarray((_COVER * np.maximum(darker, lighter).max(axis=-1)).clip(0, 1), np.float32)


def _rarity(values: Float) -> Float:
    """How far each frame is from the usual, [N] in 0..1; values: [N, K]. Blinks and wide mouths are near 1."""
    usual, far = np.median(values, axis=0), np.quantile(values, 0.995, axis=0)
    return np.asarray(((values - usual) / np.maximum(far - usual, 0.05)).clip(0, 1).max(axis=1), np.float32)


def _shutness(dataset: Dataset, spec: Spec) -> Float:
    """How far the lids have fallen in each frame, [N] in 0..1 of the farthest; 0 where the clip has no blink."""
    lids = [i for i, name in enumerate(spec.field.expression_names) if name.startswith("eyeBlink")]
    if not lids:
        return np.zeros(dataset.n_frames, np.float32)
    fallen = dataset.expression[:, lids].mean(axis=1)
    usual, far = np.median(fallen), np.quantile(fallen[dataset.valid], 0.999)
    if far - usual < _LEAST_BLINK:
        return np.zeros(dataset.n_frames, np.float32)
    return np.asarray(((fallen - usual) / (far - usual)).clip(0, 1), np.float32)


class Scene:
    """Frames, poses, expression and audio, ready to draw batches from. Pictures stay uint8 on disk (memory-mapped)."""

    def __init__(self, dataset: Dataset, spec: Spec) -> None:
        if dataset.expression_names != spec.field.expression_names:
            raise ValueError(
                f"the dataset was opened with {dataset.expression_names}, the spec has {spec.field.expression_names}"
            )
        self.dataset = dataset
        self.camera: Camera = dataset.camera
        self.audio = AudioWindows(dataset.audio, dataset.takes, dataset.n_frames, spec)
        self.expression = torch.from_numpy(dataset.expression)
        self.take = np.zeros(dataset.n_frames, np.int64)
        for i, (first, end) in enumerate(dataset.takes):
            self.take[first:end] = i
        self.regions = self._regions()  # [N, 4 regions, 4]
        self.rarity = np.maximum(
            _rarity(dataset.expression), _rarity(aperture(dataset.landmarks)[:, None])
        )  # [N] in 0..1
        self.shutness = _shutness(dataset, spec)  # [N] in 0..1

    def _regions(self) -> Ints:
        """Rectangles (x0, y0, x1, y1) of head, face, mouth, eyes in every frame, clipped to the picture."""
        size = self.camera.width
        xy = self.dataset.landmarks[..., :2]
        groups = [xy, xy[:, list(LIPS)], xy[:, list(_EYES)]]
        margins = (0.05, 0.25, 0.25)
        boxes = [self._head_boxes()]
        for points, margin in zip(groups, margins, strict=True):
            low, high = points.min(axis=1), points.max(axis=1)
            grow = margin * (high - low).max(axis=1, keepdims=True)
            boxes.append(np.concatenate([low - grow, high + grow], axis=1))
        stacked = np.stack(boxes, axis=1).round().astype(np.int64)
        stacked[..., :2] = stacked[..., :2].clip(0, size - 4)
        stacked[..., 2:] = np.maximum(stacked[..., 2:].clip(4, size), stacked[..., :2] + 4)
        return stacked

    def _head_boxes(self) -> Float:
        """Rectangle of the head mask with a margin of 6 % of the picture; the whole picture where there is none."""
        n, size = self.dataset.n_frames, self.camera.width
        margin = 0.06 * size
        boxes = np.tile(np.array([0, 0, size, size], np.float32), (n, 1))
        for i in range(n):
            head = self.dataset.masks[i] == _HEAD_LABEL
            columns, rows = np.flatnonzero(head.any(axis=0)), np.flatnonzero(head.any(axis=1))
            if len(rows):
                boxes[i] = (
                    columns[0] - margin,
                    rows[0] - margin,
                    columns[-1] + margin,
                    rows[-1] + margin,
                )
        return boxes

    def pixels(self, frame: int, n: int, generator: np.random.Generator) -> Ints:
        """Pixels [n, 2] (u, v) of a frame, more of them on the face, the mouth and the eyes."""
        shut = float(self.shutness[frame])
        shares = (1 - shut) * np.array(_REGION_SHARES) + shut * np.array(_BLINK_SHARES)
        region = generator.choice(4, size=n, p=shares)
        box = self.regions[frame, region]
        chosen: Ints = generator.integers(box[:, :2], box[:, 2:])
        return chosen

    def patch(self, frame: int, side: int, generator: np.random.Generator) -> Ints:
        """Pixels [side * side, 2] of one square patch, row by row; half of the patches lie on the mouth."""
        region = generator.choice(4, p=(0.15, 0.25, 0.45, 0.15))
        x0, y0, x1, y1 = self.regions[frame, region]
        size = self.camera.width
        u = np.clip(generator.integers(x0, x1) - side // 2, 0, size - side)
        v = np.clip(generator.integers(y0, y1) - side // 2, 0, size - side)
        rows, columns = np.mgrid[v : v + side, u : u + side]
        return np.stack([columns.ravel(), rows.ravel()], axis=-1)

    def batch(self, frames: Ints, pixels: list[Ints]) -> Batch:
        """Gather rays and colours. pixels: one [n, 2] array for each frame."""
        origins, directions, truth, plate, opacity = [], [], [], [], []
        data = self.dataset
        for frame, uv in zip(frames, pixels, strict=True):
            o, d = pixel_rays(
                self.camera, data.rotation[frame], data.translation[frame], uv.astype(np.float32)
            )
            origins.append(o)
            directions.append(d)
            u, v = uv[:, 0], uv[:, 1]
            seen, painted = data.frames[frame, v, u], data.plates[frame, v, u]
            truth.append(seen)
            plate.append(painted)
            is_head = data.masks[frame, v, u] == _HEAD_LABEL
            opacity.append(np.where(is_head, np.float32(1), least_opacity(seen, painted)))
        colours, behind = (torch.from_numpy(np.concatenate(part)).float() / 255 for part in (truth, plate))
        rays = RayBatch(np.concatenate(origins), np.concatenate(directions), len(frames))
        return Batch(rays, colours, behind, torch.from_numpy(np.concatenate(opacity)))

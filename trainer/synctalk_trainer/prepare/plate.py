"""Step ``plate``: the picture behind the person, and every frame with the head painted out.

A rendered jaw that lies higher than the filmed one must not uncover the filmed chin. So the neck is continued upwards
under the head, column by column, with the colours found a little below the chin's shadow.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk.media import atomic_path
from synctalk_trainer.dataset import HEAD, TORSO
from synctalk_trainer.prepare.workspace import ArrayWriter, Workspace

__all__ = ["background_of", "paint_out", "run_plate"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]
Flags = NDArray[np.bool_]

_SAMPLES = 150
_BLOCK_ROWS = 32
_LEAST_SEEN = 3
"""A background pixel must be seen in so many of the sample frames."""
_UNSEEN = np.uint16(1000)
_EDGE = 0.012
"""The head is grown by this share of the picture, for hair that the mask has missed."""
_CLEAR = 0.025
"""The background is looked for so far from the person only, as a share of the picture: hair leaves traces."""
_SKIN_SPREAD = 50.0
"""Levels by which the neck's colour varies: collars differ by more."""
_SHADOW, _SOURCE, _CONTINUE = 0.09, 0.05, 0.35
"""In face heights: the chin's shadow, the band below it that gives the colours, and how far up the neck is painted."""


def run_plate(work: Workspace) -> None:
    """Write ``background.png`` and ``plates.npy``."""
    frames, masks = work.map("frames.npy"), work.map("masks.npy")
    points = work.arrays("landmarks.npz")
    heights = np.linalg.norm(points["points"][:, 10, :2] - points["points"][:, 152, :2], axis=1)
    usual = float(np.median(heights[points["valid"]]))
    background = background_of(frames, masks)
    with atomic_path(work.folder / "background.png") as temporary:
        encoded = cv2.imencode(".png", cv2.cvtColor(background, cv2.COLOR_RGB2BGR))[1]
        temporary.write_bytes(encoded.tobytes())
    n = len(frames)
    with ArrayWriter.open(work.folder / "plates.npy") as writer:
        for i in range(n):
            writer.append(paint_out(frames[i], masks[i], background, usual))
            work.advance((i + 1) / n)


def background_of(frames: Picture, masks: Picture) -> Picture:
    """The median of what is seen behind the person, [S, S, 3]; what is never seen is filled smoothly.

    frames [N, S, S, 3], masks [N, S, S].
    """
    n, size = masks.shape[:2]
    chosen = np.unique(np.linspace(0, n - 1, min(n, _SAMPLES)).astype(int))
    kernel = np.ones((2 * round(_CLEAR * size) + 1,) * 2, np.uint8)
    person = np.stack([cv2.dilate((masks[i] > 0).astype(np.uint8), kernel) > 0 for i in chosen])
    result = np.zeros((size, size, 3), np.uint8)
    seen = (~person).sum(axis=0)
    for top in range(0, size, _BLOCK_ROWS):
        rows = slice(top, min(top + _BLOCK_ROWS, size))
        values = np.stack([frames[i, rows] for i in chosen]).astype(np.uint16)
        values[person[:, rows]] = _UNSEEN
        values.sort(axis=0)
        middle = np.maximum(seen[rows] - 1, 0) // 2
        picked = np.take_along_axis(values, middle[None, :, :, None], axis=0)[0]
        result[rows] = np.minimum(picked, 255).astype(np.uint8)
    return _fill(result, seen >= _LEAST_SEEN)


def _fill(picture: Picture, known: Flags) -> Picture:
    """Unknown pixels from the known ones around them, smoothly: push-pull over a pyramid."""
    if known.all() or not known.any():
        return picture
    weights = [known.astype(np.float32)]
    values = [picture.astype(np.float32) * weights[0][..., None]]
    while min(values[-1].shape[:2]) > 2:
        half = (max(1, values[-1].shape[1] // 2), max(1, values[-1].shape[0] // 2))
        weights.append(np.asarray(cv2.resize(weights[-1], half, interpolation=cv2.INTER_AREA), np.float32))
        values.append(np.asarray(cv2.resize(values[-1], half, interpolation=cv2.INTER_AREA), np.float32))
    filled = values[-1] / np.maximum(weights[-1], 1e-6)[..., None]
    for value, weight in zip(values[-2::-1], weights[-2::-1], strict=True):
        up = cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        trust = np.minimum(weight * 4, 1.0)[..., None]
        filled = trust * value / np.maximum(weight, 1e-6)[..., None] + (1 - trust) * up
    return np.where(known[..., None], picture, filled.round().clip(0, 255).astype(np.uint8))


def paint_out(frame: Picture, mask: Picture, background: Picture, face_height: float) -> Picture:
    """One frame without its head: [S, S, 3]. face_height: chin to hairline, pixels."""
    size = mask.shape[0]
    kernel = np.ones((2 * max(1, round(_EDGE * size)) + 1,) * 2, np.uint8)
    head = cv2.dilate((mask == HEAD).astype(np.uint8), kernel) > 0
    plate = np.where(head[..., None], background, frame)
    torso = (mask == TORSO) & ~head
    shadow = max(2, round(_SHADOW * face_height))
    bottom, colour, share = _below_head(frame, head, torso, shadow, max(2, round(_SOURCE * face_height)))
    top = int(max(0, (bottom[share > 0].min() if (share > 0).any() else size) - _CONTINUE * face_height))
    rows = np.arange(top, size)[:, None]
    above = np.clip((bottom + shadow - rows) / shadow, 0, 1) * (rows > bottom - _CONTINUE * face_height)
    alpha = (above * share)[..., None].astype(np.float32)  # [rows, S, 1]
    alpha *= (head | torso)[top:, :, None]
    part = plate[top:].astype(np.float32)
    plate[top:] = (part + alpha * (colour[None] - part) + 0.5).astype(np.uint8)
    return np.asarray(plate, np.uint8)


def _below_head(
    frame: Picture, head: Flags, torso: Flags, shadow: int, band: int
) -> tuple[NDArray[np.int64], Float, Float]:
    """For each column: the head's lowest row, the neck's colour below it [S, 3], and 1 where the neck hangs on it."""
    size = head.shape[0]
    bottom = np.where(head.any(axis=0), size - 1 - head[::-1].argmax(axis=0), -size)
    rows = bottom[None] + 1 + np.arange(shadow + band)[:, None]  # [shadow + band, S]
    inside = (rows >= 0) & (rows < size)
    rows = rows.clip(0, size - 1)
    columns = np.arange(size)[None]
    is_torso = torso[rows, columns] & inside
    colours = frame[rows, columns].astype(np.float32)  # [shadow + band, S, 3]
    centre = float(np.median(np.nonzero(head)[1])) if head.any() else size / 2
    throat = is_torso & (np.abs(columns - centre) < 2 * shadow)
    usual = np.median(colours[throat], axis=0) if throat.any() else np.zeros(3, np.float32)
    far = np.linalg.norm(colours - usual, axis=-1) / _SKIN_SPREAD
    is_neck = is_torso * np.exp(-(far**2))
    weight = is_neck * np.minimum((np.arange(shadow + band)[:, None] + 1) / shadow, 1.0)
    attached = is_torso[:2].any(axis=0) & (is_neck[:shadow].sum(axis=0) > 0.15 * shadow)
    total = (weight.sum(axis=0) * attached).astype(np.float32)
    summed = (colours * weight[..., None]).sum(axis=0) * attached[:, None]
    spread = cv2.GaussianBlur(summed.astype(np.float32)[None], (0, 0), 0.01 * size)[0]
    amount = cv2.GaussianBlur(total[None], (0, 0), 0.01 * size)[0]
    return (
        bottom,
        np.asarray(spread / np.maximum(amount, 1e-6)[:, None], np.float32),
        attached.astype(np.float32),
    )

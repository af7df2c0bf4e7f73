"""Step ``plate``: the picture behind the person, and every frame with the head painted out.

A rendered jaw that lies higher than the filmed one must not uncover the filmed chin. So the neck is continued upwards
under the head, column by column, with the colours found a little below the chin's shadow; where a lowered chin hides it
all, with the neck's colour in the whole clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk.media import atomic_path
from synctalk_trainer.dataset import HEAD, TORSO
from synctalk_trainer.prepare.workspace import ArrayWriter, Workspace

__all__ = ["background_of", "neck_colour", "paint_out", "run_plate"]

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
_GAP = 0.05
"""Gaps in the neck up to so wide, as a share of the picture, are neck: a strand of hair or a highlight interrupted it."""
_SHADOW, _SOURCE, _CONTINUE = 0.09, 0.05, 0.35
"""In face heights: the chin's shadow, the band below it that gives the colours, and how far up the neck is painted."""
_THROAT = 0.27
"""In face heights: half the width of a neck, at least."""
_UNSEEN_NECK = 0.3
"""Rows of its own colour that the clip's counts as"""


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
    neck = neck_colour(frames, masks, usual)
    n = len(frames)
    with ArrayWriter.open(work.folder / "plates.npy") as writer:
        for i in range(n):
            writer.append(paint_out(frames[i], masks[i], background, neck, usual))
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


def neck_colour(frames: Picture, masks: Picture, face_height: float) -> Float:
    """The clip's usual colour [3] below the chin's shadow, where the neck is seen in most frames."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLES)).astype(int))
    found = [np.zeros(3, np.float32)]
    for frame, mask in ((frames[i], masks[i]) for i in chosen):
        head = _grown_head(mask)
        below = _Below.of(frame, head, (mask == TORSO) & ~head, face_height)
        throat = below.is_torso & below.is_throat
        found += [np.median(below.colours[throat], axis=0)] if throat.any() else []
    return np.asarray(np.median(found[1:] or found, axis=0), np.float32)


def paint_out(frame: Picture, mask: Picture, background: Picture, neck: Float, face_height: float) -> Picture:
    """One frame without its head: [S, S, 3]. neck: [3], see ``neck_colour``; face_height: chin to hairline, pixels."""
    size = mask.shape[0]
    head = _grown_head(mask)
    plate = np.where(head[..., None], background, frame)
    torso = (mask == TORSO) & ~head
    below = _Below.of(frame, head, torso, face_height)
    colour, is_seen, is_neck = below.neck(neck)
    rise = _CONTINUE * face_height
    top = int(max(0, (below.bottom[is_neck].min() if is_neck.any() else size) - rise))
    rows = np.arange(top, size)[:, None]
    alpha = np.clip((below.bottom + below.shadow - rows) / below.shadow, 0, 1) * (rows > below.bottom - rise)
    alpha *= (head | (torso & is_seen))[top:] & is_neck
    part = plate[top:].astype(np.float32)
    plate[top:] = (part + alpha[..., None].astype(np.float32) * (colour[None] - part) + 0.5).astype(np.uint8)
    return np.asarray(plate, np.uint8)


def _grown_head(mask: Picture) -> Flags:
    kernel = np.ones((2 * max(1, round(_EDGE * mask.shape[0])) + 1,) * 2, np.uint8)
    return cv2.dilate((mask == HEAD).astype(np.uint8), kernel) > 0


@dataclass(frozen=True)
class _Below:
    """What hangs below the head in each of S columns: B rows from its lower edge on."""

    bottom: NDArray[np.int64]
    """[S] the head's lowest row; far above the picture without one"""
    colours: Float
    """[B, S, 3]"""
    is_torso: Flags
    """[B, S]"""
    is_throat: Flags
    """[S] columns below the middle of the head"""
    shadow: int
    """Rows that the chin shades"""

    @staticmethod
    def of(frame: Picture, head: Flags, torso: Flags, face_height: float) -> _Below:
        size = head.shape[0]
        shadow, band = (max(2, round(share * face_height)) for share in (_SHADOW, _SOURCE))
        bottom = np.where(head.any(axis=0), size - 1 - head[::-1].argmax(axis=0), -size)
        rows = bottom[None] + 1 + np.arange(shadow + band)[:, None]
        inside, rows = (rows >= 0) & (rows < size), rows.clip(0, size - 1)
        columns = np.arange(size)
        centre = float(np.median(np.nonzero(head)[1])) if head.any() else size / 2
        return _Below(
            bottom,
            frame[rows, columns].astype(np.float32),
            torso[rows, columns] & inside,
            np.abs(columns - centre) < _THROAT * face_height,
            shadow,
        )

    def neck(self, usual: Float) -> tuple[Float, Flags, Flags]:
        """The neck's colour in each column [S, 3], where it is seen [S], and where it is, seen or not [S]."""
        rows, size = self.is_torso.shape
        far = np.linalg.norm(self.colours - usual, axis=-1) / _SKIN_SPREAD
        is_skin = self.is_torso * np.exp(-(far**2))
        hangs = self.is_torso[:2].any(axis=0)
        seen = hangs & (is_skin[: self.shadow].sum(axis=0) > 0.15 * self.shadow)
        is_seen = hangs & _closed(seen, round(_GAP * size))
        weight = is_skin * np.minimum((np.arange(rows)[:, None] + 1) / self.shadow, 1.0)
        total = (weight.sum(axis=0) * is_seen).astype(np.float32)
        summed = ((self.colours * weight[..., None]).sum(axis=0) * is_seen[:, None]).astype(np.float32)
        spread, amount = (cv2.GaussianBlur(part[None], (0, 0), 0.01 * size)[0] for part in (summed, total))
        colour = (spread + _UNSEEN_NECK * usual) / (amount + _UNSEEN_NECK)[:, None]
        return np.asarray(colour, np.float32), is_seen, is_seen | (hangs & self.is_throat)


def _closed(flags: Flags, width: int) -> Flags:
    """Flags [S] with gaps up to ``width`` filled."""
    row = np.pad(flags.astype(np.uint8), width)[None]
    closed = cv2.morphologyEx(row, cv2.MORPH_CLOSE, np.ones((1, width + 1), np.uint8))[0]
    return np.asarray(closed[width : width + len(flags)] > 0)

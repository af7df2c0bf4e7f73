"""Step ``masks``: head, torso and background in every frame.

The person comes from MediaPipe's selfie mask, sharpened along the picture's edges. The jaw of the face mesh, continued
outwards at the height of the ear lobes, parts head from neck; hair that falls below that line is found by its colour,
learned over the clip, and must hang together with the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.dataset import HEAD, TORSO
from synctalk_trainer.prepare.face_mesh import JAW, OVAL, head_axes
from synctalk_trainer.prepare.frame_pool import frame_pool
from synctalk_trainer.prepare.segmenter import Segmenter
from synctalk_trainer.prepare.workspace import ArrayWriter, Workspace

__all__ = ["run_masks"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]
Flags = NDArray[np.bool_]

_WORK_SIZE = 288
"""Masks are found at this size at most and enlarged as soft maps."""
_SAMPLES = 48
_BINS = 24
_EDGE_RADIUS, _EDGE_EPS = 5, 4e-4
_TUFT, _TUFT_ODDS = 0.15, 6.0
"""Tufts reach so many face heights out of the head, and are so many times likelier hair than background."""
_HAIR_ODDS = 1.5
"""Hair's colour must be so many times likelier than skin's and clothes' below the jaw line."""
_LONG_HAIR = 0.02
"""Share of the head that such hair takes up in the median frame, at least: dark collars come and go."""


@dataclass(frozen=True)
class _Colours:
    """Colours of hair against those of skin and clothes, over the clip."""

    hair_or_body: Float
    """[bins ** 3]: log of hair's likelihood over the larger one of skin's and clothes', by cell of Lab"""
    hair_or_background: Float
    """[bins ** 3]: the same over the background's"""


def _cells(picture: Picture) -> NDArray[np.int32]:
    lab = cv2.cvtColor(cv2.blur(picture, (3, 3)), cv2.COLOR_RGB2LAB)
    cell = (lab.astype(np.int32) * _BINS) >> 8
    return np.asarray((cell[..., 0] * _BINS + cell[..., 1]) * _BINS + cell[..., 2], np.int32)


def run_masks(work: Workspace, segmenter: Segmenter) -> None:
    """Write ``masks.npy``."""
    frames, faces = work.map("frames.npy"), work.arrays("landmarks.npz")
    points = _filled(faces["points"][..., :2], faces["valid"])
    size = frames.shape[1]
    scale = min(1.0, _WORK_SIZE / size)
    cutter = _Cutter(segmenter, scale)
    n = len(frames)
    chosen = np.flatnonzero(faces["valid"])[:: max(1, int(faces["valid"].sum()) // _SAMPLES)]
    cutter.learn([(frames[i], points[i]) for i in chosen])
    with ArrayWriter.open(work.folder / "masks.npy") as writer, frame_pool() as pool:
        for i, labels in enumerate(pool.map(cutter.cut, frames, points)):
            writer.append(labels)
            work.advance((i + 1) / n)


def _filled(points: Float, valid: Flags) -> Float:
    """Points with those of the nearest valid frame where there is no face."""
    known, frames = np.flatnonzero(valid), np.arange(len(valid))
    after = np.searchsorted(known, frames).clip(max=len(known) - 1)
    before = (after - 1).clip(min=0)
    is_nearer = np.abs(known[before] - frames) < np.abs(known[after] - frames)
    return np.asarray(points[known[np.where(is_nearer, before, after)]], np.float32)


class _Cutter:
    """Labels pictures one by one, with colours learned over the clip."""

    def __init__(self, segmenter: Segmenter, scale: float) -> None:
        self._segmenter, self._scale = segmenter, scale
        self._colours: _Colours | None = None
        self._has_long_hair = False

    def _shrink(self, picture: Picture, points: Float) -> tuple[Picture, Float]:
        if self._scale == 1.0:
            return np.ascontiguousarray(picture), points
        side = round(picture.shape[0] * self._scale)
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8), np.asarray(points * (side / picture.shape[0]), np.float32)

    def _person(self, picture: Picture) -> Float:
        """Probability, sharpened along the edges of the picture."""
        soft = self._segmenter.person(picture)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return _guided(np.asarray(grey / np.float32(255), np.float32), soft)

    def learn(self, samples: list[tuple[Picture, Float]]) -> None:
        """Learn from some frames the colours of hair, skin and clothes, and whether hair falls below the jaw."""
        counts = np.zeros((4, _BINS, _BINS, _BINS), np.float32)
        for picture, points in samples:
            small, xy = self._shrink(picture, points)
            person = self._person(small)
            cell = _cells(small)
            for i, region in enumerate(_sure_regions(person, xy)):
                counts[i] += np.bincount(cell[region], minlength=_BINS**3).reshape(counts[i].shape)
        likelihood = [_smoothed(count) for count in counts]
        body = np.maximum(likelihood[1], likelihood[2])
        self._colours = _Colours(_log_ratio(likelihood[0], body), _log_ratio(likelihood[0], likelihood[3]))
        shares = [self._share_of_long_hair(*self._shrink(picture, points)) for picture, points in samples]
        self._has_long_hair = bool(shares) and float(np.median(shares)) >= _LONG_HAIR

    def _share_of_long_hair(self, picture: Picture, xy: Float) -> float:
        person = self._person(picture) > 0.5
        head = self._without_long_hair(picture, xy, person)
        return float(self._long_hair(picture, xy, person, head).sum() / max(1, head.sum()))

    def _without_long_hair(self, picture: Picture, xy: Float, person: Flags) -> Flags:
        head = person & _above_jaw(xy, picture.shape[0])
        return head if self._colours is None else head | self._tufts(picture, xy, head)

    def cut(self, picture: Picture, points: Float) -> Picture:
        """Labels [S, S] of one frame."""
        small, xy = self._shrink(picture, points)
        person = self._person(small)
        head = self._without_long_hair(small, xy, person > 0.5)
        if self._has_long_hair:
            head |= self._long_hair(small, xy, person > 0.5, head)
        head = _whole_head(head, xy)
        side = picture.shape[0]
        soft_person = np.where(_without_crumbs(person > 0.5), person, np.minimum(person, np.float32(0.49)))
        labels = (_enlarged(np.maximum(soft_person, head), side) > 0.5).astype(np.uint8) * np.uint8(TORSO)
        labels[_enlarged(head.astype(np.float32), side) > 0.5] = HEAD
        return labels

    def _tufts(self, picture: Picture, xy: Float, head: Flags) -> Flags:
        """Hair that stands out from the head where the person mask ends too early: above the eyes, hair's colour."""
        assert self._colours is not None
        right, up, height = head_axes(xy)
        size = picture.shape[0]
        far, eyes = right * 2 * size, xy[[33, 263]].mean(axis=0)
        upper = _polygon(
            np.stack([eyes - far, eyes + far, eyes + far + up * 2 * size, eyes - far + up * 2 * size]), size
        )
        reach = np.ones((2 * round(_TUFT * height) + 1,) * 2, np.uint8)
        near = cv2.dilate(head.astype(np.uint8), reach) > 0
        odds = self._colours.hair_or_background[_cells(picture)]
        together = (head | (near & upper & (odds > np.log(_TUFT_ODDS)))).astype(np.uint8)
        return np.asarray(_part_at(together, xy) & upper, bool)

    def _long_hair(self, picture: Picture, xy: Float, person: Flags, head: Flags) -> Flags:
        """Person pixels below the jaw line with hair's colour that hang together with the head."""
        assert self._colours is not None
        odds = cv2.blur(self._colours.hair_or_body[_cells(picture)], (5, 5))
        candidate = person & ~head & (odds > np.log(_HAIR_ODDS))
        candidate &= ~_throat(xy, picture.shape[0])
        kernel = np.ones((3, 3), np.uint8)
        candidate = cv2.morphologyEx(candidate.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
        return candidate & _part_at((candidate | head).astype(np.uint8), xy)


def _guided(guide: Float, values: Float) -> Float:
    """Values [H, W] smoothed, but not across the edges of the guide. Source: He et al. 2010, guided filter."""
    side = (2 * _EDGE_RADIUS + 1, 2 * _EDGE_RADIUS + 1)
    mean_guide, mean_values = cv2.blur(guide, side), cv2.blur(values, side)
    slope = (cv2.blur(guide * values, side) - mean_guide * mean_values) / (
        cv2.blur(guide * guide, side) - mean_guide * mean_guide + _EDGE_EPS
    )
    offset = mean_values - slope * mean_guide
    return np.asarray(cv2.blur(slope, side) * guide + cv2.blur(offset, side), np.float32)


def _smoothed(count: Float) -> Float:
    """Counts as a smooth density over the cells."""
    from scipy.ndimage import gaussian_filter

    smooth: Float = gaussian_filter(count, 0.8)
    return smooth / max(float(smooth.sum()), 1e-9)


def _log_ratio(one: Float, other: Float) -> Float:
    return np.asarray(np.log((one + 1e-6) / (other + 1e-6)).ravel(), np.float32)


def _polygon(corners: Float, size: int) -> Flags:
    canvas = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    return canvas > 0


def _above_jaw(xy: Float, size: int) -> Flags:
    """Everything above the jaw line and its continuation at the height of the ear lobes."""
    right, up, height = head_axes(xy)
    jaw = xy[list(JAW)]  # from the subject's right ear (left in the picture) over the chin to the left ear
    far = 2.0 * size
    left_end, right_end = jaw[0] - right * far, jaw[-1] + right * far
    corners = np.concatenate(
        [
            jaw,
            right_end[None],
            (right_end + up * 2 * far)[None],
            (left_end + up * 2 * far)[None],
            left_end[None],
        ]
    )
    inside = _polygon(corners.astype(np.float32), size)
    centre = xy[list(OVAL)].mean(axis=0) + up * 0.12 * height
    reach = np.zeros((size, size), np.uint8)
    angle = float(np.degrees(np.arctan2(right[1], right[0])))
    axes = (0.85 * height, 1.05 * height)
    cv2.ellipse(reach, (tuple(map(float, centre)), (2 * axes[0], 2 * axes[1]), angle), 1, -1)
    return inside & (reach > 0)


def _throat(xy: Float, size: int) -> Flags:
    """The column below the chin, where hair is unlikely: half a face wide."""
    right, up, height = head_axes(xy)
    chin = xy[152]
    half = 0.22 * height
    corners = [
        chin - right * half,
        chin + right * half,
        chin + right * half - up * 2 * height,
        chin - right * half - up * 2 * height,
    ]
    return _polygon(np.asarray(corners, np.float32), size)


def _sure_regions(probability: Float, xy: Float) -> tuple[Flags, Flags, Flags, Flags]:
    """Where hair, skin, clothes and background certainly are."""
    person, size = probability > 0.8, probability.shape[0]
    right, up, height = head_axes(xy)
    oval = _polygon(xy[list(OVAL)].astype(np.float32), size)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    along = (columns - xy[152, 0]) * up[0] + (rows - xy[152, 1]) * up[1]  # above the chin
    across = (columns - xy[152, 0]) * right[0] + (rows - xy[152, 1]) * right[1]
    kernel = np.ones((5, 5), np.uint8)
    inner = cv2.erode(person.astype(np.uint8), kernel) > 0
    near_oval = cv2.dilate(oval.astype(np.uint8), kernel, iterations=2) > 0
    hair = inner & ~near_oval & (along > 0.62 * height) & (np.abs(across) < 0.75 * height)
    skin = oval & (along < 0.62 * height)
    throat = inner & (along < -0.05 * height) & (along > -0.2 * height) & (np.abs(across) < 0.15 * height)
    clothes = inner & (along < -0.38 * height)
    far = cv2.dilate((probability > 0.1).astype(np.uint8), kernel, iterations=round(0.03 * size)) == 0
    return hair, skin | throat, clothes, far


def _part_at(mask: Picture, xy: Float) -> Flags:
    """The connected part of a mask (0, 1) that holds the face; all of it where the face lies outside."""
    _, parts = cv2.connectedComponents(mask, connectivity=4)
    centre = xy.mean(axis=0).round().astype(int).clip(0, mask.shape[0] - 1)
    label = parts[centre[1], centre[0]]
    return np.asarray(parts == label if label else mask > 0, bool)


def _whole_head(mask: Flags, xy: Float) -> Flags:
    """The part that holds the face, without holes."""
    part = _part_at(mask.astype(np.uint8), xy)
    outside = np.pad(~part, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    return np.asarray(outside[1:-1, 1:-1] != 2, bool)


def _without_crumbs(person: Flags) -> Flags:
    """Drop parts smaller than 2 % of the picture."""
    n, parts, stats, _ = cv2.connectedComponentsWithStats(person.astype(np.uint8), connectivity=4)
    keep = stats[:n, cv2.CC_STAT_AREA] >= 0.02 * person.size
    keep[0] = False
    return np.asarray(keep[parts], bool)


def _enlarged(values: Float, side: int) -> Float:
    if values.shape[0] == side:
        return values
    return np.asarray(cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)

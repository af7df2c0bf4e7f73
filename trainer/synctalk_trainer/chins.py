"""Chins of a run when the mouth is driven the other way: does the jaw lie where it should, and is there a second one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .dataset import HEAD, Dataset
from .jaw import FilmedJaw, JawShapes, Look, jaw_line
from .measure import Frame, compose
from .run import Run

__all__ = ["SPOILED", "Chin", "Chins", "Drive", "Shot", "Spoil"]

Float = NDArray[np.float32]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

_FRAMES, _ALIKE = 6, 40
_SHARE = 10
"""Frames are alike in mouth or pose that are among the nearest of so many."""
_WIDE = 0.99
"""Share of the frames in nearly a pose whose mouths are less wide than the one that opens the chin."""
_CONTOUR_BAR, _SECOND_BAR = 2.0, 0.25
_PAINTED = 10
"""Levels by which a plate differs where it was painted, at least."""
_RIM = 3 / 512
"""What borders on the changed part of a picture belongs to it, as a share of the side."""
_SHOWN_PX = 320
_YELLOW, _GREEN, _RED = (255, 255, 0), (0, 255, 0), (255, 0, 0)


@dataclass(frozen=True)
class Shot:
    """A driven head with what could lie behind it; pictures are [S, S, 3]."""

    rgba: Float
    """[S, S, 4] premultiplied"""
    frame: Frame
    plate: Frame
    background: Frame
    head: Flags
    """[S, S] the filmed head"""
    above: Flags
    """[S, S] what lies above the expected jaw"""


Spoil = Callable[[Shot], Frame]


def _as_drawn(shot: Shot) -> Frame:
    return compose(shot.rgba, shot.plate)


def _over_frame(shot: Shot) -> Frame:
    """Over the filmed chin, as far as the head and its shadow leave any of it."""
    return compose(shot.rgba, shot.frame)


def _old_chin(shot: Shot) -> Frame:
    """The head ends at its jaw, and the filmed chin is still there."""
    return compose(shot.rgba * shot.above[..., None], shot.frame)


def _hole(shot: Shot) -> Frame:
    """The head ends at its jaw, and the background shows where the filmed one was."""
    behind = np.where(shot.head[..., None], shot.background, shot.frame)
    return compose(shot.rgba * shot.above[..., None], behind)


def _moved_up(shot: Shot) -> Frame:
    """The head, 4 px of 512 too high."""
    return compose(np.roll(shot.rgba, -round(len(shot.rgba) / 128), axis=0), shot.plate)


SPOILED: dict[str, Spoil] = {
    "no": _as_drawn,
    "up": _moved_up,
    "frame": _over_frame,
    "old-chin": _old_chin,
    "hole": _hole,
}
"""Ways to draw a driven head: right, and wrong on purpose."""


@dataclass(frozen=True)
class Drive:
    """A frame and the mouth it is driven with."""

    frame: int
    condition: Float
    """[C]"""


@dataclass(frozen=True)
class Chin:
    """How the chins of some driven frames are."""

    contour: float
    """px of 512"""
    contour_filmed: float
    """The same of filmed frames with their own landmarks: what the measure errs by"""
    second: float
    """Share of a jaw's edge, beyond that of filmed frames"""
    pictures: list[Frame]
    """One row of the sheet for each frame"""

    @property
    def is_good(self) -> bool:
        return self.contour <= _CONTOUR_BAR and self.second <= _SECOND_BAR


@dataclass(frozen=True)
class Chins:
    """A run, and what is known of its jaws."""

    run: Run
    train: Ints
    held: Ints
    conditions: Float
    """[N, C] the mouth of every frame, as the field was taught it"""
    jaws: JawShapes

    @staticmethod
    def of(run: Run, train: Ints, held: Ints) -> Chins:
        """Fit the jaw's shape to the training frames."""
        data = run.dataset
        conditions = run.mouths
        jaws = JawShapes.fit(
            conditions[train],
            data.landmarks[train],
            data.camera,
            data.rotation[train],
            data.translation[train],
            data.points_m,
        )
        return Chins(run, train, held, conditions, jaws)

    def shut(self) -> list[Drive]:
        """Held-out frames whose chin is lowest, driven with silence."""
        order = self.held[np.argsort(-self.jaws.drop(self.conditions[self.held]))]
        return [Drive(int(frame), self.run.condition_rest) for frame in _spread(order)]

    def opened(self) -> list[Drive]:
        """Held-out frames whose chin is high, driven with a mouth that was filmed in nearly their pose and was wider in one
        of a hundred such frames only: the very widest may have been filmed once."""
        drop = self.jaws.drop(self.conditions)
        order = self.held[np.argsort(drop[self.held])][: max(_FRAMES, len(self.held) // 4)]
        pairs = []
        for frame in order[:: max(1, len(order) // (4 * _FRAMES))].tolist():
            near = self._near_in_pose(self.train, frame, len(self.train) // _SHARE)
            donor = int(near[np.argsort(drop[near])[int(_WIDE * (len(near) - 1))]])
            pairs.append((float(drop[donor] - drop[frame]), Drive(frame, self.conditions[donor])))
        pairs.sort(key=lambda pair: -pair[0])
        return [drive for _, drive in pairs[:_FRAMES]]

    def check(self, drives: list[Drive], spoil: Spoil) -> Chin:
        """Render, look, and compare with filmed frames of the same mouths."""
        looks, filmed, pictures = [], [], []
        for drive in drives:
            shown, look = self._look(drive, spoil)
            looks.append(look)
            filmed += self._look_at_filmed(drive)
            pictures.append(_row(np.asarray(self.run.dataset.frames[drive.frame]), shown, look))
        strengths = [np.mean([look.strength for look in some]) for some in (looks, filmed)]
        distances = [float(np.mean([look.distance for look in some])) for some in (looks, filmed)]
        return Chin(distances[0], distances[1], float(strengths[0] - strengths[1]), pictures)

    def _look(self, drive: Drive, spoil: Spoil) -> tuple[Frame, Look]:
        data, frame = self.run.dataset, drive.frame
        jaw = self.jaws.expected(drive.condition, data.rotation[frame], data.translation[frame])
        rgba = self.run.render(frame, drive.condition)
        source, plate = np.asarray(data.frames[frame]), np.asarray(data.plates[frame])
        head = np.asarray(data.masks[frame]) == HEAD
        shown = spoil(Shot(rgba, source, plate, data.background, head, _above(jaw, len(source))))
        changed = _grown(_head_of(data, frame) | (rgba[..., 3] > 0.5))
        return shown, self._filmed(drive).look(shown, jaw, changed)

    def _look_at_filmed(self, drive: Drive) -> list[Look]:
        """At held-out frames that were filmed with this mouth: one alone may have a fold more or less."""
        data, looks = self.run.dataset, []
        for frame in self._alike(self.held, drive, _FRAMES).tolist():
            jaw = JawShapes.points_of(data.landmarks[frame])
            filmed = self._filmed(Drive(frame, drive.condition))
            looks.append(filmed.look(np.asarray(data.frames[frame]), jaw, _grown(_head_of(data, frame))))
        return looks

    def _filmed(self, drive: Drive) -> FilmedJaw:
        """From training frames like a driven one in mouth and pose."""
        data, alike = self.run.dataset, self._alike(self.train, drive, _ALIKE)
        return FilmedJaw.learn(
            [np.asarray(data.frames[i]) for i in alike],
            [JawShapes.points_of(data.landmarks[i]) for i in alike],
        )

    def _alike(self, frames: Ints, drive: Drive, n: int) -> Ints:
        """The n frames nearest in pose of those that are nearest in mouth."""
        far = np.linalg.norm(self.conditions[frames] - drive.condition, axis=1)
        mouths = frames[np.argsort(far)[: max(n, len(frames) // _SHARE)]]
        return self._near_in_pose(mouths, drive.frame, n)

    def _near_in_pose(self, frames: Ints, frame: int, n: int) -> Ints:
        rotation = self.run.dataset.rotation
        alignment = np.einsum("nij,ij->n", rotation[frames], rotation[frame])
        return np.asarray(frames[np.argsort(-alignment)[:n]])


def _spread(order: Ints) -> Ints:
    """Some of the first frames, of which neighbours are much alike."""
    return order[:: max(1, len(order) // (10 * _FRAMES))][:_FRAMES]


def _head_of(data: Dataset, frame: int) -> Flags:
    """[S, S] the head, and where painting it out changed the picture."""
    difference = np.abs(data.frames[frame].astype(np.int16) - data.plates[frame]).max(axis=-1)
    return np.asarray((data.masks[frame] == HEAD) | (difference > _PAINTED), bool)


def _grown(flags: Flags) -> Flags:
    side = 2 * round(_RIM * len(flags)) + 1
    return np.asarray(cv2.dilate(flags.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _above(jaw: Float, size: int) -> Flags:
    """[S, S] what lies above a jaw [P, 2] and above its tangents at the ends."""
    line, normal = jaw_line(jaw, size)
    line = line + np.float32(_RIM * size) * normal
    (x0, y0), (x1, y1) = line[0], line[-1]
    far = 2 * size
    sides = [(x1 + far, y1 - far), (x1 + far, y1 - 2 * far), (x0 - far, y0 - 2 * far), (x0 - far, y0 - far)]
    corners = np.concatenate([line, np.array(sides, np.float32)])
    canvas = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, [corners.round().astype(np.int32)], 1)
    return canvas > 0


def _row(source: Frame, shown: Frame, look: Look) -> Frame:
    """Filmed, driven, and driven with its lines, around the jaw."""
    size = len(source)
    half = round(0.25 * size)
    x, y = look.line[len(look.line) // 2].round().astype(int).clip(half, size - half).tolist()
    scale = _SHOWN_PX / half
    panels = [
        cv2.resize(
            picture[y - half : y + half, x - half : x + half],
            None,
            fx=scale,
            fy=scale,
            interpolation=cv2.INTER_CUBIC,
        )
        for picture in (source, shown, shown)
    ]
    for offset, colour in ((np.zeros_like(look.offset), _YELLOW), (look.offset, _GREEN), (look.second, _RED)):
        drawn = (look.drawn(offset, size) - np.array([x - half, y - half]) + 0.5) * scale
        cv2.polylines(panels[2], [drawn.round().astype(np.int32)], False, colour, 1, cv2.LINE_AA)
    return np.asarray(np.concatenate(panels, axis=1), np.uint8)

"""Where the jaw lies in a picture, and whether a second contour lies below it: found in pixels, not by landmarks.

A picture is read along the normals of a jaw line. Lengths are in pixels of a picture of side 512 unless said otherwise;
profiles are [stations, steps], a step each such pixel, outwards, from the line's inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk.geometry import Camera, project

from .prepare.face_mesh import JAW

__all__ = ["FilmedJaw", "JawShapes", "Look", "jaw_line"]

Float = NDArray[np.float32]
Frame = NDArray[np.uint8]
Flags = NDArray[np.bool_]

_SIDE = 512
_LOWER_JAW = JAW[3:-3]
"""Ears, hair and collars disturb the rest."""
_STATIONS = 33
_INNER, _OUTER = 24, 48
"""Profiles reach so far to either side of the line."""
_REACH, _PATTERN = 12, 8
"""The contour is looked for so far from the line, by a pattern of twice this width."""
_NEAR = 3
"""A filmed jaw's edge lies so near to its landmarks."""
_BELOW, _DEEP = 7, 32
"""A second edge is looked for so far below the line: nearer, it is the jaw's own; farther, there are collars."""
_SOFT = 8
"""A slope that stays the same so far to both sides is a shadow, not an edge."""
_TOGETHER = 9
"""Stations over which slopes are averaged."""
_STIFFNESS = 0.15
"""What a contour pays for each pixel that it moves from station to station, in strengths of a filmed jaw."""


@dataclass(frozen=True)
class JawShapes:
    """How the jaw of a clip lies in the head for each condition: linear, fitted to filmed frames."""

    camera: Camera
    mesh_m: Float
    """[P, 3] the jaw of the rigid mesh, metres"""
    weights: Float
    """[C + 1, P * 2]: condition and a one -> offsets from the mesh, metres, upright"""

    @staticmethod
    def points_of(points: Float) -> Float:
        """The jaw among landmarks: [..., 478, >= 2] -> [..., P, 2]."""
        return np.asarray(points[..., list(_LOWER_JAW), :2], np.float32)

    @staticmethod
    def fit(
        conditions: Float, points: Float, camera: Camera, rotation: Float, translation: Float, mesh_m: Float
    ) -> JawShapes:
        """conditions [N, C], points [N, 478, >= 2] pixels, rotation [N, 3, 3], translation [N, 3], mesh_m [478, 3]."""
        jaw_m = mesh_m[list(_LOWER_JAW)]
        rest = project(camera, rotation, translation, jaw_m)  # [N, P, 2]
        offset = np.einsum("npi,nij->npj", JawShapes.points_of(points) - rest, _upright(rotation))
        offset = offset * (translation[:, 2] / camera.focal_px)[:, None, None]
        known = _with_one(conditions)
        weights = np.linalg.lstsq(known, offset.reshape(len(offset), -1), rcond=None)[0]
        return JawShapes(camera, jaw_m, np.asarray(weights, np.float32))

    def expected(self, condition: Float, rotation: Float, translation: Float) -> Float:
        """The jaw of one frame that is driven by a condition [C], pixels [P, 2]."""
        offset_m = (_with_one(condition[None]) @ self.weights).reshape(-1, 2)
        turned = offset_m @ _upright(rotation[None])[0].T
        rest = project(self.camera, rotation, translation, self.mesh_m)
        return np.asarray(rest + turned * (self.camera.focal_px / translation[2]), np.float32)

    def drop(self, conditions: Float) -> Float:
        """How far each condition [N, C] lowers the chin against the mesh, metres [N]."""
        offset_m = _with_one(conditions) @ self.weights
        return np.asarray(-offset_m[:, 2 * _LOWER_JAW.index(152) + 1], np.float32)


def _with_one(conditions: Float) -> Float:
    return np.asarray(np.append(conditions, np.ones((len(conditions), 1)), axis=1), np.float32)


def _upright(rotation: Float) -> Float:
    """[N, 2, 2]: the turn in the picture's plane."""
    return np.asarray(rotation[:, :2, :2] / np.linalg.norm(rotation[:, :2, :2], axis=1, keepdims=True))


def jaw_line(points: Float, size: int) -> tuple[Float, Float]:
    """Stations at equal distances along a jaw [P, 2] in pixels of a picture of side ``size``, and the normals outwards.

    Returns two [stations, 2]; the stations in pixels of that picture.
    """
    length = np.append(0, np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum())
    at = np.linspace(0, length[-1], _STATIONS)
    line = np.stack([np.interp(at, length, points[:, axis]) for axis in (0, 1)], axis=1)
    line = _smooth(line.astype(np.float32))
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    if (normal[_STATIONS // 2] * (line[_STATIONS // 2] - line[[0, -1]].mean(axis=0))).sum() < 0:
        normal = -normal
    return line, np.asarray(normal, np.float32)


def _smooth(line: Float) -> Float:
    """A line [n, 2] without its corners; its ends stay."""
    padded = np.concatenate([2 * line[:1] - line[3:0:-1], line, 2 * line[-1:] - line[-2:-5:-1]])
    kernel = np.hanning(9)[1:-1] / np.hanning(9).sum()
    return np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in (0, 1)], axis=1).astype(
        np.float32
    )


def _slopes(picture: Frame, line: Float, normal: Float) -> Float:
    """The slope outwards of a picture [S, S, 3], levels a pixel, [stations, steps, 3]."""
    return np.asarray(np.gradient(_read(picture.astype(np.float32), line, normal), axis=1), np.float32)


def _read(plane: Float, line: Float, normal: Float) -> Float:
    """A plane [S, S] or [S, S, 3] along the normals, [stations, steps] or [stations, steps, 3]."""
    unit = len(plane) / _SIDE
    smooth = cv2.GaussianBlur(plane, (0, 0), max(0.5, unit))
    steps = np.arange(-_INNER, _OUTER + 1, dtype=np.float32) * np.float32(unit)
    x, y = np.moveaxis(line[:, None] + steps[None, :, None] * normal[:, None], -1, 0)
    read = cv2.remap(smooth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(read, np.float32)


@dataclass(frozen=True)
class Look:
    """What a picture shows along one jaw line."""

    line: Float
    """[stations, 2] pixels, where the jaw should lie"""
    normal: Float
    """[stations, 2] outwards"""
    offset: Float
    """[stations] of the contour from the line, outwards"""
    second: Float
    """[stations] of the strongest edge below the contour that filmed jaws of this mouth lack"""
    strength: float
    """of that edge, mean over the stations, as a share of a filmed jaw's edge"""

    @property
    def distance(self) -> float:
        """Mean distance of contour and line."""
        return float(np.abs(self.offset).mean())

    def drawn(self, offset: Float, size: int) -> Float:
        """Pixels [stations, 2] of an offset, in a picture of side ``size``."""
        return np.asarray(self.line + offset[:, None] * np.float32(size / _SIDE) * self.normal, np.float32)


@dataclass(frozen=True)
class FilmedJaw:
    """What the jaw of one mouth looks like in filmed frames."""

    slopes: Float
    """[stations, steps, 3] mean over the frames"""
    edge: float
    """Strength of the jaw's edge, mean over stations and frames, levels a pixel"""

    @staticmethod
    def learn(frames: list[Frame], jaws: list[Float]) -> FilmedJaw:
        """frames: filmed with this mouth; jaws: their landmarks' jaws, each [P, 2] pixels."""
        slopes = np.stack(
            [_slopes(frame, *jaw_line(jaw, len(frame))) for frame, jaw in zip(frames, jaws, strict=True)]
        )
        near = slice(_INNER - _NEAR, _INNER + _NEAR + 1)
        edges = [_edges(one)[:, near].max(axis=1).mean() for one in slopes]
        return FilmedJaw(np.asarray(slopes.mean(axis=0), np.float32), float(np.mean(edges)))

    def look(self, picture: Frame, jaw: Float, changed: Flags) -> Look:
        """Look for the contour near a jaw [P, 2], and for edges below it where the picture was changed [S, S]."""
        line, normal = jaw_line(jaw, len(picture))
        slopes = _slopes(picture, line, normal)
        offset = self._offset(slopes)
        inside = _read(changed.astype(np.float32), line, normal) > 0.5
        steps = np.arange(-_INNER, _OUTER + 1)
        below = (steps >= _BELOW) & (steps <= _DEEP)
        shift = round(float(offset.mean()))
        excess = _edges(slopes - np.roll(self.slopes, shift, axis=1)) / np.float32(self.edge)
        excess = np.where(below & inside, excess, np.float32(0))
        path = _best_path(excess)
        strength = float(excess[np.arange(len(path)), path].mean())
        return Look(line, normal, offset, steps[path].astype(np.float32), strength)

    def _offset(self, slopes: Float) -> Float:
        pattern = self.slopes[:, _INNER - _PATTERN : _INNER + _PATTERN + 1]
        shifts = np.arange(-_REACH, _REACH + 1)
        starts = _INNER - _PATTERN + shifts
        windows = np.stack([slopes[:, start : start + 2 * _PATTERN + 1] for start in starts], axis=1)
        match = np.einsum("spdc,sdc->sp", windows, pattern) / (pattern**2).sum(axis=(1, 2)).mean()
        return np.asarray(shifts[_best_path(np.asarray(match, np.float32))], np.float32)


def _edges(slopes: Float) -> Float:
    """The strength of edges that go along the line, [stations, steps], from slopes [stations, steps, 3].

    Grain and folds across the line count little, nor do slopes that are as wide as shadows'.
    """
    along = cv2.blur(slopes, (1, _TOGETHER), borderType=cv2.BORDER_REPLICATE)
    sharp = along - cv2.blur(along, (2 * _SOFT + 1, 1))
    return np.asarray(np.sqrt((sharp**2).mean(axis=2)), np.float32)


def _best_path(score: Float) -> NDArray[np.int64]:
    """The column of each row that makes the largest sum of scores less what the moves cost. score: [rows, columns]."""
    columns = np.arange(score.shape[1])
    cost = _STIFFNESS * np.abs(columns[:, None] - columns[None])
    total, came = score[0].astype(np.float64), []
    for row in score[1:]:
        options = total[None] - cost  # [to, from]
        came.append(options.argmax(axis=1))
        total = options.max(axis=1) + row
    path = [int(total.argmax())]
    for back in came[::-1]:
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])

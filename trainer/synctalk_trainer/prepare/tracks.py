"""Step ``tracks``: points on the rigid parts of the head, found in key frames and followed into every frame.

Each frame is bent onto a key frame, pixel by pixel, by pose and surface of the head, then matched to it directly by
Lucas-Kanade, forward and backward. A track thus starts from one picture and never drifts, and it reaches every frame
that sees the head from a similar side, across cuts too. Features: forehead, nose bridge, cheekbones, ears. Twice: bent
by the landmarks' poses and mesh first, then by the poses and points that bundle adjustment makes of those tracks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.dataset import HEAD
from synctalk_trainer.prepare.bundle_adjust import Sightings
from synctalk_trainer.prepare.face_mesh import CHEEK_LINE, EYES
from synctalk_trainer.prepare.frame_pool import frame_pool
from synctalk_trainer.prepare.pose import Fit
from synctalk_trainer.prepare.rigid import Double, project_points
from synctalk_trainer.prepare.stabilise import Clip, stabilise
from synctalk_trainer.prepare.surface import surface_of
from synctalk_trainer.prepare.workspace import Workspace, write_arrays

__all__ = [
    "KeyView",
    "choose_key_frames",
    "clip_of",
    "follow",
    "look_at",
    "read_fit",
    "run_tracks",
    "view_weights",
]

Picture = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

_Part = tuple[Indices, Indices, NDArray[np.float32], NDArray[np.float32]]
"""Sightings of one frame and key frame: frames, points, places [n, 2] in pixels, weights."""

_COVER_DEG, _REACH_DEG = 5.0, 20.0
"""Key frames are added until every frame is this near to one; a key frame is followed as far as the reach."""
_MAX_KEY_FRAMES, _NEIGHBOURS = 14, 8
_SEARCH_DEG = 1.5
"""A key frame is the calmest face within this angle of the place where one is wanted."""
_MAX_POINTS = 140
_SPACING, _WINDOW, _BLUR = 0.035, 0.085, 0.035
"""Distance of features, width of the matched window, and blur that takes out shading, in face heights."""
_TEXTURE = 2.0
"""Least squared gradient across a feature's weakest direction, in the flattened picture: below, it is noise or shading."""
_RIM, _BROW_RIM, _CORNER = 0.03, 0.025, 0.03
"""Widths of the head's outline, which slides over the head as it turns, and of the skin that brows pull along; radius
around the inner eye corners. In face heights."""
_RETURN_PX = 0.25
"""A point that does not come back to where it started is dropped."""
_AWAY = 0.03
"""So is one that lies farther, in face heights, from where the landmark pose expects it."""
_CALM = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 19, 20, 25, 44, 45, 50, 51)
"""Blendshapes that move skin of the rigid regions: brows, blinks, squints, jaw, smile, sneer."""


@dataclass(frozen=True)
class KeyView:
    """A key frame, ready to be matched: the area around the face in its own pixels."""

    corner: tuple[int, int]
    """(x, y) of the area's upper left pixel"""
    picture: Picture
    points: NDArray[np.float32]
    """[P, 2] features, pixels of the area (whole numbers are pixel centres)"""
    face_px: float


def run_tracks(work: Workspace) -> None:
    """Write ``tracks.npz``."""
    faces = work.arrays("landmarks.npz")
    frames, masks, valid = work.map("frames.npy"), work.map("masks.npy"), faces["valid"]
    fit = read_fit(work)
    keys = choose_key_frames(fit.rotation, valid, faces["blendshapes"][:, _CALM].sum(axis=1))
    seen_mesh = project_points(
        fit.rotation[keys], fit.translation[keys], fit.points_m, fit.focal_px, work.size / 2
    )
    views = [
        look_at(frames[key], np.asarray(masks[key]) == HEAD, mesh)
        for key, mesh in zip(keys, seen_mesh, strict=True)
    ]
    seen, start = _follow_all(
        frames, valid, views, keys, fit, fit.points_m, lambda done: work.advance(0.4 * done)
    )
    known = stabilise(clip_of(work, seen, start, keys), lambda done: work.advance(0.4 + 0.2 * done))
    if known.is_trusted(valid):
        surface = np.concatenate([known.fit.points_m, known.points_m])
        seen, _ = _follow_all(
            frames, valid, views, keys, known.fit, surface, lambda done: work.advance(0.6 + 0.4 * done)
        )
    counts = [len(view.points) for view in views]
    write_arrays(
        work.folder / "tracks.npz",
        frame=seen.frame.astype(np.int32),
        point=seen.point.astype(np.int32),
        xy=(seen.xy + work.size / 2).astype(np.float32),
        weight=seen.weight.astype(np.float32),
        start_m=start.astype(np.float32),
        key_frames=keys.astype(np.int32),
        key_of_point=np.repeat(np.arange(len(keys)), counts).astype(np.int32),
    )
    work.info["tracks"] = {
        "key_frames": [int(key) for key in keys],
        "points": sum(counts),
        "per_frame": round(len(seen.frame) / max(int(valid.sum()), 1), 1),
    }


def read_fit(work: Workspace) -> Fit:
    """The landmarks' poses, mesh and focal length."""
    fit = work.arrays("landmark_pose.npz")
    rotation, translation, mesh = (
        fit[name].astype(np.float64) for name in ("rotation", "translation", "points_m")
    )
    return Fit(rotation, translation, mesh, float(fit["focal_px"]), ())


def clip_of(work: Workspace, tracks: Sightings, start_m: Double, key_frames: Indices) -> Clip:
    """Tracks with what earlier steps found."""
    faces = work.arrays("landmarks.npz")
    landmarks = faces["points"][..., :2] - np.full(2, work.size / 2)
    return Clip(read_fit(work), landmarks, faces["valid"], work.takes, work.size, tracks, start_m, key_frames)


def _follow_all(
    frames: NDArray[np.uint8],
    valid: Flags,
    views: list[KeyView],
    keys: Indices,
    fit: Fit,
    surface_m: Double,
    advance: Callable[[float], None],
) -> tuple[Sightings, Double]:
    """Find every key frame's features in all frames that see them from a similar side.

    fit: poses [N] and focal length that bend the frames; surface_m: [K, 3] points of the head's surface.
    Returns the sightings, relative to the picture's middle, and the features' places on the surface [P, 3].
    """
    size = frames.shape[1]
    surfaces = [
        surface_of(
            surface_m,
            fit.rotation[key],
            fit.translation[key],
            fit.focal_px,
            size,
            view.corner,
            view.picture.shape,
            view.face_px,
        )
        for view, key in zip(views, keys, strict=True)
    ]
    weights = view_weights(fit.rotation, keys)
    first = np.cumsum([0, *(len(view.points) for view in views)])

    def sightings(i: int) -> list[_Part]:
        grey, parts = _grey(frames[i]), []
        for k in np.flatnonzero(weights[i] > 0.02):
            bend = surfaces[k].bend(fit.rotation[i], fit.translation[i], fit.focal_px, size)
            found, xy = follow(views[k], grey, bend)
            n = len(found)
            parts.append((np.full(n, i), first[k] + found, xy, np.full(n, weights[i, k], np.float32)))
        return parts

    known, parts = np.flatnonzero(valid), []
    with frame_pool() as pool:
        for done, found in enumerate(pool.map(sightings, known.tolist()), 1):
            parts += found
            advance(done / len(known))
    frame, point, xy, weight = _joined(parts)
    places = [surface.at(view.points) for surface, view in zip(surfaces, views, strict=True)]
    seen = Sightings(frame, point, xy.astype(np.float64) - size / 2, weight.astype(np.float64))
    return seen, np.concatenate(places)


def _joined(parts: list[_Part]) -> _Part:
    if not parts:
        none = np.zeros(0, np.int64)
        return none, none, np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    frame, point, xy, weight = zip(*parts, strict=True)
    return np.concatenate(frame), np.concatenate(point), np.concatenate(xy), np.concatenate(weight)


def _angles(rotation: Double, index: int) -> Double:
    """Degrees [N] between the sides that frames and one frame show: turns within the picture do not count."""
    towards = rotation[:, 2]  # the camera's axis in head space
    return np.asarray(np.degrees(np.arccos(np.clip(towards @ towards[index], -1, 1))))


def choose_key_frames(rotation: Double, valid: Flags, unrest: NDArray[np.float32]) -> Indices:
    """Frames [K] that show all sides of the head that the clip shows, with calm faces.

    rotation: [N, 3, 3]; unrest: [N], higher where the face moves its skin.
    """
    known = np.flatnonzero(valid)
    towards = rotation[known, 2]
    chosen = [int(known[np.argmax(towards @ np.median(towards, axis=0))])]
    nearest = np.full(len(known), np.inf)
    keys: list[int] = []
    while len(keys) < _MAX_KEY_FRAMES:
        around = known[_angles(rotation, chosen[-1])[known] < _SEARCH_DEG]
        keys.append(int(around[np.argmin(unrest[around])]))
        nearest = np.minimum(nearest, _angles(rotation, keys[-1])[known])
        if nearest.max() < _COVER_DEG:
            break
        chosen.append(int(known[np.argmax(nearest)]))
    return np.unique(keys)


def view_weights(rotation: Double, keys: Indices) -> NDArray[np.float32]:
    """How much each frame listens to each key frame [N, K]: falls smoothly to zero, so that no frame jumps when its
    neighbours among the key frames change."""
    away = np.stack([_angles(rotation, int(key)) for key in keys], axis=1)  # [N, K]
    limit = np.full(len(away), _REACH_DEG)
    if len(keys) > _NEIGHBOURS:
        limit = np.minimum(limit, np.sort(away, axis=1)[:, _NEIGHBOURS])
    return np.asarray(np.clip(1 - (away / limit[:, None]) ** 2, 0, None) ** 2, np.float32)


def _grey(frame: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.uint8)


def _flattened(grey: Picture, face_px: float) -> Picture:
    """Without slow shading, so that a turn of the head in the light does not move a match. Not amplified: clipped edges
    would draw matches to whole pixels."""
    exact = grey.astype(np.float32)
    detail = exact - cv2.GaussianBlur(exact, (0, 0), _BLUR * face_px)
    return np.asarray(np.clip(detail + 128.5, 0, 255), np.uint8)


def look_at(frame: Picture, head: Flags, mesh: Double) -> KeyView:
    """Features of a key frame. head: [S, S]; mesh: [478, 2] pixels."""
    face_px = float(np.ptp(mesh[:, 1]))
    low = np.maximum(np.floor(mesh.min(axis=0) - (0.3 * face_px, 0.4 * face_px)), 0).astype(int)
    high = np.minimum(np.ceil(mesh.max(axis=0) + 0.3 * face_px), frame.shape[0]).astype(int)
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    area = _flattened(_grey(frame)[window], face_px)
    local = mesh - low - 0.5  # whole numbers are pixel centres
    texture = cv2.cornerMinEigenVal(area.astype(np.float32), 7, ksize=3) / 4  # OpenCV's scale for 7 and 3
    allowed = _rigid_area(head[window], local, face_px) & (texture > _TEXTURE)
    corners = cv2.goodFeaturesToTrack(
        area,
        _MAX_POINTS,
        1e-6,
        max(_SPACING * face_px, 3),
        mask=allowed.astype(np.uint8),
        blockSize=7,
    )
    points = np.zeros((0, 2), np.float32) if corners is None else np.asarray(corners[:, 0], np.float32)
    return KeyView((int(low[0]), int(low[1])), area, points, face_px)


def _rigid_area(head: Flags, mesh: Double, face_px: float) -> Flags:
    """What moves with the skull: head and hair above the cheek line, without eyes and brows, off the outline."""
    rim = 2 * round(_RIM * face_px) + 1
    area = cv2.erode(head.astype(np.uint8), np.ones((rim, rim), np.uint8), borderValue=1)
    line = mesh[list(CHEEK_LINE)]
    wide = np.array([4.0 * face_px, 0.0])
    far = np.array([0.0, 4.0 * face_px])
    below = np.stack([line[0] - wide, *line, line[-1] + wide, line[-1] + wide + far, line[0] - wide + far])
    cv2.fillPoly(area, [np.round(below).astype(np.int32)], 0)
    for eye in EYES:
        hull = cv2.convexHull(np.round(mesh[list(eye)]).astype(np.int32))
        cv2.fillConvexPoly(area, hull, 0)
        cv2.polylines(area, [hull], True, 0, 2 * round(_BROW_RIM * face_px) + 1)
    for corner in (133, 362):
        at = (round(float(mesh[corner, 0])), round(float(mesh[corner, 1])))
        cv2.circle(area, at, round(_CORNER * face_px), 1, -1)
    return np.asarray(area > 0)


def follow(
    view: KeyView, grey: Picture, bend: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> tuple[Indices, NDArray[np.float32]]:
    """Find a key frame's features in another frame.

    bend: x and y [H, W] in the frame, as far as is known, of each pixel of the key frame's area (``Surface.bend``).
    Returns which features were found [F] and where [F, 2], in pixels of the frame.
    """
    if not len(view.points):
        return np.zeros(0, np.int64), np.zeros((0, 2), np.float32)
    bent = cv2.remap(
        grey,
        *bend,
        cv2.INTER_LINEAR,  # OpenCV's cubic moves edges by up to 0.04 pixels
        borderMode=cv2.BORDER_REPLICATE,
    )
    bent = _flattened(np.asarray(bent, np.uint8), view.face_px)
    side = int(_WINDOW * view.face_px) | 1
    start = view.points[:, None]
    there, is_there = _matched(view.picture, bent, start, side)
    back, is_back = _matched(bent, view.picture, there, side)
    returned = np.linalg.norm((back - start)[:, 0], axis=-1) < _RETURN_PX
    away = np.linalg.norm((there - start)[:, 0], axis=-1)
    good = is_there & is_back & returned & (away < max(_AWAY * view.face_px, 2.5))
    found = np.flatnonzero(good)
    return found, np.stack([_between(part, there[found, 0]) for part in bend], axis=1) + np.float32(0.5)


def _between(values: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [H, W] at places [P, 2] between pixels, bilinear: OpenCV's remap would round places to 1/32 pixel."""
    height, width = values.shape
    x = np.clip(places[:, 0], 0, width - 1.001)
    y = np.clip(places[:, 1], 0, height - 1.001)
    column, row = x.astype(int), y.astype(int)
    right, down = x - column, y - row
    upper = values[row, column] * (1 - right) + values[row, column + 1] * right
    lower = values[row + 1, column] * (1 - right) + values[row + 1, column + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _matched(
    one: Picture, other: Picture, points: NDArray[np.float32], side: int
) -> tuple[NDArray[np.float32], Flags]:
    """Where points [P, 1, 2] of one picture are in the other, and which were found."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        one,
        other,
        points,
        points.copy(),
        winSize=(side, side),
        maxLevel=1,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.003),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return np.asarray(found, np.float32), np.asarray(status)[:, 0] > 0

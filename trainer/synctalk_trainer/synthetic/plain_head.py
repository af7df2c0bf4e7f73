"""A head from formulas alone, in the same places as the rigged one: tests need no mesh file.

Rings of an ellipsoid with bumps for nose, lips and chin; the mouth is a slit between two copies of one row, the eyes are
balls behind almond-shaped hollows that fill up when they blink. Centimetres, axes as in ``rig.py``.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator
from synctalk_trainer.synthetic.paint import smoothstep
from synctalk_trainer.synthetic.rig import PARTS, Floats, Head, Ints

__all__ = ["plain_head"]

# Height, half width, front z, back z.
_SECTIONS = np.array(
    [
        (-17.0, 7.4, 4.4, -7.9),
        (-12.0, 5.8, 3.4, -6.5),
        (-9.2, 5.4, 4.6, -5.7),
        (-8.2, 5.0, 7.0, -5.5),
        (-7.5, 4.7, 9.6, -5.5),
        (-6.0, 5.5, 10.4, -5.5),
        (-4.0, 6.3, 10.5, -6.0),
        (-2.0, 6.8, 10.4, -7.0),
        (1.0, 7.2, 10.3, -8.5),
        (4.0, 7.5, 10.3, -9.2),
        (7.0, 7.6, 10.2, -9.0),
        (10.0, 7.1, 9.1, -8.0),
        (12.0, 6.0, 7.4, -6.0),
        (13.5, 4.0, 5.2, -3.5),
        (14.3, 0.4, 1.8, 0.8),
    ]
)
_SLIT_Y, _MOUTH_HALF = -3.35, 2.5
_EYE = (3.15, 3.55)
_EYE_RADIUS = 1.25

# x, y of the 68 landmarks' right half and middle; the left half is their mirror image.
_RIGHT_JAW = (
    (-7.2, 3.6),
    (-7.1, 1.5),
    (-6.8, -0.5),
    (-6.4, -2.4),
    (-5.6, -4.5),
    (-4.3, -6.1),
    (-3.0, -6.9),
    (-1.5, -7.2),
)
_RIGHT_BROW = ((-5.8, 5.2), (-4.9, 6.0), (-3.8, 6.25), (-2.4, 6.2), (-1.2, 5.9))
_BRIDGE = ((0.0, 3.7), (0.0, 2.6), (0.0, 1.6), (0.0, 0.3))
_RIGHT_NOSE = ((-1.25, -1.1), (-0.6, -1.15))
_RIGHT_EYE = ((-4.46, 3.5), (-3.7, 3.95), (-2.7, 3.95), (-1.84, 3.5), (-2.7, 3.15), (-3.7, 3.15))
_UPPER_LIP = ((-2.5, -3.4), (-1.7, -2.8), (-0.7, -2.45), (0.0, -2.5))
_LOWER_LIP = ((-1.8, -4.0), (-1.0, -4.3), (0.0, -4.4))
_EXPRESSIONS = (
    "browDownLeft", "browDownRight", "browInnerUpLeft", "browInnerUpRight", "browOuterUpLeft", "browOuterUpRight",
    "eyeBlinkLeft", "eyeBlinkRight", "jawOpen", "mouthFunnel", "mouthLowerDownLeft", "mouthLowerDownRight",
    "mouthPucker", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft",
    "mouthUpperUpRight",
)  # fmt: skip


def _spot(x: Floats, y: Floats, at: tuple[float, float], radius: tuple[float, float]) -> Floats:
    """A soft spot of height 1 on the front."""
    spot: Floats = np.exp(-(((x - at[0]) / radius[0]) ** 2) - ((y - at[1]) / radius[1]) ** 2)
    return spot


def _eye_opening(x: Floats, y: Floats) -> Floats:
    """1 inside the almonds of both eyes, 0 outside."""
    half = 0.52 * (1 - ((np.abs(x) - _EYE[0]) / 1.34) ** 2)
    inside: Floats = smoothstep(-0.07, 0.07, half - np.abs(y - _EYE[1]))
    return inside


def _surface(around: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Skin at azimuth ``around`` and height: points, how far it lies on the front (0..1), and the depth of the eyes' hollows."""
    half, front, back = PchipInterpolator(_SECTIONS[:, 0], _SECTIONS[:, 1:])(y).transpose(2, 0, 1)
    sine, cosine = np.sin(around), np.cos(around)
    x = half * sine
    middle = 0.35 * front + 0.65 * back
    z = middle + np.where(
        cosine > 0, (front - middle) * np.abs(cosine) ** 0.75, -(middle - back) * np.abs(cosine)
    )
    face = smoothstep(0.1, 0.5, cosine)
    side = np.abs(x)
    down = np.clip((3.8 - y) / 3.6, 0, 1)
    nose = (
        (0.3 + 2.5 * down)
        * np.exp(-((x / (0.6 + 0.5 * down**2)) ** 2))
        * smoothstep(-1.5, -0.5, y)
        * smoothstep(6, 3.6, y)
    )
    nose += 0.7 * _spot(side, y, (0.95, -0.6), (0.45, 0.5))
    z = z + face * (
        nose
        + 0.45 * _spot(side, y, (2.8, 5.4), (2.4, 0.7))
        - 0.95 * _spot(side, y, _EYE, (1.7, 1.15))
        + 0.35 * _spot(side, y, (4.4, 0.6), (1.6, 1.4))
        + 0.65
        * np.exp(-((x / 1.9) ** 2))
        * (_spot(x * 0, y, (0, -2.85), (1, 0.42)) + _spot(x * 0, y, (0, -3.95), (1, 0.45)))
        + 0.7 * _spot(x, y, (0, -6.4), (1.7, 1.0))
    )
    ear = _spot(np.abs(around - np.pi), y, (0.5 * np.pi, 1.8), (0.10, 2.2))
    x = x + np.sign(sine) * 1.3 * ear
    hollow = 1.5 * _eye_opening(x, y) * face
    points = np.stack([x, np.broadcast_to(y, x.shape), z], -1)
    return points.astype(np.float32), face.astype(np.float32), hollow.astype(np.float32)


def _deltas(points: Floats, face: Floats, hollow: Floats, is_low: Floats) -> Floats:
    """Expression offsets [K, V, 3] of skin vertices; ``is_low``: 1 below the slit of the mouth."""
    x, y = points[:, 0], points[:, 1]
    left, right = smoothstep(-0.4, 0.4, x), smoothstep(0.4, -0.4, x)
    corner = np.clip(1 - (x / _MOUTH_HALF) ** 2, 0, 1) ** 0.5
    near_slit = np.exp(-np.maximum(_SLIT_Y - y, 0) / 0.8)
    jaw = is_low * (corner * near_slit + (1 - near_slit) * smoothstep(6.6, 4.0, np.abs(x))) * face
    jaw *= smoothstep(-11.0, -7.5, y)
    lips = _spot(x, y, (0, _SLIT_Y), (2.6, 1.6)) * face
    low_lip, high_lip = is_low * lips * corner, (1 - is_low) * lips * corner
    mouth_corner = [_spot(x, y, (at, _SLIT_Y), (1.6, 1.5)) * face for at in (2.3, -2.3)]
    brow = smoothstep(4.3, 5.3, y) * smoothstep(9.0, 6.5, y) * face
    inner, outer = _spot(np.abs(x), y, (1.5, 5.8), (1.6, 2.0)), _spot(np.abs(x), y, (4.6, 5.8), (1.7, 2.0))
    zero = np.zeros_like(x)

    def move(dx: Floats, dy: Floats, dz: Floats) -> Floats:
        return np.stack([dx, dy, dz], -1)

    moves: dict[str, Floats] = {
        "jawOpen": move(zero, -3.4 * jaw + 0.15 * high_lip, -0.7 * jaw),
        "mouthFunnel": move(-0.28 * x * lips, 0.35 * (high_lip - low_lip), 0.7 * lips),
        "mouthPucker": move(-0.42 * x * lips, zero, 0.8 * lips),
    }
    for side, half, lip_corner, sign in (
        ("Left", left, mouth_corner[0], 1.0),
        ("Right", right, mouth_corner[1], -1.0),
    ):
        moves["browDown" + side] = move(zero, -0.5 * brow * half, zero)
        moves["browInnerUp" + side] = move(zero, 0.6 * brow * inner * half, zero)
        moves["browOuterUp" + side] = move(zero, 0.6 * brow * outer * half, zero)
        moves["eyeBlink" + side] = move(zero, zero, (hollow + 0.28 * (hollow > 0.05)) * half)
        moves["mouthLowerDown" + side] = move(zero, -0.5 * low_lip * half, zero)
        moves["mouthUpperUp" + side] = move(zero, 0.5 * high_lip * half, zero)
        moves["mouthSmile" + side] = move(sign * 0.6 * lip_corner, 0.8 * lip_corner, -0.3 * lip_corner)
        moves["mouthStretch" + side] = move(sign * 0.6 * lip_corner, -0.2 * lip_corner, -0.2 * lip_corner)
    return np.stack([moves[name] for name in _EXPRESSIONS]).astype(np.float32)


def _grid(first: int, rows: int, columns: int) -> Ints:
    """Triangles of a grid of vertices, row by row from ``first``; outward where rows rise and columns go to +x."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = first + i * columns + j
    low = np.stack([a, a + 1, a + columns + 1], -1)
    high = np.stack([a, a + columns + 1, a + columns], -1)
    return np.stack([low, high], 2).reshape(-1, 3).astype(np.int32)


def _ball(centre: Floats, n: int = 20) -> Floats:
    """A half sphere toward +z [n * n, 3], in the order of ``_grid``."""
    v, u = np.meshgrid(*[np.linspace(-0.5 * np.pi, 0.5 * np.pi, n)] * 2, indexing="ij")
    ball = np.stack([np.cos(v) * np.sin(u), np.sin(v), np.cos(v) * np.cos(u)], -1).reshape(-1, 3)
    return (centre + _EYE_RADIUS * ball).astype(np.float32)


def _rows(low: float, high: float, steps: tuple[float, ...]) -> Floats:
    """Heights from ``low`` to ``high``, closer where the eyes and the mouth are."""
    fine = np.interp(np.linspace(-17, 14.3, 600), [-17, -8, -5.2, -2, 0, 2.6, 4.6, 6.5, 14.3], steps)
    at = np.concatenate([[0.0], np.cumsum(1.0 / fine[:-1])])
    heights = np.linspace(-17, 14.3, 600)
    n = int(round(np.interp(high, heights, at) - np.interp(low, heights, at)) * (31.3 / 599)) + 2
    places = np.linspace(np.interp(low, heights, at), np.interp(high, heights, at), n)
    return np.interp(places, at, heights).astype(np.float32)


def plain_head(generator: np.random.Generator) -> Head:
    """Build the head; the generator varies its proportions a little."""
    steps = (1.2, 0.6, 0.22, 0.16, 0.3, 0.13, 0.13, 0.4, 0.8)
    turn = np.linspace(-1, 1, 129)
    around = np.pi * (0.42 * turn + 0.58 * turn**5)[None]
    blocks, is_low, triangles, first = [], [], [], 0
    for low, high in ((-17.0, _SLIT_Y), (_SLIT_Y, 14.3)):
        heights = _rows(low, high, steps)[:, None]
        blocks.append(
            _surface(
                np.broadcast_to(around, (len(heights), 129)), np.broadcast_to(heights, (len(heights), 129))
            )
        )
        is_low.append(np.full(len(heights) * 129, float(high == _SLIT_Y)))
        triangles.append(_grid(first, len(heights), 129))
        first += len(heights) * 129
    points = np.concatenate([block[0].reshape(-1, 3) for block in blocks])
    face, hollow = (np.concatenate([block[k].ravel() for block in blocks]) for k in (1, 2))
    low_mask = np.concatenate(is_low).astype(np.float32)
    n_skin = len(points)
    landmarks = _landmarks(points, low_mask)
    deltas = _deltas(points, face, hollow, low_mask)
    level = float(points[np.argmin(np.hypot(points[:, 0] - _EYE[0], points[:, 1] - _EYE[1])), 2])
    points[:, 2] -= hollow
    parts = [np.zeros(len(t), np.int8) for t in triangles]
    pieces = [points]
    for name, piece, columns in _insides(level):
        triangles.append(_grid(sum(len(p) for p in pieces), len(piece) // columns, columns))
        parts.append(np.full(len(triangles[-1]), PARTS.index(name), np.int8))
        pieces.append(piece)
    vertices = np.concatenate(pieces).astype(np.float32)
    every, part = np.concatenate(triangles), np.concatenate(parts)
    rows = np.concatenate([np.repeat(block[0][:, 64, 1], 129) for block in blocks])
    uv = np.zeros((len(vertices), 2), np.float32)
    uv[:n_skin, 0] = np.tile((turn + 1) / 2, n_skin // 129)
    uv[:n_skin, 1] = np.interp(rows, [-17, -7, 7, 14.3], [0.02, 0.15, 0.85, 0.98])
    eyes = tuple(
        np.unique(every[part == PARTS.index(name)]).astype(np.int32) for name in ("eye_left", "eye_right")
    )
    for eye in eyes:
        grid = np.linspace(0, 1, 20)
        uv[eye] = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    stretch = np.array(
        [generator.uniform(0.95, 1.04), generator.uniform(0.97, 1.04), generator.uniform(0.97, 1.03)]
    )
    all_deltas = np.zeros((len(_EXPRESSIONS), len(vertices), 3), np.float32)
    all_deltas[:, :n_skin] = deltas
    centres = np.array([(_EYE[0], _EYE[1], level - 1.02), (-_EYE[0], _EYE[1], level - 1.02)])
    return Head(
        vertices=(vertices * stretch).astype(np.float32),
        mean=vertices,
        origin_vertex=np.arange(len(vertices), dtype=np.int32),
        triangles=every,
        uv=uv,
        part=part,
        names=_EXPRESSIONS,
        deltas=all_deltas,
        landmarks=landmarks,
        eye_vertices=(eyes[0], eyes[1]),
        eye_centres=(centres * stretch).astype(np.float32),
        lashes=np.zeros((0, 4, 3), np.float32),
        lash_deltas=np.zeros((len(_EXPRESSIONS), 0, 4, 3), np.float32),
    )


def _insides(level: float) -> list[tuple[str, Floats, int]]:
    """Eyeballs, the dark of the mouth and the upper teeth: part, vertices and columns of each grid."""
    x, y = np.meshgrid(np.linspace(-3.2, 3.2, 9), np.linspace(-7.2, -1.8, 7))
    dark = np.stack([x, y, np.full_like(x, 8.2)], -1).reshape(-1, 3)
    x, y = np.meshgrid(np.linspace(-1.9, 1.9, 17), np.linspace(-3.35, -2.4, 3))
    teeth = np.stack([x, y, 10.1 - 0.22 * x**2], -1).reshape(-1, 3)
    balls = [_ball(np.array([sign * _EYE[0], _EYE[1], level - 1.02])) for sign in (1.0, -1.0)]
    return [("mouth", dark, 9), ("teeth", teeth, 17), ("eye_left", balls[0], 20), ("eye_right", balls[1], 20)]


def _landmarks(points: Floats, is_low: Floats) -> Ints:
    """The vertices nearest to the 68 landmarks on the front."""
    front = np.where(points[:, 2] > 0, 0.0, 1e3)

    def mirror(places: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
        return [(-x, y) for x, y in places[::-1]]

    left_eye = [
        (-x, y)
        for x, y in (_RIGHT_EYE[3], _RIGHT_EYE[2], _RIGHT_EYE[1], _RIGHT_EYE[0], _RIGHT_EYE[5], _RIGHT_EYE[4])
    ]
    places = [
        *_RIGHT_JAW, (0.0, -7.5), *mirror(_RIGHT_JAW), *_RIGHT_BROW, *mirror(_RIGHT_BROW), *_BRIDGE,
        *_RIGHT_NOSE, (0.0, -1.2), *mirror(_RIGHT_NOSE), *_RIGHT_EYE, *left_eye,
        *_UPPER_LIP, *mirror(_UPPER_LIP[:3]), *mirror(_LOWER_LIP), *_LOWER_LIP[1::-1],
    ]  # fmt: skip
    inner = [(x, _SLIT_Y) for x in (-2.2, -1.0, 0.0, 1.0, 2.2, 1.0, 0.0, -1.0)]
    chosen = []
    for i, (x, y) in enumerate([*places, *inner]):
        side = (
            np.where(is_low > 0.5, 0.0, 1e3) if 55 <= i < 60 or i > 64 else np.where(is_low > 0.5, 1e3, 0.0)
        )
        if i < 48:
            side = np.zeros(len(points))
        distance = np.hypot(points[:, 0] - x, points[:, 1] - y) + front + side
        chosen.append(int(distance.argmin()))
    return np.array(chosen, np.int32)

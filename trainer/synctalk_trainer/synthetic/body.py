"""What is not the head: a T-shirt on sloping shoulders, and a softly blurred room."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator
from synctalk_trainer.synthetic.paint import Palette, smoothstep, to_linear
from synctalk_trainer.synthetic.rig import Floats, Ints

__all__ = ["loft_shirt", "paint_room"]

# Rings of the shirt from the collar down, centimetres of the model: half width, front z, back z, and the heights at
# the side, in front and at the back.
_RINGS = np.array(
    [
        (6.9, 4.7, -8.2, -11.0, -15.0, -11.2),
        (7.9, 5.4, -8.9, -11.5, -15.9, -11.4),
        (10.4, 6.7, -10.1, -12.6, -18.5, -13.0),
        (14.0, 7.9, -11.0, -14.2, -22.5, -16.0),
        (18.0, 9.4, -11.5, -16.4, -27.0, -20.0),
        (20.6, 10.2, -11.8, -19.0, -31.0, -24.0),
        (22.2, 10.6, -11.8, -23.5, -35.0, -29.0),
        (23.2, 10.4, -11.6, -31.0, -40.0, -36.0),
        (23.6, 10.0, -11.4, -48.0, -50.0, -48.0),
    ]
)
_COLLAR_RADIUS = 0.42


def _rings(n_rings: int, n_around: int) -> Floats:
    """Points [n_rings, n_around, 3] of the lofted surface."""
    rows = PchipInterpolator(np.linspace(0, 1, len(_RINGS)), _RINGS)(np.linspace(0, 1, n_rings))
    half, front, back, side_y, front_y, back_y = rows.T[..., None]
    around = np.linspace(0, 2 * np.pi, n_around, endpoint=False)
    sine, cosine = np.sin(around), np.cos(around)
    middle, depth = 0.5 * (front + back), 0.5 * (front - back)
    x = half * np.sign(sine) * np.abs(sine) ** 0.85
    z = middle + depth * np.sign(cosine) * np.abs(cosine) ** 0.95
    forward = np.clip(cosine, 0, 1) ** 1.6
    backward = np.clip(-cosine, 0, 1) ** 1.6
    y = side_y + (front_y - side_y) * forward + (back_y - side_y) * backward
    points: Floats = np.stack(np.broadcast_arrays(x, y, z), -1).astype(np.float32)
    return points


def loft_shirt(palette: Palette, generator: np.random.Generator) -> tuple[Floats, Ints, Floats]:
    """The shirt with its ribbed collar: vertices [V, 3] (model centimetres), triangles, linear colours [V, 3]."""
    n_rings, n_around, n_tube = 64, 120, 10
    cloth = _rings(n_rings, n_around)
    folds = ndimage.gaussian_filter(
        generator.standard_normal((n_rings, n_around)), (7, 6), mode=("nearest", "wrap")
    )
    amount = np.linspace(0, 1, n_rings)[:, None] ** 0.7
    cloth[..., 2] += 0.55 * amount * folds / folds.std() * np.cos(np.linspace(0, 2 * np.pi, n_around))
    ring = cloth[0]
    out = ring - ring.mean(0)
    out[:, 1] = 0
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    turn = np.linspace(0, 2 * np.pi, n_tube, endpoint=False)
    up = np.array([0.0, 1.0, 0.0])
    tube = ring[None] + _COLLAR_RADIUS * (
        np.cos(turn)[:, None, None] * out * 0.55 + np.sin(turn)[:, None, None] * up * 1.5
    )
    colour = np.broadcast_to(palette.clothes, (n_rings * n_around, 3))
    rib = np.where(np.arange(n_around) % 2 == 0, 0.72, 0.86)[None, :, None] * palette.clothes
    vertices = np.concatenate([cloth.reshape(-1, 3), tube.reshape(-1, 3)]).astype(np.float32)
    triangles = np.concatenate(
        [_grid(n_rings, n_around, False), _grid(n_tube, n_around, True)[:, ::-1] + n_rings * n_around]
    )
    colours = np.concatenate([colour, np.broadcast_to(rib, (n_tube, n_around, 3)).reshape(-1, 3)])
    return vertices, triangles, colours.astype(np.float32)


def _grid(rows: int, around: int, is_closed: bool) -> Ints:
    """Triangles of a grid that closes round its columns (and its rows, where closed)."""
    i, j = np.meshgrid(np.arange(rows if is_closed else rows - 1), np.arange(around), indexing="ij")
    low, right = (i + 1) % rows, (j + 1) % around
    a, b, c, d = i * around + j, low * around + j, low * around + right, i * around + right
    triangles = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    return triangles.astype(np.int32)


def paint_room(size: int, palette: Palette, generator: np.random.Generator) -> Floats:
    """A wall with a window, a shelf of books and a plant, out of focus: linear [size, size, 3]."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    side = float(generator.choice([-1.0, 1.0]))
    across = x if side > 0 else 1 - x
    room = palette.wall * (0.62 + 0.55 * (1 - across) - 0.22 * y)[..., None]

    def box(left: float, top: float, right: float, low: float, colour: object) -> None:
        inside = ((across > left) & (across < right) & (y > top) & (y < low))[..., None]
        np.copyto(room, np.broadcast_to(np.asarray(colour, np.float32), room.shape), where=inside)

    box(-0.1, 0.05, 0.17, 0.62, (0.95, 1.0, 1.05))
    box(0.035, 0.05, 0.055, 0.62, palette.wall * 0.8)
    box(-0.1, 0.31, 0.17, 0.335, palette.wall * 0.8)
    wood = to_linear((0.45, 0.32, 0.22))
    for shelf in (0.26, 0.56):
        left = 0.76
        while left < 0.99:
            width, tall = generator.uniform(0.012, 0.035), generator.uniform(0.10, 0.19)
            hue = to_linear(np.clip(generator.uniform(0.25, 0.6) * generator.uniform(0.75, 1.1, 3), 0, 1))
            box(left, shelf - tall, left + width, shelf, hue)
            left += width + (0.05 if generator.random() < 0.15 else 0.002)
        box(0.74, shelf, 1.1, shelf + 0.018, wood)
    green = to_linear((0.25, 0.40, 0.22))
    for _ in range(26):
        cx, cy = 0.13 + generator.normal(0, 0.045), 0.68 + generator.normal(0, 0.06)
        angle, long = generator.uniform(0, np.pi), generator.uniform(0.03, 0.06)
        along = (across - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        cross = -(across - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        leaf = ((along / long) ** 2 + (cross / (0.3 * long)) ** 2 < 1)[..., None]
        np.copyto(
            room, np.broadcast_to(green * np.float32(generator.uniform(0.5, 1.3)), room.shape), where=leaf
        )
    box(0.07, 0.76, 0.19, 0.92, to_linear((0.72, 0.66, 0.60)))
    box(-0.1, 0.92, 0.3, 0.95, wood)
    blurred = ndimage.gaussian_filter(room, (0.018 * size, 0.018 * size, 0), mode="nearest")
    vignette = 1.0 - 0.25 * smoothstep(0.35, 0.8, np.hypot(x - 0.5, y - 0.5))
    blurred *= vignette[..., None]
    return np.asarray(blurred, np.float32)

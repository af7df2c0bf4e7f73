"""Colours: a person's palette, and textures painted as functions of the place on the mean head.

Textures are linear RGB plus gloss, [layers, size, size, 4] float32: 0 face, 1 scalp and neck, 2 left eye, 3 right eye.
Places are centimetres of the mean head (see ``rig.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from synctalk import _native
from synctalk_trainer.synthetic.rig import BROW, PARTS, Floats, Head

__all__ = ["Palette", "draw_palette", "hairline", "paint", "smoothstep", "to_linear"]

_SKINS = ((0.93, 0.76, 0.67), (0.90, 0.71, 0.59), (0.84, 0.63, 0.50), (0.74, 0.52, 0.39), (0.58, 0.39, 0.28))
_HAIRS = ((0.10, 0.08, 0.07), (0.24, 0.15, 0.10), (0.36, 0.23, 0.14), (0.56, 0.40, 0.23), (0.46, 0.22, 0.12))
_IRISES = ((0.30, 0.45, 0.60), (0.36, 0.24, 0.13), (0.36, 0.46, 0.30), (0.44, 0.36, 0.20), (0.22, 0.14, 0.09))
_CLOTHES = (
    (0.20, 0.30, 0.42),
    (0.46, 0.18, 0.18),
    (0.22, 0.36, 0.30),
    (0.74, 0.72, 0.68),
    (0.22, 0.22, 0.25),
)
_WALLS = ((0.60, 0.64, 0.68), (0.70, 0.66, 0.60), (0.56, 0.62, 0.58), (0.64, 0.58, 0.60))
_STYLES = ("swept", "bob", "back")


@dataclass(frozen=True)
class Palette:
    """Linear colours of one person and what surrounds them; ``style`` is the haircut."""

    skin: Floats
    lips: Floats
    hair: Floats
    iris: Floats
    clothes: Floats
    wall: Floats
    freckles: float
    stubble: float
    style: str


def to_linear(colour: object) -> Floats:
    """sRGB 0..1 to linear light."""
    value = np.asarray(colour, np.float32)
    linear: Floats = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )
    return linear


def smoothstep(low: float, high: float, x: Floats) -> Floats:
    """0 below ``low``, 1 above ``high`` (or the other way round when ``low > high``), smooth between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    smooth: Floats = t * t * (3.0 - 2.0 * t)
    return smooth


def draw_palette(generator: np.random.Generator) -> Palette:
    """A person's colours by chance; dark skin goes with dark hair and eyes."""
    tone = int(generator.integers(len(_SKINS)))
    hair = int(generator.integers(2 if tone >= 3 else len(_HAIRS)))
    iris = int(generator.choice([1, 4]) if tone >= 3 else generator.integers(len(_IRISES)))
    skin = to_linear(_SKINS[tone]) * generator.uniform(0.92, 1.04)
    style = str(generator.choice(_STYLES))
    stubble = float(generator.choice([0.0, 0.5, 1.0])) if style != "bob" else 0.0
    redness = np.array([0.82, 0.46, 0.46]) * (1.0 if tone < 3 else 0.9)
    return Palette(
        skin=skin.astype(np.float32),
        lips=(skin * redness * generator.uniform(0.9, 1.05)).astype(np.float32),
        hair=(to_linear(_HAIRS[hair]) * generator.uniform(0.8, 1.15)).astype(np.float32),
        iris=to_linear(_IRISES[iris]),
        clothes=to_linear(_CLOTHES[int(generator.integers(len(_CLOTHES)))]),
        wall=to_linear(_WALLS[int(generator.integers(len(_WALLS)))]),
        freckles=float(generator.choice([0.0, 0.3, 1.0])) if tone < 2 else 0.0,
        stubble=stubble,
        style=style,
    )


def hairline(points: Floats) -> Floats:
    """Centimetres above the hairline, positive where hair grows; points [..., 3] of the mean head."""
    x, y, z = np.abs(points[..., 0]), points[..., 1], points[..., 2]
    azimuth = np.degrees(np.arctan2(x, z - 1.0))
    angles = [0, 20, 38, 52, 62, 72, 80, 88, 96, 112, 122, 140, 180]
    heights = [10.1, 10.3, 10.4, 9.4, 7.2, 5.4, 3.6, 1.9, 4.3, 4.3, 0.0, -3.6, -5.0]
    above: Floats = y - np.interp(azimuth, angles, heights).astype(np.float32)
    ear = (x > 7.45) & (y < 4.4) & (z > -4.0)
    return np.where(ear, -2.0, above).astype(np.float32)


def _noise(shape: tuple[int, int], sigma: float, generator: np.random.Generator) -> Floats:
    """Smooth noise with unit variance."""
    field = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    unit: Floats = field / field.std()
    return unit


def _places(head: Head, part: str, size: int) -> Floats:
    """Mean-head place of every texel [size, size, 3]; texels outside of the chart take their neighbour's."""
    triangles = head.triangles[head.part == PARTS.index(part)]
    if not len(triangles):
        return np.zeros((size, size, 3), np.float32)
    at = np.concatenate([head.uv * size, np.ones((len(head.uv), 1), np.float32)], 1).astype(np.float32)
    ids = np.empty((size, size), np.int32)
    _native.rasterize(at, triangles, ids, np.empty((size, size), np.float32), perspective=False)
    places = np.zeros((size, size, 3), np.float32)
    _native.interpolate_attributes(at, triangles, ids, head.mean, places, perspective=False)
    nearest = ndimage.distance_transform_edt(ids < 0, return_distances=False, return_indices=True)
    filled: Floats = places[nearest[0], nearest[1]]
    return filled


def _blob(places: Floats, centre: tuple[float, float, float], radius: tuple[float, float, float]) -> Floats:
    """A soft mirrored spot: 1 at (+-x, y, z)."""
    mirrored = np.concatenate([np.abs(places[..., :1]), places[..., 1:]], -1)
    d = (mirrored - np.array(centre, np.float32)) / np.array(radius, np.float32)
    spot: Floats = np.exp(-(d**2).sum(-1))
    return spot


_OUTER_LIPS_TOP = (
    (0.0, -2.52),
    (0.35, -2.46),
    (0.75, -2.42),
    (1.3, -2.58),
    (1.8, -2.84),
    (2.25, -3.25),
    (2.5, -3.5),
)
_OUTER_LIPS_LOW = ((0.0, -4.42), (0.6, -4.4), (1.05, -4.3), (1.8, -4.02), (2.25, -3.72), (2.5, -3.52))


def _lips(places: Floats) -> Floats:
    """1 on the vermilion, soft at its border."""
    x, y, z = np.abs(places[..., 0]), places[..., 1], places[..., 2]
    top = np.interp(x, *np.array(_OUTER_LIPS_TOP).T)
    low = np.interp(x, *np.array(_OUTER_LIPS_LOW).T)
    inside = np.minimum(np.minimum(top - y, y - low), (2.55 - x) * 1.2)
    lips: Floats = smoothstep(-0.08, 0.10, inside.astype(np.float32)) * smoothstep(9.4, 10.0, z)
    return lips


def _skin(places: Floats, palette: Palette, generator: np.random.Generator) -> Floats:
    """Skin of the face and neck with its blood, shadows, freckles, stubble and painted brows [.., 4]."""
    size = places.shape[:2]
    colour = np.broadcast_to(palette.skin, (*size, 3)).copy()
    blotch = (
        _noise(size, size[0] / 40, generator)[..., None] * 0.025
        + _noise(size, 2.0, generator)[..., None] * 0.018
    )
    colour *= 1.0 + blotch * np.array([0.7, 1.0, 1.1], np.float32)
    red = 0.75 * _blob(places, (4.6, -0.6, 9.0), (2.2, 1.9, 4.0)) + 0.8 * _blob(
        places, (0.0, 0.1, 12.8), (1.3, 1.1, 1.6)
    )
    red += 0.5 * _blob(places, (0.0, -7.0, 10.2), (1.8, 1.1, 2.0)) + 0.7 * _blob(
        places, (9.0, 2.0, 0.0), (2.0, 3.5, 3.0)
    )
    red += 0.35 * _blob(places, (0.0, -1.3, 11.5), (1.7, 0.5, 2.0)) + 0.12 * _noise(
        size, size[0] / 16, generator
    )
    red = np.clip(red, -0.3, 1.0)[..., None]
    colour *= 1.0 + red * (np.array([1.0, 0.80, 0.80], np.float32) - 1.0)
    lid = _blob(places, (3.15, 4.15, 9.3), (1.7, 0.75, 1.6)) + 0.8 * _blob(
        places, (2.9, 2.7, 9.3), (1.5, 0.5, 1.5)
    )
    lid += 0.8 * _blob(places, (1.7, 3.3, 9.4), (0.5, 0.7, 1.0))
    colour *= 1.0 - np.clip(lid, 0, 1)[..., None] * np.array([0.16, 0.26, 0.22], np.float32)
    colour *= 1.0 - 0.85 * _lid_margin(places)[..., None]
    if palette.freckles:
        speck = smoothstep(1.9, 2.6, _noise(size, 2.2, generator)) * (
            _blob(places, (3.2, 0.6, 10.0), (3.2, 2.0, 4.0))
            + _blob(places, (0.0, 1.0, 12.0), (2.0, 2.0, 3.0))
        )
        colour *= 1.0 - palette.freckles * np.clip(speck, 0, 1)[..., None] * np.array(
            [0.22, 0.38, 0.45], np.float32
        )
    if palette.stubble:
        colour *= 1.0 - palette.stubble * _stubble(places, generator)[..., None] * np.array(
            [0.34, 0.30, 0.24], np.float32
        )
    roots = _brow_shadow(places)[..., None]
    colour = colour * (1 - 0.5 * roots) + palette.hair * 1.2 * 0.5 * roots
    fade = smoothstep(-0.15, 1.1, hairline(places) + 0.22 * _noise(size, 3.0, generator))[..., None]
    colour = colour * (1 - 0.93 * fade) + 0.55 * palette.hair * 0.93 * fade
    lips = _lips(places)[..., None]
    lip_line = 1.0 + 0.05 * _noise((1, size[1]), 2.0, generator)[..., None]
    colour = colour * (1 - lips) + palette.lips * lip_line * lips
    gloss = 0.8 + 0.18 * _noise(size, 1.3, generator) + 0.5 * _blob(places, (0.0, 0.6, 12.6), (0.9, 2.2, 1.5))
    gloss += 0.25 * _blob(places, (0.0, 8.5, 10.0), (3.0, 1.8, 3.0)) + 1.1 * lips[..., 0]
    gloss *= 1.0 - 0.9 * fade[..., 0]
    return np.concatenate([colour, np.clip(gloss, 0, 3)[..., None]], -1).astype(np.float32)


def _lid_margin(places: Floats) -> Floats:
    """1 along the roots of the upper lashes."""
    x, y = np.abs(places[..., 0]), places[..., 1]
    edge = np.interp(
        x, [1.84, 2.2, 2.78, 3.3, 3.87, 4.2, 4.46, 4.7], [3.25, 3.68, 3.94, 3.98, 3.87, 3.67, 3.43, 3.3]
    )
    line: Floats = smoothstep(0.15, 0.05, np.abs(y - edge).astype(np.float32)) * smoothstep(1.85, 2.3, x)
    return line * smoothstep(4.75, 4.4, x) * smoothstep(8.2, 8.6, places[..., 2])


def _stubble(places: Floats, generator: np.random.Generator) -> Floats:
    """Where a beard would grow, 0..1."""
    x, y, z = np.abs(places[..., 0]), places[..., 1], places[..., 2]
    chin = smoothstep(-4.2, -5.4, y) * smoothstep(-10.5, -8.0, y + 0.25 * (9.0 - z))
    cheek = (
        smoothstep(4.2, 6.0, x)
        * smoothstep(1.5, -2.5, y)
        * smoothstep(-7.0, -5.0, y)
        * smoothstep(1.0, 3.0, z)
    )
    upper = (
        smoothstep(-1.3, -1.7, y)
        * smoothstep(3.6, 2.6, x)
        * smoothstep(-4.6, -3.9, y)
        * smoothstep(10.0, 10.4, z)
    )
    area = np.clip(np.maximum(np.maximum(chin * smoothstep(1.0, 3.0, z), cheek), upper), 0, 1)
    grain = np.clip(0.75 + 0.35 * _noise(places.shape[:2], 0.9, generator), 0, 1.4)
    beard: Floats = area * grain
    return beard


def _brow_shadow(places: Floats) -> Floats:
    """Soft shade under the brow hairs, 0..1."""
    x, y = np.abs(places[..., 0]), places[..., 1]
    along = np.array(BROW)
    middle = np.interp(x, along[:, 0], along[:, 1])
    half = np.interp(x, [0.7, 1.2, 3.0, 5.0, 6.0], [0.15, 0.42, 0.38, 0.22, 0.08])
    inside = smoothstep(1.0, 0.35, (np.abs(y - middle) / half).astype(np.float32))
    shade: Floats = (
        inside * smoothstep(0.75, 1.3, x) * smoothstep(6.0, 5.4, x) * smoothstep(6.0, 7.0, places[..., 2])
    )
    return shade


def _eye(places: Floats, centre: Floats, palette: Palette, generator: np.random.Generator) -> Floats:
    """Sclera, limbus, iris fibres and pupil by the angle from the optical axis [.., 4]."""
    axis = places - centre
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip(axis[..., 2], -1, 1)))
    around = np.arctan2(axis[..., 1], axis[..., 0])
    spokes = _noise((1, 720), 1.6, generator)[0]
    fibre = spokes[((around + np.pi) / (2 * np.pi) * 719).astype(int)]
    white = np.broadcast_to(to_linear((0.89, 0.865, 0.85)), places.shape).copy()
    white *= 1.0 - smoothstep(35, 75, angle)[..., None] * np.array([0.10, 0.30, 0.30], np.float32)
    ring = 25.5
    inner = smoothstep(20.0, 10.0, angle)[..., None]
    iris = palette.iris * (
        1.15 + 0.22 * fibre[..., None] * smoothstep(9.0, 14.0, angle)[..., None] + 0.5 * inner
    )
    iris = iris * (1.0 - 0.72 * smoothstep(ring - 7.5, ring - 0.5, angle)[..., None])
    # Light that enters from above gathers in the lower half.
    iris = iris * (1.0 - 0.35 * np.sin(around)[..., None])
    pupil = smoothstep(11.2, 9.4, angle)[..., None]
    colour = white + (iris - white) * smoothstep(ring + 2.0, ring - 2.0, angle)[..., None]
    colour = colour * (1 - pupil) + 0.004 * pupil
    return np.concatenate([colour, np.ones((*angle.shape, 1))], -1).astype(np.float32)


def paint(head: Head, palette: Palette, generator: np.random.Generator, size: int = 1024) -> Floats:
    """All textures of a head: [4, size, size, 4], linear colour and gloss."""
    layers = [_skin(_places(head, part, size), palette, generator) for part in ("face", "scalp")]
    for side, part in enumerate(("eye_left", "eye_right")):
        middle: NDArray[np.float32] = head.mean[head.eye_vertices[side]]
        centre = np.array(
            [middle[:, 0].mean(), 0.5 * (middle[:, 1].max() + middle[:, 1].min()), 7.95], np.float32
        )
        layers.append(_eye(_places(head, part, size), centre, palette, generator))
    return np.stack(layers)

"""Hair, brows and lashes as strands: thin ribbons that follow the head. All lengths are centimetres of the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from synctalk_trainer.synthetic.paint import Palette, hairline, smoothstep
from synctalk_trainer.synthetic.rig import BROW, PARTS, Floats, Head, Ints, vertex_normals

__all__ = ["Strands", "grow_brows", "grow_hair", "grow_lashes"]


@dataclass(frozen=True)
class Strands:
    """``n`` ribbons of ``m`` points, root first.

    points, facing (the way the ribbon's flat side looks): [n, m, 3]; width, light (0 hidden, 1 open): [n, m];
    colour: [n, m, 3] linear; deltas: [K, n, m, 3], or None where strands stay with the skull.
    """

    points: Floats
    facing: Floats
    width: Floats
    light: Floats
    colour: Floats
    deltas: Floats | None = None

    def ribbons(self) -> tuple[Floats, Floats, Ints]:
        """Vertices [n * m * 2, 3], the strands' tangents there, and triangles [n * (m - 1) * 2, 3]."""
        n, m = self.width.shape
        tangent = np.gradient(self.points, axis=1)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-9)
        side = np.cross(tangent, self.facing)
        side /= np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-9)
        reach = 0.5 * self.width[..., None] * side
        vertices = np.stack([self.points - reach, self.points + reach], 2).reshape(-1, 3)
        first = (np.arange(n)[:, None] * m + np.arange(m - 1)).reshape(-1, 1) * 2
        triangles = np.concatenate([first + np.array([0, 1, 2]), first + np.array([1, 3, 2])])
        return (
            vertices.astype(np.float32),
            np.repeat(tangent.reshape(-1, 3), 2, 0),
            triangles.astype(np.int32),
        )


@dataclass(frozen=True)
class _Seeds:
    """Points spread over a part of the surface, with their triangle and weights."""

    points: Floats
    mean: Floats
    normals: Floats
    corners: Ints
    weights: Floats


def _scatter(head: Head, chosen: Floats, n: int, generator: np.random.Generator) -> _Seeds:
    """``n`` points on triangles drawn by area times ``chosen`` [T]."""
    a, b, c = (head.vertices[head.triangles[:, k]] for k in range(3))
    weight = chosen * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    triangle = generator.choice(len(weight), n, p=weight / weight.sum())
    u, v = generator.random(n), generator.random(n)
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    weights = np.stack([1 - u - v, u, v], 1).astype(np.float32)
    corners = head.triangles[triangle]
    normals = _skin_normals(head)

    def at(values: Floats) -> Floats:
        return np.asarray(np.einsum("nk,nkd->nd", weights, values[corners]), np.float32)

    return _Seeds(at(head.vertices), at(head.mean), at(normals), corners, weights)


def _skin_normals(head: Head) -> Floats:
    merged = head.origin_vertex[head.triangles]
    vertices = np.zeros((int(head.origin_vertex.max()) + 1, 3), np.float32)
    vertices[head.origin_vertex] = head.vertices
    normals: Floats = vertex_normals(vertices, merged)[head.origin_vertex]
    return normals


def _flow(places: Floats, roots: Floats, style: str) -> Floats:
    """The way hair is combed at places [n, 3] of strands rooted at ``roots``: unit vectors."""
    x, y, z = places.T
    if style == "back":
        front = smoothstep(2.0, 8.0, z)
        way = np.stack(
            [-0.04 * x, 1.6 * front - 0.45 - 0.5 * smoothstep(2.0, -4.0, z), np.full_like(x, -1.0)], 1
        )
    elif style == "bob":
        away = np.where(roots[:, 0] > 1.2, 1.0, -1.0)
        top = smoothstep(9.0, 13.0, y)
        face = smoothstep(4.0, 6.0, z) * smoothstep(10.0, 8.0, y)
        way = np.stack(
            [away * (0.05 + 1.6 * top + 1.2 * face), -0.25 - 1.2 * (1 - top), -0.3 - 0.9 * face], 1
        )
    else:
        top = smoothstep(7.0, 12.0, y)
        away = np.where(roots[:, 0] > 3.2, 1.0, -1.0)
        front = smoothstep(2.0, 9.0, z)
        lift = 0.55 * front * top
        way = np.stack(
            [away * (0.1 + 1.0 * top), lift - (1 - top), -0.55 - 0.25 * front + 0.5 * (1 - top) * 0.0], 1
        )
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    return way.astype(np.float32)


_LENGTHS = {"swept": (1.3, 5.5), "bob": (15.0, 19.0), "back": (8.0, 12.0)}
_COUNTS = {"swept": 6500, "bob": 5200, "back": 5200}
_STEPS = 8
_TIPS_Y = {"swept": -20.0, "bob": -5.8, "back": -20.0}
_UNRULY = {"swept": (0.22, 0.07), "bob": (0.07, 0.04), "back": (0.08, 0.04)}


def grow_hair(head: Head, palette: Palette, generator: np.random.Generator, amount: float = 1.0) -> Strands:
    """Comb strands over the skull: each goes along the style's flow, held above the surface by its own layer."""
    above = hairline(head.mean)[head.triangles].mean(1)
    skin = (head.part == PARTS.index("face")) | (head.part == PARTS.index("scalp"))
    chosen = skin * smoothstep(-0.1, 0.8, above)
    n = int(amount * _COUNTS[palette.style])
    seeds = _scatter(head, chosen, n, generator)
    covered = np.unique(head.triangles[skin])
    tree = cKDTree(head.vertices[covered])
    normals = _skin_normals(head)[covered]
    surface = head.vertices[covered]
    short, long = _LENGTHS[palette.style]
    rise = smoothstep(3.0, 11.0, seeds.mean[:, 1])
    length = (short + (long - short) * rise) * generator.uniform(0.8, 1.05, n)
    edge = smoothstep(0.0, 1.6, hairline(seeds.mean))
    thick = {"swept": 0.35 + 1.1 * rise, "bob": 0.65 + 0.9 * rise, "back": 0.35 + 0.75 * rise}[palette.style]
    layer = (0.06 + thick * (0.15 + 0.85 * edge) * np.sqrt(generator.random(n))).astype(np.float32)
    clumps = cKDTree(seeds.points[: n // 22])
    clump = clumps.query(seeds.points)[1]
    together, alone = _UNRULY[palette.style]
    wander = generator.normal(0, together, (n // 22, 3))[clump] + generator.normal(0, alone, (n, 3))
    lowest = _TIPS_Y[palette.style] + generator.normal(0, 0.35, n)
    points = np.empty((n, _STEPS, 3), np.float32)
    facing = np.empty_like(points)
    position, way = seeds.points.copy(), _flow(seeds.points, seeds.points, palette.style)
    for step in range(_STEPS):
        nearest = tree.query(position)[1]
        out = normals[nearest]
        along = _flow(position, seeds.points, palette.style) + wander
        along -= 0.75 * (along * out).sum(1, keepdims=True).clip(max=0) * out
        height = ((position - surface[nearest]) * out).sum(1)
        wanted = layer * min(1.0, (step + 1) / 3)
        hangs = (position[:, 1] < 2.5) if palette.style == "bob" else np.zeros(n, bool)
        lift = np.where(height < wanted, (wanted - height).clip(0, 1.5), np.where(hangs, 0, wanted - height))
        position = position + lift[:, None] * out
        points[:, step], facing[:, step] = position, out
        way = 0.35 * way + 0.65 * along
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        position = position + way * (length / (_STEPS - 1) * (position[:, 1] > lowest))[:, None]
    taper = np.interp(np.linspace(0, 1, _STEPS), [0, 0.15, 0.7, 1], [0.7, 1, 0.9, 0.25])
    width = generator.uniform(0.19, 0.31, (n, 1)) / amount**0.5 * taper * (0.55 + 0.45 * edge[:, None])
    tint = 1.0 + generator.normal(0, 0.10, (n, 1)) + generator.normal(0, 0.10, (n // 22, 1))[clump]
    grey = palette.hair * np.clip(tint, 0.6, 1.5)
    tip = np.linspace(0.8, 1.15, _STEPS)[None, :, None]
    light = np.clip(0.35 + 0.65 * layer / (thick * 0.9), 0.3, 1.0)[:, None] * np.linspace(0.7, 1, _STEPS)
    # A strand across the face would hide what speaks.
    astray = (hairline(points) < -0.4) & (points[..., 2] > 4.5) & (np.abs(points[..., 0]) < 6.9)
    tame = ~astray.any(1)
    colour = (grey[:, None] * tip).astype(np.float32)
    return Strands(
        points[tame],
        facing[tame],
        width[tame].astype(np.float32),
        light[tame].astype(np.float32),
        colour[tame],
    )


def grow_brows(head: Head, palette: Palette, generator: np.random.Generator, n: int = 900) -> Strands:
    """Short hairs along ``rig.BROW`` that move with the skin."""
    x, y = np.abs(head.mean[:, 0]), head.mean[:, 1]
    along = np.array(BROW)
    centre = np.interp(x, along[:, 0], along[:, 1])
    half = np.interp(x, [0.7, 1.2, 3.0, 5.0, 6.0], [0.2, 0.44, 0.40, 0.24, 0.08])
    inside = smoothstep(1.1, 0.5, (np.abs(y - centre) / half).astype(np.float32)) * (x > 0.8) * (x < 6.0)
    inside *= head.mean[:, 2] > 6.0
    face = head.part == PARTS.index("face")
    seeds = _scatter(head, inside[head.triangles].mean(1) * face, n, generator)
    side = np.sign(seeds.mean[:, :1])
    out = np.abs(seeds.mean[:, 0])
    rise = np.interp(out, [0.9, 1.8, 3.8, 5.8], [1.6, 0.75, 0.15, -0.5])
    over = seeds.mean[:, 1] - np.interp(out, along[:, 0], along[:, 1])
    way = np.concatenate([side, (rise - 0.9 * over)[:, None], np.zeros_like(side)], 1)
    way += generator.normal(0, 0.12, way.shape)
    way -= (way * seeds.normals).sum(1, keepdims=True) * seeds.normals
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    steps = np.linspace(0, 1, 4)[None, :, None]
    length = generator.uniform(0.45, 0.8, (n, 1, 1))
    lift = 0.05 + 0.10 * np.sin(np.pi * 0.6 * steps)
    points = seeds.points[:, None] + way[:, None] * length * steps + seeds.normals[:, None] * lift
    facing = np.broadcast_to(seeds.normals[:, None], points.shape)
    width = np.broadcast_to(np.array([0.045, 0.05, 0.04, 0.015], np.float32), (n, 4))
    deltas = np.einsum("nk,xnkd->xnd", seeds.weights, head.deltas[:, seeds.corners])
    tone = palette.hair * generator.uniform(0.55, 0.95, (n, 1))
    return Strands(
        points.astype(np.float32),
        facing.astype(np.float32),
        width,
        np.full((n, 4), 0.8, np.float32),
        np.broadcast_to(tone[:, None], points.shape).astype(np.float32),
        np.broadcast_to(deltas[:, :, None], (len(deltas), n, 4, 3)).astype(np.float32),
    )


def grow_lashes(head: Head, palette: Palette) -> Strands:
    """The rig's lashes, dark."""
    n, m, _ = head.lashes.shape
    is_upper = head.lashes[:, -1, 1:2] > head.eye_centres[0, 1] - 0.2
    dark = np.where(is_upper[..., None], 0.3 * palette.hair + 0.006, 0.45 * palette.skin)
    return Strands(
        head.lashes,
        np.broadcast_to(np.array([0.0, 0.3, 1.0], np.float32), head.lashes.shape),
        (np.where(is_upper, 1.3, 0.6) * np.linspace(0.028, 0.010, m)).astype(np.float32),
        np.full((n, m), 0.6, np.float32),
        np.broadcast_to(dark, head.lashes.shape).astype(np.float32),
        head.lash_deltas,
    )

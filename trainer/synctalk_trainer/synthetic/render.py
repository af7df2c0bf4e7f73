"""A painted person in front of a camera: assembly, baked light, frames and masks.

Vertices are in head space, metres; the camera's axes and the pose are those of ``synctalk/geometry.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from synctalk import _native
from synctalk.geometry import Camera
from synctalk_trainer.synthetic.body import loft_shirt, paint_room
from synctalk_trainer.synthetic.hair import Strands, grow_brows, grow_hair, grow_lashes
from synctalk_trainer.synthetic.paint import draw_palette, paint, smoothstep, to_linear
from synctalk_trainer.synthetic.rig import PARTS, Floats, Head, Ints, vertex_normals

__all__ = ["Drawn", "Person", "Pose", "Renderer", "make_person"]

_FACE, _SCALP, _MOUTH, _TEETH, _LEFT_EYE, _RIGHT_EYE, _HAIR, _LASH, _CLOTH = range(9)
# kind, texture layer, highlight, shininess, wrap of red, green and blue: see csrc/rasterize.h.
_TABLE = np.array(
    [
        (0, 0, 0.75, 22, 0.42, 0.18, 0.12),
        (0, 1, 0.55, 20, 0.42, 0.18, 0.12),
        (0, -1, 1.2, 40, 0.30, 0.10, 0.10),
        (0, -1, 1.5, 60, 0.25, 0.22, 0.18),
        (0, 2, 9.0, 600, 0.20, 0.15, 0.15),
        (0, 3, 9.0, 600, 0.20, 0.15, 0.15),
        (1, -1, 0.45, 60, 0, 0, 0),
        (1, -1, 0.10, 60, 0, 0, 0),
        (0, -1, 0.05, 6, 0.10, 0.10, 0.10),
    ],
    np.float32,
)
_HEAD_LABEL, _TORSO_LABEL = 2, 1


def _lights() -> Floats:
    def unit(*direction: float) -> Floats:
        return np.array(direction, np.float32) / np.float32(np.linalg.norm(direction))

    rows = [
        unit(-0.55, -0.62, -0.75),
        (1.45, 1.36, 1.24),
        unit(0.85, -0.15, -0.60),
        (0.34, 0.38, 0.44),
        unit(0.55, -0.55, 0.70),
        (0.55, 0.58, 0.62),
        (0.46, 0.50, 0.56),
        (0.24, 0.20, 0.17),
    ]
    return np.array(rows, np.float32)


@dataclass(frozen=True)
class Pose:
    """One frame: head rotation [3, 3] and translation [3] to the camera, the torso's, expressions [K] and the gaze.

    gaze: yaw (to the subject's left) and pitch (up) in degrees.
    """

    rotation: Floats
    translation: Floats
    torso_rotation: Floats
    torso_translation: Floats
    expression: Floats
    gaze: tuple[float, float]


@dataclass(frozen=True)
class Person:
    """Everything that does not change from frame to frame; V vertices, of which the first ``n_head`` are the head's.

    ``deltas`` [K, D, 3] (metres) move the first D vertices: head, lashes and brows. ``normals`` are tangents on strands.
    """

    head: Head
    vertices: Floats
    normals: Floats
    triangles: Ints
    materials: Ints
    labels: NDArray[np.uint8]
    colours: Floats
    uv: Floats
    has_stubble: bool
    head_weight: Floats
    deltas: Floats
    occlusion: Floats
    key_visibility: Floats
    textures: Floats
    room: Floats


def _rotation(yaw: float, pitch: float) -> Floats:
    """Turn by yaw about +y, then pitch upward; degrees."""
    a, b = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    turn: Floats = (about_y @ about_x).astype(np.float32)
    return turn


def _neck_weight(mean: Floats) -> Floats:
    """1 where a point follows the head, 0 where it follows the torso: falls along the neck."""
    below = mean[:, 1] + 7.5 - 0.3 * (9.0 - mean[:, 2])
    return smoothstep(-7.5, -0.6, below)


def _head_colours(head: Head) -> Floats:
    """Vertex colours that textures multiply, or that stand alone inside the mouth [V, 3]."""
    colours = np.ones((len(head.vertices), 3), np.float32)
    for part, colour in (("mouth", (0.62, 0.30, 0.29)), ("teeth", (0.90, 0.86, 0.79))):
        corners = np.unique(head.triangles[head.part == PARTS.index(part)])
        colours[corners] = to_linear(colour)
    return colours


def _bake(
    vertices: Floats, normals: Floats, triangles: Ints, is_strand: NDArray[np.bool_], detail: float
) -> tuple[Floats, Floats]:
    """How open each vertex is to the sky, and to the (soft) key light: two [V] in 0..1, at rest."""
    n, size = (48, 360) if detail == 1 else (16, 160)
    k = np.arange(n) + 0.5
    height, turn = 1 - 2 * k / n, np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - height**2)
    sky = np.stack([radius * np.cos(turn), height, radius * np.sin(turn)], 1)
    sky = sky[sky[:, 2] > -0.75]
    spread = np.random.default_rng(0).normal(0, 0.16, (16, 3))
    key = _lights()[0] * (1, -1, -1) + spread
    key /= np.linalg.norm(key, axis=1, keepdims=True)
    total, open_sky = np.full(len(vertices), 1e-3), np.zeros(len(vertices))
    open_key = np.zeros(len(vertices))
    for i, way in enumerate(np.concatenate([sky, key])):
        seen = _visible(vertices, triangles, way.astype(np.float32), size)
        facing = normals @ way.astype(np.float32)
        if i < len(sky):
            weight = np.where(is_strand, 0.6 + 0.4 * (way[1] > -0.3), np.maximum(facing, 0))
            total += weight
            open_sky += weight * seen
        else:
            open_key += seen / len(key)
    return (open_sky / total).astype(np.float32), open_key.astype(np.float32)


def _visible(vertices: Floats, triangles: Ints, way: Floats, size: int) -> Floats:
    """1 where nothing lies between a vertex and far away along ``way``."""
    across = np.cross(way, (0.0, 0.0, 1.0) if abs(way[1]) > 0.9 else (0.0, 1.0, 0.0))
    across /= np.linalg.norm(across)
    axes = np.stack([across, np.cross(way, across), -way])
    seen = (vertices - (0.0, -0.03, -0.02)) @ axes.T
    at = np.ascontiguousarray(
        np.concatenate([seen[:, :2] * (size / 0.62) + size / 2, seen[:, 2:]], 1), np.float32
    )
    depth = np.empty((size, size), np.float32)
    _native.rasterize(at, triangles, np.empty((size, size), np.int32), depth, perspective=False)
    x, y = (np.clip(at[:, k].astype(int), 0, size - 1) for k in range(2))
    return np.asarray(depth[y, x] > at[:, 2] - 0.0035, np.float32)


def make_person(head: Head, seed: int, picture: int, detail: float = 1.0) -> Person:
    """Paint, dress and light a head; ``picture``: pixels of the room's side (with supersampling); ``detail`` below 1 saves hair, texture and light."""
    generator = np.random.default_rng([seed, 1])
    palette = draw_palette(generator)
    strands: list[tuple[int, Strands]] = [
        (_LASH, grow_lashes(head, palette)),
        (_LASH, grow_brows(head, palette, generator)),
        (_HAIR, grow_hair(head, palette, generator, detail)),
    ]
    shirt, shirt_triangles, shirt_colours = loft_shirt(palette, generator)
    weight = _neck_weight(head.mean)
    vertices, normals = [head.to_metres(head.vertices)], [_normals(head, head.to_metres(head.vertices))]
    hidden = _under_shirt(head)
    triangles, materials = [head.triangles[~hidden]], [head.part[~hidden].astype(np.int32)]
    labels = [np.where(weight[triangles[0]].mean(1) > 0.93, _HEAD_LABEL, _TORSO_LABEL)]
    colours, weights = [_head_colours(head)], [weight]
    deltas, light = [head.deltas * head.scale], [np.ones(len(head.vertices), np.float32)]
    first = len(head.vertices)
    for material, strand in strands:
        points, tangents, ribbon = strand.ribbons()
        vertices.append(head.to_metres(points))
        normals.append(tangents)
        triangles.append(ribbon + first)
        materials.append(np.full(len(ribbon), material, np.int32))
        labels.append(np.full(len(ribbon), _HEAD_LABEL))
        colours.append(np.repeat(strand.colour.reshape(-1, 3), 2, 0))
        light.append(np.repeat(strand.light.ravel(), 2))
        weights.append(np.ones(len(points), np.float32))
        if strand.deltas is not None:
            deltas.append(np.repeat(strand.deltas.reshape(len(head.names), -1, 3), 2, 1) * head.scale)
        first += len(points)
    cloth = head.to_metres(shirt)
    vertices.append(cloth)
    normals.append(vertex_normals(cloth, shirt_triangles))
    triangles.append(shirt_triangles + first)
    materials.append(np.full(len(shirt_triangles), _CLOTH, np.int32))
    labels.append(np.full(len(shirt_triangles), _TORSO_LABEL))
    colours.append(shirt_colours)
    weights.append(np.zeros(len(shirt), np.float32))
    light.append(np.ones(len(shirt), np.float32))
    every = np.concatenate(vertices).astype(np.float32)
    all_normals, all_triangles = (
        np.concatenate(normals).astype(np.float32),
        np.concatenate(triangles).astype(np.int32),
    )
    all_materials = np.concatenate(materials)
    is_strand = np.zeros(len(every), bool)
    is_strand[np.unique(all_triangles[np.isin(all_materials, (_HAIR, _LASH))])] = True
    casts = all_materials != _LASH
    sky, key = _bake(every, all_normals, np.ascontiguousarray(all_triangles[casts]), is_strand, detail)
    own = np.concatenate(light)
    uv = np.zeros((len(every), 2), np.float32)
    uv[: len(head.uv)] = head.uv
    return Person(
        head=head,
        vertices=every,
        normals=all_normals,
        triangles=all_triangles,
        materials=all_materials.astype(np.int32),
        labels=np.concatenate(labels).astype(np.uint8),
        colours=np.concatenate(colours).astype(np.float32),
        uv=uv,
        has_stubble=palette.stubble > 0,
        head_weight=np.concatenate(weights).astype(np.float32),
        deltas=np.concatenate(deltas, 1),
        occlusion=sky * own,
        key_visibility=key * own,
        textures=paint(head, palette, generator, 1024 if detail == 1 else 256),
        room=paint_room(picture, palette, generator),
    )


def _under_shirt(head: Head) -> NDArray[np.bool_]:
    """Triangles of the neck and shoulders that cloth hides for certain."""
    x, y, z = head.mean[head.triangles].mean(1).T
    front = smoothstep(-8.0, 5.0, z)
    collar = -11.8 - 4.2 * front
    return np.asarray(((y < collar) | (np.abs(x) > 6.9) & (y < -9.0)) & (head.part <= 1))


def _normals(head: Head, vertices: Floats) -> Floats:
    """Unit normals of the head's vertices, smooth over texture seams."""
    merged = np.zeros((int(head.origin_vertex.max()) + 1, 3), np.float32)
    merged[head.origin_vertex] = vertices
    normals: Floats = vertex_normals(merged, head.origin_vertex[head.triangles])[head.origin_vertex]
    return normals


@dataclass(frozen=True)
class Drawn:
    """picture [H, W, 3] uint8, mask [H, W] (0 background, 1 torso, 2 head), vertices [V, 3] posed in head space."""

    picture: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    vertices: Floats


class Renderer:
    """Draws one person; ``camera`` is the picture's, ``supersampling`` the samples per pixel and axis."""

    def __init__(self, person: Person, camera: Camera, supersampling: int = 2) -> None:
        self.person, self.camera, self.supersampling = person, camera, supersampling
        head = person.head
        inside = np.isin(head.part, (PARTS.index("mouth"), PARTS.index("teeth")))
        still = np.zeros((len(person.vertices), 8), np.float32)
        self._attributes = np.concatenate(
            [still[:, :6], person.colours, still[:, :2], person.uv], 1, dtype=np.float32
        )
        self._inside = np.unique(head.triangles[inside])
        self._lips = (int(head.landmarks[62]), int(head.landmarks[66]))

    def posed(self, pose: Pose) -> tuple[Floats, Floats]:
        """Vertices [V, 3] in head space with expression and gaze, and normals there (tangents on strands)."""
        person, head = self.person, self.person.head
        vertices, normals = person.vertices.copy(), person.normals.copy()
        moved = person.deltas.shape[1]
        active = np.flatnonzero(pose.expression)
        if active.size:
            vertices[:moved] += np.tensordot(pose.expression[active], person.deltas[active], 1)
        turn = _rotation(*pose.gaze)
        for side in range(2):
            centre = head.to_metres(head.eye_centres[side])
            eye = head.eye_vertices[side]
            vertices[eye] = (vertices[eye] - centre) @ turn.T + centre
        normals[: len(head.vertices)] = _normals(head, vertices[: len(head.vertices)])
        return vertices, normals

    def aperture(self, vertices: Floats) -> float:
        """Distance of the inner lips at the middle, metres."""
        return float(np.linalg.norm(vertices[self._lips[0]] - vertices[self._lips[1]]))

    def draw(self, pose: Pose) -> Drawn:
        """One frame."""
        person, factor = self.person, self.supersampling
        rest, normals = self.posed(pose)
        weight = person.head_weight[:, None]
        seen = weight * (rest @ pose.rotation.T + pose.translation)
        seen += (1 - weight) * (rest @ pose.torso_rotation.T + pose.torso_translation)
        turned = weight * (normals @ pose.rotation.T) + (1 - weight) * (normals @ pose.torso_rotation.T)
        camera = self.camera.resized(self.camera.width * factor, self.camera.height * factor)
        at = np.empty(seen.shape, np.float32)
        at[:, :2] = camera.focal_px * seen[:, :2] / seen[:, 2:] + (camera.centre_x, camera.centre_y)
        at[:, 2] = seen[:, 2]
        attributes = self._attributes.copy()
        attributes[:, 0:3], attributes[:, 3:6], attributes[:, 9:11] = turned, seen, self._light(rest)
        shape = (camera.height, camera.width)
        ids, depth = np.empty(shape, np.int32), np.empty(shape, np.float32)
        _native.rasterize(at, person.triangles, ids, depth)
        picture = person.room.copy()
        _native.shade_picture(
            at,
            person.triangles,
            ids,
            attributes,
            person.materials,
            _TABLE,
            _lights(),
            person.textures,
            picture,
        )
        label = np.where(ids >= 0, person.labels[np.maximum(ids, 0)], 0)
        is_head = _shrink((label == _HEAD_LABEL).astype(np.float32), factor)
        is_body = _shrink((label > 0).astype(np.float32), factor)
        mask = np.where(is_head >= 0.5 * is_body, _HEAD_LABEL, _TORSO_LABEL) * (is_body >= 0.5)
        return Drawn(_develop(_shrink(picture, factor)), mask.astype(np.uint8), rest)

    def _light(self, rest: Floats) -> Floats:
        """Openness to the sky and to the key light [V, 2]: baked, but inside the mouth by its depth and opening."""
        light = np.stack([self.person.occlusion, self.person.key_visibility], 1)
        lips = 0.5 * (rest[self._lips[0]] + rest[self._lips[1]])
        depth = np.maximum(lips[2] - rest[self._inside, 2], 0.0)
        wide = min(self.aperture(rest) / 0.014, 1.0)
        light[self._inside] = (np.exp(-depth / 0.014) * (0.30 + 0.65 * wide))[:, None] * (1.0, 0.7)
        return light


def _shrink(picture: Floats, factor: int) -> Floats:
    """Mean over blocks of ``factor`` x ``factor`` pixels."""
    cells = [picture[i::factor, j::factor] for i in range(factor) for j in range(factor)]
    total: Floats = cells[0].copy()
    for cell in cells[1:]:
        total += cell
    return total / np.float32(factor**2)


def _develop(linear: Floats) -> NDArray[np.uint8]:
    """Linear light to 8-bit sRGB with a soft shoulder."""
    exposed = np.where(linear < 0.6, linear, 0.6 + 0.4 * np.tanh((linear - 0.6) / 0.4))
    encoded = np.where(exposed <= 0.0031308, 12.92 * exposed, 1.055 * exposed ** (1 / 2.4) - 0.055)
    picture: NDArray[np.uint8] = (encoded * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return picture

"""Heads that can be posed: vertices, triangles and expression offsets of one identity.

Model space is that of ICT-FaceKit: centimetres, +x to the subject's left, +y up, +z out of the face. Head space
(``synctalk/geometry.py``) has the same axes: metres = (centimetres - ``origin``) * ``scale``, where ``scale`` puts the
outer eye corners 0.0889 m apart and ``origin`` puts their midpoint at (0, 0.02664, 0.03173) m, its place in the
MediaPipe canonical face mesh.

Source: ICT-FaceKit light, Li et al. 2020, "Learning formation of physically-based face attributes" (MIT licence).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk import _native
from synctalk.errors import ModelError

__all__ = ["BROW", "LANDMARKS", "PARTS", "Head", "load_ict", "vertex_normals"]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int32]

PARTS = ("face", "scalp", "mouth", "teeth", "eye_left", "eye_right")
"""Kinds of surface; ``Head.part`` indexes them."""

_MATERIALS = {
    "M_Face": 0,
    "M_BackHead": 1,
    "M_GumsTongue": 2,
    "M_Teeth": 3,
    "M_ScleraLeft": 4,
    "M_ScleraRight": 5,
}

# fmt: off
LANDMARKS: tuple[int, ...] = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443, 268, 493,
    1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542,
    1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461,
    5518, 5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)
# fmt: on
"""Vertices of the ICT mesh at the 68 usual landmarks: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47 (36 and 45 are
the outer corners), outer lips 48-59, inner lips 60-67."""

BROW: tuple[tuple[float, float], ...] = ((0.95, 5.55), (2.3, 6.05), (3.7, 6.3), (4.9, 5.85), (5.75, 5.05))
"""Middle of the left eyebrow from its head to its tail: x, y in centimetres of the mean head."""

_MOUTH_AND_SOCKETS = (11248, 14062)
"""Vertices of the inside of the mouth and behind the eyes, which share the scalp's material."""

_EYE_CORNERS = (36, 45)


@dataclass(frozen=True)
class Head:
    """One identity's head: V vertices (split where the texture has seams), T triangles, K expressions.

    vertices, mean: [V, 3] centimetres, this identity's and the mean head's; origin_vertex: [V], equal for copies of
    one point; deltas: [K, V, 3] centimetres; landmarks: [68] vertices; eye_vertices: two index arrays (left, right)
    with ``eye_centres`` [2, 3]; lashes: [n, m, 3] strands from root to tip with ``lash_deltas`` [K, n, m, 3].
    """

    vertices: Floats
    mean: Floats
    origin_vertex: Ints
    triangles: Ints
    uv: Floats
    part: NDArray[np.int8]
    names: tuple[str, ...]
    deltas: Floats
    landmarks: Ints
    eye_vertices: tuple[Ints, Ints]
    eye_centres: Floats
    lashes: Floats
    lash_deltas: Floats

    @property
    def scale(self) -> float:
        """Metres per centimetre of the model."""
        a, b = self.vertices[self.landmarks[list(_EYE_CORNERS)]]
        return float(0.0889 / np.linalg.norm(a - b))

    def to_metres(self, points: Floats) -> Floats:
        """Model centimetres [..., 3] to head-space metres."""
        middle = self.vertices[self.landmarks[list(_EYE_CORNERS)]].mean(0)
        metres: Floats = ((points - middle) * self.scale + (0.0, 0.02664, 0.03173)).astype(np.float32)
        return metres


def vertex_normals(vertices: Floats, triangles: Ints) -> Floats:
    """Unit normals [V, 3], weighted by triangle area."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    faces = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for axis in range(3):
        for k in range(3):
            normals[:, axis] += np.bincount(triangles[:, k], faces[:, axis], len(vertices)).astype(np.float32)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return normals


def _arkit(name: str) -> str:
    return {"_L": name[:-2] + "Left", "_R": name[:-2] + "Right"}.get(name[-2:], name)


def load_ict(path: Path, generator: np.random.Generator, strength: float = 0.6) -> Head:
    """Read the ICT-FaceKit light mesh and draw an identity (``strength`` standard deviations).

    Raises: ModelError: the file is missing or is not that mesh.
    """
    try:
        data = np.load(path, allow_pickle=False)
        base, triangles, part_of = data["vertices"], data["triangles"], data["material_index"]
        uv, uv_triangles = data["uv"], data["uv_triangles"]
        expressions = data["expression_offsets"].astype(np.float32)
        identities = data["identity_offsets"].astype(np.float32)
        materials = [str(name) for name in data["material_names"]]
        names = tuple(_arkit(str(name)) for name in data["expression_names"])
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(
            f"{path}: not the ICT-FaceKit light mesh ({error}); give its .npz file, or leave it out"
        ) from error
    coefficients = generator.normal(0.0, strength, len(identities)).clip(-1.3, 1.3).astype(np.float32)
    person = base + np.tensordot(coefficients, identities, 1)
    lash = part_of == materials.index("M_EyeLashes")
    trace = _lash_strands(triangles[lash], uv, uv_triangles[lash], generator)
    index = np.array([_MATERIALS.get(name, -1) for name in materials], np.int8)
    part = index[part_of]
    inside = (triangles.min(1) >= _MOUTH_AND_SOCKETS[0]) & (triangles.max(1) < _MOUTH_AND_SOCKETS[1])
    part[inside] = PARTS.index("mouth")
    keep = part >= 0
    corners = np.stack([triangles[keep], uv_triangles[keep]], -1).reshape(-1, 2)
    pairs, flat = np.unique(corners, axis=0, return_inverse=True)
    first = np.zeros(len(base), np.int32)
    first[pairs[::-1, 0]] = np.arange(len(pairs))[::-1]
    eyes = []
    new_triangles = flat.reshape(-1, 3).astype(np.int32)
    for name in ("eye_left", "eye_right"):
        eyes.append(np.unique(new_triangles[part[keep] == PARTS.index(name)]).astype(np.int32))
    vertices = person[pairs[:, 0]].astype(np.float32)
    return Head(
        vertices=vertices,
        mean=base[pairs[:, 0]],
        origin_vertex=pairs[:, 0].astype(np.int32),
        triangles=new_triangles,
        uv=(uv[pairs[:, 1]] % 1.0).astype(np.float32),
        part=part[keep],
        names=names,
        deltas=expressions[:, pairs[:, 0]],
        landmarks=first[list(LANDMARKS)],
        eye_vertices=(eyes[0], eyes[1]),
        eye_centres=np.stack([_sphere_centre(vertices[eye]) for eye in eyes]),
        lashes=_along(person, *trace),
        lash_deltas=np.stack([_along(offset, *trace) for offset in expressions]),
    )


def _sphere_centre(points: Floats) -> Floats:
    """Centre of the sphere that fits best (least squares)."""
    system = np.concatenate([2.0 * points, np.ones((len(points), 1))], 1)
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    return np.asarray(solution[:3], np.float32)


def _along(values: Floats, corners: Ints, weights: Floats) -> Floats:
    """Values [V, 3] at points given by triangle corners and weights [n, m, 3]: [n, m, 3]."""
    return np.asarray(np.einsum("nmk,nmkd->nmd", weights, values[corners]), np.float32)


def _lash_strands(
    triangles: Ints, uv: Floats, uv_triangles: Ints, generator: np.random.Generator, per_sheet: int = 44
) -> tuple[Ints, Floats]:
    """Single lashes on the mesh's twelve lash sheets: corners and weights [n, m, 3], from root to tip."""
    size = 1024
    at = np.concatenate([(uv - (6.0, 0.0)) * size, np.ones((len(uv), 1))], 1).astype(np.float32)
    ids = np.empty((size, size), np.int32)
    _native.rasterize(at, uv_triangles, ids, np.empty((size, size), np.float32), perspective=False)
    rows = np.flatnonzero((ids >= 0).mean(1) > 0.5)
    sheets = np.split(rows, np.flatnonzero(np.diff(rows) > 3) + 1)
    columns = np.flatnonzero((ids[rows] >= 0).mean(0) > 0.5)
    halves = np.split(columns, np.flatnonzero(np.diff(columns) > 3) + 1)
    corners, weights = [], []
    for sheet in sheets:
        for half in halves:
            x = generator.uniform(half[2], half[-3], per_sheet)
            lean = generator.normal(0.0, 8.0, per_sheet)
            reach = generator.uniform(0.6, 1.0, per_sheet)
            steps = np.linspace(0.0, 1.0, 4)
            u = np.clip(x[:, None] + lean[:, None] * steps, half[2], half[-3])
            v = sheet[2] + (sheet[-3] - sheet[2]) * reach[:, None] * steps
            triangle = ids[v.astype(int), u.astype(int)]
            corner = at[uv_triangles[triangle], :2].astype(np.float64)  # [n, m, 3, 2]
            system = np.concatenate([corner, np.ones((*corner.shape[:-1], 1))], -1)
            weight = np.linalg.solve(
                np.swapaxes(system, -1, -2), np.stack([u, v, np.ones_like(u)], -1)[..., None]
            )
            corners.append(triangles[triangle])
            weights.append(weight[..., 0].astype(np.float32))
    return np.concatenate(corners), np.concatenate(weights)

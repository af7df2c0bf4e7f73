"""The run-time renderer in plain NumPy, float64, one sample after the other: what ``_native.Renderer`` must equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk import _native
from synctalk.geometry import Camera
from synctalk.spec import PLANES, FieldSpec

LEAST_TRANSMITTANCE = 1e-3

Array = NDArray[np.float64]


@dataclass
class Head:
    """A field in the form of a bundle, and what drives it in one frame."""

    spec: FieldSpec
    planes: list[NDArray[np.float16]]
    attention: list[NDArray[np.float32]]
    density: list[NDArray[np.float32]]
    colour: list[NDArray[np.float32]]
    occupancy: NDArray[np.bool_]
    """[G, G, G]: z, y, x"""
    condition: NDArray[np.float32]
    expression: NDArray[np.float32]
    appearance: NDArray[np.float32]

    def tensors(self) -> dict[str, Any]:
        """Arguments that all renderers of the native module take."""
        spec = self.spec
        return {
            "scales": [level.scale for level in spec.grid.levels],
            "planes": self.planes,
            "attention": self.attention,
            "density": self.density,
            "colour": self.colour,
            "occupancy": np.packbits(self.occupancy.ravel(), bitorder="little"),
            "resolution": spec.occupancy_resolution,
            "box_min": np.array(spec.box_min_m, np.float32),
            "box_max": np.array(spec.box_max_m, np.float32),
            "step": spec.step_m,
            "max_samples": spec.max_samples,
            "density_scale": spec.density_scale_per_m,
            "max_log_density": spec.max_log_density,
            "condition": spec.condition,
            "appearance": spec.appearance,
            "direction_degree": spec.direction_degree,
            "is_sigmoid": spec.gate == "sigmoid",
            "is_deferred": spec.deferred,
        }

    def renderer(self, ranges: list[float] | None = None, byte_reach: float = 0.0) -> _native.Renderer:
        """In float32, with ranges of the activations in 16-bit integers, with a reach of bytes in 8-bit ones."""
        return _native.Renderer(**self.tensors(), ranges=ranges or [], byte_reach=byte_reach)


def random_head(spec: FieldSpec, seed: int = 0) -> Head:
    """A random field inside an ellipsoid shell, dense enough that most rays end in it."""
    rng = np.random.default_rng(seed)

    def weights(shapes: tuple[tuple[int, int], ...]) -> list[NDArray[np.float32]]:
        return [(rng.standard_normal(shape) * (1.5 / shape[1]) ** 0.5).astype(np.float32) for shape in shapes]

    g = spec.occupancy_resolution
    cells = (np.stack(np.meshgrid(*[np.arange(g)] * 3, indexing="ij"), -1) + 0.5) / g - 0.5
    radius = np.linalg.norm(cells / np.array([0.35, 0.4, 0.35]), axis=-1)
    planes = [
        rng.standard_normal((spec.grid.n_channels, level.n_nodes, level.n_nodes)).astype(np.float16)
        for _ in PLANES
        for level in spec.grid.levels
    ]
    return Head(
        spec,
        planes,
        weights(spec.attention_shapes),
        weights(spec.density_shapes),
        weights(spec.colour_shapes),
        (radius < 1.0) & (radius > 0.85),
        rng.standard_normal(spec.condition).astype(np.float32),
        rng.random(len(spec.expression_names)).astype(np.float32),
        rng.standard_normal(spec.appearance).astype(np.float32),
    )


def mlp(x: Array, weights: list[NDArray[np.float32]]) -> Array:
    """Linear layers without bias, ReLU between them."""
    for i, weight in enumerate(weights):
        x = (np.maximum(x, 0) if i else x) @ weight.T.astype(np.float64)
    return x


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def spherical_harmonics(direction: Array) -> Array:
    """Real spherical harmonics, l = 0..3, m = -l..l: [R, 3] -> [R, 16]."""
    x, y, z = direction.T
    return np.stack(
        [
            0.5 * np.sqrt(1 / np.pi) * np.ones_like(x),
            -np.sqrt(3 / (4 * np.pi)) * y,
            np.sqrt(3 / (4 * np.pi)) * z,
            -np.sqrt(3 / (4 * np.pi)) * x,
            0.5 * np.sqrt(15 / np.pi) * x * y,
            -0.5 * np.sqrt(15 / np.pi) * y * z,
            0.25 * np.sqrt(5 / np.pi) * (3 * z * z - 1),
            -0.5 * np.sqrt(15 / np.pi) * x * z,
            0.25 * np.sqrt(15 / np.pi) * (x * x - y * y),
            -0.25 * np.sqrt(35 / (2 * np.pi)) * y * (3 * x * x - y * y),
            0.5 * np.sqrt(105 / np.pi) * x * y * z,
            -0.25 * np.sqrt(21 / (2 * np.pi)) * y * (5 * z * z - 1),
            0.25 * np.sqrt(7 / np.pi) * z * (5 * z * z - 3),
            -0.25 * np.sqrt(21 / (2 * np.pi)) * x * (5 * z * z - 1),
            0.25 * np.sqrt(105 / np.pi) * z * (x * x - y * y),
            -0.25 * np.sqrt(35 / (2 * np.pi)) * x * (x * x - 3 * y * y),
        ],
        axis=-1,
    )


def encode(head: Head, positions: Array) -> Array:
    """Bilinear look-up in the node planes: [M, 3] in 0..1 -> [M, 3 * levels * channels]."""
    outputs = []
    planes = iter(head.planes)
    for axes in PLANES:
        for level in head.spec.grid.levels:
            plane = next(planes).astype(np.float64)
            at = positions[:, axes] * level.scale + 0.5
            (u, v), (right, below) = np.floor(at).astype(int).T, (at - np.floor(at)).T
            above = plane[:, v, u] * (1 - right) + plane[:, v, u + 1] * right
            under = plane[:, v + 1, u] * (1 - right) + plane[:, v + 1, u + 1] * right
            outputs.append((above * (1 - below) + under * below).T)
    return np.concatenate(outputs, axis=-1)


def query(head: Head, positions: Array) -> tuple[Array, Array]:
    """Log density [M] and feature [M, F]."""
    x = encode(head, positions)
    gate = mlp(x, head.attention)
    if head.spec.gate == "sigmoid":
        gate = sigmoid(gate)
    drive = np.concatenate([head.condition, head.expression])
    out = mlp(np.concatenate([x, gate * drive], axis=-1), head.density)
    return out[:, 0], out[:, 1:]


def ranges(head: Head, n: int = 4000) -> list[float]:
    """The largest absolute activations at random positions, in the order of ``FieldSpec.n_ranges``."""
    rng = np.random.default_rng(0)
    x = encode(head, rng.random((n, 3)))
    attended = np.maximum(x @ head.attention[0].T, 0)
    gate = attended @ head.attention[1].T
    if head.spec.gate == "sigmoid":
        gate = sigmoid(gate)
    gated = gate * np.concatenate([head.condition, head.expression])
    hidden = hidden_layers(np.concatenate([x, gated], axis=-1), head.density)
    feature = (hidden[-1] @ head.density[-1].T)[:, 1:]
    directions = rng.standard_normal((n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    harmonics = spherical_harmonics(directions)[:, : head.spec.direction_degree**2]
    inputs = np.concatenate([feature, harmonics, np.tile(head.appearance, (n, 1))], axis=-1)
    appearance = np.append(head.appearance, 1e-3)
    values = [attended, gated, *hidden, feature, appearance, *hidden_layers(inputs, head.colour)]
    return [float(np.abs(value).max()) for value in values]


def hidden_layers(x: Array, weights: list[NDArray[np.float32]]) -> list[Array]:
    """Outputs of all layers but the last."""
    hidden = []
    for weight in weights[:-1]:
        x = np.maximum(x @ weight.T.astype(np.float64), 0)
        hidden.append(x)
    return hidden


def samples_of_ray(head: Head, origin: Array, direction: Array) -> Array:
    """Positions [n, 3] in 0..1 of a ray's samples."""
    spec = head.spec
    low, high = np.array(spec.box_min_m), np.array(spec.box_max_m)
    ends = np.sort(np.stack([(low - origin) / direction, (high - origin) / direction]), axis=0)
    near, far = max(ends[0].max(), 0.0), ends[1].min()
    if not near < far:
        return np.zeros((0, 3))
    distances = near + (np.arange(int((far - near) / spec.step_m) + 2) + 0.5) * spec.step_m
    units = ((origin + distances[distances < far, None] * direction) - low) / (high - low)
    cells = np.clip((units * spec.occupancy_resolution).astype(int), 0, spec.occupancy_resolution - 1)
    occupied = head.occupancy[cells[:, 2], cells[:, 1], cells[:, 0]]
    return np.clip(units[occupied][: spec.max_samples], 0.0, 1.0)


def colours(head: Head, feature: Array, direction: Array) -> Array:
    """feature [n, F], one direction [3] -> [n, 3]."""
    n = len(feature)
    harmonics = spherical_harmonics(direction[None])[:, : head.spec.direction_degree**2]
    rest = np.concatenate([harmonics[0], head.appearance])
    return sigmoid(mlp(np.concatenate([feature, np.tile(rest, (n, 1))], axis=-1), head.colour))


def render(head: Head, camera: Camera, rotation: Array, translation: Array) -> Array:
    """Premultiplied RGBA [H, W, 4]."""
    out = np.zeros((camera.height, camera.width, 4))
    origin = -translation @ rotation
    for v in range(camera.height):
        for u in range(camera.width):
            seen = np.array(
                [
                    (u + 0.5 - camera.centre_x) / camera.focal_px,
                    (v + 0.5 - camera.centre_y) / camera.focal_px,
                    1,
                ]
            )
            direction = seen @ rotation / np.linalg.norm(seen)
            positions = samples_of_ray(head, origin, direction)
            if len(positions):
                out[v, u] = _pixel(head, positions, direction)
    return out


def _pixel(head: Head, positions: Array, direction: Array) -> Array:
    spec = head.spec
    log_density, feature = query(head, positions)
    density = spec.density_scale_per_m * np.exp(np.minimum(log_density, spec.max_log_density))
    kept = np.exp(-density * spec.step_m)
    transmittance = np.concatenate([[1.0], np.cumprod(kept)[:-1]])
    weight = transmittance * (1 - kept) * (transmittance >= LEAST_TRANSMITTANCE)
    alpha = weight.sum()
    if spec.deferred:
        colour = alpha * colours(head, (weight[:, None] * feature).sum(axis=0)[None], direction)[0]
    else:
        colour = (weight[:, None] * colours(head, feature, direction)).sum(axis=0)
    return np.array([*colour, alpha])

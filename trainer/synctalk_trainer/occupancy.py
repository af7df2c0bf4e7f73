"""Where the field is: a grid over the box that marching skips by.

It starts as the visual hull of the head masks, cut in front by the face mesh, and then keeps the cells that training
rays have *seen*: a cell stays while some sample in it carries weight on its ray. What is hidden behind the surface falls
out, so that few samples a ray are left.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, spatial
from synctalk.geometry import Camera, project
from synctalk.spec import FieldSpec
from torch import Tensor

from .mouth import NOSE_BASE

__all__ = ["Occupancy", "cell_centres", "lower_face", "visual_hull"]

Bools = NDArray[np.bool_]

_SEEN_WEIGHT = 0.02
"""A sample with less weight than this on its ray is not worth a visit while the surface still moves."""
_KEPT_WEIGHT = 0.1
"""The same for a trained surface that only turns with the head."""
_DECAY = 0.9
_AT_FIRST = 0.3
_FRONT_MARGIN_M = 0.012
_FACE_DEPTH_M = 0.035
"""How far behind the face mesh there is anything to see (teeth, tongue)."""
_FACE_REACH_M = 0.006
"""Cells whose nearest mesh point is further away across the picture are not behind the face."""


def cell_centres(spec: FieldSpec, resolution: int) -> NDArray[np.float32]:
    """Centres of the cells of a grid over the box in metres, [G, G, G, 3], indexed [z, y, x]."""
    axes = []
    for low, high in zip(spec.box_min_m, spec.box_max_m, strict=True):
        edges = np.linspace(low, high, resolution + 1, dtype=np.float32)
        axes.append((edges[1:] + edges[:-1]) / 2)
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([x, y, z], axis=-1)


def lower_face(spec: FieldSpec, mesh_m: NDArray[np.float32]) -> Bools:
    """Cells [G, G, G], index [z, y, x], that lie lower than the nose and move with speech. mesh_m: [478, 3]."""
    centres = cell_centres(spec, spec.occupancy_resolution)
    return np.asarray(centres[..., 1] < mesh_m[NOSE_BASE, 1], bool)


def visual_hull(
    spec: FieldSpec,
    camera: Camera,
    rotations: NDArray[np.float32],
    translations: NDArray[np.float32],
    head_masks: Bools,
    mesh_m: NDArray[np.float32],
    keep: float = 0.85,
) -> Bools:
    """Cells that lie inside the (dilated) head mask in a share ``keep`` of the views that see them, and near the face where it is.

    rotations [V, 3, 3], translations [V, 3], head_masks [V, S, S], mesh_m [478, 3]. Returns [G, G, G], index [z, y, x];
    computed at half the resolution.
    """
    resolution = spec.occupancy_resolution
    centres = cell_centres(spec, (resolution + 1) // 2).reshape(-1, 3)
    inside, n_seen = np.zeros(len(centres), np.float32), np.zeros(len(centres), np.float32)
    margin = max(2, head_masks.shape[1] // 25)
    for rotation, translation, mask in zip(rotations, translations, head_masks, strict=True):
        grown = ndimage.binary_dilation(mask, iterations=margin)
        pixels = np.floor(project(camera, rotation, translation, centres)).astype(np.int64)
        height, width = mask.shape
        seen = (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        inside[seen] += grown[pixels[seen, 1], pixels[seen, 0]]
        n_seen += seen
    hull = (n_seen > 0) & (inside >= keep * n_seen)
    distance, nearest = spatial.cKDTree(mesh_m[:, :2]).query(centres[:, :2])
    before_face = centres[:, 2] - mesh_m[nearest, 2]
    hull &= before_face <= _FRONT_MARGIN_M + distance
    hull &= (before_face >= -_FACE_DEPTH_M) | (distance > _FACE_REACH_M)
    coarse = hull.reshape((round(len(centres) ** (1 / 3)),) * 3)
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    return np.ascontiguousarray(fine[:resolution, :resolution, :resolution])


class Occupancy:
    """The cells that marching visits, learned from the weights of training samples."""

    def __init__(self, hull: Bools) -> None:
        """hull: [G, G, G], index [z, y, x]: nothing outside it is ever visited."""
        self.resolution = hull.shape[0]
        self.hull = hull
        self.seen = torch.from_numpy(hull.astype(np.float32).reshape(-1)) * _AT_FIRST
        self.bits = self._packed(hull)

    @staticmethod
    def _packed(cells: Bools) -> NDArray[np.uint8]:
        return np.packbits(cells.reshape(-1), bitorder="little")

    @property
    def cells(self) -> Bools:
        """Visited cells [G, G, G], index [z, y, x]."""
        flat = np.unpackbits(self.bits, bitorder="little").astype(bool)
        return flat.reshape((self.resolution,) * 3)

    def observe(self, positions: Tensor, weights: Tensor) -> None:
        """Remember the weights of samples. positions: [M, 3] in 0..1; weights: [M]."""
        g = self.resolution
        index = (positions * g).long().clamp_(0, g - 1)
        flat = (index[:, 2] * g + index[:, 1]) * g + index[:, 0]
        self.seen.scatter_reduce_(0, flat.cpu(), weights.detach().cpu().float(), "amax")

    def refresh(self) -> float:
        """Forget a little, and visit what was seen and its neighbours. Returns the share of cells visited."""
        self.seen *= _DECAY
        return self._visit(self._seen_above(_SEEN_WEIGHT))

    def tighten(self, moving: Bools) -> None:
        """Visit what carried a ray, and its neighbours: a trained surface moves no more, except with speech. Without the
        neighbours, rays of poses that training did not see slip through pinholes.

        moving: [G, G, G] cells of the mouth and jaw. Wide mouths are rare and their surfaces soft: cut as tightly as the
        rest, lowered chins were cut off and lips had holes.
        """
        kept = self._seen_above(_KEPT_WEIGHT) | (self._seen_above(_SEEN_WEIGHT) & moving)
        if kept.any():
            self._visit(kept)

    def _seen_above(self, weight: float) -> Bools:
        return np.asarray((self.seen > weight).numpy().reshape(self.hull.shape))

    def _visit(self, kept: Bools) -> float:
        cells = ndimage.binary_dilation(kept, ndimage.generate_binary_structure(3, 1)) & self.hull
        self.bits = self._packed(cells)
        return float(cells.mean())

    def state(self) -> dict[str, Tensor]:
        """Tensors to save."""
        return {
            "occupancy.seen": self.seen.clone(),
            "occupancy.bits": torch.from_numpy(self.bits.copy()),
            "occupancy.hull": torch.from_numpy(self._packed(self.hull)),
        }

    @staticmethod
    def from_state(state: dict[str, Tensor], resolution: int) -> Occupancy:
        """The inverse of ``state``."""
        hull = np.unpackbits(state["occupancy.hull"].numpy(), bitorder="little").astype(bool)
        occupancy = Occupancy(hull.reshape((resolution,) * 3))
        occupancy.seen = state["occupancy.seen"].clone()
        occupancy.bits = state["occupancy.bits"].numpy().copy()
        return occupancy

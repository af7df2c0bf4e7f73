"""How large activations become on the clip: what the run time needs to compute in integers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.field_march import march_rays
from synctalk.backends.half_size import drive_of, half_sized
from synctalk.bundle import Bundle
from synctalk.geometry import pixel_rays
from synctalk_trainer.modules import Field, encode_planes, spherical_harmonics
from synctalk_trainer.upsampler import Upsampler
from torch import Tensor, nn

from .subject import Subject

__all__ = ["Half", "activation_ranges", "half_size_heads", "upsampler_ranges"]

_N_FRAMES, _N_RAYS = 48, 1500
"""Frames of the clip, and rays of each"""


@torch.no_grad()
def activation_ranges(subject: Subject, occupancy: NDArray[np.uint8], seed: int = 0) -> NDArray[np.float32]:
    """The largest absolute activations on random rays of frames spread over the clip, [n_ranges] float32.

    Order: attended, gated, the density network's hidden layers, feature, appearance, the colour network's hidden layers;
    each at least 0.001. occupancy: bits, see ``docs/formats.md``.
    """
    generator, field = np.random.default_rng(seed), subject.field
    largest = torch.full((field.spec.n_ranges,), 1e-3)
    frames = np.flatnonzero(subject.usable)
    for frame in frames[np.linspace(0, len(frames) - 1, _N_FRAMES).astype(int)]:
        positions, directions = _samples(subject, occupancy, int(frame), generator)
        if len(positions):
            seen = _activations(field, subject, int(frame), positions, directions)
            largest = torch.maximum(largest, torch.stack([values.abs().max() for values in seen]))
    ranges: NDArray[np.float32] = largest.numpy()
    return ranges


Half = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A head at half the size, premultiplied RGBA [H / 2, W / 2, 4], and what drives the upsampler [D]."""


def half_size_heads(subject: Subject, bundle: Bundle, n: int = 24) -> list[Half]:
    """Heads of frames spread over the clip, rendered in float32 at half the size."""
    backend = create_backend("native-cpu", bundle, precision="float32", detail="full")
    frames = np.flatnonzero(subject.usable)
    requests = [
        HeadRequest(
            camera=subject.camera,
            rotation=subject.rotation[frame],
            translation=subject.translation[frame],
            condition=subject.conditions[frame],
            expression=subject.expression[frame],
            appearance=subject.appearance,
        )
        for frame in frames[np.linspace(0, len(frames) - 1, n).astype(int)]
    ]
    return [(backend.render_head(half_sized(request)), drive_of(request)) for request in requests]


@torch.no_grad()
def upsampler_ranges(upsampler: Upsampler, heads: list[Half]) -> NDArray[np.float32]:
    """The largest outputs of all layers of the upsampler but the last; each at least 0.001."""
    largest = np.full(len(upsampler.weights) - 1, 1e-3, np.float32)
    for head, drive in heads:
        padded = upsampler.padded(torch.from_numpy(head).permute(2, 0, 1)[None])
        outputs = upsampler.outputs(padded, torch.from_numpy(drive)[None])
        tops = [float(values.max()) for values in outputs[:-1]]
        largest = np.maximum(largest, np.array(tops, np.float32))
    return largest


def _samples(
    subject: Subject, occupancy: NDArray[np.uint8], frame: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Positions [M, 3] in 0..1 of the samples of random rays, and their directions [M, 3]."""
    camera, spec = subject.camera, subject.field.spec
    pixels = generator.uniform(0, (camera.width, camera.height), (_N_RAYS, 2)).astype(np.float32)
    origins, directions = pixel_rays(camera, subject.rotation[frame], subject.translation[frame], pixels)
    jitter = generator.random(_N_RAYS, np.float32)
    positions, rays, _ = march_rays(spec, occupancy, origins, directions, jitter)
    return torch.from_numpy(positions), torch.from_numpy(directions[rays])


def _activations(
    field: Field, subject: Subject, frame: int, positions: Tensor, directions: Tensor
) -> list[Tensor]:
    """The activations of the samples of one frame, in the order of the ranges."""
    encoding = encode_planes(positions, field.tables, field.spec.grid)
    condition, expression, appearance = (
        torch.from_numpy(np.array(values, np.float32)).expand(len(positions), -1)
        for values in (subject.conditions[frame], subject.expression[frame], subject.appearance)
    )
    acting = field.gate(encoding) * torch.cat([condition, expression], dim=-1)
    hidden = _hidden_layers(torch.cat([encoding, acting], dim=-1), field.density)
    out = hidden[-1] @ field.density[-1].T
    feature = out[:, 1:]
    inputs = torch.cat([feature, spherical_harmonics(directions), appearance], dim=-1)
    return [
        torch.relu(encoding @ field.attention[0].T),
        acting,
        *hidden,
        feature,
        appearance,
        *_hidden_layers(inputs, field.colour),
    ]


def _hidden_layers(values: Tensor, weights: nn.ParameterList) -> list[Tensor]:
    """Outputs of all layers but the last."""
    hidden = []
    for weight in list(weights)[:-1]:
        values = torch.relu(values @ weight.T)
        hidden.append(values)
    return hidden

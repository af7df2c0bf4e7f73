"""The masked attention's loss: where gates may be open, and that it shuts them elsewhere and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synctalk.spec import preset
from synctalk_trainer.attention import NOSE_BASE, gates_outside, outside
from synctalk_trainer.modules import Field, encode_planes

SPEC = preset("tiny").field
MESH = np.zeros((478, 3), np.float32)
MESH[NOSE_BASE, 1] = -0.02


def test_sound_belongs_below_the_nose_and_expression_above() -> None:
    heights = torch.tensor([0.05, -0.005, -0.0125, -0.02, -0.0275, -0.06])
    far = outside(heights, -0.02, SPEC)
    assert far.shape == (6, SPEC.n_gates)
    sound, expression = far[:, : SPEC.condition], far[:, SPEC.condition :]
    np.testing.assert_allclose(sound[:, 0], [1.0, 1.0, 0.5, 0.0, 0.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(expression[:, -1], [0.0, 0.0, 0.0, 0.0, 0.5, 1.0], atol=1e-5)
    assert (sound == sound[:, :1]).all() and (expression == expression[:, :1]).all()


def test_gates_shut_outside_while_the_picture_keeps_them_open_inside() -> None:
    """A weak wish for open gates everywhere stands for the pictures."""
    field = Field(SPEC, torch.Generator().manual_seed(0))
    positions = torch.rand(4096, 3, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(field.parameters(), lr=1e-2)
    losses = []
    for step in range(150):
        loss = gates_outside(field, positions, MESH, step)
        open_gates = field.gate(encode_planes(positions, field.tables, SPEC.grid)).mean()
        optimiser.zero_grad()
        (loss - 0.3 * open_gates).backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(0.25, abs=0.05)  # gates of a half, half of them outside
    assert losses[-1] < 0.1 * losses[0]
    height = SPEC.box_min_m[1] + positions[:, 1] * (SPEC.box_max_m[1] - SPEC.box_min_m[1])
    gate = field.gate(encode_planes(positions, field.tables, SPEC.grid)).detach()
    sound = gate[:, : SPEC.condition].mean(dim=1)
    assert sound[height > 0.05].mean() < 0.05
    assert sound[height < -0.06].mean() > 0.3


def test_all_samples_have_their_turn() -> None:
    field = Field(SPEC, torch.Generator().manual_seed(0))
    positions = torch.zeros(3 * 4096, 3)
    positions[1::3, 1] = 1.0  # at the top: sound is out of place
    with torch.no_grad():
        seen = [float(gates_outside(field, positions, MESH, turn)) for turn in range(4)]
    assert seen[0] == seen[2] == seen[3] != seen[1]

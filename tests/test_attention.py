"""The attention's masks: where gates are shut, and that training leaves it so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synctalk.spec import FieldSpec, preset
from synctalk_trainer.attention import mask_gates
from synctalk_trainer.modules import Field, encode_planes

NOSE_M = -0.02


def _field(name: str) -> Field:
    field = Field(preset(name).field, torch.Generator().manual_seed(0))
    mask_gates(field, NOSE_M)
    return field


def _positions(spec: FieldSpec, height_m: float) -> torch.Tensor:
    positions = torch.rand(2000, 3, generator=torch.Generator().manual_seed(1))
    positions[:, 1] = (height_m - spec.box_min_m[1]) / (spec.box_max_m[1] - spec.box_min_m[1])
    return positions


def _gates(field: Field, height_m: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sound's and expression's, [M, C] and [M, E]."""
    positions = _positions(field.spec, height_m)
    with torch.no_grad():
        gates = field.gate(encode_planes(positions, field.tables, field.spec.grid))
    return gates[:, : field.spec.condition], gates[:, field.spec.condition :]


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_sound_acts_below_the_nose_base_and_expression_above(name: str) -> None:
    field = _field(name)
    sound, expression = _gates(field, NOSE_M - 0.05)
    assert sound.min() > 0.3 and expression.max() < 0.01
    sound, expression = _gates(field, NOSE_M + 0.05)
    assert sound.max() < 0.01 and expression.min() > 0.3


def test_gates_fade_over_a_centimetre() -> None:
    field = _field("default")
    heights = NOSE_M + np.array([-0.012, -0.005, 0.0, 0.005, 0.012])
    sound = [float(_gates(field, height)[0].mean()) for height in heights]
    assert sound[2:] == sorted(sound[2:], reverse=True)
    assert sound[0] > 0.4 > sound[3] > 0.01 > sound[4]


def test_training_keeps_the_masks_and_moves_everything_else() -> None:
    """A wish for open gates everywhere does not open them."""
    field = _field("tiny")
    spec = field.spec
    before = [one.detach().clone() for one in (field.tables, *field.attention)]
    optimiser = torch.optim.Adam(field.parameters(), lr=1e-2, eps=1e-15)
    positions = torch.rand(2000, 3, generator=torch.Generator().manual_seed(2))
    for _ in range(30):
        gates = field.gate(encode_planes(positions, field.tables, spec.grid))
        optimiser.zero_grad()
        (-gates.mean()).backward()
        optimiser.step()
    sound, expression = _gates(field, NOSE_M + 0.05)
    assert sound.max() < 0.3 and sound.mean() < 0.05
    assert expression.min() > 0.5
    nodes = spec.grid.levels[0].resolution ** 2
    assert torch.equal(field.tables[0, :nodes, 0], before[0][0, :nodes, 0])
    assert torch.equal(field.attention[0][:2], before[1][:2])
    assert torch.equal(field.attention[1][:, :2], before[2][:, :2])
    assert not torch.equal(field.tables[1], before[0][1])
    assert not torch.equal(field.attention[1][:, 2:], before[2][:, 2:])


def test_gates_without_a_sigmoid_cannot_be_masked() -> None:
    field = Field(preset("paper").field, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="sigmoid"):
        mask_gates(field, NOSE_M)

"""The attention's masks: where gates are shut, and that training leaves it so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from synctalk.spec import FieldSpec, expression_region, preset
from synctalk_trainer.attention import mask_gates
from synctalk_trainer.modules import Field, encode_planes

NOSE_M, HAIRLINE_M, BACK_M = -0.02, 0.07, 0.03
MESH = np.zeros((478, 3), np.float32)
MESH[2, 1] = NOSE_M
MESH[10, 1] = HAIRLINE_M
MESH[[33, 263, 46, 276, 70, 300], 2] = BACK_M


def _field(name: str) -> Field:
    field = Field(preset(name).field, torch.Generator().manual_seed(0))
    mask_gates(field, MESH)
    return field


def _positions(spec: FieldSpec, height_m: float, depth_m: float) -> torch.Tensor:
    positions = torch.rand(2000, 3, generator=torch.Generator().manual_seed(1))
    for axis, place in ((1, height_m), (2, depth_m)):
        low, high = spec.box_min_m[axis], spec.box_max_m[axis]
        positions[:, axis] = (place - low) / (high - low)
    return positions


def _gates(
    field: Field, height_m: float, depth_m: float = BACK_M + 0.02
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sound's and expression's, [M, C] and [M, E]."""
    positions = _positions(field.spec, height_m, depth_m)
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


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_hair_and_the_back_of_the_head_move_with_nothing(name: str) -> None:
    field = _field(name)
    sound, expression = _gates(field, HAIRLINE_M + 0.05)
    assert sound.max() < 0.01 and expression.max() < 0.01
    sound, expression = _gates(field, NOSE_M + 0.05, BACK_M - 0.06)
    assert sound.max() < 0.01 and expression.max() < 0.01
    sound, _ = _gates(field, NOSE_M - 0.05, BACK_M - 0.06)
    assert sound.min() > 0.3


def test_each_coefficient_acts_in_its_own_region() -> None:
    names = ("browInnerUp", "jawOpen", "mouthSmileLeft", "eyeLookInLeft", "noseSneerLeft")
    spec = dataclasses.replace(preset("tiny").field, expression_names=names)
    field = Field(spec, torch.Generator().manual_seed(0))
    mask_gates(field, MESH)
    below, above = (_gates(field, NOSE_M + way)[1] for way in (-0.05, 0.05))
    for i, name in enumerate(names):
        region = expression_region(name)
        assert (float(below[:, i].min()) > 0.3) == (region != "upper"), name
        assert (float(above[:, i].min()) > 0.3) == (region != "lower"), name
        assert float((below if region == "upper" else above)[:, i].max()) < 0.01 or region == "whole"


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
    assert torch.equal(field.tables[1, :nodes, 0], before[0][1, :nodes, 0])
    assert torch.equal(field.attention[0][:3], before[1][:3])
    assert torch.equal(field.attention[1][:, :3], before[2][:, :3])
    assert not torch.equal(field.tables[2], before[0][2])
    assert not torch.equal(field.attention[1][:, 3:], before[2][:, 3:])


def test_gates_without_a_sigmoid_cannot_be_masked() -> None:
    field = Field(preset("paper").field, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="sigmoid"):
        mask_gates(field, MESH)

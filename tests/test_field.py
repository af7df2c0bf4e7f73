"""The fused field operator against plain torch in float64, on every instruction set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer's extra is not installed")
from synctalk import _native  # noqa: E402
from synctalk.spec import FieldSpec, GridSpec, preset  # noqa: E402
from synctalk_trainer.field_operator import field, field_reference  # noqa: E402

SPECS: dict[str, FieldSpec] = {
    "default": preset("default").field,
    "paper": preset("paper").field,
    "tiny": preset("tiny").field,
    "two channels, odd widths": dataclasses.replace(
        preset("tiny").field,
        grid=GridSpec(
            n_levels=5, n_channels=2, base_resolution=16, finest_resolution=100, log2_table_size=11
        ),
        condition=5,
        attention_hidden=9,
        density_hidden=21,
        density_layers=3,
        feature=6,
    ),
}
GROUPS = np.array([0, 37, 37, 48 + 37, 211], np.int32)


class Case:
    """Random inputs and output gradients in float64."""

    def __init__(self, spec: FieldSpec, groups: np.ndarray, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).double()

        n, n_frames = int(groups[-1]), len(groups) - 1
        self.spec, self.groups = spec, groups
        self.positions = torch.rand(n, 3, generator=generator).double()
        self.d_out = normal(n), normal(n, spec.feature)
        layers = (*spec.attention_shapes, *spec.density_shapes)
        self.tensors = [
            normal(n_frames, spec.condition) * 0.5,
            normal(n_frames, spec.expression) * 0.5,
            normal(3, spec.grid.n_entries, spec.grid.n_channels),
            *[normal(*shape) / shape[1] ** 0.5 for shape in layers],
        ]

    def run(self, function, dtype: torch.dtype) -> list[torch.Tensor]:
        """Log density, feature, and the gradients of all tensors."""
        leaves = [tensor.to(dtype).clone().requires_grad_() for tensor in self.tensors]
        condition, expression, tables, *weights = leaves
        out = function(
            self.positions.to(dtype),
            self.groups,
            condition,
            expression,
            tables,
            tuple(weights[:2]),
            tuple(weights[2:]),
            self.spec,
        )
        torch.autograd.backward(out, [d.to(dtype) for d in self.d_out])
        return [*[o.detach() for o in out], *[leaf.grad for leaf in leaves]]

    def loss(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Sum of the native outputs, weighted by the output gradients, in float64."""
        condition, expression, tables, *weights = [tensor.float() for tensor in tensors]
        density, feature = field(
            self.positions.float(),
            self.groups,
            condition,
            expression,
            tables,
            tuple(weights[:2]),
            tuple(weights[2:]),
            self.spec,
        )
        return (density.double() * self.d_out[0]).sum() + (feature.double() * self.d_out[1]).sum()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    path, n_threads = _native.simd(), _native.threads()
    yield
    _native.set_simd(path)
    _native.set_threads(n_threads)


def assert_close(got: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    """Each tensor within a relative distance (of norms)."""
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape
        assert torch.isfinite(a).all()
        distance = float((a.double() - b).norm() / b.norm().clamp(min=1e-6))
        assert distance < tolerance, f"tensor {i}: relative distance {distance}"


@pytest.mark.parametrize("path", _native.simd_paths())
@pytest.mark.parametrize("name", SPECS)
def test_field_and_its_gradients_equal_the_float64_twin(name: str, path: str) -> None:
    _native.set_simd(path)
    case = Case(SPECS[name], GROUPS)
    assert_close(case.run(field, torch.float32), case.run(field_reference, torch.float64), 5e-5)


@pytest.mark.parametrize("groups", [[0, 0, 0], [0, 1], [0, 0, 1, 1], [0, 47, 96], [0]])
def test_field_takes_any_grouping(groups: list[int]) -> None:
    case = Case(SPECS["tiny"], np.array(groups, np.int32))
    assert_close(case.run(field, torch.float32), case.run(field_reference, torch.float64), 5e-5)


@pytest.mark.parametrize("which", range(8))
def test_field_gradients_equal_central_differences(which: int) -> None:
    case = Case(SPECS["default"], GROUPS, seed=3)
    gradient = case.run(field, torch.float32)[2 + which].double()
    direction = torch.sign(gradient)  # along it no term cancels
    step = 1e-4
    sides = []
    for sign in (1.0, -1.0):
        moved = list(case.tensors)
        moved[which] = moved[which] + sign * step * direction
        sides.append(case.loss(moved))
    slope = (sides[0] - sides[1]) / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=2e-2)


def test_field_is_deterministic_and_threads_agree() -> None:
    case = Case(SPECS["default"], np.array([0, 700, 1501], np.int32))
    results = []
    for n_threads in (1, 2, 2, 3):
        _native.set_threads(n_threads)
        results.append(case.run(field, torch.float32))
    one, two, again, three = results
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))
    for other in (two, three):
        assert all(torch.equal(a, b) for a, b in zip(one[:2], other[:2], strict=True))
        assert_close(other, [t.double() for t in one], 1e-5)


def test_field_survives_positions_that_are_not_numbers_or_outside() -> None:
    case = Case(SPECS["tiny"], np.array([0, 4], np.int32))
    case.positions = torch.tensor([[-1.0, 2.0, 0.5], [float("nan")] * 3, [float("inf")] * 3, [0.0, 1.0, 1.0]])
    inside = Case(SPECS["tiny"], np.array([0, 4], np.int32))
    inside.positions = torch.tensor([[0.0, 1.0, 0.5], [0.0] * 3, [1.0] * 3, [0.0, 1.0, 1.0]])
    for got, expected in zip(case.run(field, torch.float32), inside.run(field, torch.float32), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("groups", [[0, 5], [1, 7], [0, 5, 3, 7]])
def test_field_refuses_groups_that_do_not_rise_from_0_to_m(groups: list[int]) -> None:
    case = Case(SPECS["tiny"], np.array([0, 7], np.int32))
    condition, expression, tables, *weights = [tensor.float() for tensor in case.tensors]
    n_frames = len(groups) - 1
    with pytest.raises(ValueError, match="groups"):
        field(
            case.positions.float(),
            np.array(groups, np.int32),
            condition.expand(n_frames, -1),
            expression.expand(n_frames, -1),
            tables,
            tuple(weights[:2]),
            tuple(weights[2:]),
            case.spec,
        )

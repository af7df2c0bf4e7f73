from __future__ import annotations

import itertools
import sys
import types
from typing import Any

import numpy as np
import pytest
import tolerances
from synctalk import _native
from synctalk.errors import BackendError
from synctalk.spec import FieldSpec, GridSpec

torch = pytest.importorskip("torch", reason="the trainer needs torch: install synctalk[train]")
operators = pytest.importorskip("synctalk_trainer.operators")

GRID = GridSpec(n_levels=4, n_channels=2, base_resolution=8, finest_resolution=60, log2_table_size=9)
has_gpu = _native.cuda_devices() > 0 and torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def _skip_without_gpu(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and not has_gpu:
        pytest.skip("no NVIDIA GPU, or a build without CUDA")


def random(*shape: int, seed: int = 0) -> Any:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [0, 1, 200])
def test_grid_encode_equals_plain_torch(device: str, n: int) -> None:
    from synctalk_trainer.modules import encode_planes

    start = (random(n, 3), random(3, GRID.n_entries, 2, seed=1) - 0.5, random(n, GRID.n_outputs, seed=2))
    results = []
    for encode in (operators.grid_encode, encode_planes):
        positions, tables, d_out = (x.clone().to(device) for x in start)
        positions.requires_grad_()
        tables.requires_grad_()
        out = encode(positions, tables, GRID)
        out.backward(d_out)
        results.append([out.detach(), tables.grad, positions.grad / GRID.finest_resolution])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=tolerances.GRID_ENCODE, rtol=0)


def _plain_composite(density: Any, feature: Any, offsets: Any, step: float) -> Any:
    outs, alphas, weights = [], [], []
    for first, end in itertools.pairwise(offsets):
        kept = torch.exp(-density[first:end] * step)
        before = torch.cat([torch.ones_like(kept[:1]), torch.cumprod(kept, 0)[:-1]])
        weight = before * (1 - kept)
        outs.append((weight[:, None] * feature[first:end]).sum(0))
        alphas.append(weight.sum())
        weights.append(weight)
    return torch.stack(outs), torch.stack(alphas), torch.cat(weights)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 1, 2)])
def test_composite_equals_plain_torch(device: str, used: tuple[int, ...]) -> None:
    offsets = np.array([0, 3, 3, 11, 12], np.int32)
    results = []
    for function in (operators.composite, _plain_composite):
        density = (random(12, seed=3) * 400).to(device).requires_grad_()
        feature = random(12, 5, seed=4).to(device).requires_grad_()
        out = function(density, feature, offsets, 0.004)
        sum((out[i] ** 2).sum() for i in used).backward()
        d_feature = torch.zeros_like(feature) if feature.grad is None else feature.grad
        results.append([*(x.detach() for x in out), density.grad, d_feature])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=tolerances.COMPOSITE, rtol=1e-4)


def test_march_gives_samples_in_the_box() -> None:
    spec = FieldSpec(occupancy_resolution=16)
    origins = np.tile(np.float32([0, 0, 1]), (9, 1))
    directions = np.tile(np.float32([0, 0, -1]), (9, 1))
    bits = np.full(16**3 // 8, 255, np.uint8)
    samples = operators.march(origins, directions, np.full(9, 0.5, np.float32), bits, 16, spec, 0.02)
    assert samples.offsets.tolist() == [12 * i for i in range(10)]
    assert samples.positions.shape == (108, 3) and (samples.rays == np.repeat(np.arange(9), 12)).all()
    np.testing.assert_allclose(samples.positions[:12, 2], 1 - (np.arange(12) + 0.5) / 12, atol=1e-5)


@pytest.mark.gpu
def test_march_on_the_gpu_equals_the_cpu() -> None:
    spec = FieldSpec(occupancy_resolution=16)
    targets = (random(500, 3) - 0.5) * 0.3
    origins = torch.tensor([0.0, 0.0, 1.0]).repeat(500, 1)
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    bits = (random(16**3 // 8, seed=1) * 255).to(torch.uint8)
    jitter = random(500, seed=2)
    arrays = (origins.numpy(), directions.numpy(), jitter.numpy(), bits.numpy())
    cpu = operators.march(*arrays, 16, spec, spec.step_m)
    tensors = (x.cuda() for x in (origins, directions, jitter, bits))
    gpu = operators.march_cuda(*tensors, 16, spec, spec.step_m)
    counts = np.diff(cpu.offsets), np.diff(gpu.offsets.cpu().numpy())
    assert (counts[0] == counts[1]).mean() > 0.98  # a sample on a cell's border may fall to either side
    if (counts[0] == counts[1]).all():
        np.testing.assert_allclose(gpu.positions.cpu().numpy(), cpu.positions, atol=1e-5)


def test_tensors_on_another_device_are_refused() -> None:
    with pytest.raises(ValueError, match="expected tensors on the CPU or a CUDA device, got meta"):
        operators.grid_encode(torch.empty(1, 3, device="meta"), torch.empty(3, 9, 2, device="meta"), GRID)


def test_tiny_cuda_encodings_take_our_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Encoding(torch.nn.Module):
        def __init__(self, n_inputs: int, settings: dict[str, Any], dtype: Any) -> None:
            super().__init__()
            asked.append((n_inputs, settings))

    fake = types.ModuleType("tinycudann")
    fake.Encoding = Encoding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", fake)
    assert len(operators.tiny_cuda_encodings(GRID)) == 3
    assert asked[0][0] == 2
    assert asked[0][1]["per_level_scale"] ** 3 == pytest.approx(60 / 8)
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(BackendError, match="tiny-cuda-nn cannot be imported"):
        operators.tiny_cuda_encodings(GRID)

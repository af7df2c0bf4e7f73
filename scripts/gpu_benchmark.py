"""Times the native operators on the GPU and writes one JSON file named after it: gpu_benchmark.py FOLDER."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from synctalk import _native
from synctalk._version import __version__
from synctalk.spec import FieldSpec
from synctalk_trainer import operators

N_SAMPLES = 1 << 20
N_RAYS = 1 << 18


def milliseconds(call: Callable[[], object], repeats: int = 50) -> dict[str, float]:
    """Percentiles of a call's time on the GPU, after a warm-up."""
    times = []
    for i in range(repeats + 5):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        last.synchronize()
        if i >= 5:
            times.append(first.elapsed_time(last))
    return {f"p{p}": float(np.percentile(times, p)) for p in (50, 95, 99)}


def measure(spec: FieldSpec) -> dict[str, dict[str, float]]:
    """Grid encoding forward and backward, marching, compositing forward and backward."""
    generator = torch.Generator("cuda").manual_seed(0)
    grid = spec.grid
    positions = torch.rand(N_SAMPLES, 3, device="cuda", generator=generator)
    tables = torch.rand(
        3, grid.n_entries, grid.n_channels, device="cuda", generator=generator, requires_grad=True
    )
    encoding = operators.grid_encode(positions, tables, grid)
    ones = torch.ones_like(encoding)
    figures = {
        "grid_encode": milliseconds(lambda: operators.grid_encode(positions, tables.detach(), grid)),
        "grid_encode_backward": milliseconds(lambda: encoding.backward(ones, retain_graph=True)),
    }
    targets = (torch.rand(N_RAYS, 3, device="cuda", generator=generator) - 0.5) * 0.24
    origins = torch.tensor([0.0, 0.0, 1.0], device="cuda").repeat(N_RAYS, 1)
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    jitter = torch.full((N_RAYS,), 0.5, device="cuda")
    g = spec.occupancy_resolution
    bits = (torch.rand(g**3 // 8, device="cuda", generator=generator) < 0.3).to(torch.uint8)
    samples = operators.march_cuda(origins, directions, jitter, bits, g, spec, spec.step_m)
    figures["march"] = milliseconds(
        lambda: operators.march_cuda(origins, directions, jitter, bits, g, spec, spec.step_m)
    )
    n = len(samples.positions)
    density = torch.rand(n, device="cuda", generator=generator, requires_grad=True)
    feature = torch.rand(n, spec.feature, device="cuda", generator=generator, requires_grad=True)
    composited = operators.composite(density, feature, samples.offsets, spec.step_m)
    total = composited[0].sum() + composited[1].sum()
    figures["composite"] = milliseconds(
        lambda: operators.composite(density.detach(), feature.detach(), samples.offsets, spec.step_m)
    )
    figures["composite_backward"] = milliseconds(lambda: total.backward(retain_graph=True))
    figures["counts"] = {"samples": N_SAMPLES, "rays": N_RAYS, "composited_samples": n}
    return figures


def main() -> None:
    folder = Path(sys.argv[1])
    if _native.cuda_devices() == 0:
        raise SystemExit("gpu_benchmark: no GPU, or a build without CUDA: run scripts/gpu_check.sh")
    name = torch.cuda.get_device_name()
    figures = measure(FieldSpec())
    report = {
        "gpu": name,
        "version": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": platform.platform(),
        "milliseconds": figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.lower().replace(' ', '-')}.json"
    temporary = path.with_suffix(".json.new")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(path)
    for kernel, values in figures.items():
        print(f"{kernel:22}", "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    print(f"written: {path}")


if __name__ == "__main__":
    main()

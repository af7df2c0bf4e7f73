"""How fast the field trains on this CPU: forward and backward of the fused operator beside PyTorch's best.

    python scripts/training_benchmark.py [--avatar A.avatar] [--samples N] [--threads N] [--rounds N] [--json FILE]

The same function, weights and samples (ray by ray, of three recorded poses of the avatar) for all: ``fused`` is what
`synctalk train` uses; ``torch_eager`` is plain PyTorch; ``torch_compile`` the same compiled; ``torch_compile_bf16`` compiled
with its networks in bfloat16. They take turns, the best round of each counts. docs/native.md has figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synctalk import _native
from synctalk.backends import HeadRequest
from synctalk.bench.field import field_work
from synctalk.bundle import Bundle, open_bundle
from synctalk.cli import DEMO
from synctalk.spec import FieldSpec
from synctalk_trainer.field_operator import field
from synctalk_trainer.modules import Field, encode_planes
from synctalk_trainer.run import write_json
from torch import Tensor

Step = Callable[[], None]


def samples_of(bundle: Bundle, n: int) -> Tensor:
    """[n, 3] positions of the samples that three recorded poses need, ray by ray."""
    tensors = bundle.tensors
    requests = [
        HeadRequest(
            bundle.manifest.camera,
            tensors["track.rotation"][i],
            tensors["track.translation"][i],
            np.asarray(tensors["condition.mean"], np.float32),
            tensors["track.expression"][i],
            tensors["field.appearance"],
        )
        for i in (0, 20, 40)
    ]
    found = np.concatenate(field_work(bundle, requests).positions)
    return torch.from_numpy(np.ascontiguousarray(np.resize(found, (n, 3)), np.float32))


def steps_of(spec: FieldSpec, positions: Tensor) -> dict[str, Step]:
    """Forward and backward, by name."""
    model = Field(spec, torch.Generator().manual_seed(0))
    parameters = [model.tables, *model.attention, *model.density]
    n_frames, n = 8, len(positions)
    groups = np.linspace(0, n, n_frames + 1).astype(np.int32)
    drive = torch.rand(n_frames, spec.n_gates)
    counts = torch.from_numpy(np.diff(groups).astype(np.int64))
    d_density, d_feature = torch.randn(n), torch.randn(n, spec.feature)

    def plain(dtype: torch.dtype) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def forward(at: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
            encoding = encode_planes(at, model.tables, spec.grid)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                log_density, feature = model.decode(
                    encoding, acting[:, : spec.condition], acting[:, spec.condition :]
                )
            return log_density.float(), feature.float()

        return forward

    def fused() -> tuple[Tensor, Tensor]:
        condition, expression = (
            part.contiguous() for part in drive.split([spec.condition, spec.expression], 1)
        )
        weights = tuple(model.attention), tuple(model.density)
        return field(positions, groups, condition, expression, model.tables, *weights, spec)

    def step(forward: Callable[[], tuple[Tensor, Tensor]]) -> Step:
        def run() -> None:
            for parameter in parameters:
                parameter.grad = None
            torch.autograd.backward(forward(), (d_density, d_feature))

        return run

    def of(forward: Any) -> Step:
        return step(lambda: forward(positions, drive.repeat_interleave(counts, dim=0)))

    return {
        "fused": step(fused),
        "torch_eager": of(plain(torch.float32)),
        "torch_compile": of(torch.compile(plain(torch.float32), dynamic=False)),
        "torch_compile_bf16": of(torch.compile(plain(torch.bfloat16), dynamic=False)),
    }


def race(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Seconds of the best round of each."""
    best = dict.fromkeys(steps, float("inf"))
    for i in range(rounds + 1):  # the first one compiles
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if i:
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--avatar", type=Path, default=DEMO / "demo.avatar")
    parser.add_argument("--samples", type=int, default=65_536)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    _native.set_threads(arguments.threads)
    bundle = open_bundle(arguments.avatar)
    spec = bundle.manifest.spec.field
    best = race(steps_of(spec, samples_of(bundle, arguments.samples)), arguments.rounds)
    figures = {
        name: {
            "samples_per_s": round(arguments.samples / seconds),
            "fused_ratio": round(seconds / best["fused"], 2),
        }
        for name, seconds in best.items()
    }
    for name, row in figures.items():
        print(f"{name:20} {row['samples_per_s'] / 1e6:6.3f} M samples/s   fused is {row['fused_ratio']} x")
    if arguments.json:
        write_json(arguments.json, {"threads": arguments.threads, "simd": _native.simd(), **figures})


if __name__ == "__main__":
    main()

"""Everything that is measured on a GPU: gpu_benchmark.py AVATAR FOLDER.

Prints tables and writes FOLDER/<gpu>.json: training operators, the renderer of native-cuda for one picture and for
batches, and all backends end to end. Beside each time of a kernel stands its roof: the bytes that it cannot do without
at the rate of a plain copy, or its multiply-adds at that of a large product of matrices, whichever takes longer.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_backends import backend_rows, requests, table
from gpu_operators import grid_rows, ray_rows
from gpu_roof import Machine, Work, measured_machine, row
from synctalk import _native
from synctalk._version import __version__
from synctalk.backends.native_cuda import NativeCuda, why_not
from synctalk.bench.field import field_work
from synctalk.bundle import Bundle, open_bundle

BATCHES = (1, 4, 16, 64)
ROUNDS = 30
QUAD_BYTES = 8


def picture_work(bundle: Bundle) -> Work:
    """One picture: plate in, picture out, the quads of its samples or all there are, the layers of its samples."""
    work = field_work(bundle, requests(bundle)[:3])
    spec, camera = bundle.manifest.spec.field, bundle.manifest.camera
    n_samples = work.n_samples / len(work.requests)
    quads = sum(len("xyz") * spec.grid.n_channels * (level.n_nodes - 1) ** 2 for level in spec.grid.levels)
    looked_up = min(quads, n_samples * spec.grid.n_outputs)
    pixels = camera.width * camera.height
    return Work(QUAD_BYTES * looked_up + 6 * pixels, work.multiply_adds / len(work.requests))


def renderer_rows(bundle: Bundle, machine: Machine) -> list[dict[str, object]]:
    """Pictures over plates that are on the GPU and stay there, from the call to the last pixel."""
    camera, one = bundle.manifest.camera, picture_work(bundle)
    stream = torch.cuda.current_stream()
    rows = []
    for precision in ("float16", "float32"):
        backend = NativeCuda(bundle, precision=precision)
        for n in BATCHES:
            asked = (requests(bundle) * n)[:n]
            plates = torch.zeros(n, camera.height, camera.width, 3, dtype=torch.uint8, device="cuda")
            times = []
            for i in range(ROUNDS + 5):
                torch.cuda.synchronize()
                started = time.perf_counter()
                frames = backend.draw(asked, plates, stream.cuda_stream)
                torch.cuda.synchronize()
                if i >= 5:
                    times.append(1e3 * (time.perf_counter() - started))
                del frames
            spread = {f"p{p}": float(np.percentile(times, p)) for p in (50, 95, 99)}
            work = Work(one.bytes * n, one.multiply_adds * n)
            name = f"picture {camera.width}x{camera.height} {precision} batch {n}"
            rows.append(row(name, spread, work, machine, fps=1e3 * n / spread["p50"]))
    return rows


def printed(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows, after a look at them."""
    for values in rows:
        print("  ".join(f"{key} {value}" for key, value in values.items()))
    return rows


def main() -> None:
    avatar, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if reason := why_not("cuda"):
        raise SystemExit(f"gpu_benchmark: {reason}; or run scripts/gpu_check.sh")
    bundle, machine = open_bundle(avatar), measured_machine()
    spec = bundle.manifest.spec.field
    report: dict[str, Any] = {
        "schema": 1,
        "gpu": torch.cuda.get_device_name(),
        "synctalk": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": platform.platform(),
        "devices": _native.cuda_devices(),
        "bytes_per_s": round(machine.bytes_per_s),
        "multiply_adds_per_s": round(machine.multiply_adds_per_s),
        "operators": printed(grid_rows(spec.grid, machine) + ray_rows(spec, machine)),
        "renderer": printed(renderer_rows(bundle, machine)),
        "backends": backend_rows(bundle),
    }
    print(table(report["backends"]))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{str(report['gpu']).lower().replace(' ', '-')}.json"
    temporary = path.with_suffix(".json.new")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(path)
    print(f"written: {path}")


if __name__ == "__main__":
    main()

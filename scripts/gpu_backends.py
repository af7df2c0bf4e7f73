"""Every backend that works here, end to end on one avatar: gpu_backends.py AVATAR.

Milliseconds of a head picture (percentiles over its own track) and PSNR to native-cpu in float32, with CUDA graphs (1)
and without (0) where a backend has the choice; who cannot work says why.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from synctalk.backends import Backend, HeadRequest, create_backend
from synctalk.bundle import Bundle, open_bundle
from synctalk.errors import BackendError

N_FRAMES, N_WARM = 40, 3
CASES = (
    ("native-cuda", "cuda", "float32", ""),
    ("native-cuda", "cuda", "float16", ""),
    ("native-cpu", "cpu", "auto", ""),
    ("onnxruntime", "cpu", "auto", ""),
    ("onnxruntime", "cuda", "auto", "0"),
    ("onnxruntime", "cuda", "auto", "1"),
    ("tensorrt", "cuda", "float32", "1"),
    ("tensorrt", "cuda", "auto", "0"),
    ("tensorrt", "cuda", "auto", "1"),
)


def requests(bundle: Bundle) -> list[HeadRequest]:
    """Frames spread over the track."""
    tensors = bundle.tensors
    frames = np.linspace(0, len(tensors["track.rotation"]) - 1, N_FRAMES).astype(int)
    return [
        HeadRequest(
            camera=bundle.manifest.camera,
            rotation=tensors["track.rotation"][frame],
            translation=tensors["track.translation"][frame],
            condition=tensors["condition.mean"],
            expression=tensors["track.expression"][frame],
            appearance=tensors["field.appearance"],
        )
        for frame in frames
    ]


def drawn(backend: Backend, bundle: Bundle) -> tuple[list[np.ndarray], list[float]]:
    """Pictures, and how long each took in milliseconds."""
    asked = requests(bundle)
    for request in asked[:N_WARM]:
        backend.render_head(request)
    pictures, times = [], []
    for request in asked:
        started = time.perf_counter()
        pictures.append(backend.render_head(request))
        times.append(1e3 * (time.perf_counter() - started))
    return pictures, times


def psnr(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Over what either shows."""
    squared = [np.square(x - y)[(x[..., 3] > 0) | (y[..., 3] > 0)] for x, y in zip(a, b, strict=True)]
    return float(-10 * np.log10(np.concatenate(squared).mean() + 1e-20))


def backend_rows(bundle: Bundle) -> list[dict[str, object]]:
    """A row for every case: milliseconds of a head on the host and PSNR to native-cpu, or why it cannot work."""
    truth, _ = drawn(create_backend("native-cpu", bundle, precision="float32"), bundle)
    rows = []
    for name, device, precision, graphs in CASES:
        row: dict[str, object] = {"backend": name, "device": device, "precision": precision, "graphs": graphs}
        os.environ["SYNCTALK_CUDA_GRAPHS"] = graphs or "0"
        try:
            pictures, times = drawn(create_backend(name, bundle, device, None, precision), bundle)
            row |= {f"p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95, 99)}
            row["psnr_db"] = round(psnr(truth, pictures), 1)
        except BackendError as error:
            row["why_not"] = str(error)
        rows.append(row)
    return rows


def main() -> None:
    for row in backend_rows(open_bundle(sys.argv[1])):
        print("  ".join(f"{value!s:12}" for value in row.values()))


if __name__ == "__main__":
    main()

"""Every backend that works here, end to end on one avatar: gpu_backends.py AVATAR.

Prints a table to send back: milliseconds from a frame's inputs to its picture over the plate in the host's memory, for
one picture and, each, in batches (one after the other where a backend draws no batches), and PSNR of the head to
native-cpu in float32, with CUDA graphs (1) and without (0) where a backend has the choice; who cannot work says why.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from synctalk.backends import Backend, HeadRequest, create_backend
from synctalk.bundle import Bundle, open_bundle
from synctalk.errors import BackendError
from synctalk.stage import Shot, Stage

N_FRAMES, N_WARM = 40, 3
BATCH = 16
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
COLUMNS = ("backend", "device", "precision", "graphs", "p50_ms", "p95_ms", "p99_ms", "batch_ms", "psnr_db")


def frames_of(bundle: Bundle) -> list[int]:
    """Spread over the track."""
    frames: list[int] = (
        np.linspace(0, len(bundle.tensors["track.rotation"]) - 1, N_FRAMES).astype(int).tolist()
    )
    return frames


def requests(bundle: Bundle) -> list[HeadRequest]:
    """Heads of those frames."""
    tensors = bundle.tensors
    return [
        HeadRequest(
            camera=bundle.manifest.camera,
            rotation=tensors["track.rotation"][frame],
            translation=tensors["track.translation"][frame],
            condition=tensors["condition.mean"],
            expression=tensors["track.expression"][frame],
            appearance=tensors["field.appearance"],
        )
        for frame in frames_of(bundle)
    ]


def heads(backend: Backend, bundle: Bundle) -> list[np.ndarray]:
    return [backend.render_head(request) for request in requests(bundle)]


def times_ms(backend: Backend, bundle: Bundle, n: int) -> list[float]:
    """Milliseconds a picture, n at once."""
    tensors, stage = bundle.tensors, Stage(bundle, backend, watermark=False)
    mouth = np.asarray(tensors["condition.mean"], np.float32)
    shots = [Shot(frame, mouth, stage.track.expression[frame]) for frame in frames_of(bundle)]
    times = []
    for i in range(N_WARM + N_FRAMES):
        asked = [shots[(i + k) % N_FRAMES] for k in range(n)]
        started = time.perf_counter()
        stage.draw_all(asked)
        times.append(1e3 * (time.perf_counter() - started) / n)
    return times[N_WARM:]


def psnr(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Over what either shows."""
    squared = [np.square(x - y)[(x[..., 3] > 0) | (y[..., 3] > 0)] for x, y in zip(a, b, strict=True)]
    return float(-10 * np.log10(np.concatenate(squared).mean() + 1e-20))


def backend_rows(bundle: Bundle) -> list[dict[str, object]]:
    """A row for every case, or why it cannot work."""
    truth = heads(create_backend("native-cpu", bundle, precision="float32", detail="full"), bundle)
    rows = []
    for name, device, precision, graphs in CASES:
        row: dict[str, object] = {"backend": name, "device": device, "precision": precision, "graphs": graphs}
        os.environ["SYNCTALK_CUDA_GRAPHS"] = graphs or "0"
        try:
            backend = create_backend(name, bundle, device, None, precision, "full")
            times = times_ms(backend, bundle, 1)
            row |= {f"p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95, 99)}
            row["batch_ms"] = round(float(np.median(times_ms(backend, bundle, BATCH))), 2)
            row["psnr_db"] = round(psnr(truth, heads(backend, bundle)), 1)
        except BackendError as error:
            row["why_not"] = str(error)
        rows.append(row)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """As Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = [str(row.get(column, "")) for column in COLUMNS]
        if "why_not" in row:
            cells[4] = str(row["why_not"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    print(table(backend_rows(open_bundle(sys.argv[1]))))


if __name__ == "__main__":
    main()

"""Would int8 pay for the upsampler? upsampler_int8.py AVATAR.

Quantises `upsampler.onnx` (Q/DQ, by channel, calibrated on half-size heads of the avatar's own track) and compares it with
float32 on other frames of the track: PSNR over the head, and the best time of one picture on one core (processor time), beside
the native module's upsampler.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quantised import best_ms, layers_of, quantise, session
from synctalk import _native
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.half_size import drive_of, half_sized, native_upsampler
from synctalk.bundle import Bundle, open_bundle

N_FRAMES, REPEATS = 24, 30
"""Half of them to calibrate."""


Half = tuple[np.ndarray, np.ndarray]
"""A head at half the size [H, W, 4] and its drive [D]."""


def small_heads(bundle: Bundle) -> list[Half]:
    """Over the track, with the mean and the resting mouth."""
    tensors, backend = (
        bundle.tensors,
        create_backend("native-cpu", bundle, precision="float32", detail="full"),
    )
    frames = np.linspace(0, len(tensors["track.rotation"]) - 1, N_FRAMES).astype(int)
    mouths = (tensors["condition.mean"], tensors["condition.rest"])
    requests = [
        HeadRequest(
            camera=bundle.manifest.camera,
            rotation=tensors["track.rotation"][frame],
            translation=tensors["track.translation"][frame],
            condition=mouths[i // 2 % 2],
            expression=tensors["track.expression"][frame],
            appearance=tensors["field.appearance"],
        )
        for i, frame in enumerate(frames)
    ]
    return [(backend.render_head(half_sized(request)), drive_of(request)) for request in requests]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Over what either shows."""
    shown = (a[..., 3] > 0) | (b[..., 3] > 0)
    return -10 * math.log10(np.square(a - b)[shown].mean())


def feed_of(half: Half) -> dict[str, np.ndarray]:
    """What ``upsampler.onnx`` takes."""
    return dict(zip(("small", "drive"), (values[None] for values in half), strict=True))


def enlarged(model: Any, heads: list[Half]) -> np.ndarray:
    """[N, 2 H, 2 W, 4]"""
    return np.concatenate([model.run(["head"], feed_of(head))[0] for head in heads])


def main() -> None:
    _native.set_threads(1)
    bundle = open_bundle(sys.argv[1])
    heads = small_heads(bundle)
    calibration, test = heads[::2], heads[1::2]
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "upsampler.onnx", Path(folder) / "int8.onnx"
        path.write_bytes(bundle.read("upsampler.onnx"))
        exact, layers = session(path), layers_of(path, "Conv")
        expected, native = enlarged(exact, test), native_upsampler(bundle)

        def say(what: str, work: Callable[[], object], error: str = "") -> None:
            print(f"{what}: {best_ms(work, REPEATS):.2f} ms a picture{error}")

        say("native module", partial(native, *test[0]))
        say(f"float32, {expected.shape[1:3]}", partial(enlarged, exact, test[:1]))
        for label, nodes in (("all layers", layers), ("inner layers", layers[1:-1])):
            quantise(path, small, (feed_of(head) for head in calibration), nodes)
            model = session(small)
            error = f", {psnr(enlarged(model, test), expected):.1f} dB"
            say(f"int8, {label}", partial(enlarged, model, test[:1]), error)


if __name__ == "__main__":
    main()

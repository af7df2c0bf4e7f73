"""How far the GPU's renderer, run on the CPU, is from native-cpu in float32: emulation_check.py AVATAR...

PSNR over the head and the largest difference of a value in 0..1, for three frames of each avatar's own track.
"""

from __future__ import annotations

import sys

import numpy as np
from gpu_backends import psnr, requests
from synctalk import _native
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.native_cuda import batch_of
from synctalk.backends.native_renderer import renderer_tensors
from synctalk.bundle import open_bundle


def emulated(emulation: _native.GpuEmulation, request: HeadRequest) -> np.ndarray:
    """The head alone, premultiplied RGBA [H, W, 4]."""
    plates = np.zeros((1, request.camera.height, request.camera.width, 3), np.uint8)
    heads = np.empty((*plates.shape[:3], 4), np.float32)
    emulation.render(batch_of([request]), plates, np.empty_like(plates), heads)
    return heads[0]


def main() -> None:
    for path in sys.argv[1:]:
        bundle = open_bundle(path)
        asked = requests(bundle)[::19]
        cpu = create_backend("native-cpu", bundle, precision="float32", detail="full")
        truth = [cpu.render_head(request) for request in asked]
        for name, is_half in (("float32", False), ("half", True)):
            emulation = _native.GpuEmulation(
                **renderer_tensors(bundle.manifest.spec.field, bundle.tensors), is_half=is_half
            )
            heads = [emulated(emulation, request) for request in asked]
            decibels = [psnr([a], [b]) for a, b in zip(truth, heads, strict=True)]
            furthest = max(float(np.abs(a - b).max()) for a, b in zip(truth, heads, strict=True))
            print(
                f"{path}  {name:8} {min(decibels):.1f} to {max(decibels):.1f} dB, largest difference {furthest:.4f}"
            )


if __name__ == "__main__":
    main()

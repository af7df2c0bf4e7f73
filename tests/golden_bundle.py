"""The golden bundle of this version: `python tests/golden_bundle.py` writes it, once, before a release.

It is an avatar as ``tiny_subject`` draws it, with a small grid and an upsampler of one level, and the picture that shows
three of its frames at full and at half size.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk import Avatar

FOLDER = Path(__file__).with_name("golden")
_FRAMES = (0, 12, 24)
_RATE = 16_000


def picture(bundle: str | Path) -> NDArray[np.uint8]:
    """Frames of a bundle that says a fixed sound: uint8 [2 H, 3 W, 3], full size above half size."""
    seconds = np.arange(_RATE) / _RATE
    sound = (0.4 * np.sin(2 * np.pi * (90 + 200 * seconds) * seconds) * (1 + np.sin(19 * seconds))).astype(
        np.float32
    )
    rows = []
    for detail in ("full", "half"):
        avatar = Avatar.from_bundle(
            bundle, backend="native-cpu", threads=1, precision="float32", detail=detail, watermark=False
        )
        frames = list(avatar.speak(sound, _RATE, expression="recorded"))
        rows.append(np.concatenate([frames[i].image for i in _FRAMES], axis=1))
    return np.concatenate(rows)


def _write() -> None:
    import torch
    from synctalk._version import __version__
    from synctalk.spec import AudioSpec, GridSpec, UpsamplerSpec
    from synctalk_export.export import ExportOptions, export_bundle
    from synctalk_export.track import encode_png
    from synctalk_trainer.upsampler import Upsampler
    from tiny_subject import UPSAMPLER_FIGURES, tiny_spec, tiny_subject

    path = FOLDER / f"{__version__}.avatar"
    if path.exists():
        raise SystemExit(f"{path} exists, and a golden bundle is for ever: raise the version first")
    grid = GridSpec(n_levels=4, base_resolution=16, finest_resolution=64, log2_table_size=12)
    spec = dataclasses.replace(
        tiny_spec(grid=grid, occupancy_resolution=32),
        audio=AudioSpec(components=8, cosines=64),
        upsampler=UpsamplerSpec(levels=1, hidden=16),
    )
    torch.manual_seed(0)
    network = Upsampler(spec.upsampler).requires_grad_(False)
    torch.nn.init.normal_(network.weights[-1], std=0.005)
    torch.nn.init.normal_(network.modulate.weight, std=0.05)
    network.see(np.random.default_rng(1).normal(size=(20, network.spec.drive)).astype(np.float32))
    subject = dataclasses.replace(
        tiny_subject(spec), name="golden", upsampler=network, upsampler_figures=UPSAMPLER_FIGURES
    )
    for weights in subject.field.colour:
        weights.mul_(4.0)  # colours that differ, so that a change is seen
    export_bundle(subject, path, ExportOptions(licence="CC0-1.0", consent="synthetic", plate_seconds=1.2))
    path.with_suffix(".png").write_bytes(encode_png(picture(path)))


if __name__ == "__main__":
    _write()

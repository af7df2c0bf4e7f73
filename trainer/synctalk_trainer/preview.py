"""Pictures to look at while training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .run import Run

__all__ = ["compose", "write_preview"]


def compose(rgba: NDArray[np.float32], behind: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied RGBA [H, W, 4] over a picture [H, W, 3] uint8."""
    mixed = rgba[..., :3] * 255 + (1 - rgba[..., 3:]) * behind
    return np.asarray((mixed + 0.5).clip(0, 255), np.uint8)


def write_preview(run: Run, frames: list[int], path: Path) -> None:
    """One column a frame: truth above, render below."""
    columns = []
    for frame in frames:
        truth = np.asarray(run.dataset.frames[frame])
        columns.append(np.concatenate([truth, compose(run.render(frame), run.dataset.plates[frame])]))
    sheet = np.concatenate(columns, axis=1)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp.png")
    cv2.imwrite(str(temporary), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    temporary.replace(path)

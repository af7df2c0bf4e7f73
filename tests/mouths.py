"""What a viewer sees and hears of the mock avatar: how open its mouth is, and how well that follows the sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def opening(image: NDArray[np.uint8]) -> int:
    """How many pixels [H, W, 3] have the colour of the mouth."""
    below = image[len(image) // 2 :]
    return int(((below[..., 0] > 90) & (below[..., 1] < 60) & (below[..., 2] < 60)).sum())


def lip_correlation(images: Sequence[NDArray[np.uint8]], sounds: Sequence[NDArray[np.int16]]) -> float:
    """Correlation of the mouth's opening with the loudness of the sound that comes with each picture."""
    loudness = [float(np.abs(sound.astype(float)).mean()) if len(sound) else 0.0 for sound in sounds]
    return float(np.corrcoef([opening(image) for image in images], loudness)[0, 1])


def bursts(rate: int, n: int = 4) -> NDArray[np.int16]:
    """``n`` times a third of a second of noise and a third of digital silence, [samples] mono."""
    chance = np.random.default_rng(0)
    third = rate // 3
    loud = (0.2 * 32768 * chance.standard_normal((n, third))).clip(-32768, 32767).astype(np.int16)
    return np.concatenate([loud, np.zeros_like(loud)], axis=1).reshape(-1)

"""Compare two datasets of the same performance frame by frame: are they in step?

    python scripts/compare_clips.py data/a data/b

Prints, for shifts of whole frames, the mean absolute difference of the pictures (of 255, at 64 x 64) over all frames that
both hold, and the lag of the sound in milliseconds by cross-correlation. In step: the least difference is at shift 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import signal

_SHIFTS = range(-4, 5)


def _small(folder: Path) -> NDArray[np.float32]:
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    return np.stack(
        [cv2.resize(np.asarray(f), (64, 64), interpolation=cv2.INTER_AREA) for f in frames]
    ).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    a, b = _small(arguments.first), _small(arguments.second)
    print(f"frames: {len(a)} and {len(b)}")
    n = min(len(a), len(b)) - 8
    for shift in _SHIFTS:
        difference = np.abs(a[4 : n + 4] - b[4 + shift : n + 4 + shift]).mean()
        print(f"shift {shift:+d} frames ({shift * 40:+d} ms): {difference:.3f}")
    x, y = (
        soundfile.read(folder / "audio.wav")[0][: n * 640] for folder in (arguments.first, arguments.second)
    )
    correlation = signal.correlate(y, x, "full", "fft")
    lag = int(correlation.argmax()) - (len(x) - 1)
    print(f"sound: lag {lag / 16:.2f} ms")


if __name__ == "__main__":
    main()

"""A strip of pictures of an avatar speaking, for the README.

python scripts/strip.py may.avatar hello.wav docs/pictures/demo_strip.png --frames 6
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from synctalk import Avatar
from synctalk.media import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("avatar", type=Path)
    parser.add_argument("sound", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()
    frames = [frame.image for frame in Avatar.from_bundle(arguments.avatar).speak(arguments.sound)]
    chosen = np.linspace(0, len(frames) - 1, arguments.frames + 2).astype(int)[1:-1]
    strip = np.concatenate([frames[i] for i in chosen], axis=1)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(arguments.picture) as path:
        cv2.imwrite(str(path), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()

"""Let an avatar speak a sound file and write an mp4.

python examples/speak_to_mp4.py may.avatar hello.wav out.mp4
"""

from __future__ import annotations

import sys
import time

from synctalk import Avatar


def main(bundle: str, audio: str, out: str) -> None:
    avatar = Avatar.from_bundle(bundle)
    started = time.perf_counter()
    n_frames = avatar.save(out, audio)
    seconds = time.perf_counter() - started
    print(f"{out}: {n_frames} frames in {seconds:.1f} s, {n_frames / avatar.fps / seconds:.1f} x real time")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

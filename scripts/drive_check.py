"""Drive an avatar with speech it never saw and judge it: frame count, steadiness, a mouth that follows and rests.

    python scripts/drive_check.py may.avatar speech/*.wav --json out/drive.json

Each sound is spoken with a second of silence after it, so that every one has a mouth at rest to look at. Ends with status
1 if a sound misses a bar.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk import Avatar, SyncTalkError
from synctalk.audio import resample
from synctalk.media import atomic_path, read_audio
from synctalk_trainer.detect import picture_detector
from synctalk_trainer.drive import Drive, drive

_RATE = 16_000
_REST_S = 1.0
_COLUMNS = (
    ("frames", "frames", "{:d}"),
    ("expected", "frames_expected", "{:d}"),
    ("no face", "frames_without_face", "{:d}"),
    ("flicker", "flicker", "{:.2f}"),
    ("jump", "flicker_peak", "{:.1f}"),
    ("open, speech", "aperture_speech", "{:.4f}"),
    ("open, silence", "aperture_silence", "{:.4f}"),
    ("share", "silence_share", "{:.2f}"),
    ("r loudness", "loudness_r", "{:.2f}"),
    ("lag ms", "loudness_lag_ms", "{:.0f}"),
    ("fps", "fps", "{:.1f}"),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("avatar", type=Path)
    parser.add_argument("sounds", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--landmarker", type=Path, help="another copy of face_landmarker.task than the packaged one"
    )
    arguments = parser.parse_args()
    try:
        return _check(arguments)
    except SyncTalkError as error:
        print(f"drive_check: {error}", file=sys.stderr)
        return 2


def _check(arguments: argparse.Namespace) -> int:
    avatar = Avatar.from_bundle(arguments.avatar)
    rows = {}
    with picture_detector(arguments.landmarker) as detect:
        for path in arguments.sounds:
            samples, rate = read_audio(path)
            padded = np.concatenate(
                [resample(samples, rate, _RATE), np.zeros(round(_REST_S * _RATE), np.float32)]
            )
            speaker = _Speaker(avatar)
            result = drive(speaker.speak, padded, detect)
            rows[path.name] = result.to_dict() | {"fps": round(result.frames / max(speaker.seconds, 1e-9), 1)}
            print(f"{path.name}: {_verdict(result)}", file=sys.stderr)
    _print_table(rows)
    if arguments.json is not None:
        with atomic_path(arguments.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 1 if any(row["failures"] for row in rows.values()) else 0


class _Speaker:
    """Speaks and measures how long the frames took, without the time that judging them takes."""

    def __init__(self, avatar: Avatar) -> None:
        self._avatar = avatar
        self.seconds = 0.0

    def speak(self, samples: NDArray[np.float32]) -> Iterator[NDArray[np.uint8]]:
        frames = self._avatar.speak(samples, _RATE)
        while True:
            start = time.perf_counter()
            frame = next(frames, None)
            self.seconds += time.perf_counter() - start
            if frame is None:
                return
            yield frame.image


def _verdict(result: Drive) -> str:
    return "; ".join(result.failures) or "ok"


def _print_table(rows: dict[str, dict[str, object]]) -> None:
    print("| sound | " + " | ".join(title for title, _, _ in _COLUMNS) + " |")
    print("|---" * (len(_COLUMNS) + 1) + "|")
    for name, row in rows.items():
        cells = ["-" if row[key] is None else form.format(row[key]) for _, key, form in _COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())

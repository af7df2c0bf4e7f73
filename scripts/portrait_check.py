"""Does the head sit in its picture? Seams, shaking and chins, over the frames' own plates.

    python scripts/portrait_check.py runs/may --out out/portrait

Figures of a run, on held-out frames (drawn over their plates, as the run time draws the frames of its plate):

seam     Mean gradient of the picture in a band around the head's outline, over that of the source there: an edge that the
         source lacks makes it larger, a blur smaller. At most 1.2.
shake    Rigid points of the face (nose, forehead, cheekbones) found by MediaPipe in the render and in the source, their second
         difference in time: how much more the render shakes, px RMS at 512. At most 0.15.

contour  Open frames are driven with silence, shut ones with a wide mouth that was filmed in nearly their pose. How far the
         jaw's contour, found in the pixels, lies from where landmarks of filmed frames with that mouth put the jaw, mean
         over the lower jaw, px at 512. At most 2. In brackets: filmed frames with their own landmarks, the measure's error.
second   In the same pictures, the strongest edge below the jaw that filmed jaws of that mouth lack, as a share of a jaw's
         own edge, less the same of held-out filmed frames. An old chin that shows, a hole, the rim of a wrong shadow. At
         most 0.25.

Writes a sheet of these to be looked at: filmed, driven, and driven with the expected jaw (yellow), its contour (green), and
that edge (red). ``--spoil`` breaks the pictures on purpose, to see that the figures tell.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk import SyncTalkError
from synctalk.media import atomic_path
from synctalk_trainer.chins import SPOILED, Chins, Spoil
from synctalk_trainer.dataset import HEAD
from synctalk_trainer.detect import picture_detector
from synctalk_trainer.measure import Detect, compose
from synctalk_trainer.prepare.face_mesh import STABLE
from synctalk_trainer.run import Run, load_run
from synctalk_trainer.split import segments, split

Float = NDArray[np.float32]
Frame = NDArray[np.uint8]

_SIZE = 512
"""Distances are told in pixels of frames of this side."""
_BAND = 4 / _SIZE
"""Half the width of the band around the outline, as a share of the side."""
_SEAM_FRAMES, _SHAKE_FRAMES = 24, 75
_SEAM_BAR, _SHAKE_BAR = 1.2, 0.15


@dataclass(frozen=True)
class Seam:
    """Gradients in the band, means of the luma's magnitude in levels a pixel."""

    shown: float
    source: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("out/portrait"), help="folder of the pictures")
    parser.add_argument(
        "--landmarker", type=Path, help="another copy of face_landmarker.task than the packaged one"
    )
    parser.add_argument("--only-chins", action="store_true", help="neither seam nor shake")
    parser.add_argument(
        "--spoil", choices=SPOILED, default="no", help="break the driven heads: see the figures fail"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(
        "| run | seam: gradient over source's | shake, px | contour shut, open (filmed), px | second shut, open |"
    )
    print("|---|---|---|---|---|")
    is_good = True
    try:
        seen = nullcontext() if arguments.only_chins else picture_detector(arguments.landmarker)
        with seen as detect:
            for path in arguments.runs:
                sheet = arguments.out / f"{path.name}.png"
                is_good &= _check(load_run(path), detect, sheet, SPOILED[arguments.spoil])
    except SyncTalkError as error:
        print(f"portrait_check: {error}", file=sys.stderr)
        return 2
    return 0 if is_good else 1


def _check(run: Run, detect: Detect | None, sheet: Path, spoil: Spoil) -> bool:
    """Print a run's row. Without a detector, its chins only."""
    data = run.dataset
    train, held = split(data.takes, data.n_frames, run.settings.holdout, data.valid)
    chins = Chins.of(run, train, held)
    shut, opened = (chins.check(drives, spoil) for drives in (chins.shut(), chins.opened()))
    _write(sheet, shut.pictures + opened.pictures)
    ratio = None if detect is None else _seam_ratio(run, held)
    shake = None if detect is None else _shake(run, held, detect)
    cells = ["–" if ratio is None else f"{ratio:.2f}", "–" if shake is None else f"{shake:+.2f}"]
    filmed = f"({shut.contour_filmed:.1f}, {opened.contour_filmed:.1f})"
    cells += [
        f"{shut.contour:.1f}, {opened.contour:.1f} {filmed}",
        f"{shut.second:+.2f}, {opened.second:+.2f}",
    ]
    print(f"| {sheet.stem} | " + " | ".join(cells) + " |", flush=True)
    is_good = (ratio is None or ratio <= _SEAM_BAR) and (shake is None or shake <= _SHAKE_BAR)
    return is_good and shut.is_good and opened.is_good


def _seam_ratio(run: Run, held: NDArray[np.int64]) -> float:
    seams = [seam(run, int(frame)) for frame in _spread(held, _SEAM_FRAMES)]
    return sum(one.shown for one in seams) / sum(one.source for one in seams)


def _spread(frames: NDArray[np.int64], n: int) -> list[int]:
    chosen: list[int] = frames[np.linspace(0, len(frames) - 1, min(n, len(frames))).astype(int)].tolist()
    return chosen


def _draw(run: Run, frame: int) -> Frame:
    """A frame as the run time draws it, over its plate."""
    return compose(run.render(frame), np.asarray(run.dataset.plates[frame]))


def seam(run: Run, frame: int) -> Seam:
    """The band around the head mask's outline, in the drawn frame and in the source."""
    mask = (np.asarray(run.dataset.masks[frame]) == HEAD).astype(np.uint8)
    reach = max(1, round(_BAND * len(mask)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    band = (cv2.dilate(mask, kernel) > 0) & (cv2.erode(mask, kernel) == 0)
    shown, source = _gradient(_draw(run, frame)), _gradient(np.asarray(run.dataset.frames[frame]))
    return Seam(
        float(np.linalg.norm(shown[band], axis=1).mean()),
        float(np.linalg.norm(source[band], axis=1).mean()),
    )


def _gradient(picture: Frame) -> Float:
    """Of the luma, [H, W, 2], levels a pixel."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slopes = [cv2.Scharr(luma, cv2.CV_32F, 1, 0), cv2.Scharr(luma, cv2.CV_32F, 0, 1)]
    return np.asarray(np.stack(slopes, axis=-1) / np.float32(32), np.float32)


def _write(sheet: Path, rows: list[Frame]) -> None:
    with atomic_path(sheet) as temporary:
        cv2.imwrite(str(temporary), np.concatenate(rows, axis=0)[..., ::-1])


def _shake(run: Run, frames: NDArray[np.int64], detect: Detect) -> float | None:
    """How much more rigid points shake in the render, px RMS at 512; None without an unbroken stretch."""
    part = max(segments(frames, run.dataset.takes), key=lambda one: one.stop - one.start)
    chosen = frames[part][:_SHAKE_FRAMES]
    if len(chosen) < 10:
        return None
    shaking = []
    for pictures in (
        [_draw(run, int(frame)) for frame in chosen],
        [np.asarray(run.dataset.frames[int(frame)]) for frame in chosen],
    ):
        points, found = detect(pictures)
        if not found.all():
            return None
        second = np.diff(points[:, list(STABLE), :2].mean(axis=1), n=2, axis=0)
        shaking.append(float(np.sqrt((second**2).sum(axis=1).mean())) * _SIZE / run.camera.width)
    return shaking[0] - shaking[1]


if __name__ == "__main__":
    sys.exit(main())

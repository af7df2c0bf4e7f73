"""Does sound move the lower face only, and expression the upper only? Renders with one input changed, and looks where.

    python scripts/attention_check.py may.avatar runs/may --out out/attention

For each avatar, or run, frames over its motion are rendered at rest; then with the widest mouth, with both eyes shut, and
with raised brows. The squared difference is summed below and above the nose base, a line that turns with the head. Writes a
picture of each: the frame, and where it changed. Ends with status 1 where less than 95 % lies in its region. What hardly moved
in the clip is told and not judged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk import SyncTalkError
from synctalk.backends import HeadRequest, create_backend
from synctalk.bundle import open_bundle
from synctalk.cli import DEMO
from synctalk.geometry import Camera, project
from synctalk.media import atomic_path, read_audio
from synctalk.stage import Stage
from synctalk.track import Track
from synctalk_trainer.run import load_run

Float = NDArray[np.float32]

_NOSE_BASE_M = np.float32([[-0.05, -0.019, 0.06], [0.05, -0.019, 0.06]])
"""Two points of the line below the nose, in head space."""
_SHARE = 0.95
_LEAST_RANGE = 0.1
"""Expressions that the clip varies by less have taught the field nothing."""
_FRAMES = 5
_GAP = 8


@dataclass(frozen=True)
class Head:
    """What is looked at of an avatar or a run."""

    camera: Camera
    track: Track
    names: tuple[str, ...]
    rest: Float
    """[C]"""
    wide: Float
    """[C] the widest mouth"""
    render: Callable[[int, Float, Float], Float]
    """Frame, condition [C], expression [E] -> the picture, the head over its plate, [H, W, 3] in 0..1"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("avatars", type=Path, nargs="+", metavar="AVATAR_OR_RUN")
    parser.add_argument("--out", type=Path, default=Path("out/attention"), help="folder of the pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("| avatar | changed | energy in its region | mean square, 1e-6 |\n|---|---|---|---|")
    is_good = True
    try:
        for path in arguments.avatars:
            head = _of_run(path) if (path / "run.json").is_file() else _of_bundle(path)
            is_good &= _check(path, head, arguments.out)
    except SyncTalkError as error:
        print(f"attention_check: {error}", file=sys.stderr)
        return 2
    return 0 if is_good else 1


def _of_bundle(path: Path) -> Head:
    bundle = open_bundle(path)
    backend = create_backend("auto", bundle, precision="float32", detail="full")
    stage, camera = Stage(bundle, backend, watermark=False), bundle.manifest.camera
    samples, rate = read_audio(DEMO / "sentence.wav")
    stream = stage.listen(rate)
    conditions = np.array([one.condition for one in (*stream.push(samples), *stream.flush())])
    appearance = np.asarray(bundle.tensors["field.appearance"], np.float32)
    track, rest = stage.track, stage.shaping.rest

    def render(frame: int, condition: Float, expression: Float) -> Float:
        pose = track.rotation[frame], track.translation[frame]
        request = HeadRequest(camera, *pose, condition, expression, appearance)
        return _over(backend.render_head(request), stage.plate(frame))

    return Head(
        camera,
        track,
        stage.spec.field.expression_names,
        rest,
        _furthest(conditions, rest),
        render,
    )


def _of_run(path: Path) -> Head:
    run = load_run(path)
    valid = np.flatnonzero(run.dataset.valid)
    span = np.quantile(run.expression[valid], (0.002, 0.998), axis=0).astype(np.float32)
    track = Track(run.poses[0][valid], run.poses[1][valid], run.expression[valid], span)

    def render(frame: int, condition: Float, expression: Float) -> Float:
        pose = track.rotation[frame], track.translation[frame]
        request = HeadRequest(run.camera, *pose, condition, expression, run.appearance_mean)
        return _over(run.draw(request), run.dataset.plates[valid[frame]])

    wide = _furthest(run.conditions_rendered[valid], run.condition_rest)
    return Head(run.camera, track, run.spec.field.expression_names, run.condition_rest, wide, render)


def _over(head: Float, plate: NDArray[np.uint8]) -> Float:
    """Premultiplied RGBA over a plate, without rounding."""
    return np.asarray(head[..., :3] + (1.0 - head[..., 3:]) * (plate / np.float32(255.0)), np.float32)


def _furthest(conditions: Float, rest: Float) -> Float:
    """The mouth that is opened most: the 98th percentile of the distances from rest."""
    distance = np.linalg.norm(conditions - rest, axis=1)
    return np.asarray(conditions[np.argsort(distance)[int(0.98 * (len(distance) - 1))]], np.float32)


def _check(path: Path, head: Head, out: Path) -> bool:
    """Print and draw an avatar's; whether all lies where it should."""
    track, names = head.track, head.names
    usual = np.median(track.expression, axis=0).astype(np.float32)
    blink, raised = usual.copy(), usual.copy()
    for i, name in enumerate(names):
        if name.startswith("eyeBlink"):
            blink[i] = track.most[i]
        if name.startswith("brow"):
            usual[i] = blink[i] = track.least[i]
            raised[i] = track.most[i] if "Up" in name else track.least[i]
    cases = {
        "mouth": (head.wide, usual, True),
        "blink": (head.rest, blink, False),
        "brows": (head.rest, raised, False),
    }
    frames = np.linspace(0, len(track) - 1, _FRAMES).astype(int)
    picture = head.render(int(frames[_FRAMES // 2]), head.rest, usual)
    panels, is_good = [picture], True
    for name, (condition, expression, is_below) in cases.items():
        energies = np.array(
            [_energy(head, int(frame), usual, condition, expression, is_below) for frame in frames]
        )  # [frames, 2, H, W]
        inside, outside = energies.sum(axis=(0, 2, 3))
        share = inside / max(inside + outside, 1e-12)
        is_known = is_below or float(np.abs(expression - usual).max()) >= _LEAST_RANGE
        is_good &= bool(share >= _SHARE) or not is_known
        mean = (inside + outside) / energies[:, 0].size
        remark = "" if is_known else ", hardly filmed: not judged"
        print(f"| {path.stem} | {name} | {share:.1%}{remark} | {1e6 * mean:.1f} |")
        panels.append(
            _heat(picture, energies.sum(axis=1).mean(axis=0), _line(head, int(frames[_FRAMES // 2])))
        )
    gap = np.ones((picture.shape[0], _GAP, 3), np.float32)
    sheet = np.concatenate([piece for panel in panels for piece in (panel, gap)][:-1], axis=1)
    with atomic_path(out / f"{path.stem}.png") as temporary:
        cv2.imwrite(str(temporary), (255 * sheet[..., ::-1]).round().astype(np.uint8))
    return is_good


def _energy(
    head: Head, frame: int, usual: Float, condition: Float, expression: Float, is_below: bool
) -> Float:
    """Squared difference from the frame at rest, [2, H, W]: inside and outside of the region that may change."""
    before = head.render(frame, head.rest, usual)
    changed = np.square(head.render(frame, condition, expression) - before).mean(axis=2)  # [H, W]
    (x0, y0), (x1, y1) = _line(head, frame)
    rows, columns = np.mgrid[: changed.shape[0], : changed.shape[1]]
    below = rows > y0 + (columns - x0) * (y1 - y0) / (x1 - x0)
    region = below if is_below else ~below
    return np.stack([changed * region, changed * ~region])


def _line(head: Head, frame: int) -> Float:
    """Two points of the nose base in pixels, [2, 2]."""
    pose = head.track.rotation[frame], head.track.translation[frame]
    return np.asarray(project(head.camera, *pose, _NOSE_BASE_M), np.float32)


def _heat(picture: Float, energy: Float, line: Float) -> Float:
    """Where it changed, red, over the grey frame, with the line below the nose."""
    strength = np.sqrt(energy / max(float(np.quantile(energy, 0.999)), 1e-12)).clip(0, 1)[..., None]
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2) * 0.6
    sheet = np.ascontiguousarray((1 - strength) * grey + strength * np.float32([1.0, 0.2, 0.1]), np.float32)
    direction = (line[1] - line[0]) * 2
    start, end = (
        tuple(np.round(point).astype(int).tolist()) for point in (line[0] - direction, line[1] + direction)
    )
    cv2.line(sheet, start, end, (0.2, 0.8, 1.0), 1)
    return sheet


if __name__ == "__main__":
    sys.exit(main())

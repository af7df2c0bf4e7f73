"""What people look at after an evaluation: picture sheets, curves, a side-by-side video, one page with the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from synctalk.errors import MediaError
from synctalk.media import atomic_path, write_mp4
from synctalk.spec import FPS

from . import metrics
from .measure import Clip, Curves, Evaluated
from .mouth import LIPS

__all__ = ["difference", "figure_table", "verdicts", "write_report"]

Frame = NDArray[np.uint8]

_RATE = 16_000
_DIFFERENCE_GAIN = 4
_N_SPREAD, _N_WORST, _N_MOUTHS = 6, 6, 12
_MOUTH_SIDE = 160
_MAX_TILE = 320
_LABEL_HEIGHT = 18


def difference(picture: Frame, truth: Frame) -> Frame:
    """Absolute difference, four times as bright, uint8."""
    gap = np.abs(picture.astype(np.int16) - truth.astype(np.int16)) * _DIFFERENCE_GAIN
    return np.asarray(np.minimum(gap, 255), np.uint8)


def verdicts(figures: dict[str, Any]) -> list[str]:
    """Sentences for people: what is wrong by these figures and what to do; one reassuring sentence if nothing is.

    figures: the dictionary of ``evaluate``; figures that are missing or not numbers say nothing.
    """

    def number(name: str) -> float:
        value = figures.get(name)
        return float(value) if isinstance(value, int | float) else float("nan")

    said = []
    lag, gain, r = number("lip_lag_ms"), number("lip_gain"), number("lip_r")
    if abs(lag) > 40:
        late = "lag behind" if lag > 0 else "run ahead of"
        said.append(f"The lips {late} the truth by {abs(lag):.0f} ms: check the clip's audio offset.")
    if r < 0.5:
        said.append(f"The lips hardly follow the sound (r {r:.2f}): train longer, or give a longer clip.")
    if gain < 0.7:
        said.append(f"The mouth opens {100 * gain:.0f} % as far as in the truth: train longer.")
    if gain > 1.3:
        said.append(f"The mouth opens {gain:.1f} times as far as in the truth: the motion is exaggerated.")
    for name, what in (("lip_jitter", "lips"), ("head_jitter", "head"), ("flicker", "picture")):
        unit = "_px" if name == "head_jitter" else ""
        ratio = number(name + unit) / max(number(f"{name}_truth{unit}"), 1e-9)
        if ratio > 1.5:
            said.append(
                f"The {what} is {ratio:.1f} times as restless as in the truth ({name}).".replace(
                    "lips is", "lips are"
                )
            )
    if number("blink_f1") < 0.5:
        said.append(
            f"Blinks are missed or invented (F1 {number('blink_f1'):.2f}): look at the expression curves."
        )
    oracle = figures.get("baselines", {}).get("oracle", {})
    for region in ("face", "mouth"):
        if number(f"psnr_{region}") < oracle.get(f"psnr_{region}", float("-inf")):
            said.append(f"The {region} is no better than the nearest training frame: train longer.")
    if number("frames_without_face") > 0:
        said.append(
            f"No face is found in {number('frames_without_face'):.0f} rendered frames: look at the worst frames."
        )
    if number("frames") < 50:
        said.append(f"Only {number('frames'):.0f} frames are held out: these figures are rough.")
    return said or [
        "No fault shows in these figures; look at the mouth sheet and the video before you trust them."
    ]


def write_report(
    clip: Clip, sound: NDArray[np.float32], result: Evaluated, table: dict[str, Any], folder: Path, title: str
) -> None:
    """Write the sheets, ``curves.png``, ``side_by_side.mp4`` and ``report.html`` into ``folder``.

    sound: the clip's 16 kHz samples. table: the figures to print, with ``baselines`` and, if asked, ``against``.
    """
    n = len(result.frames)
    spread = np.unique(np.linspace(0, n - 1, min(_N_SPREAD, n)).round().astype(int))
    worst = np.argsort(result.per_frame["psnr_face"], kind="stable")[:_N_WORST]
    _write_png(folder / "frames.png", _comparison_sheet(clip, result, spread))
    _write_png(folder / "worst.png", _comparison_sheet(clip, result, worst))
    _write_png(folder / "mouths.png", _mouth_sheet(clip, result))
    _write_curves(result.curves, folder / "curves.png")
    samples = _sound_of(sound, result.frames)
    write_mp4(folder / "side_by_side.mp4", _side_by_side(clip, result), FPS, samples, _RATE)
    page = _PAGE.render(title=title, table=_rows(table), columns=_columns(table), verdicts=verdicts(table))
    with atomic_path(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _triple(clip: Clip, result: Evaluated, i: int) -> list[Frame]:
    truth, render = np.asarray(clip.frames[int(result.frames[i])]), np.asarray(result.pictures[i])
    return [truth, render, difference(render, truth)]


def _comparison_sheet(clip: Clip, result: Evaluated, picks: NDArray[np.int64]) -> Frame:
    """One column a frame: truth, render, difference x 4; its number and PSNR above."""
    columns = []
    for i in picks:
        tiles = [_shrunk(tile) for tile in _triple(clip, result, int(i))]
        text = f"{result.frames[i]}: face {result.per_frame['psnr_face'][i]:.1f} dB"
        columns.append(np.concatenate([_label(text, tiles[0].shape[1]), *tiles]))
    return np.concatenate(columns, axis=1)


def _mouth_sheet(clip: Clip, result: Evaluated) -> Frame:
    """Mouths from closed to open by the truth's lips: truth above, render below."""
    order = np.argsort(result.curves.lips_truth, kind="stable")
    if not len(order):
        return _label("no frame with a face", 2 * _MOUTH_SIDE)
    places = np.unique(np.linspace(0, len(order) - 1, min(_N_MOUTHS, len(order))).round().astype(int))
    columns = []
    for pick in order[places]:
        frame = int(result.curves.frames[pick])
        truth, render, _ = _triple(clip, result, int(np.searchsorted(result.frames, frame)))
        points = clip.landmarks[frame][list(LIPS), :2]
        half = 0.7 * float(np.ptp(points[:, 0]))
        box = metrics.landmark_box(points.mean(axis=0, keepdims=True), half, len(truth)).slices
        tiles = [
            cv2.resize(
                np.ascontiguousarray(p[box]), (_MOUTH_SIDE, _MOUTH_SIDE), interpolation=cv2.INTER_CUBIC
            )
            for p in (truth, render)
        ]
        columns.append(np.concatenate([_label(str(frame), _MOUTH_SIDE), *tiles]))
    return np.concatenate(columns, axis=1)


def _shrunk(tile: Frame) -> Frame:
    if len(tile) <= _MAX_TILE:
        return tile
    return np.asarray(cv2.resize(tile, (_MAX_TILE, _MAX_TILE), interpolation=cv2.INTER_AREA), np.uint8)


def _label(text: str, width: int) -> Frame:
    strip = np.full((_LABEL_HEIGHT, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _write_png(path: Path, picture: Frame) -> None:
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), np.ascontiguousarray(picture[..., ::-1])):
            raise MediaError(f"cannot write {path}: is the disk full?")


def _write_curves(curves: Curves, path: Path) -> None:
    """Lip aperture and eye openness over time; cuts leave gaps."""
    figure = Figure(figsize=(14, 6), layout="constrained")
    pairs = (
        ("lip aperture / eye distance", curves.lips_truth, curves.lips),
        ("eye openness", curves.eyes_truth, curves.eyes),
    )
    for axis, (name, truth, render) in zip(figure.subplots(2, 1, sharex=True), pairs, strict=True):
        for values, label, colour in ((truth, "truth", "black"), (render, "render", "tab:red")):
            for k, part in enumerate(curves.parts):
                seconds = np.arange(part.start, part.stop) / FPS
                axis.plot(seconds, values[part], color=colour, lw=0.9, label=label if k == 0 else None)
        axis.set_ylabel(name)
        axis.margins(x=0.005)
    if curves.parts:  # none where no face was found in any render
        figure.axes[0].legend(loc="upper right")
    figure.axes[1].set_xlabel("seconds of held-out frames")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def _side_by_side(clip: Clip, result: Evaluated) -> Iterator[Frame]:
    for i in range(len(result.frames)):
        yield np.concatenate(_triple(clip, result, i), axis=1)


def _sound_of(sound: NDArray[np.float32], frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """The 640 samples of each frame, one after the other (zeros past the end)."""
    samples = _RATE // FPS
    padded = np.concatenate([sound, np.zeros(samples, np.float32)])
    index = (frames[:, None] * samples + np.arange(samples)).ravel()
    return np.asarray(padded[np.minimum(index, len(padded) - 1)], np.float32)


_NAMES = {
    "psnr_full": "PSNR full, dB",
    "psnr_full_own": "PSNR full with the truth's torso and background, dB",
    "psnr_head": "PSNR head mask, dB",
    "psnr_face": "PSNR face box, dB",
    "psnr_mouth": "PSNR mouth box, dB",
    "psnr_hair": "PSNR hair and ears, dB",
    "ssim_full": "SSIM full",
    "ssim_head": "SSIM head mask",
    "ssim_mouth": "SSIM mouth box",
    "lpips": "LPIPS, full frame",
    "lmd_px": "LMD, 40 lip points, centred, px",
    "lmd_iod": "the same / eye distance",
    "lmd_raw_px": "LMD, not centred, px",
    "lmd_raw_iod": "the same / eye distance",
    "lip_r": "lip aperture r",
    "lip_gain": "lip aperture gain",
    "lip_lag_ms": "lip lag, ms (+ late)",
    "lip_jitter": "lip jitter",
    "lip_jitter_truth": "lip jitter of the truth",
    "head_jitter_px": "head jitter, px",
    "head_jitter_truth_px": "head jitter of the truth, px",
    "blink_f1": "blink F1",
    "flicker": "flicker in the head mask",
    "flicker_truth": "flicker of the truth",
    "frames": "held-out frames",
    "frames_without_face": "rendered frames without a face",
    "seconds_trained": "seconds trained",
}


def _columns(table: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Title and figures of each column."""
    columns = [("render, own torso and background", table)]
    columns.append(("render, model's torso and background", table.get("model_background", {})))
    for name, figures in table.get("baselines", {}).items():
        columns.append(
            (f"{name} (a training frame, whole picture)" if name == "oracle" else f"{name} frame", figures)
        )
    if "against" in table:
        columns.append((f"against {table['against'].get('run', 'another run')}", table["against"]))
    return columns


def _rows(table: dict[str, Any]) -> list[tuple[str, list[str]]]:
    columns: Sequence[dict[str, Any]] = [figures for _, figures in _columns(table)]
    rows = []
    for key, name in _NAMES.items():
        cells = [_cell(figures.get(key)) for figures in columns]
        if any(cells):
            rows.append((name, cells))
    return rows


def _cell(value: Any) -> str:
    if value is None or not isinstance(value, int | float) or not np.isfinite(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def figure_table(table: dict[str, Any]) -> Table:
    """The figures of ``evaluate`` as a table for the terminal."""
    printed = Table("")
    for title, _ in _columns(table):
        printed.add_column(title, justify="right")
    for name, cells in _rows(table):
        printed.add_row(name, *cells)
    return printed


_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } img, video { max-width: 100% }
</style></head><body>
<h1>{{ title }}</h1>
<ul>{% for sentence in verdicts %}<li>{{ sentence }}</li>{% endfor %}</ul>
<table><tr><th></th>{% for name, _ in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for name, cells in table %}
<tr><td>{{ name }}</td>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>Means over held-out frames. Own torso and background: the published protocol, the truth outside the head mask; the
model's: the plate of the training frame with the nearest head pose. LMD is on MediaPipe's lip points, not dlib's.</p>
<h2>Truth, render, difference &times; 4</h2>
<video src="side_by_side.mp4" controls></video>
<img src="frames.png" alt="evenly spaced frames">
<h2>The worst faces</h2><img src="worst.png" alt="worst frames">
<h2>Mouths from closed to open: truth above, render below</h2><img src="mouths.png" alt="mouths">
<h2>Lips and eyes over time</h2><img src="curves.png" alt="curves">
</body></html>
""")

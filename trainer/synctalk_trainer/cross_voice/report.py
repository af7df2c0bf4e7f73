"""What people look at: a table, curves, a page, and the matrix of avatars and voices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from synctalk.media import atomic_path

from .judge import Pair, film_path, write_figures
from .material import FRAME_SAMPLES, RATE

__all__ = ["figure_table", "matrices", "write_report"]

_FPS = RATE // FRAME_SAMPLES
_COLUMNS = (
    ("frames", "frames", 0),
    ("r", "r", 2),
    ("lag ms", "lag_ms", 0),
    ("r at 0", "r_at_0", 2),
    ("amplitude", "amplitude", 2),
    ("of speaker", "amplitude_of_speaker", 2),
    ("opening", "opening", 2),
    ("shut, precision", "shut_precision", 2),
    ("shut, recall", "shut_recall", 2),
    ("p b m", "contact", 2),
    ("in silence", "silence_share", 2),
    ("r loudness", "loudness_r", 2),
    ("lag ms", "loudness_lag_ms", 0),
    ("jitter", "jitter", 2),
    ("flicker", "flicker", 2),
    ("jump", "flicker_peak", 1),
    ("no face", "frames_without_face", 0),
    ("fps", "fps", 0),
)
"""Title, key of the figures, digits"""
_BRIEF = {
    "r",
    "lag_ms",
    "amplitude",
    "amplitude_of_speaker",
    "opening",
    "shut_precision",
    "shut_recall",
    "contact",
}
_BRIEF |= {"silence_share", "loudness_r", "jitter"}
"""Keys that fit on a terminal"""
_MATRICES = (
    ("r of the apertures at the best lag", "r", 2),
    ("lag, ms", "lag_ms", 0),
    ("amplitude over the subject's own", "amplitude", 2),
    ("amplitude over the speaker's", "amplitude_of_speaker", 2),
    ("opening while speaking over the subject's own", "opening", 2),
    ("shut lips, precision", "shut_precision", 2),
    ("shut lips, recall", "shut_recall", 2),
    ("lips shut in p, b, m", "contact", 2),
    ("aperture in silence over that in speech", "silence_share", 2),
    ("r with the loudness", "loudness_r", 2),
    ("lip jitter over the subject's own", "jitter", 2),
)
_STRIP_S, _MAX_STRIPS = 12, 5


def write_report(pairs: Sequence[Pair], folder: Path) -> None:
    """Write ``voices.json``, curves of every pair, ``matrix.md``, ``matrix.png`` and ``report.html`` into ``folder``."""
    write_figures(pairs, folder)
    (folder / "curves").mkdir(exist_ok=True)
    for pair in pairs:
        _write_curves(pair, folder / "curves" / f"{pair.name}.png")
    with atomic_path(folder / "matrix.md") as temporary:
        temporary.write_text(matrices(pairs), encoding="utf-8")
    has_map = _write_heat_map(pairs, folder / "matrix.png")
    rows = [
        {
            "name": pair.name,
            "title": _title(pair),
            "cells": _cells(pair),
            "missed": pair.figures["missed"],
            "film": film_path(folder, pair).exists(),
        }
        for pair in pairs
    ]
    page = _PAGE.render(columns=[title for title, _, _ in _COLUMNS], rows=rows, has_map=has_map)
    with atomic_path(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def figure_table(pairs: Sequence[Pair]) -> Table:
    """The main figures for the terminal; columns in which nothing was measured are left out."""
    columns = [column for column in _COLUMNS if column[1] in _BRIEF]
    rows = [[_number(pair.figures[key], digits) for _, key, digits in columns] for pair in pairs]
    used = [k for k in range(len(columns)) if any(row[k] for row in rows)]
    table = Table(collapse_padding=True, pad_edge=False)
    table.add_column("avatar: voice", no_wrap=True)
    for k in used:
        table.add_column(columns[k][0].replace(" ", "\n"), justify="right", no_wrap=True)
    for pair, row in zip(pairs, rows, strict=True):
        table.add_row(_title(pair), *(row[k] or "–" for k in used))
    return table


def matrices(pairs: Sequence[Pair]) -> str:
    """Markdown: for each figure a table of all avatars and all voices, and the mean over voices that are not the own one."""
    avatars, voices = _sides(pairs)
    lines = ["# Avatars and voices", "", "* the avatar's own voice, held-out frames; not in the mean", ""]
    for title, key, digits in _MATRICES:
        values = {(p.subject.name, p.voice.name): p.figures[key] for p in pairs}
        if not any(math.isfinite(value) for value in values.values()):
            continue
        own = {(p.subject.name, p.voice.name) for p in pairs if p.is_own}
        lines += [f"## {title[0].upper()}{title[1:]}", "", "| | " + " | ".join([*voices, "mean"]) + " |"]
        lines.append("|---" * (len(voices) + 2) + "|")
        for avatar in avatars:
            cells = [
                (_number(values.get((avatar, voice)), digits) or "–")
                + ("*" if (avatar, voice) in own else "")
                for voice in voices
            ]
            others = [v for pair, v in values.items() if pair[0] == avatar and pair not in own]
            lines.append(
                f"| {avatar} | " + " | ".join([*cells, _number(_mean(others), digits) or "–"]) + " |"
            )
        lines.append("")
    return "\n".join(lines)


def _sides(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Names of avatars and voices in order."""
    return list(dict.fromkeys(p.subject.name for p in pairs)), list(
        dict.fromkeys(p.voice.name for p in pairs)
    )


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _title(pair: Pair) -> str:
    return f"{pair.subject.name}: {pair.voice.name}" + (" (own, held out)" if pair.is_own else "")


def _cells(pair: Pair) -> list[str]:
    return [_number(pair.figures[key], digits) for _, key, digits in _COLUMNS]


def _number(value: Any, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _write_heat_map(pairs: Sequence[Pair], path: Path) -> bool:
    """A picture of r: against the films, and with the loudness; False if nothing was measured."""
    avatars, voices = _sides(pairs)
    kinds = [("r of the apertures", "r"), ("r with the loudness", "loudness_r")]
    kinds = [(title, key) for title, key in kinds if any(math.isfinite(p.figures[key]) for p in pairs)]
    if not kinds:
        return False
    height = 1.5 + 0.4 * len(avatars) + 0.07 * max(map(len, voices))
    figure = Figure(figsize=(2.5 + 0.7 * len(voices), height * len(kinds)), layout="constrained")
    for axis, (title, key) in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds, strict=True):
        grid = np.full((len(avatars), len(voices)), np.nan)
        for pair in pairs:
            grid[avatars.index(pair.subject.name), voices.index(pair.voice.name)] = pair.figures[key]
        shown = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            colour = "black" if value > 0.6 else "white"
            axis.text(column, row, _number(value, 2), ha="center", va="center", color=colour, fontsize=8)
        axis.set_yticks(range(len(avatars)), avatars)
        axis.set_xticks(range(len(voices)), voices, rotation=45, ha="right")
        axis.set_title(title)
        figure.colorbar(shown, ax=axis)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    return True


def _write_curves(pair: Pair, path: Path) -> None:
    """Filmed and rendered aperture over time, the loudness below; shut lips are marked. The first minute."""
    seconds = sum(len(one.found) for one in pair.spoken) / _FPS
    n_strips = min(_MAX_STRIPS, max(1, math.ceil(seconds / _STRIP_S)))
    figure = Figure(figsize=(14, 3.2 * n_strips), layout="constrained")
    grid = figure.subplots(2 * n_strips, 1, squeeze=False, height_ratios=[3, 1] * n_strips)[:, 0]
    for k in range(n_strips):
        lips, loudness = grid[2 * k], grid[2 * k + 1]
        _draw(pair, lips, loudness)
        for axis in (lips, loudness):
            axis.set_xlim(k * _STRIP_S, min((k + 1) * _STRIP_S, max(seconds, 1.0)))
        lips.set_ylabel("aperture")
        loudness.set_ylabel("dB")
    grid[0].legend(loc="upper right")
    grid[-1].set_xlabel("seconds")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80)


def _draw(pair: Pair, lips: Axes, loudness: Axes) -> None:
    """Both curves of every sound, one after the other."""
    film, at = pair.voice.film, 0
    filmed = pair.filmed
    for k, one in enumerate(pair.spoken):
        time = (at + np.arange(len(one.found))) / _FPS
        labels = ("filmed", "rendered") if k == 0 else (None, None)
        if film is not None and filmed is not None:
            a, b = film.takes[k]
            truth = np.where(film.valid[a:b], film.aperture[a:b], np.nan)[: len(time)]
            lips.plot(time[: len(truth)], truth, color="black", lw=0.9, label=labels[0])
            _mark(lips, time[: len(truth)], truth < filmed.shut_below, -0.006, "black")
        rendered = np.where(one.found, one.opening, np.nan)
        lips.plot(time, rendered, color="tab:red", lw=0.9, label=labels[1])
        _mark(lips, time, rendered < pair.figures["shut_below"], -0.012, "tab:red")
        for start, end in pair.voice.contacts[k] or ():
            lips.axvspan(at / _FPS + start, at / _FPS + end, color="tab:blue", alpha=0.15, lw=0)
        loudness.plot(time, np.maximum(one.loudness, -70), color="tab:grey", lw=0.8)
        at += len(one.found)
        lips.axvline(at / _FPS, color="lightgrey", lw=0.6)


def _mark(axis: Axes, time: Any, shut: Any, height: float, colour: str) -> None:
    axis.plot(time[shut], np.full(int(shut.sum()), height), "|", color=colour, ms=5)


_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Avatars and voices</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2rem .5rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } img, video { max-width: 100% }
</style></head><body>
<h1>Avatars and voices</h1>
<table><tr><th>avatar: voice</th>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr><td><a href="#{{ row.name }}">{{ row.title }}</a></td>{% for cell in row.cells %}<td>{{ cell or "–" }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>r: correlation of the rendered lips' aperture with the filmed one at the best lag within 200 ms; lag: positive where
the render is late. Amplitude, opening, jitter: over the subject's own film. Shut: lips closer than 15 % of a person's
filmed range, within a frame. In silence: aperture in pauses over that in speech. p b m: how often the lips shut in these sounds.</p>
{% if has_map %}<img src="matrix.png" alt="r of all avatars and voices">{% endif %}
{% for row in rows %}
<h2 id="{{ row.name }}">{{ row.title }}</h2>
<ul>{% for sentence in row.missed %}<li>{{ sentence }}</li>{% endfor %}</ul>
{% if row.film %}<video src="films/{{ row.name }}.mp4" controls preload="none"></video>{% endif %}
<img src="curves/{{ row.name }}.png" alt="aperture and loudness over time; below 0, marks where lips are shut; blue: p, b, m" loading="lazy">
{% endfor %}
</body></html>
""")

"""A report as one picture: how long frames take, and where their time goes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import SyncTalkError
from synctalk.media import atomic_path

from .report import resources, verdict

__all__ = ["check_plotting", "draw_report"]

_INK, _FAINT, _BAR, _LATE = "#1f2933", "#9aa5b1", "#2f6f9f", "#c0392b"
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
_STAGE_INK = ("#e0a030", "#6aa84f", "#2f6f9f", "#8e6fb0")


def check_plotting() -> None:
    """Raises: SyncTalkError: matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SyncTalkError("--plot needs matplotlib: pip install 'synctalk[bench]'")


def draw_report(report: dict[str, Any], frame_s: NDArray[np.float32], path: Path) -> None:
    """Write a PNG. frame_s: seconds, [n].

    Raises: SyncTalkError: matplotlib is missing. MediaError: a folder that cannot be written.
    """
    check_plotting()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(3, 1))
    _draw_latency(above, report, 1000.0 * np.asarray(frame_s, np.float64))
    _draw_stages(below, report)
    machine = report["machine"]
    figure.suptitle(
        f"{report['bundle']['name']}, {report['size'][0]} × {report['size'][1]}, {report['backend']}: "
        f"{report['fps']:.0f} frames a second end to end",
        x=0.01,
        ha="left",
        color=_INK,
        fontsize=14,
        fontweight="bold",
    )
    above.set_title(
        f"{verdict(report)}\n{machine['cpu']}, {resources(report)}",
        loc="left",
        fontsize=9,
        color=_INK,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_latency(axes: Any, report: dict[str, Any], ms: NDArray[np.float64]) -> None:
    """A histogram of frame times with the percentiles and, where it is near, the time that a frame may take."""
    budget = 1000.0 / (report["real_time"]["fps"] * report["sessions"])
    right = float(max(np.percentile(ms, 99.5) * 1.15, ms.min() * 1.5))
    if budget < 3.0 * right:
        right = max(right, budget * 1.08)
    left = min(float(ms.min()) * 0.9, right * 0.9)
    axes.hist(
        np.clip(ms, left, right),
        bins=np.linspace(left, right, int(np.clip(2 * len(ms) ** 0.5, 16, 80))),
        color=_BAR,
        alpha=0.85,
    )
    top = axes.get_ylim()[1] * 1.3
    axes.set_ylim(0, top)
    for i, name in enumerate(("p50", "p95", "p99", "p99_9")):
        at = min(report["frame_ms"][name], right)
        height = top * (0.96 - 0.09 * i)
        axes.plot([at, at], [0, height], color=_INK, linewidth=0.9, linestyle=":")
        label = f" {name.replace('_', '.')}  {report['frame_ms'][name]:.1f} ms "
        side = "right" if at > (left + right) / 2 else "left"
        axes.text(at, height, label, color=_INK, fontsize=9, va="center", ha=side, bbox=_PAPER)
    if left < budget < right:
        axes.axvline(budget, color=_LATE, linewidth=1.4)
        axes.text(
            budget,
            top * 0.5,
            f" {budget:.0f} ms a frame",
            color=_LATE,
            fontsize=9,
            rotation=90,
            ha="right",
            va="center",
        )
    n_beyond = int((ms > right).sum())
    beyond = f"; the last bar holds {n_beyond} that took longer" if n_beyond else ""
    axes.set_xlabel(f"time of a frame, ms ({len(ms)} frames{beyond})", color=_INK)
    axes.set_ylabel("frames", color=_INK)
    axes.set_xlim(left, right)
    _quiet(axes)


def _draw_stages(axes: Any, report: dict[str, Any]) -> None:
    """One bar, split by stage, with every share said."""
    start = 0.0
    total = sum(one["ms"] for one in report["stages"].values())
    for (name, one), ink in zip(report["stages"].items(), _STAGE_INK, strict=True):
        label = f"{name}  {one['ms']:.2f} ms, {100 * one['share']:.0f} %"
        axes.barh(0, one["ms"], left=start, color=ink, height=0.6, label=label)
        start += one["ms"]
    axes.set_xlim(0, total)
    axes.set_ylim(-0.45, 0.45)
    axes.set_yticks([])
    axes.set_xlabel("mean time by stage, ms", color=_INK)
    axes.legend(
        ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 0.95), frameon=False, fontsize=9, labelcolor=_INK
    )
    _quiet(axes)


def _quiet(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)

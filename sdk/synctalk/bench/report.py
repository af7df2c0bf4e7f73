"""Reports: written, read, said in words, compared. Their keys are those of docs/benchmarking.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synctalk.errors import MediaError
from synctalk.media import atomic_path

__all__ = ["SCHEMA", "compare", "read_report", "resources", "summary", "verdict", "write_report"]

SCHEMA = 1
"""Goes up when a key changes its meaning or goes; new keys leave it."""

Report = dict[str, Any]

_KEYS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "synctalk": str,
    "backend": str,
    "size": list,
    "fps": (int, float),
    "frame_ms": dict,
    "first_frame_ms": dict,
    "rtf": (int, float),
    "real_time": dict,
    "rss_mb": (int, float),
    "stages": dict,
    "baselines": dict,
    "machine": dict,
}
_LABELS = {
    "torch_eager": "PyTorch",
    "torch_compile": "torch.compile",
    "torch_compile_bf16": "torch.compile, bf16",
    "onnxruntime": "ONNX Runtime",
}
_COMPARED = (
    ("frames a second", ("fps",), "higher"),
    ("frame p50, ms", ("frame_ms", "p50"), "lower"),
    ("frame p95, ms", ("frame_ms", "p95"), "lower"),
    ("frame p99, ms", ("frame_ms", "p99"), "lower"),
    ("first frame cold, ms", ("first_frame_ms", "cold"), "lower"),
    ("first frame warm, ms", ("first_frame_ms", "warm"), "lower"),
    ("audio, ms", ("stages", "audio", "ms"), "lower"),
    ("condition, ms", ("stages", "condition", "ms"), "lower"),
    ("head, ms", ("stages", "head", "ms"), "lower"),
    ("composite, ms", ("stages", "composite", "ms"), "lower"),
    ("memory, MB", ("rss_mb",), "lower"),
    ("samples a second", ("field", "samples_per_s"), "higher"),
    ("x PyTorch", ("baselines", "torch_eager", "ratio"), "higher"),
    ("x torch.compile, bf16", ("baselines", "torch_compile_bf16", "ratio"), "higher"),
    ("x ONNX Runtime", ("baselines", "onnxruntime", "ratio"), "higher"),
    ("share of peak", ("peak_share",), "higher"),
)
"""Label, where the figure is, and which is better."""

_NOISE = 0.03


def write_report(report: Report, path: Path) -> None:
    """Write JSON. Raises: MediaError: a folder that cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read what ``write_report`` wrote. Raises: MediaError: no such file, or not a report of this version."""
    remedy = "make one with synctalk bench AVATAR --json FILE"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}: {remedy}") from error
    except ValueError as error:
        raise MediaError(f"{path}: not JSON ({error}): {remedy}") from error
    if not isinstance(report, dict):
        raise MediaError(f"{path}: not a report: {remedy}")
    if (found := report.get("schema")) != SCHEMA:
        raise MediaError(f"{path}: schema {found}, this version of synctalk reads {SCHEMA}: {remedy}")
    if wrong := [key for key, kind in _KEYS.items() if not isinstance(report.get(key), kind)]:
        raise MediaError(f"{path}: {', '.join(wrong)} missing or of another kind: {remedy}")
    return report


def resources(report: Report) -> str:
    """How much of the machine was used, and for how many streams."""
    threads, sessions = report["threads"], report["sessions"]
    return f"{threads} thread{'s' * (threads > 1)}, {sessions} session{'s' * (sessions > 1)}"


def verdict(report: Report) -> str:
    """One line: does it keep up?"""
    real_time, p99 = report["real_time"], report["frame_ms"]["p99"] * report["sessions"]
    answer = "yes" if real_time["yes"] else "no"
    streams = f" for {report['sessions']} sessions" if report["sessions"] > 1 else ""
    line = f"real time at {real_time['fps']} fps{streams}: {answer}, head-room {real_time['headroom']:.2f} x"
    if not real_time["yes"] and real_time["headroom"] >= 1:
        line += (
            f" on average, but 1 % of the frames take {p99:.0f} ms or more of {1000 / real_time['fps']:.0f}"
        )
    return line


def summary(report: Report) -> str:
    """A report for people."""
    frame, machine, field = report["frame_ms"], report["machine"], report["field"]
    simd = f", {machine['simd']}" if machine["simd"] else ""
    lines = [
        f"{report['bundle']['name']}, {report['size'][0]} x {report['size'][1]}, {report['backend']}, "
        f"{resources(report)}",
        f"{machine['cpu']}, {machine['cpus']} CPUs{simd}; load {machine['load_average']}",
        "",
        f"frames      {report['fps']:.1f} a second end to end ({report['frames']} measured); "
        f"real-time factor {report['rtf']:.3f}",
        f"frame, ms   p50 {frame['p50']:.2f}   p95 {frame['p95']:.2f}   p99 {frame['p99']:.2f}   "
        f"p99.9 {frame['p99_9']:.2f}   (p99 / p50 {frame['p99'] / frame['p50']:.2f})",
        f"first frame {report['first_frame_ms']['cold']:.0f} ms from import synctalk in a new process, "
        f"{report['first_frame_ms']['warm']:.1f} ms on a loaded avatar",
        f"memory      {report['rss_mb']:.0f} MB"
        + (f", GPU {report['vram_mb']:.0f} MB" if report["vram_mb"] else ""),
        "stages      "
        + "   ".join(
            f"{name} {one['ms']:.2f} ms ({100 * one['share']:.0f} %)"
            for name, one in report["stages"].items()
        ),
    ]
    if field:
        lines.append(
            f"head        {field['samples_per_frame'] / 1e3:.0f} k samples a frame, "
            f"{field['samples_per_s'] / 1e6:.2f} M a second, {field['multiply_adds_per_sample']} multiply-adds each"
        )
    if report["peak_share"] is not None:
        peak = report["peak"]
        lines.append(
            f"peak        {100 * report['peak_share']:.0f} % of the "
            f"{peak['multiply_adds_per_s'] / 1e9:.0f} G {peak['arithmetic']} multiply-adds a second of this machine"
        )
    for name, one in report["baselines"].items():
        if one:
            rate = one["samples_per_s"] / 1e6
            lines.append(
                f"            {one['ratio']:.1f} x {_LABELS[name]} (field only: {rate:.2f} M samples a second)"
            )
    lines += [f"            {_LABELS.get(name, name)}: {why}" for name, why in report["notes"].items()]
    return "\n".join([*lines, "", verdict(report)])


def compare(first: Report, second: Report) -> str:
    """Two reports side by side: what changed from the first to the second, and where they cannot be compared."""
    lines = [f"{'':24}{'A':>12}{'B':>12}{'B / A':>9}"]
    for label, keys, better in _COMPARED:
        a, b = _at(first, keys), _at(second, keys)
        if a is None and b is None:
            continue
        if not a or not b:
            lines.append(f"{label:24}{_figure(a):>12}{_figure(b):>12}")
            continue
        ratio = b / a
        gain = ratio if better == "higher" else 1.0 / ratio
        word = "" if abs(gain - 1.0) <= _NOISE else "  better" if gain > 1.0 else "  worse"
        lines.append(f"{label:24}{_figure(a):>12}{_figure(b):>12}{ratio:>9.2f}{word}")
    differences = [f"  {name}: {a} / {b}" for name, a, b in _circumstances(first, second) if a != b]
    if differences:
        lines += ["", "Not measured alike:", *differences]
    return "\n".join(lines)


def _at(report: Report, keys: tuple[str, ...]) -> float | None:
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _circumstances(first: Report, second: Report) -> list[tuple[str, Any, Any]]:
    names = ("bundle", "size", "backend", "device", "threads", "sessions")
    pairs = [(name, first.get(name), second.get(name)) for name in names]
    machines = first["machine"], second["machine"]
    return [
        *pairs,
        *((name, machines[0].get(name), machines[1].get(name)) for name in ("cpu", "cpus", "simd", "gpus")),
    ]

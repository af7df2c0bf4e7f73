"""Measuring: one run of the benchmark, from settings to a report."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import synctalk
from synctalk._version import __version__
from synctalk.avatar import Avatar
from synctalk.backends import Backend, create_backend
from synctalk.backends.half_size import HalfSize, half_sized
from synctalk.backends.sessions import usable_cpus
from synctalk.bundle import Bundle, open_bundle
from synctalk.errors import BackendError, BundleError
from synctalk.media import read_audio

from .field import BASELINES, Baseline, field_work, load_baselines, race
from .machine import describe_machine
from .report import SCHEMA
from .stages import STAGES, StageClock, TimedBackend
from .streams import fresh_process, steady_frames, warm_first_frame_s

__all__ = ["SENTENCE", "Result", "Settings", "benchmark", "frame_figures"]

Float = NDArray[np.float32]
Progress = Callable[[str, float], None]
"""What is going on, and how far that has come, 0..1."""

SENTENCE = Path(synctalk.__file__).parent / "demo" / "sentence.wav"
_ROUNDS = 3
_PEAK_S = 0.5


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    bundle: Path
    audio: Path = SENTENCE
    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    detail: str = "auto"
    sessions: int = 1
    seconds: float = 10.0
    with_baselines: bool = False
    cold_starts: int = 3


@dataclass(frozen=True, eq=False)
class Result:
    """A report (docs/benchmarking.md) and the frame times behind its percentiles."""

    report: dict[str, Any]
    frame_s: Float
    """[n]"""


def benchmark(settings: Settings, on_progress: Progress = lambda what, share: None) -> Result:
    """Measure an avatar end to end: sound in pieces of 40 ms in, composited uint8 frames out.

    Raises: BundleError, BackendError, MediaError: what is to be measured cannot be had.
    """
    bundle = open_bundle(settings.bundle)
    sound = read_audio(settings.audio)
    backend = create_backend(
        settings.backend, bundle, settings.device, settings.threads, settings.precision, settings.detail
    )
    settings = replace(settings, backend=backend.name)
    fresh = _fresh(settings, sound, on_progress)
    clock = StageClock()
    timed = TimedBackend(backend, clock)
    avatar = Avatar(bundle, timed)
    warm_s = warm_first_frame_s(avatar, *sound)
    frame_s = steady_frames(
        avatar,
        clock,
        sound,
        settings.sessions,
        settings.seconds,
        lambda share: on_progress("frames", share),
    )
    threads = settings.threads or usable_cpus()
    report = {
        "schema": SCHEMA,
        "synctalk": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bundle": {"name": bundle.manifest.name, "preset": bundle.manifest.spec.name},
        "backend": backend.name,
        "device": settings.device,
        "threads": threads,
        "detail": getattr(backend, "detail", "full"),
        "sessions": settings.sessions,
        "size": list(avatar.size),
        **frame_figures(frame_s, settings.sessions, avatar.fps),
        "first_frame_ms": {
            "cold": round(1000.0 * median(found["first_frame_s"] for found in fresh), 1),
            "warm": round(1000.0 * warm_s, 2),
        },
        "rss_mb": round(fresh[-1]["rss_mb"], 1),
        "vram_mb": fresh[-1]["vram_mb"],
        "stages": _stages(clock, len(frame_s)),
        **_field_figures(bundle, backend, timed, threads, settings.with_baselines, on_progress),
        "machine": describe_machine(),
    }
    return Result(report, frame_s)


def _fresh(settings: Settings, sound: tuple[Float, int], on_progress: Progress) -> list[dict[str, Any]]:
    """Several fresh processes; the last one speaks the whole sound, for its memory."""
    import soundfile

    samples, rate = sound
    options = {
        "backend": settings.backend,
        "device": settings.device,
        "threads": settings.threads,
        "precision": settings.precision,
        "detail": settings.detail,
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "sound.wav"
        soundfile.write(wav, samples, rate, subtype="FLOAT")
        for i in range(settings.cold_starts):
            on_progress("cold start", i / settings.cold_starts)
            found.append(
                fresh_process(
                    settings.bundle,
                    wav,
                    options,
                    settings.sessions,
                    seconds=settings.seconds if i == settings.cold_starts - 1 else 0.0,
                )
            )
    return found


def frame_figures(frame_s: Float, n_sessions: int, target_fps: int) -> dict[str, Any]:
    """Rate, percentiles and verdict of frame times [n], seconds, of ``n_sessions`` streams in turn."""
    ms = 1000.0 * np.asarray(frame_s, np.float64)
    fps = 1000.0 / float(ms.mean())
    headroom = fps / (target_fps * n_sessions)
    percentiles = {
        f"p{p:g}".replace(".", "_"): round(float(np.percentile(ms, p)), 3) for p in (50, 95, 99, 99.9)
    }
    in_time = percentiles["p99"] * n_sessions <= 1000.0 / target_fps
    return {
        "fps": round(fps, 2),
        "frames": len(ms),
        "frame_ms": {**percentiles, "mean": round(float(ms.mean()), 3), "max": round(float(ms.max()), 3)},
        "rtf": round(1.0 / headroom, 4),
        "real_time": {
            "fps": target_fps,
            "yes": bool(in_time and headroom >= 1.0),
            "headroom": round(headroom, 2),
        },
    }


def _stages(clock: StageClock, n_frames: int) -> dict[str, dict[str, float]]:
    total = sum(clock.seconds.values())
    return {
        name: {
            "ms": round(1000.0 * clock.seconds[name] / n_frames, 3),
            "share": round(clock.seconds[name] / total, 4),
        }
        for name in STAGES
    }


def _field_figures(
    bundle: Bundle,
    backend: Backend,
    timed: TimedBackend,
    threads: int,
    with_baselines: bool,
    progress: Progress,
) -> dict[str, Any]:
    """``field``, ``baselines``, ``peak`` and ``peak_share``; null with a note where they cannot be had."""
    figures: dict[str, Any] = {
        "field": None,
        "baselines": dict.fromkeys(BASELINES),
        "peak": None,
        "peak_share": None,
        "notes": {},
    }
    requests = timed.requests
    if isinstance(backend, HalfSize):
        backend, requests = backend.whole, [half_sized(request) for request in requests]
    elif getattr(backend, "detail", "full") == "half":
        return figures | {"notes": {"field": "half-size heads come as a whole here: measure --detail full"}}
    try:
        progress("samples", 0.0)
        work = field_work(bundle, requests)
    except (BackendError, BundleError) as error:
        return figures | {"notes": {"field": str(error)}}
    if not work.n_samples:
        return figures | {"notes": {"field": "the pictures show no head"}}
    candidates = load_baselines(bundle, threads) if with_baselines else {}
    lanes = {name: one for name, one in candidates.items() if isinstance(one, Baseline)}
    notes = {name: one for name, one in candidates.items() if not isinstance(one, Baseline)}
    rate, rates = race(work, backend, lanes, _ROUNDS, lambda name: progress(f"field: {name}", 0.0))
    figures["notes"] = notes
    figures["field"] = {
        "samples_per_frame": round(work.n_samples / len(work.requests)),
        "samples_per_s": round(rate),
        "multiply_adds_per_sample": round(work.multiply_adds / work.n_samples),
    }
    for name, other in rates.items():
        figures["baselines"][name] = {"samples_per_s": round(other), "ratio": round(rate / other, 2)}
    if backend.name == "native-cpu":
        figures |= _peak(backend, rate * work.multiply_adds / work.n_samples, threads)
    return figures


def _peak(backend: Backend, multiply_adds_per_s: float, threads: int) -> dict[str, Any]:
    """What this machine could do at most in the backend's arithmetic, and which share of it was done."""
    from synctalk import _native

    kind: str = getattr(backend, "arithmetic", "fp32")
    if kind not in _native.peak_kinds():
        return {}
    peak = _native.measure_peak(kind, threads, _PEAK_S)
    return {
        "peak": {"arithmetic": kind, "multiply_adds_per_s": round(peak)},
        "peak_share": round(multiply_adds_per_s / peak, 4),
    }

"""Streams of frames as a conversation makes them: sound comes in pieces of one frame, pictures go out one by one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.avatar import Avatar
from synctalk.errors import BackendError

from .stages import StageClock

__all__ = ["fresh_process", "steady_frames", "warm_first_frame_s"]

Float = NDArray[np.float32]

_LEAST_FRAMES = 25
"""Of each stream, whatever time it takes."""


def _pieces(samples: NDArray[Any], rate: int, fps: int, first: int = 0) -> Iterator[NDArray[Any]]:
    """The sound in pieces of one frame, from piece ``first`` on and over and over."""
    n = rate // fps
    n_pieces = max(1, len(samples) // n)
    return (samples[i % n_pieces * n :][:n] for i in count(first))


def warm_first_frame_s(avatar: Avatar, samples: Float, rate: int, n_times: int = 5) -> float:
    """Seconds from a call of ``speak`` to its first frame, on a loaded avatar: the median."""
    taken = []
    for _ in range(n_times):
        began = time.perf_counter()
        next(avatar.speak(_pieces(samples, rate, avatar.fps), rate))
        taken.append(time.perf_counter() - began)
    return median(taken)


def steady_frames(
    avatar: Avatar,
    clock: StageClock,
    sound: tuple[Float, int],
    n_sessions: int,
    seconds: float,
    on_progress: Callable[[float], None],
) -> Float:
    """Seconds that each frame took, [n]: of ``n_sessions`` streams in turn, without the first frame of each.

    A frame's time runs from when its 40 ms of sound are pushed until its picture is there.
    """
    samples, rate = sound
    n_pieces = max(1, len(samples) * avatar.fps // rate)
    streams = [
        avatar.speak(_pieces(samples, rate, avatar.fps, i * n_pieces // n_sessions), rate)
        for i in range(n_sessions)
    ]
    for stream in streams:
        next(stream)
    clock.enter("")
    clock.seconds = dict.fromkeys(clock.seconds, 0.0)
    taken: list[float] = []
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or len(taken) < _LEAST_FRAMES * n_sessions:
        on_progress(min(1.0, spent / seconds))
        for stream in streams:
            pushed = clock.enter("audio")
            next(stream)
            taken.append(clock.enter("") - pushed)
    return np.array(taken, np.float32)


_FRESH = """
import time
began = time.perf_counter()
import synctalk
import json, sys
given = json.loads(sys.argv[1])
import soundfile
avatar = synctalk.Avatar.from_bundle(given["bundle"], **given["options"])
samples, rate = soundfile.read(given["sound"], dtype="float32")
n = rate // avatar.fps
def pieces():
    for i in range(0, len(samples), n):
        yield samples[i : i + n]
streams = [avatar.speak(pieces(), rate) for _ in range(given["sessions"])]
next(streams[0])
first = time.perf_counter() - began
until = time.perf_counter() + given["seconds"]
while streams and time.perf_counter() < until:
    streams = [stream for stream in streams if next(stream, None) is not None]
import os
from synctalk.bench.machine import peak_rss_mb, vram_mb
print(json.dumps({"first_frame_s": first, "rss_mb": peak_rss_mb(), "vram_mb": vram_mb(os.getpid())}))
"""


def fresh_process(
    bundle: Path, sound: Path, options: Mapping[str, str | int | None], n_sessions: int, seconds: float
) -> dict[str, Any]:
    """A Python process that loads the avatar and speaks a wav file for ``seconds`` at most (0: one frame).

    options: device, backend, threads and precision of ``Avatar.from_bundle``.
    Returns ``first_frame_s`` (from ``import synctalk`` to the first frame), and ``rss_mb`` and ``vram_mb`` at their peaks.
    Raises: BackendError: it fails, with its last words.
    """
    given = {
        "bundle": str(bundle),
        "sound": str(sound),
        "options": dict(options),
        "sessions": n_sessions,
        "seconds": seconds,
    }
    command = [sys.executable, "-c", _FRESH, json.dumps(given)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise BackendError(f"the avatar does not run in a fresh process: {words[0]}: try synctalk doctor")
    found: dict[str, Any] = json.loads(done.stdout)
    return found

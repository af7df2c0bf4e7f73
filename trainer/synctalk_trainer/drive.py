"""An avatar driven by speech it never saw: there is no true picture, so what can be told from sound and frames alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from synctalk.spec import FPS

from . import metrics
from .measure import Detect
from .mouth import aperture

__all__ = [
    "Drive",
    "Mouth",
    "Speak",
    "Spoken",
    "drive",
    "frame_loudness",
    "pause_level",
    "quiet_frames",
    "spans",
    "watch",
]

Frame = NDArray[np.uint8]
Speak = Callable[[NDArray[np.float32]], Iterable[Frame]]
"""16 kHz mono samples -> pictures [H, W, 3], one every 40 ms."""

_RATE = 16_000
_FRAME_SAMPLES = _RATE // FPS
_FLOOR_DB = -100.0
_QUIET_BELOW_DB = 30.0
_QUIET_ABSOLUTE_DB = -60.0
_MARGIN_FRAMES = 4
_MAX_OPEN_SHARE = 0.2
_MAX_JUMP = 10.0
_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Spoken:
    """What the detector saw of an avatar that spoke one sound."""

    opening: NDArray[np.float32]
    """[n]: ``mouth.aperture`` of each frame"""
    found: NDArray[np.bool_]
    """[n]: whether there is a face"""
    loudness: NDArray[np.float32]
    """[n]: ``frame_loudness``"""
    expected: int
    """ceil(FPS * seconds)"""
    flicker: float
    """Mean absolute second temporal difference of the picture's brightness, 0..255."""
    flicker_peak: float
    """Greatest mean absolute change of brightness between two frames, over the median change (0.05 at least)."""
    seconds: float
    """How long the frames took to come, without the time that looking at them took."""


@dataclass(frozen=True)
class Mouth:
    """How the mouth goes with the sound; NaN where there is nothing to measure."""

    aperture_speech: float
    """Mean opening of the inner lips over the eye distance while somebody speaks."""
    aperture_silence: float
    silence_share: float
    """``aperture_silence / aperture_speech``; the bar is a fifth."""
    silent_frames: int
    loudness_r: float
    """Correlation of the aperture with the sound's loudness, dB, at the lag where it is greatest."""
    loudness_lag_ms: float
    """Positive: the mouth follows the loudness."""


@dataclass(frozen=True)
class Drive:
    """What driving an avatar with sounds showed; NaN where there was nothing to measure. Fields as in ``Spoken``."""

    frames: int
    frames_expected: int
    frames_without_face: int
    flicker: float
    flicker_peak: float
    fps: float
    """Frames a second of the run time."""
    mouth: Mouth

    @property
    def failures(self) -> list[str]:
        """What misses its bar, in words."""
        said = []
        if self.frames != self.frames_expected:
            said.append(f"{self.frames} frames instead of {self.frames_expected}")
        if self.frames_without_face:
            said.append(f"no face in {self.frames_without_face} frames")
        if self.mouth.silence_share >= _MAX_OPEN_SHARE:
            share = 100 * self.mouth.silence_share
            said.append(f"the mouth stays open in silence ({share:.0f} % of its speech mean)")
        if self.flicker_peak > _MAX_JUMP:
            said.append(
                f"the picture jumps ({self.flicker_peak:.0f} times the usual change between two frames)"
            )
        return said

    def to_dict(self) -> dict[str, float | int | list[str] | None]:
        """Plain JSON types, flat; None for what was not measured."""
        values = dataclasses.asdict(self)
        values |= values.pop("mouth")
        finite = {k: v if isinstance(v, int) or math.isfinite(v) else None for k, v in values.items()}
        return {**finite, "failures": self.failures}


def frame_loudness(samples: NDArray[np.float32], n_frames: int) -> NDArray[np.float32]:
    """Loudness of the 40 ms of each frame, dB of the root mean square (full scale 0, silence -100): [n_frames]."""
    padded = np.zeros(n_frames * _FRAME_SAMPLES)
    kept = samples[: len(padded)]
    padded[: len(kept)] = kept
    power = np.square(padded.reshape(n_frames, _FRAME_SAMPLES)).mean(axis=1)
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10))), np.float32)


def pause_level(loudness: NDArray[np.float32]) -> float:
    """Loudness of a voice under which nobody speaks, dB: 30 under its 95th percentile, -60 at least."""
    loud = float(np.percentile(loudness, 95)) if len(loudness) else 0.0
    return max(loud - _QUIET_BELOW_DB, _QUIET_ABSOLUTE_DB)


def quiet_frames(
    loudness: NDArray[np.float32], level: float | None = None, margin: int = _MARGIN_FRAMES
) -> NDArray[np.bool_]:
    """Frames in a pause: under ``level`` (by default the ``pause_level``), with ``margin`` such frames around.

    The margin leaves a mouth 160 ms to close and to open ahead of the sound; the ends of the sound need none.
    """
    sounding = loudness > (pause_level(loudness) if level is None else level)
    near = np.convolve(sounding, np.ones(2 * margin + 1), mode="full")[margin : margin + len(sounding)] > 0.5
    return np.asarray(~near, np.bool_)


class _Watcher:
    """Takes frames one by one; keeps landmarks and changes, not pictures."""

    def __init__(self, detect: Detect) -> None:
        self._detect = detect
        self._pending: list[Frame] = []
        self._last: NDArray[np.float32] | None = None
        self.flicker = metrics.FlickerMeter()
        self.changes: list[float] = []
        self.openings: list[NDArray[np.float32]] = []
        self.found: list[NDArray[np.bool_]] = []

    def push(self, picture: Frame) -> None:
        self.flicker.push(picture)
        grey = metrics.luma(picture)
        if self._last is not None:
            self.changes.append(float(np.abs(grey - self._last).mean()))
        self._last = grey
        self._pending.append(picture)
        if len(self._pending) == _AT_ONCE:
            self.look()

    def look(self) -> None:
        """Find the landmarks of the frames that wait for it."""
        if self._pending:
            points, found = self._detect(self._pending)
            self.openings.append(aperture(points))
            self.found.append(found)
            self._pending.clear()

    @property
    def peak(self) -> float:
        """Greatest change over the median change."""
        return max(self.changes) / max(float(np.median(self.changes)), 0.05) if self.changes else float("nan")


def watch(
    speak: Speak,
    samples: NDArray[np.float32],
    detect: Detect,
    on_frame: Callable[[Frame], None] | None = None,
) -> Spoken:
    """Speak a sound and look at the frames, one by one, so that a lazy ``speak`` needs little memory.

    samples: 16 kHz mono, -1..1; append a second of silence to a sound without pauses, or the mouth at rest is not
    judged. ``on_frame`` is given every picture.

    Raises: ValueError: a picture that is not uint8 [H, W, 3].
    """
    watcher, clock = _Watcher(detect), _Clock()
    for i, picture in enumerate(clock.timed(speak(samples))):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"frame {i} is {picture.dtype} {picture.shape}: expected uint8 [H, W, 3]")
        watcher.push(picture)
        if on_frame is not None:
            on_frame(picture)
    watcher.look()
    found = np.concatenate([np.zeros(0, bool), *watcher.found])
    opening = np.concatenate([np.zeros(0, np.float32), *watcher.openings])
    expected = -(-len(samples) * FPS // _RATE)
    loudness = frame_loudness(samples, len(found))
    return Spoken(opening, found, loudness, expected, watcher.flicker.value, watcher.peak, clock.seconds)


class _Clock:
    """Adds up how long frames take to come."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        source = iter(frames)
        while True:
            start = time.perf_counter()
            frame = next(source, None)
            self.seconds += time.perf_counter() - start
            if frame is None:
                return
            yield frame


def drive(spoken: Sequence[Spoken]) -> Drive:
    """Judge the sounds of one voice together: number of frames, steadiness, a mouth that follows the sound and rests."""
    n_frames = sum(len(one.found) for one in spoken)
    flickers = [(one.flicker, len(one.found)) for one in spoken if math.isfinite(one.flicker)]
    weight = sum(n for _, n in flickers)
    return Drive(
        n_frames,
        sum(one.expected for one in spoken),
        sum(int(np.count_nonzero(~one.found)) for one in spoken),
        sum(value * n for value, n in flickers) / weight if weight else float("nan"),
        max((one.flicker_peak for one in spoken if math.isfinite(one.flicker_peak)), default=float("nan")),
        n_frames / max(sum(one.seconds for one in spoken), 1e-9),
        _mouth(spoken),
    )


def _mouth(spoken: Sequence[Spoken]) -> Mouth:
    """How the aperture goes with the loudness; frames without a face are left out or filled in."""
    nan = float("nan")
    seen = [one for one in spoken if one.found.any()]
    if not seen:
        return Mouth(nan, nan, nan, 0, nan, nan)
    opening, found, loudness = (
        np.concatenate([getattr(one, name) for one in seen]) for name in ("opening", "found", "loudness")
    )
    floor = pause_level(loudness)
    quiet = np.concatenate([quiet_frames(one.loudness, floor) for one in seen])
    speech, silence = found & (loudness > floor), found & quiet
    in_speech = float(opening[speech].mean()) if speech.any() else nan
    in_silence = float(opening[silence].mean()) if silence.any() else nan
    filled = np.concatenate(
        [
            np.interp(np.arange(len(one.found)), np.flatnonzero(one.found), one.opening[one.found])
            for one in seen
        ]
    )
    # Below the pause level loudness says nothing about a mouth: all pauses count alike.
    lag, r = metrics.best_lag(filled, np.maximum(loudness, floor), spans(len(one.found) for one in seen))
    lag_ms = 1000.0 * lag / FPS if math.isfinite(r) else nan
    return Mouth(in_speech, in_silence, in_silence / max(in_speech, 1e-6), int(silence.sum()), r, lag_ms)


def spans(lengths: Iterable[int]) -> list[slice]:
    """Where arrays of these lengths lie when they are joined."""
    edges = np.cumsum([0, *lengths]).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]

"""An avatar driven by speech it never saw: there is no true picture, so what can be told from sound and frames alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from synctalk.spec import FPS

from . import metrics
from .measure import Detect
from .mouth import aperture

__all__ = ["Drive", "Mouth", "Speak", "drive", "frame_loudness", "quiet_frames"]

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
    """What driving an avatar with one sound showed; NaN where there was nothing to measure."""

    frames: int
    frames_expected: int
    """ceil(FPS * seconds)"""
    frames_without_face: int
    flicker: float
    """Mean absolute second temporal difference of the picture's brightness, 0..255."""
    flicker_peak: float
    """Greatest mean absolute change of brightness between two frames, over the median change (0.05 at least)."""
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


def _pause_level(loudness: NDArray[np.float32]) -> float:
    loud = float(np.percentile(loudness, 95)) if len(loudness) else 0.0
    return max(loud - _QUIET_BELOW_DB, _QUIET_ABSOLUTE_DB)


def quiet_frames(loudness: NDArray[np.float32], margin: int = _MARGIN_FRAMES) -> NDArray[np.bool_]:
    """Frames in a pause: 30 dB under loud speech (its 95th percentile) or under -60 dB, with ``margin`` such frames around.

    The margin leaves a mouth 160 ms to close and to open ahead of the sound; the ends of the sound need none.
    """
    sounding = loudness > _pause_level(loudness)
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


def drive(speak: Speak, samples: NDArray[np.float32], detect: Detect) -> Drive:
    """Speak a sound and judge the frames: their number, steadiness, and a mouth that follows the sound and rests.

    samples: 16 kHz mono, -1..1; append a second of silence to a sound without pauses, or the mouth at rest is not
    judged. Frames are taken one by one, so a lazy ``speak`` needs little memory.

    Raises: ValueError: a picture that is not uint8 [H, W, 3].
    """
    watcher, n_frames = _Watcher(detect), 0
    for picture in speak(samples):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"frame {n_frames} is {picture.dtype} {picture.shape}: expected uint8 [H, W, 3]")
        n_frames += 1
        watcher.push(picture)
    watcher.look()
    found = np.concatenate([np.zeros(0, bool), *watcher.found])
    opening = np.concatenate([np.zeros(0, np.float32), *watcher.openings])
    expected = -(-len(samples) * FPS // _RATE)
    missed = int(np.count_nonzero(~found))
    mouth = _mouth(opening, found, frame_loudness(samples, n_frames))
    return Drive(n_frames, expected, missed, watcher.flicker.value, watcher.peak, mouth)


def _mouth(opening: NDArray[np.float32], found: NDArray[np.bool_], loudness: NDArray[np.float32]) -> Mouth:
    """How the aperture [N] goes with the loudness [N]; frames without a face [N] are left out or filled in."""
    nan = float("nan")
    if not found.any():
        return Mouth(nan, nan, nan, 0, nan, nan)
    floor = _pause_level(loudness)
    speech, silence = found & (loudness > floor), found & quiet_frames(loudness)
    in_speech = float(opening[speech].mean()) if speech.any() else nan
    in_silence = float(opening[silence].mean()) if silence.any() else nan
    filled = np.interp(np.arange(len(opening)), np.flatnonzero(found), opening[found])
    # Below the pause level loudness says nothing about a mouth: all pauses count alike.
    lag, r = metrics.best_lag(filled, np.maximum(loudness, floor), [slice(0, len(opening))])
    lag_ms = 1000.0 * lag / FPS if math.isfinite(r) else nan
    return Mouth(in_speech, in_silence, in_silence / max(in_speech, 1e-6), int(silence.sum()), r, lag_ms)

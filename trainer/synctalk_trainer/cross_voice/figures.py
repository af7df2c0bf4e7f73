"""Figures of lips that follow a voice. Every function is pure.

Apertures are ``mouth.aperture``, one value a frame of 40 ms; loudness is ``drive.frame_loudness``. *Speaking* are the
frames over the voice's ``pause_level``. Nothing is measured across the edges of takes. What cannot be measured is NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..drive import Spoken, drive, pause_level, quiet_frames, spans
from ..split import segments

__all__ = [
    "SHUT_SHARE",
    "SHUT_WITHOUT_FILM",
    "Film",
    "Filmed",
    "Interval",
    "closure",
    "filmed_figures",
    "lip_figures",
    "missed",
    "shut_in",
]

Float = NDArray[np.float32]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]
"""Start and end of a sound, seconds"""

_FPS = 25
SHUT_SHARE = 0.15
"""Lips are shut where the aperture is under this share of a person's filmed range, above the range's lower end."""
_RANGE = (2.0, 95.0)
"""Percentiles of the filmed aperture between which a person's range lies"""
SHUT_WITHOUT_FILM = 0.02
"""The aperture under which lips count as shut where no film of the person is known, of the eye distance"""


@dataclass(frozen=True, eq=False)
class Film:
    """How a person's mouth moved, and how loud it was."""

    aperture: Float
    """[N]"""
    valid: Bools
    """[N]: whether a face was found"""
    loudness: Float
    """[N]"""
    takes: tuple[tuple[int, int], ...]
    """[first, end) of each stretch without a cut"""


@dataclass(frozen=True)
class Filmed:
    """What a person's mouth does in a film: what an avatar is measured by."""

    spread: float
    """Standard deviation of the aperture while speaking"""
    opening: float
    """Mean aperture while speaking"""
    jitter: float
    """``metrics.jitter`` of the aperture"""
    shut_below: float
    """Aperture under which the lips are shut: ``SHUT_SHARE`` of the way up the range"""
    silence_share: float
    """Mean aperture in pauses over that in speech"""


def filmed_figures(film: Film) -> Filmed:
    """Range, opening and steadiness of a filmed mouth; NaN where no frame has a face."""
    frames = np.concatenate([np.arange(a, b) for a, b in film.takes])
    frames = frames[film.valid[frames]]
    if not len(frames):
        return Filmed(*[math.nan] * 5)
    inside = np.concatenate([film.loudness[a:b] for a, b in film.takes])
    level = pause_level(inside)
    quiet = np.zeros(len(film.valid), bool)
    for a, b in film.takes:
        quiet[a:b] = quiet_frames(film.loudness[a:b], level)
    moving = film.aperture[frames]
    speech, rest = moving[film.loudness[frames] > level], moving[quiet[frames]]
    low, high = np.percentile(moving, _RANGE)
    opening = _mean(speech)
    return Filmed(
        spread=float(np.std(speech, dtype=np.float64)) if len(speech) else math.nan,
        opening=opening,
        jitter=metrics.jitter(moving, segments(frames, film.takes)),
        shut_below=float(low + SHUT_SHARE * (high - low)),
        silence_share=_ratio(_mean(rest), opening),
    )


def lip_figures(
    spoken: Sequence[Spoken],
    film: Film | None = None,
    own: Filmed | None = None,
    sounds: Sequence[Sequence[Interval] | None] = (),
) -> dict[str, Any]:
    """All figures of an avatar that spoke the sounds of one voice.

    film: the person whose voice it is; ``film.takes`` are the sounds, in order (an avatar's frames after the end of a
    take have no truth). own: the avatar's own filmed mouth. sounds: of each sound, when p, b or m is heard, if known.
    """
    driven = drive(spoken)
    opening, found, loudness = (_joined(spoken, name) for name in ("opening", "found", "loudness"))
    parts = spans(len(one.found) for one in spoken)
    kept = np.flatnonzero(found)
    level = pause_level(loudness)
    speech = opening[found & (loudness > level)]
    shut_below = own.shut_below if own is not None else SHUT_WITHOUT_FILM
    spread = float(np.std(speech, dtype=np.float64)) if len(speech) else math.nan
    jitter = metrics.jitter(opening[kept], segments(kept, [(p.start, p.stop) for p in parts]))
    values = dataclasses.asdict(driven)
    return {
        **values.pop("mouth"),
        **values,
        **(_UNFILMED if film is None else _against_film(spoken, film, shut_below, spread)),
        "amplitude": math.nan if own is None else _ratio(spread, own.spread),
        "opening": math.nan if own is None else _ratio(_mean(speech), own.opening),
        "jitter": math.nan if own is None else _ratio(jitter, own.jitter),
        "lip_spread": spread,
        "lip_jitter": jitter,
        "shut_below": shut_below,
        "shut_share": _mean(speech < shut_below),
        **_contact(spoken, sounds, shut_below),
        "failures": driven.failures,
    }


_UNFILMED: dict[str, float] = dict.fromkeys(
    (
        "frames_compared",
        "r",
        "lag_ms",
        "r_at_0",
        "amplitude_of_speaker",
        "shut_precision",
        "shut_recall",
        "shut_share_filmed",
    ),
    math.nan,
)


def _against_film(spoken: Sequence[Spoken], film: Film, shut_below: float, spread: float) -> dict[str, float]:
    """What needs the speaker's film."""
    speaker = filmed_figures(film)
    level = pause_level(_joined(spoken, "loudness"))
    frames: list[NDArray[np.int64]] = []
    lips: list[Float] = []
    talking: list[Bools] = []
    for one, (first, end) in zip(spoken, film.takes, strict=True):
        n = min(end - first, len(one.found))
        both = one.found[:n] & film.valid[first : first + n]
        frames.append(first + np.flatnonzero(both))
        lips.append(one.opening[:n][both])
        talking.append(~quiet_frames(one.loudness, level)[:n][both])
    index, rendered = np.concatenate(frames), np.concatenate(lips)
    truth, parts = film.aperture[index], segments(index, film.takes)
    lag, r = metrics.best_lag(rendered, truth, parts)
    counted = np.concatenate(talking)
    is_shut = truth < speaker.shut_below
    precision, recall = closure(rendered < shut_below, is_shut, parts, counted)
    return {
        "frames_compared": len(index),
        "r": r,
        "lag_ms": 1000.0 * lag / _FPS if math.isfinite(r) else math.nan,
        "r_at_0": metrics.pearson(rendered, truth),
        "amplitude_of_speaker": _ratio(spread, speaker.spread),
        "shut_precision": precision,
        "shut_recall": recall,
        "shut_share_filmed": _mean(is_shut[counted]),
    }


def closure(
    rendered: Bools, truth: Bools, parts: Sequence[slice], counted: Bools, tolerance: int = 1
) -> tuple[float, float]:
    """Precision and recall of shut lips: [N] three times -> (share of the rendered ones that are right, share of the
    true ones that are rendered), of the frames counted.

    A frame is right if the other one has shut lips within ``tolerance`` frames of it in the same part.
    """
    precision = _mean(_near(truth, parts, tolerance)[rendered & counted])
    return precision, _mean(_near(rendered, parts, tolerance)[truth & counted])


def _near(shut: Bools, parts: Sequence[slice], tolerance: int) -> Bools:
    """Frames with shut lips, and those within ``tolerance`` of one."""
    near = np.zeros_like(shut)
    window = np.ones(2 * tolerance + 1)
    for part in parts:
        n = part.stop - part.start
        near[part] = np.convolve(shut[part], window)[tolerance : tolerance + n] > 0.5
    return near


def shut_in(spoken: Spoken, intervals: Sequence[Interval], shut_below: float) -> list[bool]:
    """Whether the lips shut in each interval, a frame more on either side; intervals without a face are left out."""
    answers = []
    for start_s, end_s in intervals:
        first, last = math.ceil(start_s * _FPS - 1), math.floor(end_s * _FPS + 1)
        inside = slice(max(first, 0), last + 1)
        seen = spoken.opening[inside][spoken.found[inside]]
        if len(seen):
            answers.append(bool(seen.min() < shut_below))
    return answers


def _contact(
    spoken: Sequence[Spoken], sounds: Sequence[Sequence[Interval] | None], shut_below: float
) -> dict[str, float]:
    """How often the lips shut where p, b or m is heard."""
    answers: list[bool] = []
    for one, intervals in zip(spoken, sounds, strict=False):
        answers += shut_in(one, intervals or (), shut_below)
    return {"contact_sounds": len(answers), "contact": _mean(np.array(answers, bool))}


_RATIO_BARS = (0.7, 1.3)


def missed(figures: dict[str, Any]) -> list[str]:
    """The bars that a pair misses, in words; figures that are not numbers miss none.

    With any voice: all frames, a face in each, no jump, at most a fifth of the opening in silence, amplitude and
    opening 0.7 to 1.3 of the subject's own, jitter at most 1.3 of it, shut lips in 80 % of p, b, m. With a film: r 0.45
    within 40 ms. Without: r with the loudness 0.5.
    """

    def number(name: str) -> float:
        value = figures.get(name)
        return float(value) if isinstance(value, int | float) else math.nan

    said = list(figures["failures"])
    if number("r") < 0.45:
        said.append(f"the lips do not follow the voice (r {number('r'):.2f})")
    if abs(number("lag_ms")) > 40:
        said.append(f"the lips are {number('lag_ms'):+.0f} ms late")
    for name, words in (("amplitude", "the lips move"), ("opening", "the mouth opens")):
        if number(name) < _RATIO_BARS[0] or number(name) > _RATIO_BARS[1]:
            said.append(f"{words} {number(name):.2f} times as far as the subject's own")
    if number("jitter") > _RATIO_BARS[1]:
        said.append(f"the lips are {number('jitter'):.1f} times as restless as the subject's own")
    if math.isnan(number("r")) and number("loudness_r") < 0.5:
        said.append(f"the mouth does not follow the loudness (r {number('loudness_r'):.2f})")
    if number("contact") < 0.8:
        said.append(f"the lips shut in {100 * number('contact'):.0f} % of p, b, m")
    return said


def _joined(spoken: Sequence[Spoken], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(one, name) for one in spoken])


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else math.nan


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 1e-9 else math.nan

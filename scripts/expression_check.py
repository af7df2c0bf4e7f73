"""What an avatar's upper face does while it speaks: blinks a minute, brows against pitch and loudness, what it costs.

    python scripts/expression_check.py may.avatar hello.wav --plot curves.png --strip blink.png

Nothing is drawn but the strip: the first generated blink, frame by frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk import Avatar, SyncTalkError
from synctalk.audio import resample
from synctalk.condition import Spoken
from synctalk.expression import Brows, Expression, Source
from synctalk.media import atomic_path, read_audio
from synctalk.prosody import Prosody, pitch_hz
from synctalk.stage import Shot, Stage

_MINUTES = 30
_SEEDS = 5
_BLINK = 0.5
_LAGS = range(-10, 16)
_AHEAD_S = 0.068
"""Middle of the sound that a frame's prominence is judged by, after the frame's start."""

Floats = NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("avatar", type=Path)
    parser.add_argument("sound", type=Path)
    parser.add_argument("--plot", type=Path, help="curves over time")
    parser.add_argument("--strip", type=Path, help="pictures of the first generated blink")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        stage = Avatar.from_bundle(arguments.avatar).stage
        samples, rate = read_audio(arguments.sound)
    except SyncTalkError as error:
        print(f"expression_check: {error}", file=sys.stderr)
        return 2
    samples = resample(samples, rate, stage.spec.audio.sample_rate)
    spoken = _listen(stage, samples)
    _tell_of_blinks(stage)
    raised, shown = _brows(stage, spoken, arguments.seed)
    pitch, loud = _voice(stage, samples, len(spoken))
    _tell_of_brows(stage, raised, pitch, loud, np.array([one.is_speaking for one in spoken]))
    _tell_of_cost(stage, samples)
    if arguments.plot is not None:
        _plot(arguments.plot, stage, raised, shown, pitch, loud)
    if arguments.strip is not None:
        _strip(arguments.strip, stage, spoken, arguments.seed)
    return 0


def _listen(stage: Stage, samples: NDArray[np.float32]) -> list[Spoken]:
    stream = stage.listen(stage.spec.audio.sample_rate)
    return [*stream.push(samples), *stream.flush()]


def _expression(stage: Stage, seed: int, source: Source = "generated") -> Expression:
    names = stage.spec.field.expression_names
    return Expression(stage.track, names, stage.spec.fps, source=source, seed=seed)


def _shut(stage: Stage, expression: Expression, n: int) -> NDArray[np.bool_]:
    """[n] whether both lids are more than half of their range down."""
    names = stage.spec.field.expression_names
    lids = [names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]
    shown = np.array([expression(i, Brows()) for i in range(n)])[:, lids]
    least, most = expression.least[lids], expression.most[lids]
    return np.asarray(((shown - least) / np.maximum(most - least, 1e-6) > _BLINK).all(axis=1), bool)


def _starts(is_shut: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.flatnonzero(np.diff(is_shut.astype(np.int8), prepend=0) == 1)


def _tell_of_blinks(stage: Stage) -> None:
    n, fps = _MINUTES * 60 * stage.spec.fps, stage.spec.fps
    recorded = len(_starts(_shut(stage, _expression(stage, 0, "recorded"), n))) / _MINUTES
    rates, gaps = [], []
    for seed in range(_SEEDS):
        starts = _starts(_shut(stage, _expression(stage, seed), n))
        rates.append(len(starts) / _MINUTES)
        gaps.append(np.diff(starts) / fps)
    between = np.concatenate(gaps)
    print(
        f"blinks a minute: {recorded:.1f} recorded, {min(rates):.1f} to {max(rates):.1f} shown ({_SEEDS} seeds of "
        f"{_MINUTES} minutes)"
    )
    if len(between):
        low, middle, high = np.quantile(between, (0.05, 0.5, 0.95))
        print(
            f"seconds between them: median {middle:.1f}, 5..95 % {low:.1f}..{high:.1f}, least {between.min():.2f}"
        )


def _brows(stage: Stage, spoken: list[Spoken], seed: int) -> tuple[Floats, Floats]:
    """How raised the brows are [n] in 0..1, and the coefficients shown [n, E]."""
    expression, brows = _expression(stage, seed), Brows()
    raised, shown = [], []
    for i, one in enumerate(spoken):
        brows = brows.follow(one.prominence, stage.spec.fps)
        raised.append(brows.height)
        shown.append(expression(i, brows))
    return np.array(raised), np.array(shown, np.float64)


def _voice(stage: Stage, samples: NDArray[np.float32], n: int) -> tuple[Floats, Floats]:
    """Pitch (semitones from its mean, NaN where there is none) and loudness (dB from its mean) about each frame, [n]."""
    size, step, rate = 1024, stage.frame_samples, stage.spec.audio.sample_rate
    padded = np.pad(samples, (size, n * step + size - len(samples)))
    windows = [padded[size + i * step - size // 2 :][:size] for i in range(n)]
    hertz = np.array([pitch_hz(window, rate) for window in windows])
    semitones = 12.0 * np.log2(np.where(hertz > 0.0, hertz, np.nan))
    decibel = np.array([10.0 * np.log10(np.mean(np.square(window)) + 1e-7) for window in windows])
    return semitones - np.nanmean(semitones), decibel - decibel.mean()


def _tell_of_brows(
    stage: Stage, raised: Floats, pitch: Floats, loud: Floats, is_speaking: NDArray[np.bool_]
) -> None:
    fps = stage.spec.fps
    speech = raised[is_speaking]
    print(
        f"brows: raised by {speech.mean():.2f} of their way on average in speech, {raised.max():.2f} at most, over half of "
        f"it {np.mean(speech > 0.5):.0%} of the time; largest step {np.abs(np.diff(raised)).max():.2f} a frame"
    )
    for name, voice in (("pitch", pitch), ("loudness", loud)):
        fits = [_correlation(raised, voice, lag) for lag in _LAGS]
        best = int(np.nanargmax(fits))
        print(f"  r with {name}: {fits[best]:.2f}, {1000 * _LAGS[best] / fps:.0f} ms after it")
    expression = _expression(stage, 0)
    names = stage.spec.field.expression_names
    for i, name in enumerate(names):
        if name.startswith("brow") and "Up" in name:
            lifts = expression(0, Brows(1.0))[i] - expression(0, Brows())[i]
            bounds = f"{expression.least[i]:.2f}..{expression.most[i]:.2f}"
            print(f"  {name}: recorded {bounds}; full prominence adds {lifts:.3f} on the first frame")


def _correlation(raised: Floats, voice: Floats, lag: int) -> float:
    """Pearson's r of the brows with the voice ``lag`` frames before."""
    moved = raised[max(0, lag) : len(raised) + min(0, lag)]
    heard = voice[max(0, -lag) : len(voice) + min(0, -lag)]
    is_there = np.isfinite(heard)
    return float(np.corrcoef(moved[is_there], heard[is_there])[0, 1])


def _tell_of_cost(stage: Stage, samples: NDArray[np.float32]) -> None:
    prosody, piece, n = Prosody(stage.spec.audio.sample_rate, stage.spec.fps), samples[:1024], 2000
    began = time.process_time()
    for _ in range(n):
        prosody.prominence(piece, True)
    listening = time.process_time() - began
    expression, brows = _expression(stage, 0), Brows(0.5)
    began = time.process_time()
    for i in range(n):
        brows = brows.follow(0.3, stage.spec.fps)
        expression(i, brows)
    shaping = time.process_time() - began
    print(f"cost a frame: {1e6 * listening / n:.0f} us to listen, {1e6 * shaping / n:.0f} us to shape")


def _plot(path: Path, stage: Stage, raised: Floats, shown: Floats, pitch: Floats, loud: Floats) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names, at = stage.spec.field.expression_names, np.arange(len(raised)) / stage.spec.fps
    figure, (voice, brows, lids) = pyplot.subplots(3, sharex=True, figsize=(10.0, 6.0), layout="constrained")
    voice.plot(at, pitch, ".-", label="pitch, semitones")
    voice.plot(at, loud / 3.0, label="loudness, 3 dB", alpha=0.6)
    brows.plot(at, raised, "k", label="raised, 0..1")
    for i, name in enumerate(names):
        axes = lids if name.startswith("eyeBlink") else brows
        axes.plot(at, shown[:, i], label=name, alpha=0.7)
        axes.plot(at, stage.track.expression[[stage.track.index(k) for k in range(len(at))], i], "k:", lw=0.6)
    for axes in (voice, brows, lids):
        axes.legend(loc="upper right", fontsize=7)
    lids.set_xlabel("s; dotted: recorded")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)
    pyplot.close(figure)


def _strip(path: Path, stage: Stage, spoken: list[Spoken], seed: int) -> None:
    import cv2

    n = max(len(spoken), 60 * stage.spec.fps)
    ours = _shut(stage, _expression(stage, seed), n) & ~_shut(stage, _expression(stage, seed, "recorded"), n)
    if not ours.any():
        print("no blink was generated: the subject's recorded blinks have too small a range", file=sys.stderr)
        return
    first, expression = int(np.argmax(ours)), _expression(stage, seed)
    pictures = []
    for i in range(first + 8):
        shown = expression(i, Brows())
        if i >= first - 2:
            condition = spoken[min(i, len(spoken) - 1)].condition
            pictures.append(stage.draw(Shot(stage.track.index(i), condition, shown)))
    rows = stage.size[1] * 6 // 10
    strip = np.concatenate([picture[:rows] for picture in pictures], axis=1)
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))
    print(f"{path}: frames {first - 2} to {first + 7}")


if __name__ == "__main__":
    sys.exit(main())

"""Pitch, and which frames of a voice stand out."""

from __future__ import annotations

import numpy as np
import pytest
from synctalk.prosody import Prosody, pitch_hz

RATE, FPS = 16_000, 25


def _buzz(hertz: float, n: int = 1024, partials: int = 10) -> np.ndarray:
    at = 2 * np.pi * hertz * np.arange(n) / RATE
    return np.asarray(sum(np.sin(k * at) / k for k in range(1, partials + 1)), np.float32) * 0.1


@pytest.mark.parametrize("hertz", [80.0, 100.0, 145.0, 220.0, 310.0, 380.0])
@pytest.mark.parametrize("partials", [1, 10])
def test_the_pitch_of_a_buzz(hertz: float, partials: int) -> None:
    assert pitch_hz(_buzz(hertz, partials=partials), RATE) == pytest.approx(hertz, rel=0.03)


def test_noise_silence_and_scraps_have_no_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    for samples in (noise, np.zeros(1024, np.float32), np.full(1024, 0.3, np.float32), _buzz(200.0, 300)):
        assert pitch_hz(samples, RATE) == 0.0


def _prominence(pieces: list[np.ndarray], is_speaking: bool = True) -> list[float]:
    prosody = Prosody(RATE, FPS)
    return [prosody.prominence(piece, is_speaking) for piece in pieces]


def test_what_is_higher_or_louder_than_usual_stands_out() -> None:
    usual = [_buzz(120.0 + i % 3) for i in range(50)]
    assert max(_prominence(usual)) < 0.1
    assert _prominence([*usual, _buzz(120.0 * 2 ** (4 / 12))])[-1] > 0.6
    louder = _prominence([*usual, 2.0 * _buzz(121.0)])[-1]
    assert 0.1 < louder < 0.5
    assert _prominence([*usual, 0.3 * _buzz(100.0)])[-1] == 0.0
    assert _prominence([*usual, 2.0 * _buzz(240.0)])[-1] == 1.0


def test_each_voice_is_its_own_measure() -> None:
    low = _prominence([_buzz(100.0)] * 40 + [_buzz(125.0)])
    high = _prominence([3.0 * _buzz(240.0)] * 40 + [3.0 * _buzz(300.0)])
    assert low[-1] == pytest.approx(high[-1], abs=0.15)
    assert low[0] == high[0] == 0.0


def test_nothing_stands_out_in_silence() -> None:
    assert _prominence([_buzz(120.0), _buzz(200.0)], is_speaking=False) == [0.0, 0.0]
    assert _prominence([np.zeros(0, np.float32)]) == [0.0]

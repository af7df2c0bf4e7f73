from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("cv2", reason="mediapipe's OpenCV is not installed")

from synctalk_trainer.cross_voice.figures import (
    SHUT_WITHOUT_FILM,
    Film,
    closure,
    filmed_figures,
    lip_figures,
    missed,
    shut_in,
)
from synctalk_trainer.drive import Spoken

N, TAKE = 300, 75


def _truth(seed: int = 0) -> np.ndarray:
    """Syllables: 0.01 with shut lips, up to 0.16, [N]."""
    rng = np.random.default_rng(seed)
    smooth = np.convolve(rng.random(N + 4), [0.25, 0.5, 0.25], mode="same")[2:-2]
    return (0.01 + 0.15 * np.clip(1.6 * smooth - 0.3, 0, 1)).astype(np.float32)


def _film(aperture: np.ndarray, loudness: np.ndarray | None = None, take: int = TAKE) -> Film:
    n = len(aperture)
    loud = np.full(n, -20.0, np.float32) if loudness is None else loudness
    takes = tuple((a, min(a + take, n)) for a in range(0, n, take))
    return Film(aperture, np.ones(n, bool), loud, takes)


def _spoken(opening: np.ndarray, loudness: np.ndarray | None = None) -> Spoken:
    n = len(opening)
    loud = np.full(n, -20.0, np.float32) if loudness is None else loudness
    return Spoken(opening.astype(np.float32), np.ones(n, bool), loud, n, 0.5, 2.0, 1.0)


def _takes(opening: np.ndarray) -> list[Spoken]:
    return [_spoken(opening[a : a + TAKE]) for a in range(0, len(opening), TAKE)]


def test_the_same_lips_have_perfect_figures() -> None:
    truth = _truth()
    figures = lip_figures(_takes(truth), _film(truth), filmed_figures(_film(truth)))
    for name in ("r", "r_at_0", "amplitude", "amplitude_of_speaker", "opening", "jitter"):
        assert figures[name] == pytest.approx(1, abs=1e-6), name
    assert figures["lag_ms"] == 0
    assert figures["shut_precision"] == figures["shut_recall"] == 1
    assert 0.02 < figures["shut_share"] < 0.6
    assert figures["shut_share"] == pytest.approx(figures["shut_share_filmed"])
    assert figures["frames_compared"] == figures["frames"] == N


def test_a_shifted_copy_has_the_lag() -> None:
    truth = _truth()
    late = np.concatenate([np.roll(truth[a : a + TAKE], 2) for a in range(0, N, TAKE)])
    figures = lip_figures(_takes(late), _film(truth))
    assert figures["lag_ms"] == 80
    assert figures["r"] == pytest.approx(1)
    assert figures["r_at_0"] < 0.6


def test_takes_are_not_joined_to_one_curve() -> None:
    """Every take's lips are two frames late; what a roll over the whole clip carries across cuts must not count."""
    truth = _truth()
    early = np.roll(truth, -2)
    for edge in range(TAKE, N + 1, TAKE):
        early[edge - 2 : edge] = 0.4  # what nobody said
    figures = lip_figures(_takes(early), _film(truth))
    assert figures["lag_ms"] == -80
    assert figures["r"] == pytest.approx(1)


def test_half_the_motion_is_half_the_amplitude() -> None:
    truth = _truth()
    own = filmed_figures(_film(2 * _truth(seed=0)))
    figures = lip_figures(_takes(0.5 * truth), _film(truth), own)
    assert figures["amplitude_of_speaker"] == pytest.approx(0.5, rel=1e-4)
    assert figures["amplitude"] == pytest.approx(0.25, rel=1e-4)
    assert figures["opening"] == pytest.approx(0.25, rel=1e-4)
    assert figures["jitter"] == pytest.approx(0.25, rel=1e-4)
    assert figures["r"] == pytest.approx(1)


def test_a_constant_mouth_follows_nothing() -> None:
    truth = _truth()
    figures = lip_figures(_takes(np.full(N, 0.05)), _film(truth), filmed_figures(_film(truth)))
    assert math.isnan(figures["r"])
    assert math.isnan(figures["lag_ms"])
    assert figures["amplitude"] == pytest.approx(0, abs=1e-6)
    assert figures["shut_recall"] == 0
    assert math.isnan(figures["shut_precision"])  # never shut: nothing to be right about


def test_a_mouth_that_is_always_shut_is_not_precise() -> None:
    truth = _truth()
    figures = lip_figures(_takes(np.full(N, 0.011)), _film(truth), filmed_figures(_film(truth)))
    assert figures["shut_recall"] == 1
    assert figures["shut_precision"] < 0.7
    assert figures["shut_share"] == 1


def test_without_a_film_of_its_own_an_avatar_is_not_compared_with_it() -> None:
    truth = _truth()
    figures = lip_figures(_takes(truth), _film(truth))
    assert all(math.isnan(figures[name]) for name in ("amplitude", "opening", "jitter"))
    assert figures["shut_below"] == SHUT_WITHOUT_FILM
    assert figures["amplitude_of_speaker"] == pytest.approx(1)


def test_without_a_film_of_the_speaker_only_the_sound_counts() -> None:
    own = filmed_figures(_film(_truth()))
    figures = lip_figures([_spoken(_truth())], None, own)
    assert all(math.isnan(figures[name]) for name in ("r", "lag_ms", "shut_recall", "amplitude_of_speaker"))
    assert figures["amplitude"] == pytest.approx(1)


def test_speaking_frames_alone_make_the_spread() -> None:
    truth, loud = _truth(), np.full(N, -20.0, np.float32)
    truth[200:], loud[200:] = 0.9, -90.0  # wide open in silence
    filmed = filmed_figures(_film(truth, loud, take=N))
    assert filmed.spread == pytest.approx(float(truth[:200].std()), rel=1e-4)
    assert filmed.opening == pytest.approx(float(truth[:200].mean()), rel=1e-4)
    assert filmed.silence_share == pytest.approx(0.9 / filmed.opening, rel=1e-4)
    figures = lip_figures([_spoken(truth, loud)], None, filmed)
    assert figures["amplitude"] == figures["opening"] == pytest.approx(1)
    assert figures["silence_share"] == pytest.approx(filmed.silence_share, rel=1e-4)


def test_frames_past_the_film_count_for_the_silence_only() -> None:
    truth = _truth()
    tail = np.concatenate([truth, np.full(25, 0.15)])
    loud = np.concatenate([np.full(N, -20.0), np.full(25, -100.0)]).astype(np.float32)
    figures = lip_figures([_spoken(tail, loud)], _film(truth, take=N))
    assert figures["frames_compared"] == N
    assert figures["r"] == pytest.approx(1)
    assert figures["silence_share"] > 1


def test_frames_without_a_face_are_left_out() -> None:
    truth = _truth()
    film, spoken = _film(truth), _takes(truth)
    spoken[1].opening[10:20], spoken[1].found[10:20] = 0.0, False
    film.aperture[200:210], film.valid[200:210] = 0.0, False
    figures = lip_figures(spoken, film, filmed_figures(film))
    assert figures["frames_without_face"] == 10
    assert figures["frames_compared"] == N - 20
    assert figures["r"] == pytest.approx(1)
    assert math.isnan(filmed_figures(dataclasses.replace(film, valid=np.zeros(N, bool))).spread)


def test_closure_forgives_one_frame_within_a_part() -> None:
    truth, rendered = np.zeros(20, bool), np.zeros(20, bool)
    truth[[3, 9, 12]] = True
    rendered[[4, 10, 15]] = True  # one late, one late across a cut, one wrong
    parts = [slice(0, 10), slice(10, 20)]
    assert closure(rendered, truth, parts, np.ones(20, bool)) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert closure(rendered, truth, parts, np.arange(20) < 6) == (1, 1)


def test_lips_shut_within_a_frame_of_the_sound() -> None:
    opening = np.full(50, 0.1)
    opening[20] = 0.01
    spoken = _spoken(opening)
    sounds = [(0.72, 0.76), (0.82, 0.84), (0.88, 0.92), (1.2, 1.3)]  # frame 20 is at 0.80 s
    assert shut_in(spoken, sounds, 0.02) == [True, True, False, False]
    figures = lip_figures([spoken], None, None, [sounds])
    assert (figures["contact_sounds"], figures["contact"]) == (4, 0.5)
    assert math.isnan(lip_figures([spoken])["contact"])


def test_bars_are_told_in_words() -> None:
    truth = _truth()
    own = filmed_figures(_film(truth))
    assert missed(lip_figures(_takes(truth), _film(truth), own)) == []
    said = missed(lip_figures(_takes(0.4 * _truth(seed=5)), _film(truth), own))
    assert "do not follow the voice" in said[0]
    assert "0.4" in " ".join(said)

"""Blinks, sway and the mouth's way to rest and back."""

from __future__ import annotations

import numpy as np
import pytest
from synctalk.idle import Blinks, Mouth, Sway
from synctalk.track import Track


def _track(blink: np.ndarray) -> Track:
    n = len(blink)
    expression = np.zeros((n, 3), np.float32)
    expression[:, 1:] = blink[:, None]
    return Track(np.tile(np.eye(3, dtype=np.float32), (n, 1, 1)), np.zeros((n, 3), np.float32), expression)


def _rare(n: int = 50_000) -> np.ndarray:
    """One recorded blink, at the very end: enough to have learned it, too rare to see."""
    blink = np.zeros(n, np.float32)
    blink[-1] = 0.8
    return blink


def _starts(values: np.ndarray) -> np.ndarray:
    return np.flatnonzero((values[1:] > 0) & (values[:-1] == 0)) + 1


def test_blinks_come_at_log_normal_intervals() -> None:
    blinks = Blinks(_track(_rare()), [1, 2], 25, seed=7)
    values = np.array([blinks(i) for i in range(60 * 60 * 25)])
    between_s = np.diff(_starts(values)) / 25.0 - 6 / 25.0
    assert 700 < len(between_s) < 1100  # an hour
    logs = np.log(between_s)
    assert np.exp(np.median(logs)) == pytest.approx(3.2, rel=0.08)
    assert logs.std() == pytest.approx(0.55, abs=0.06)
    assert abs(((logs - logs.mean()) ** 3).mean() / logs.std() ** 3) < 0.3  # symmetric, so not exponential
    assert values.max() == 1.0
    assert np.abs(np.diff(values)).max() <= 0.5


def test_a_seed_gives_the_same_blinks() -> None:
    one, two, other = (Blinks(_track(_rare()), [1, 2], 25, seed) for seed in (1, 1, 2))
    first = [one(i) for i in range(2000)]
    assert first == [two(i) for i in range(2000)]
    assert first != [other(i) for i in range(2000)]


def test_dropped_frames_can_be_asked_for_again() -> None:
    blinks = Blinks(_track(_rare()), [1, 2], 25, seed=3)
    values = [blinks(i) for i in range(500)]
    assert [blinks(i) for i in range(480, 500)] == values[480:]
    assert blinks(500) in (0.0, 0.5)
    later = Blinks(_track(_rare()), [1, 2], 25, seed=3, first=10_000)
    assert [later(i) for i in range(10_000, 10_500)] == values


def test_recorded_blinks_take_the_place_of_ours() -> None:
    often = np.zeros(1000, np.float32)
    often[::25] = 0.8  # every second, at 0 .. 975
    blinks = Blinks(_track(often), [1, 2], 25, seed=1)
    n_ours = len(_starts(np.array([blinks(i) for i in range(25_000)])))
    assert n_ours < 30  # of about 270


def test_who_never_blinked_is_left_alone() -> None:
    for track, channels in ((_track(np.zeros(50, np.float32)), [1, 2]), (_track(_rare()), [])):
        assert not any(Blinks(track, channels, 25, 0)(i) for i in range(1000))


def test_sway_is_slight_slow_and_faded_in() -> None:
    sway = Sway(25, seed=4)
    path = np.array([sway(i, 1.0) for i in range(5000)])
    assert 0.2 < np.abs(path).max() < 0.6
    assert np.abs(np.diff(path, axis=0)).max() < 0.03
    assert sway(100, 0.0) == (0.0, 0.0, 0.0)
    assert not np.allclose(path[:100], [Sway(25, seed=5)(i, 1.0) for i in range(100)])


def test_the_mouth_goes_to_rest_and_back() -> None:
    rest, wide = np.float32([1.0, 0.0]), np.float32([0.0, 1.0])
    mouth = Mouth.at_rest(rest)
    path, calm = [mouth.condition], [mouth.idle_share]
    for i in range(40):
        mouth = mouth.speak(wide, True) if i < 20 else mouth.be_quiet()
        path.append(mouth.condition)
        calm.append(mouth.idle_share)
    opening = np.array(path)[:, 1]
    np.testing.assert_array_equal(path[3], wide)  # exactly what is said, from the third frame on
    assert np.abs(np.diff(opening)).max() < 0.5
    assert opening[26] < 0.05  # at rest within 240 ms
    assert (calm[0], calm[15], calm[-1]) == pytest.approx((1.0, 0.0, 1.0))
    assert np.abs(np.diff(calm)).max() < 0.12

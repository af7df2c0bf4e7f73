"""Blinks, brows, and the expression that they make of the recorded one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from synctalk import Avatar
from synctalk.backends import HeadRequest
from synctalk.expression import Blinks, Brows, Expression, Source
from synctalk.mock import MockBackend, MockBundle
from synctalk.spec import EXPRESSION_NAMES
from synctalk.timeline import Timeline
from synctalk.track import Track

RATE = 16_000
LIDS = [EXPRESSION_NAMES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]
INNER = EXPRESSION_NAMES.index("browInnerUp")


def test_recorded_lips_do_not_speak_in_new_speech() -> None:
    """Coefficients of the lower face rest at their median, whatever the track does; gaze is as recorded."""
    names = ("jawOpen", "eyeLookInLeft", "mouthSmileLeft")
    values = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    track = Track(
        np.tile(np.eye(3, dtype=np.float32), (40, 1, 1)), np.zeros((40, 3), np.float32), values, None
    )
    for source in ("generated", "recorded"):
        shown = np.stack([Expression(track, names, 25, source=source, seed=0)(i, Brows()) for i in range(40)])
        np.testing.assert_allclose(shown[:, [0, 2]], np.tile(np.median(values[:, [0, 2]], axis=0), (40, 1)))
        np.testing.assert_array_equal(shown[:, 1], values[:, 1])


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


def test_no_blink_comes_beside_a_recorded_one() -> None:
    recorded = np.zeros(4000, np.float32)
    recorded[np.random.default_rng(0).integers(0, 4000, 60)] = 0.8
    track = _track(recorded)
    blinks = Blinks(track, [1, 2], 25, seed=5)
    values = np.array([blinks(i) for i in range(50_000)])
    theirs = np.flatnonzero([recorded[track.index(i)] > 0 for i in range(50_000)])
    ours = _starts(values)
    assert len(ours) > 100
    to_next = theirs[np.searchsorted(theirs, ours).clip(max=len(theirs) - 1)] - ours
    since_last = ours - theirs[(np.searchsorted(theirs, ours) - 1).clip(min=0)]
    assert to_next[to_next >= 0].min() >= 6 + 15  # over, and 600 ms past
    assert since_last[since_last >= 0].min() >= 15


def _heights(prominence: list[float], brows: Brows | None = None) -> np.ndarray:
    brows, heights = brows or Brows(), []
    for value in prominence:
        brows = brows.follow(value, 25)
        heights.append(brows.height)
    return np.array(heights)


def test_blinks_need_to_be_in_the_training_not_in_the_track() -> None:
    awake = _track(np.tile(np.float32([0.05, 0.12]), 100))
    seen = np.float32([[0.0, 0.02, 0.02], [0.0, 0.7, 0.6]])
    taught = Track(awake.rotation, awake.translation, awake.expression, seen)
    assert not any(Blinks(awake, [1, 2], 25, 0)(i) for i in range(2000))
    expression = Expression(
        taught, ["jawOpen", "eyeBlinkLeft", "eyeBlinkRight"], 25, source="generated", seed=0
    )
    shown = np.array([expression(i, Brows()) for i in range(2000)])
    np.testing.assert_allclose(shown.max(axis=0), [0.0, 0.7, 0.6])
    assert 10 < len(_starts((shown[:, 1] > 0.35).astype(float))) < 40


def test_brows_follow_smoothly_and_come_back() -> None:
    heights = _heights([0.0] * 5 + [1.0] * 25 + [0.0] * 40)
    assert not heights[:5].any()
    assert heights[29] == pytest.approx(1.0, abs=0.01)
    assert heights[-1] == pytest.approx(0.0, abs=0.001)
    assert (np.diff(heights[5:30]) > 0).all()  # no overshoot
    assert np.abs(np.diff(heights)).max() < 0.17
    assert np.abs(np.diff(heights, 2)).max() < 0.07
    assert 5 <= np.argmax(heights[5:] > 0.74) <= 7  # 0.27 s, as its comment says


def _full_track(n: int = 200, **ranges: tuple[float, float]) -> Track:
    """Each named coefficient swings between its bounds, slowly; the others stay at 0.2."""
    expression = np.full((n, len(EXPRESSION_NAMES)), 0.2, np.float32)
    swing = 0.5 - 0.5 * np.cos(np.linspace(0.0, 2.0 * np.pi, n))
    for name, (low, high) in ranges.items():
        expression[:, EXPRESSION_NAMES.index(name)] = low + swing * (high - low)
    return Track(np.tile(np.eye(3, dtype=np.float32), (n, 1, 1)), np.zeros((n, 3), np.float32), expression)


def _expression(track: Track, source: Source = "generated") -> Expression:
    return Expression(track, EXPRESSION_NAMES, 25, source=source, seed=0)


def test_raised_brows_stay_in_the_recorded_range() -> None:
    track = _full_track(browInnerUp=(0.3, 0.6), browOuterUpLeft=(0.0, 0.05))
    expression = _expression(track)
    shown = np.array([expression(i, Brows(1.0)) for i in range(200)])
    lifted = shown[:, INNER] - track.expression[:, INNER]
    assert lifted.max() == pytest.approx(0.15, abs=1e-3)  # half of the way from the lowest to the highest
    assert shown[:, INNER].max() <= 0.6 + 1e-6
    others = [i for i in range(len(EXPRESSION_NAMES)) if i != INNER]  # too narrow a range, or none
    np.testing.assert_array_equal(shown[:, others], track.expression[:, others])


def test_recorded_means_the_track_alone() -> None:
    track = _full_track(browInnerUp=(0.3, 0.6))
    track.expression[10:13, LIDS] = 0.9
    generated, recorded = _expression(track), _expression(track, source="recorded")
    frames = [(generated(i, Brows(0.5)), recorded(i, Brows(0.5))) for i in range(2000)]
    own = np.array([track.expression[track.index(i)] for i in range(2000)])
    np.testing.assert_array_equal([one for _, one in frames], own)
    lids = np.array([one for one, _ in frames])[:, LIDS]
    assert (lids >= own[:, LIDS]).all()
    assert len(_starts((lids > own[:, LIDS]).any(axis=1).astype(float))) > 5
    assert lids.max() == np.float32(0.9)
    with pytest.raises(ValueError, match="'recorded'"):
        _expression(track, source="both")


def test_an_avatar_without_such_coefficients_is_left_alone() -> None:
    track = Track(
        np.tile(np.eye(3, dtype=np.float32), (9, 1, 1)),
        np.zeros((9, 3), np.float32),
        np.random.default_rng(0).random((9, 2), np.float32),
    )
    expression = Expression(track, ["eyeLookInLeft", "eyeWideLeft"], 25, source="generated", seed=0)
    for i in range(500):
        np.testing.assert_array_equal(expression(i, Brows(1.0)), track.expression[track.index(i)])


class _Watched(MockBackend):
    """A mock that remembers the expressions it was asked for."""

    def __init__(self, bundle: MockBundle) -> None:
        super().__init__(bundle.manifest)
        self.shown: list[np.ndarray] = []

    def render_head(self, request: HeadRequest) -> np.ndarray:
        self.shown.append(request.expression)
        return super().render_head(request)


def _lively() -> tuple[Avatar, _Watched]:
    """A subject who blinks at one end of the track of 50 frames, and whose inner brows lie at 0.3, once at 0.5."""
    bundle = MockBundle()
    expression = np.full((50, len(EXPRESSION_NAMES)), 0.2, np.float32)
    expression[49, LIDS] = 0.8
    expression[:, INNER] = 0.3
    expression[48, INNER] = 0.5
    bundle.tensors["track.expression"] = expression
    backend = _Watched(bundle)
    return Avatar(bundle, backend), backend


def _accented(seconds: float = 6.0) -> np.ndarray:
    """A buzz of 120 Hz whose pitch and loudness rise for a moment each 1.5 s."""
    at = np.arange(round(seconds * RATE)) / RATE
    accent = np.exp(-(((at % 1.5 - 0.75) / 0.12) ** 2))
    phase = 2 * np.pi * np.cumsum(120.0 * 2.0 ** (accent * 5.0 / 12.0)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    return np.asarray(0.05 * (1.0 + accent) * voice, np.float32)


def _spoken(avatar: Avatar, backend: _Watched, **options: Any) -> np.ndarray:
    backend.shown.clear()
    list(avatar.speak(_accented(), RATE, **options))
    return np.array(backend.shown)


def test_speech_raises_the_brows_at_accents() -> None:
    avatar, backend = _lively()
    height = (_spoken(avatar, backend)[:, INNER] - np.float32(0.3)) / 0.1
    height[[abs(avatar.stage.track.index(i) - 48) < 1 for i in range(len(height))]] = np.nan
    by_phase = np.array([np.nanmean(height[np.arange(len(height)) % 37.5 // 5 == k]) for k in range(7)])
    assert 0.3 < np.nanmax(height) <= 1.0
    assert by_phase[[3, 4, 5]].max() > 3 * by_phase[[0, 1]].max()  # accents are at 18.75 of 37.5 frames
    assert 3 <= int(by_phase.argmax()) <= 5


def test_sessions_show_the_same_expression_as_speech() -> None:
    avatar, backend = _lively()
    assert not np.array_equal(_spoken(avatar, backend, seed=3), _spoken(avatar, backend, seed=4))
    options: Any
    for options in ({"seed": 3}, {"seed": 3, "expression": "recorded"}):
        reference = _spoken(avatar, backend, **options)
        backend.shown.clear()
        with avatar.sync_session(pace="fast", idle=False, **options) as session:
            for chunk in np.array_split(_accented(), 41):
                session.push_audio(chunk, RATE)
            session.flush()
            list(session.run(until="drained"))
        measured = len(backend.shown) - len(reference)  # by the executor, before it admits a session
        np.testing.assert_array_equal(backend.shown[measured:], reference)


def test_control_overrides_what_is_generated() -> None:
    avatar, backend = _lively()
    with avatar.sync_session(pace="fast", idle=False) as session:
        session.control.set(expression={"browInnerUp": 0.0}, blink=0.0)
        session.push_audio(_accented(), RATE)
        session.flush()
        list(session.run(until="drained"))
    shown = np.array(backend.shown[-150:])
    np.testing.assert_allclose(shown[:, INNER], 0.3, atol=1e-6)
    np.testing.assert_allclose(shown[:, LIDS], 0.2, atol=1e-6)


def test_an_interruption_lets_the_brows_down_without_a_jump() -> None:
    avatar, backend = _lively()
    timeline, now = Timeline(avatar.stage, pace="realtime", idle=True), 0.0
    timeline.push(_accented(), RATE)
    for i in range(60):
        if i == 24:  # in the midst of the first accent
            timeline.interrupt()
        while (plan := timeline.plan(now)) is None:
            now += 0.01
        timeline.finish(plan, avatar.stage.draw(plan.shot), now)
        if i != 23:  # drawn and not taken when the interruption comes: planned again
            timeline.take(plan.due)
    inner = np.array(backend.shown)[:, INNER]
    assert inner[23] > 0.33
    assert np.abs(np.diff(inner[:45])).max() < 0.02
    assert inner[44] < 0.303

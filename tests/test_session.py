"""Sessions over a mock avatar, in real time where it matters, else as fast as possible or on a simulated clock."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from fake_avatar import fake_avatar
from hypothesis import given, settings
from hypothesis import strategies as st
from synctalk import Avatar, CapacityError, Executor, Frame, Interrupted, Limits, MediaError, SyncSession
from synctalk.audio import resample
from synctalk.spec import preset
from synctalk.timeline import Timeline

RATE = 16_000
AVATAR = Avatar.mock()
OTHERS = (Avatar.mock(1), Avatar.mock(2))


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _sound(seconds: float, rate: int = RATE) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(round(seconds * rate)) * 0.1).astype(np.float32)


def _same(got: list[Frame], expected: list[Frame]) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.audio, b.audio)
        assert (a.index, a.pts_samples, a.speaking, a.end_of_speech) == (
            b.index,
            b.pts_samples,
            b.speaking,
            b.end_of_speech,
        )


def _frames(clock: Clock, executor: Executor, session: SyncSession, seconds: float) -> Iterator[Frame]:
    """What comes in so many simulated seconds, looked at every millisecond."""
    end = clock.now + seconds
    while clock.now < end:
        while executor.step() == 0.0:
            pass
        while (frame := session.poll()) is not None:
            yield frame
        clock.now += 0.001


def _simulated(avatar: Avatar = AVATAR, **options: object) -> tuple[Clock, Executor, SyncSession]:
    clock = Clock()
    executor = Executor(clock=clock, is_threaded=False)
    return clock, executor, avatar.sync_session(executor=executor, **options)  # type: ignore[arg-type]


async def _spoken(chunks: list[np.ndarray], rate: int) -> list[Frame]:
    async with AVATAR.session(pace="fast", idle=False) as session:
        for chunk in chunks:
            await session.push_audio(chunk, rate)
        session.flush()
        return [frame async for frame in session.run(until="drained")]


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.integers(1, 6000), min_size=1, max_size=6),
    st.sampled_from([8_000, 16_000, 24_000, 44_100]),
    st.sampled_from(["int16", "int32", "uint8", "float64", "stereo", "bytes"]),
)
def test_a_stream_equals_the_whole_file(cuts: list[int], rate: int, kind: str) -> None:
    sound = _sound(0.5, rate)
    pcm = (sound * 32_767).astype(np.int16)
    given_sound = {
        "int16": pcm,
        "int32": pcm.astype(np.int32) << 16,
        "uint8": (sound * 127 + 128).astype(np.uint8),
        "float64": sound.astype(np.float64),
        "stereo": np.stack([sound, -0.5 * sound], axis=1),
        "bytes": pcm,
    }[kind]
    chunks = np.split(given_sound, np.minimum(np.cumsum(cuts), len(sound)))
    if kind == "bytes":
        chunks = [chunk.tobytes() for chunk in chunks]  # type: ignore[misc]
    _same(asyncio.run(_spoken(chunks, rate)), list(AVATAR.speak(given_sound, rate)))


def test_the_synchronous_twin_gives_the_same() -> None:
    expected = list(AVATAR.speak(_sound(1.0), RATE))
    with AVATAR.sync_session(pace="fast", idle=False) as session:
        for chunk in np.array_split(_sound(1.0), 7):
            session.push_audio(chunk, RATE)
        session.flush()
        _same(list(session.run(until="drained")), expected)
        assert list(session.run(until="drained")) == []


def test_due_times_do_not_drift_from_the_audio_clock() -> None:
    """Ten minutes without drawing, on a machine that has been up for four months."""
    timeline, picture = Timeline(AVATAR.stage, pace="realtime", idle=True), np.zeros((64, 64, 3), np.uint8)
    now = started = 1e7
    for i in range(15_000):
        while (plan := timeline.plan(now)) is None:
            now += 0.01
        timeline.finish(plan, picture, now)
        frame = timeline.take(plan.due)
        assert frame is not None and frame.pts_samples == 640 * i
        assert abs(plan.due - (started + 0.04) - frame.pts_samples / RATE) < 1e-6
    assert timeline.stats().restarts == 0


def test_a_frame_is_due_every_40_ms_of_the_clock() -> None:
    clock, executor, session = _simulated()
    with session:
        first = clock.now
        came = []
        for frame in _frames(clock, executor, session, 2.0):
            came.append((frame, clock.now))
        assert [frame.index for frame, _ in came] == list(range(len(came)))
        assert len(came) == 49  # one frame ahead, then 25 a second
        for frame, now in came:
            assert abs(now - (first + 0.04 + frame.pts_samples / RATE)) < 0.0015
            assert len(frame.audio) == 640
            assert not frame.speaking
        assert session.stats.late == session.stats.restarts == 0


def test_first_words_come_soon_and_every_sample_once() -> None:
    clock, executor, session = _simulated()
    sound = _sound(1.01)
    with session:
        list(_frames(clock, executor, session, 0.333))
        pushed_at = clock.now
        session.push_audio(sound, RATE)
        session.flush()
        frames, delay = [], None
        for frame in _frames(clock, executor, session, 2.0):
            if delay is None and frame.audio.any():
                delay = clock.now - pushed_at
            frames.append(frame)
        assert delay is not None
        assert delay < 0.081  # at most two frames, since all the look-ahead is there
        heard = np.concatenate([frame.audio for frame in frames])
        start = int(np.flatnonzero(heard)[0])
        np.testing.assert_array_equal(heard[start : start + len(sound)], sound)
        assert not heard[start + len(sound) :].any()
        marks = [frame.index for frame in frames if frame.end_of_speech]
        assert marks == [frames[0].index + (start + len(sound)) // 640]
        assert {len(frame.audio) for frame in frames} == {640}


def test_without_idle_motion_frames_come_only_with_sound() -> None:
    clock, executor, session = _simulated(idle=False)
    with session:
        assert list(_frames(clock, executor, session, 0.5)) == []
        for i in range(2):
            session.push_audio(_sound(0.4), RATE)
            session.flush()
            frames = list(_frames(clock, executor, session, 1.0))
            assert [frame.index for frame in frames] == list(range(10 * i, 10 * i + 10))
            assert frames[-1].end_of_speech
        assert session.stats.restarts == 1


def test_sound_that_comes_late_makes_a_gap_and_loses_nothing() -> None:
    clock, executor, session = _simulated()
    sound = _sound(0.8)
    with session:
        session.push_audio(sound[:8000], RATE)
        frames = list(_frames(clock, executor, session, 1.0))
        session.push_audio(sound[8000:], RATE)
        session.flush()
        frames += list(_frames(clock, executor, session, 1.0))
        heard = np.concatenate([frame.audio for frame in frames if frame.audio.any()])
        np.testing.assert_array_equal(heard[: len(sound)], sound)
        assert session.stats.starved > 5


def test_an_interruption_drops_sound_and_frames() -> None:
    clock, executor, session = _simulated()
    with session:
        assert session.interrupt() == Interrupted(0.0, 0.0)
        session.push_audio(_sound(3.0), RATE)
        frames = list(_frames(clock, executor, session, 1.0))
        played = 40.0 * sum(frame.audio.any() for frame in frames)
        report = session.interrupt()
        assert report.played_ms == pytest.approx(played)
        assert report.dropped_ms == pytest.approx(3000.0 - played)
        assert session.clear_buffer() == Interrupted(0.0, 0.0)
        after = list(_frames(clock, executor, session, 1.0))
        assert {frame.generation for frame in after} == {1}
        assert not any(frame.audio.any() or frame.speaking for frame in after)
        assert [frame.index for frame in frames + after] == list(range(len(frames + after)))
        session.push_audio(_sound(0.2), RATE)
        session.flush()
        assert sum(frame.audio.any() for frame in _frames(clock, executor, session, 0.5)) == 5


def test_several_utterances_are_spoken_in_turn_each_with_its_mark() -> None:
    clock, executor, session = _simulated()
    with session:
        for seconds, rate in ((0.2, 16_000), (0.3, 24_000), (0.1, 8_000)):
            session.push_audio(_sound(seconds, rate), rate)
            session.flush()
            session.flush()
        frames = list(_frames(clock, executor, session, 1.2))
        assert sum(frame.end_of_speech for frame in frames) == 3
        heard = np.concatenate([frame.audio for frame in frames])
        expected = resample(_sound(0.3, 24_000), 24_000)
        start = int(np.flatnonzero(heard)[0]) + 3200
        np.testing.assert_array_equal(heard[start : start + len(expected)], expected)


def test_the_mouth_never_jumps() -> None:
    avatar, backend = fake_avatar()
    clock, executor, session = _simulated(avatar)
    with session:
        list(_frames(clock, executor, session, 0.4))
        backend.requests.clear()
        session.push_audio(_sound(2.0), RATE)
        list(_frames(clock, executor, session, 1.0))
        session.interrupt()
        list(_frames(clock, executor, session, 1.0))
        opening = np.array([float(request.condition[0]) for request in backend.requests])
        assert opening.max() > 0.45
        assert np.abs(np.diff(opening)).max() < 0.5 * opening.max()
        assert opening[-1] < 1e-3
        drawn_after = opening[26:]
        assert (np.diff(drawn_after[drawn_after < opening.max() / 2]) <= 0).all()


def test_controls_reach_the_picture() -> None:
    clock, executor, session = _simulated()
    with session:
        list(_frames(clock, executor, session, 0.5))
        session.control.set(background=(0, 0, 255), lerp_s=0.2)
        blue = [int(frame.image[0, 0, 2]) for frame in _frames(clock, executor, session, 0.5)]
        assert blue[0] < 255
        assert blue[-1] == 255
        assert blue == sorted(blue)
    avatar, backend = fake_avatar()
    clock, executor, session = _simulated(avatar)
    with session:
        session.control.set(pose=(0.0, 8.0, 0.0))
        list(_frames(clock, executor, session, 0.5))
        assert backend.requests[-1].rotation[0, 2] == pytest.approx(np.sin(np.radians(8.0)), abs=0.01)


def test_another_avatar_goes_on_with_the_sentence() -> None:
    clock, executor, session = _simulated()
    other = Avatar.mock(seed=5)
    sound = _sound(1.0)
    with session:
        session.push_audio(sound, RATE)
        session.flush()
        frames = list(_frames(clock, executor, session, 0.4))
        session.swap(other)
        frames += list(_frames(clock, executor, session, 1.0))
        spoken = [frame for frame in frames if frame.audio.any()]
        np.testing.assert_array_equal(np.concatenate([frame.audio for frame in spoken])[: len(sound)], sound)
        expected = list(other.speak(sound, RATE))
        np.testing.assert_array_equal(spoken[-1].audio[: len(expected[-1].audio)], expected[-1].audio)
        assert [frame.index for frame in frames] == list(range(len(frames)))
        assert session.stats.late == 0


def test_a_swap_with_another_ear_waits_for_the_end_of_the_sound() -> None:
    small, _ = fake_avatar()
    slow = Avatar.mock()
    slow.stage.spec = replace(slow.stage.spec, audio=replace(slow.stage.spec.audio, sample_rate=22_050))
    clock, executor, session = _simulated()
    with session:
        session.push_audio(_sound(0.2), RATE)
        with pytest.raises(ValueError, match="listens differently"):
            session.swap(small)
        with pytest.raises(ValueError, match="open another session"):
            session.swap(slow)
        session.flush()
        list(_frames(clock, executor, session, 0.5))
        session.swap(small)
        frames = list(_frames(clock, executor, session, 0.5))
        assert frames[-1].image.shape != AVATAR.stage.size
        session.push_audio(_sound(0.2), RATE)
        session.flush()
        assert any(frame.end_of_speech for frame in _frames(clock, executor, session, 0.5))
    assert preset("tiny").audio != AVATAR.stage.spec.audio


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(1, 20_000)),
            st.tuples(st.just("wait"), st.integers(1, 400)),
            st.tuples(st.sampled_from(["flush", "interrupt", "steer", "swap"]), st.integers(0, 9)),
        ),
        max_size=14,
    ),
    st.booleans(),
)
def test_whatever_happens_the_clock_and_the_sound_are_right(acts: list[tuple[str, int]], idle: bool) -> None:
    clock, executor, session = _simulated(idle=idle)
    frames: list[Frame] = []
    pushed: list[list[np.ndarray]] = [[]]  # by generation
    with session:
        whole_ms = sum(n for act, n in acts if act == "push") * 1000 // RATE
        for act, n in [*acts, ("flush", 0), ("wait", whole_ms + 500)]:
            if act == "push":
                pushed[-1].append(_sound(n / RATE) + np.float32(0.5))
                session.push_audio(pushed[-1][-1], RATE)
            elif act == "wait":
                frames += _frames(clock, executor, session, n / 1000)
            elif act == "flush":
                session.flush()
            elif act == "interrupt":
                if session.interrupt().dropped_ms > 0.0:
                    pushed.append([])
            elif act == "steer":
                session.control.set(pose=(n, -n, 0), blink=n / 9, lerp_s=n / 10)
            else:
                session.swap(OTHERS[n % 2])
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert [frame.pts_samples for frame in frames] == [640 * i for i in range(len(frames))]
    generations = [frame.generation for frame in frames]
    assert generations == sorted(generations)
    for generation, sound in enumerate(pushed):
        heard = [f.audio[f.audio != 0.0] for f in frames if f.generation == generation]
        said = np.concatenate([np.zeros(0, np.float32), *heard])
        whole = np.concatenate([np.zeros(0, np.float32), *sound])
        np.testing.assert_array_equal(said, whole[: len(said)])
        assert generation < len(pushed) - 1 or len(said) == len(whole)


def test_a_full_session_says_so_where_nobody_takes_frames() -> None:
    limits = Limits(pending_s=1.0, stall_s=0.05)
    with AVATAR.sync_session(pace="fast", limits=limits) as session:
        session.push_audio(_sound(2.0), RATE)  # a first push of any length fits
        with pytest.raises(CapacityError, match="nobody has taken a frame"):
            session.push_audio(_sound(0.1), RATE)

    async def main() -> None:
        async with AVATAR.session(pace="fast", limits=limits) as session:
            await session.push_audio(_sound(2.0), RATE)
            with pytest.raises(CapacityError, match="nobody has taken a frame"):
                await session.push_audio(_sound(0.1), RATE)

    asyncio.run(main())


def test_a_push_waits_for_room() -> None:
    async def main() -> int:
        async with AVATAR.session(pace="fast", idle=False, limits=Limits(pending_s=0.5)) as session:

            async def feed() -> None:
                for _ in range(20):
                    await session.push_audio(_sound(0.2), RATE)
                session.flush()

            feeder = asyncio.create_task(feed())
            n, most = 0, 0.0
            async for frame in session.run():
                n += 1
                most = max(most, session.stats.pending_ms)
                if frame.end_of_speech:
                    break
            await feeder
            assert most <= 500.0
            return n

    assert asyncio.run(main()) == 100


def test_sound_that_waits_for_room_is_dropped_by_an_interruption() -> None:
    limits = Limits(pending_s=0.5)

    async def in_loop() -> float:
        async with AVATAR.session(pace="fast", limits=limits) as session:
            await session.push_audio(_sound(1.0), RATE)
            waiting = asyncio.create_task(session.push_audio(_sound(1.0), RATE))
            await asyncio.sleep(0.05)
            session.interrupt()
            await waiting
            return session.stats.pending_ms

    assert asyncio.run(in_loop()) == 0.0
    with AVATAR.sync_session(pace="fast", limits=limits) as session:
        session.push_audio(_sound(1.0), RATE)
        waiting = threading.Thread(target=session.push_audio, args=(_sound(1.0), RATE))
        waiting.start()
        time.sleep(0.05)
        session.interrupt()
        waiting.join(5.0)
        assert session.stats.pending_ms == 0.0


def test_frames_say_where_their_sound_lies_in_the_utterance() -> None:
    clock, executor, session = _simulated()
    with session:
        for _ in range(2):
            session.push_audio(_sound(0.5, 8_000), 8_000)
            session.flush()
        frames = list(_frames(clock, executor, session, 1.5))
    at = [frame.sound_pts_samples for frame in frames if frame.sound_pts_samples is not None]
    assert at == 2 * [640 * i for i in range(13)]
    assert all((frame.sound_pts_samples is not None) or not frame.audio.any() for frame in frames)
    assert frames[-1].sound_pts_samples is None


def test_frames_wait_in_a_bounded_queue() -> None:
    avatar, backend = fake_avatar()
    with avatar.sync_session(pace="fast", idle=False, limits=Limits(ahead_frames=2)) as session:
        backend.requests.clear()
        session.push_audio(_sound(1.0), RATE)
        until = time.monotonic() + 5.0
        while len(backend.requests) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(backend.requests) == 2


def test_wrong_calls_are_told() -> None:
    with AVATAR.sync_session() as session:
        session.push_audio(_sound(0.1), RATE)
        with pytest.raises(ValueError, match="flush"):
            session.push_audio(_sound(0.1), 8000)
        with pytest.raises(MediaError, match="NaN"):
            session.push_audio(np.array([np.nan]), RATE)
        with pytest.raises(MediaError, match="decode them"):
            session.flush()
            session.push_audio(b"fLaC and more", RATE)
        session.interrupt()
        with pytest.raises(MediaError, match="rate"):
            session.push_audio(_sound(0.1), 5)
    with pytest.raises(RuntimeError, match="closed"):
        session.push_audio(_sound(0.1), RATE)
    assert list(session.run()) == []
    with pytest.raises(ValueError, match="pace"):
        AVATAR.session(pace="slow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        Limits(ahead_frames=0)


def test_one_consumer_at_a_time() -> None:
    async def main() -> None:
        async with AVATAR.session(idle=False) as session:
            waiting = asyncio.create_task(anext(aiter(session.run())))
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="one consumer"):
                await anext(aiter(session.run()))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await session.push_audio(_sound(0.2), RATE)
            session.flush()
            assert len([frame async for frame in session.run(until="drained")]) == 5

    asyncio.run(main())


def test_closing_ends_the_stream() -> None:
    async def main() -> None:
        async with AVATAR.session() as session:
            asyncio.get_running_loop().call_later(0.3, session._close)
            assert 1 <= len([frame async for frame in session.run()]) < 50

    asyncio.run(main())
    with AVATAR.sync_session() as session:
        threading.Timer(0.3, session.close).start()
        assert 1 <= len(list(session.run())) < 50


def test_cancelling_anywhere_leaves_the_executor_healthy() -> None:
    avatar = Avatar.mock()
    generator = random.Random(0)

    async def use(idle: bool) -> None:
        async with avatar.session(idle=idle, limits=Limits(pending_s=0.3)) as session:
            watcher = asyncio.create_task(_drain(session))
            try:
                for _ in range(20):
                    await session.push_audio(_sound(0.2), RATE)
                    session.control.set(pose=(1, 2, 3), lerp_s=0.1)
                session.flush()
                await watcher
            finally:
                watcher.cancel()

    async def _drain(session: object) -> None:
        async for _ in session.run():  # type: ignore[attr-defined]
            pass

    async def main() -> None:
        for round_ in range(12):
            tasks = [asyncio.create_task(use(idle=bool(i % 2))) for i in range(10)]
            for task in tasks:
                await asyncio.sleep(generator.uniform(0.0, 0.006))
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in results), (
                round_,
                [one for one in results if not isinstance(one, asyncio.CancelledError)],
            )
            assert avatar.executor.n_sessions == 0
        async with avatar.session(pace="fast", idle=False) as session:
            await session.push_audio(_sound(1.0), RATE)
            session.flush()
            _same(
                [frame async for frame in session.run(until="drained")], list(avatar.speak(_sound(1.0), RATE))
            )

    asyncio.run(main())


def test_a_closed_loop_does_not_hurt_others() -> None:
    avatar = Avatar.mock()
    loop = asyncio.new_event_loop()
    left_open = avatar.session()
    loop.run_until_complete(left_open.__aenter__())
    frames = left_open.run()
    loop.run_until_complete(frames.__anext__())
    loop.close()
    with avatar.sync_session(pace="fast", idle=False) as session:
        session.push_audio(_sound(0.4), RATE)
        session.flush()
        assert len(list(session.run(until="drained"))) == 10
    left_open._close()


def test_a_mock_avatar_speaks_in_step() -> None:
    sound = np.zeros(2 * RATE, np.float32)
    sound[RATE : RATE + 3200] = _sound(0.2) * 3
    frames = list(Avatar.mock().speak(sound, RATE))
    closed = int((frames[5].image == frames[6].image).all(axis=2).sum())
    assert closed > 0
    mouth = [int(((f.image[32:, :, 0] > 90) & (f.image[32:, :, 1] < 60)).sum()) for f in frames]
    assert set(np.flatnonzero(np.array(mouth) > mouth[5])) <= set(range(24, 32))
    assert max(mouth[25:30]) > 3 * mouth[5]
    _same(frames, list(Avatar.mock().speak(sound, RATE)))

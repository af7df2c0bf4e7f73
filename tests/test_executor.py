"""Who is served when, who is let in, and what happens when things go wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
from fake_avatar import FakeBackend, FakeBatchBackend, fake_avatar
from synctalk import Avatar, BundleError, CapacityError, Executor
from synctalk.backends import HeadRequest
from synctalk.track import Track

RATE = 16_000
SOUND = (np.random.default_rng(0).standard_normal(RATE) * 0.1).astype(np.float32)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowBackend(FakeBackend):
    """Each head takes its time, on the simulated clock."""

    def __init__(self, n_condition: int, seconds: float, clock: Clock) -> None:
        super().__init__(n_condition)
        self._seconds, self._clock = seconds, clock

    def render_head(self, request: HeadRequest) -> np.ndarray:
        self._clock.now += self._seconds
        return super().render_head(request)


def _slow(seconds: float, clock: Clock) -> Avatar:
    avatar, backend = fake_avatar()
    return Avatar(avatar._bundle, SlowBackend(backend.n_condition, seconds, clock))


def test_the_earliest_deadline_comes_first() -> None:
    clock = Clock()
    executor = Executor(clock=clock, is_threaded=False, load_limit=9.0)
    avatar = _slow(0.02, clock)
    with (
        avatar.sync_session(pace="fast", idle=False, executor=executor) as batch,
        avatar.sync_session(idle=False, executor=executor) as late,
        avatar.sync_session(idle=False, executor=executor) as early,
    ):
        early.push_audio(SOUND, RATE)
        executor.step()  # its clock runs from here
        clock.now += 0.005
        late.push_audio(SOUND, RATE)
        batch.push_audio(SOUND, RATE)
        order = []
        for _ in range(5):
            before = [len(one._timeline._ready) for one in (early, late, batch)]
            executor.step()
            after = [len(one._timeline._ready) for one in (early, late, batch)]
            order.append("".join("elb"[i] for i in range(3) if after[i] > before[i]))
        assert order == ["e", "l", "e", "l", "l"] or order == ["l", "e", "l", "e", "l"]
        assert not batch._timeline._ready
        executor.step()
        assert len(batch._timeline._ready) == 1


def test_a_session_that_would_stutter_is_refused_with_the_reason() -> None:
    clock = Clock()
    executor = Executor(clock=clock, is_threaded=False)
    avatar = _slow(0.015, clock)
    with avatar.sync_session(executor=executor):
        with avatar.sync_session(executor=executor):
            assert executor.load == pytest.approx(0.75)
            with (
                pytest.raises(CapacityError, match=r"a frame takes 15\.0 ms here: with 2 sessions open"),
                avatar.sync_session(executor=executor),
            ):
                pass
            with avatar.sync_session(pace="fast", executor=executor):
                assert executor.n_sessions == 3
        with avatar.sync_session(executor=executor):
            assert executor.n_sessions == 2
    assert executor.n_sessions == 0
    few = Executor(is_threaded=False, max_sessions=1)
    with (
        Avatar.mock().sync_session(pace="fast", executor=few),
        pytest.raises(CapacityError, match="close one"),
        Avatar.mock().sync_session(pace="fast", executor=few),
    ):
        pass


def test_a_machine_that_is_too_slow_repeats_pictures_and_keeps_the_sound_in_time() -> None:
    clock = Clock()
    executor = Executor(clock=clock, is_threaded=False, load_limit=9.0)
    avatar = _slow(0.1, clock)
    clock.now = 10.0
    with avatar.sync_session(executor=executor) as session:
        clock.now = began = 20.0
        frames = []
        while clock.now < 30.0:
            if executor.step() != 0.0:
                clock.now += 0.002
            while (frame := session.poll()) is not None:
                frames.append((clock.now, frame))
        lag = [now - began - frame.pts_samples / RATE for now, frame in frames]
        assert max(lag) < 0.3
        assert [frame.index for _, frame in frames] == list(range(len(frames)))
        assert 0.4 < session.stats.repeated / len(frames) < 0.8
        assert session.stats.restarts == 0


def test_the_first_session_always_fits() -> None:
    clock = Clock()
    executor = Executor(clock=clock, is_threaded=False)
    with (
        _slow(1.0, clock).sync_session(executor=executor),
        pytest.raises(CapacityError, match="1 sessions open"),
        Avatar.mock().sync_session(executor=executor),
    ):
        pass


def test_after_a_long_stall_the_clock_starts_anew() -> None:
    clock = Clock()
    executor = Executor(clock=clock, is_threaded=False)
    with Avatar.mock().sync_session(executor=executor) as session:
        while executor.step() == 0.0:
            pass
        clock.now += 3600.0
        n = 0
        for _ in range(2000):
            executor.step()
            n += session.poll() is not None
            clock.now += 0.001
        assert n < 60
        assert session.stats.restarts == 1


def test_one_broken_avatar_does_not_stop_the_others() -> None:
    broken, _ = fake_avatar()
    executor = Executor()
    with broken.sync_session(idle=False, executor=executor) as first:
        track = broken.stage.track
        moves = (track.rotation, track.translation, track.expression)
        broken.stage.track = Track(*(np.tile(part, (9,) + (1,) * (part.ndim - 1)) for part in moves))
        first.push_audio(SOUND, RATE)
        with pytest.raises(BundleError, match=r"plate\.mp4"):
            list(first.run())
        with Avatar.mock().sync_session(pace="fast", idle=False, executor=executor) as second:
            second.push_audio(SOUND, RATE)
            second.flush()
            assert len(list(second.run(until="drained"))) == 25


def test_the_thread_ends_with_the_last_session_and_comes_back() -> None:
    def n_threads() -> int:
        return sum(thread.name == "synctalk-executor" for thread in threading.enumerate())

    avatar, before = Avatar.mock(), n_threads()
    for _ in range(3):
        with avatar.sync_session(), avatar.sync_session() as session:
            assert n_threads() == before + 1
            next(iter(session.run()))
        until = time.monotonic() + 5.0
        while n_threads() > before and time.monotonic() < until:
            time.sleep(0.01)
        assert n_threads() == before


def test_avatars_may_share_an_executor() -> None:
    executor = Executor()
    one, two = Avatar.mock(1), Avatar.mock(2)
    with one.sync_session(executor=executor) as a, two.sync_session(executor=executor) as b:
        assert executor.n_sessions == 2
        assert not (next(iter(a.run())).image == next(iter(b.run())).image).all()
        assert executor.cost_s(one.stage) > 0.0


def test_a_program_may_end_with_sessions_open() -> None:
    code = (
        "from synctalk import Avatar\n"
        "session = Avatar.mock().sync_session()\n"
        "session.__enter__()\n"
        "print(next(iter(session.run())).index)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def _batching(backend: type[FakeBatchBackend] = FakeBatchBackend) -> tuple[Avatar, FakeBatchBackend]:
    avatar, fake = fake_avatar()
    made = backend(fake.n_condition)
    return Avatar(avatar._bundle, made), made


def _pictures(avatar: Avatar, n_sessions: int) -> list[list[np.ndarray]]:
    """The pictures of sessions that speak at once, each louder than the one before."""
    executor = Executor(clock=Clock(), is_threaded=False, load_limit=9.0)
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(avatar.sync_session(pace="fast", idle=False, executor=executor))
            for _ in range(n_sessions)
        ]
        for i, session in enumerate(sessions):
            session.push_audio((i + 1) * SOUND, RATE)
        sessions[-1].control.set(background=(0, 90, 0))  # drawn apart: it needs the head alone
        while len(sessions[0]._timeline._ready) < 3:
            executor.step()
        return [[one.frame.image for one in session._timeline._ready] for session in sessions]


def test_frames_of_all_sessions_of_an_avatar_are_drawn_together() -> None:
    avatar, backend = _batching()
    together = _pictures(avatar, 4)
    assert backend.batches[4:] == 3 * [1, 3]  # after those that measure the cost
    for got, expected in zip(together, _pictures(fake_avatar()[0], 4), strict=True):
        assert len(got) == len(expected) == 3
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.flags.owndata  # a frame that is kept does not keep the batch


def test_a_backend_without_batches_draws_in_the_order_of_deadlines() -> None:
    avatar, backend = fake_avatar()
    _pictures(avatar, 3)
    assert not avatar._stage.is_batched and len(backend.requests) > 12


def test_a_session_that_cannot_be_drawn_does_not_stop_those_beside_it() -> None:
    class Choosy(FakeBatchBackend):
        def render_head(self, request: HeadRequest) -> np.ndarray:
            if not np.array_equal(request.rotation, np.eye(3)):
                raise RuntimeError("only straight ahead")
            return super().render_head(request)

    avatar, backend = _batching(Choosy)
    executor = Executor(clock=Clock(), is_threaded=False, load_limit=9.0)
    with (
        avatar.sync_session(pace="fast", idle=False, executor=executor) as fine,
        avatar.sync_session(pace="fast", idle=False, executor=executor) as bad,
    ):
        bad.control.set(pose=(10.0, 0.0, 0.0))
        for session in (fine, bad):
            session.push_audio(SOUND, RATE)
        executor.step()
        assert backend.batches[-3:] == [2, 1, 1] and len(fine._timeline._ready) == 1
        with pytest.raises(RuntimeError, match="only straight ahead"):
            bad.poll()

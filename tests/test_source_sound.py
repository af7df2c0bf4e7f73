"""Sound at its own rate, handed back frame by frame, beside a real session on a simulated clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mouths import bursts
from synctalk import Avatar, Executor, SyncSession
from synctalk.integrations.source import SourceSound

AVATAR = Avatar.mock()


class _Talk:
    """A session and the sound beside it; ``listen`` lets simulated time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.executor = Executor(clock=lambda: self.now, is_threaded=False)
        self.sound = SourceSound(AVATAR.sample_rate)
        self.heard: list[tuple[np.ndarray, int]] = []

    def open(self) -> SyncSession:
        self.session = AVATAR.sync_session(executor=self.executor)
        return self.session

    def push(self, pcm: np.ndarray, rate: int) -> None:
        self.session.push_audio(pcm, rate)
        self.sound.push(pcm, rate)

    def flush(self) -> None:
        self.session.flush()
        self.sound.flush()

    def listen(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            while self.executor.step() == 0.0:
                pass
            while (frame := self.session.poll()) is not None:
                if (taken := self.sound.take(frame)) is not None:
                    self.heard.append(taken)
            self.now += 0.01


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.sampled_from([8_000, 22_050, 24_000, 48_000]), st.integers(1, 30_000)),
        min_size=1,
        max_size=3,
    ),
    st.integers(200, 9_000),
)
def test_what_is_heard_is_what_was_pushed(utterances: list[tuple[int, int]], piece: int) -> None:
    talk, pushed = _Talk(), []
    with talk.open():
        for rate, n in utterances:
            pcm = bursts(rate, 6)[:n]
            pushed.append(pcm)
            for at in range(0, n, piece):
                talk.push(pcm[at : at + piece], rate)
                talk.listen(0.01)
            talk.flush()
        talk.listen(12.0)
    np.testing.assert_array_equal(np.concatenate([pcm for pcm, _ in talk.heard]), np.concatenate(pushed))
    assert talk.sound.n_taken == talk.sound.n_pushed
    assert talk.sound.rate is None


def test_every_frame_gets_its_forty_milliseconds() -> None:
    talk = _Talk()
    with talk.open():
        talk.push(bursts(24_000), 24_000)
        talk.listen(1.0)
        assert {len(pcm) for pcm, _ in talk.heard} == {960}
        talk.flush()
        talk.listen(4.0)
    assert {len(pcm) for pcm, _ in talk.heard[:-1]} == {960}


def test_an_interruption_clears_and_the_next_sound_is_whole() -> None:
    talk = _Talk()
    with talk.open():
        talk.push(bursts(24_000), 24_000)
        talk.listen(0.5)
        assert talk.session.interrupt().dropped_ms > 0.0
        talk.sound.clear()
        talk.heard.clear()
        talk.push(bursts(16_000, 1), 16_000)
        talk.flush()
        talk.listen(2.0)
    np.testing.assert_array_equal(np.concatenate([pcm for pcm, _ in talk.heard]), bursts(16_000, 1))
    assert {rate for _, rate in talk.heard} == {16_000}


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_sound(n: int) -> None:
    talk = _Talk()
    with talk.open():
        talk.push(np.ones(n, np.int16), 48_000)
        talk.flush()
        talk.listen(1.0)
    assert sum(len(pcm) for pcm, _ in talk.heard) == n

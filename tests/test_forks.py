"""Children forked after the first frame: they draw the same frames, or say at once what to do."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_avatar import FakeBatchBackend, fake_avatar, write_tiny_bundle
from synctalk import Avatar, BackendError, SyncSession, _native
from synctalk.cli import DEMO
from synctalk.media import VideoFrames, read_video, write_mp4

SOUND = (0.1 * np.random.default_rng(0).standard_normal(3_200)).astype(np.float32)
LIMIT_S = 120


def in_child(act: Callable[[], None]) -> None:
    """Run in a forked child; fail where it fails, or hangs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIMIT_S)
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "it hung" if os.WIFSIGNALED(status) else "it failed"


def pictures(avatar: Avatar) -> np.ndarray:
    return np.stack([frame.image for frame in avatar.speak(SOUND, 16_000)])


@pytest.mark.parametrize("backend", ["native-cpu", "onnxruntime", "mock"])
def test_a_child_draws_what_its_parent_draws(backend: str, tmp_path: Path) -> None:
    n_threads = _native.threads()
    if backend == "mock":
        avatar = Avatar.mock()
    elif backend == "native-cpu":
        avatar = Avatar.from_bundle(write_tiny_bundle(tmp_path / "a.avatar"), backend=backend, threads=3)
    else:
        avatar = Avatar.from_bundle(DEMO / "demo.avatar", backend=backend, threads=2, detail="full")
    expected = pictures(avatar)

    def act() -> None:
        np.testing.assert_array_equal(pictures(avatar), expected)
        avatar.save(tmp_path / "child.mp4", SOUND, 16_000)
        in_child(lambda: np.testing.assert_array_equal(pictures(avatar), expected))

    in_child(act)
    np.testing.assert_array_equal(pictures(avatar), expected)
    assert len(read_video(tmp_path / "child.mp4")) == 5
    _native.set_threads(n_threads)


def test_a_child_keeps_the_number_of_threads() -> None:
    before = _native.threads()
    _native.set_threads(3)

    def act() -> None:
        assert _native.threads() == 3
        _native.set_threads(2)
        assert _native.threads() == 2

    in_child(act)
    _native.set_threads(before)


def test_a_child_opens_sessions_while_its_parent_has_some() -> None:
    avatar = Avatar.mock()

    def talk(session: SyncSession) -> int:
        session.push_audio(SOUND, 16_000)
        session.flush()
        return len(list(session.run(until="drained")))

    with avatar.sync_session(pace="fast", idle=False) as own:
        assert talk(own) == 5

        def act() -> None:
            with avatar.sync_session(pace="fast", idle=False) as session:
                assert talk(session) == 5
            for refused in (lambda: talk(own), own.interrupt, own.flush, own.poll, lambda: next(own.run())):
                with pytest.raises(RuntimeError, match="open another here"):
                    refused()
            own.close()

        for _ in range(5):
            in_child(act)
        assert talk(own) == 5


def test_children_forked_at_any_moment_draw(tmp_path: Path) -> None:
    """Other threads are decoding, drawing, pushing: their locks may be held."""
    avatar, stop = Avatar.mock(), threading.Event()
    expected = pictures(avatar)

    def work() -> None:
        while not stop.is_set():
            pictures(Avatar.mock())
            with avatar.sync_session(pace="fast", idle=False) as session:
                session.push_audio(SOUND, 16_000)
                next(session.run())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            time.sleep(0.02)
            in_child(lambda: np.testing.assert_array_equal(pictures(avatar), expected))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_videos_go_on_where_a_thread_was_decoding(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v.mp4", [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(10)], 25)
    whole = read_video(tmp_path / "v.mp4")
    frames = VideoFrames(tmp_path / "v.mp4")
    for i in range(4):
        np.testing.assert_array_equal(frames[i], whole[i])
    with frames._lock:  # as another thread would hold it
        in_child(lambda: np.testing.assert_array_equal(np.stack(list(frames)), whole))


def test_a_gpu_in_a_child_says_what_to_do() -> None:
    avatar, fake = fake_avatar()
    batching = Avatar(avatar._bundle, FakeBatchBackend(fake.n_condition))
    assert len(pictures(batching)) == 5

    def act() -> None:
        with pytest.raises(BackendError, match="spawn"):
            batching.speak(SOUND, 16_000).__next__()

    in_child(act)


def test_multiprocessing_by_fork() -> None:
    avatar = Avatar.mock()
    expected = pictures(avatar)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(np.array_equal(pictures(avatar), expected)))
    process.start()
    assert queue.get(timeout=LIMIT_S)
    process.join(LIMIT_S)
    with pytest.raises(TypeError, match="from_bundle"):
        pickle.dumps(avatar)

"""Sessions: push sound, take frames, interrupt, steer. ``Session`` for asyncio, ``SyncSession`` for threads.

    async with avatar.session() as session:
        await session.push_audio(pcm, sample_rate=24_000)
        session.flush()
        async for frame in session.run():
            show(frame.image)

Everything but taking frames may be called from any thread (``Session.push_audio`` from its own event loop).
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import ArrayLike, NDArray

from synctalk.audio import as_samples
from synctalk.control import Control
from synctalk.deprecation import deprecated
from synctalk.errors import CapacityError
from synctalk.executor import Executor
from synctalk.frame import Frame
from synctalk.stage import Stage
from synctalk.timeline import Interrupted, SessionStats, Timeline

__all__ = ["Session", "SyncSession", "Until"]

Until: TypeAlias = Literal["closed", "drained"]
"""When ``run`` ends."""


def _is_until_drained(until: Until) -> bool:
    if until not in ("closed", "drained"):
        raise ValueError(f"until: expected 'closed' or 'drained', got {until!r}")
    return until == "drained"


class _Staged(Protocol):
    """What a session swaps to: an ``Avatar``."""

    @property
    def stage(self) -> Stage: ...


class _Base(ABC):
    """What both kinds of session share."""

    def __init__(self, timeline: Timeline, executor: Executor) -> None:
        self._timeline, self._executor = timeline, executor
        self._is_consumed = False

    @property
    def control(self) -> Control:
        """Head pose, expression, blink, gaze, background: ``session.control.set(...)``."""
        return self._timeline.control

    @property
    def stats(self) -> SessionStats:
        """Counts since the session began."""
        return self._timeline.stats()

    def flush(self) -> None:
        """End the utterance: its last frames come without waiting for more sound, the very last with ``end_of_speech``."""
        self._timeline.flush()
        self._executor.wake()

    def interrupt(self) -> Interrupted:
        """Fall silent now: pushed sound and undisplayed frames are dropped, later frames count a new generation.

        Returns how much of the current sound was handed out and how much is dropped; with nothing to say, zeros. After
        it returns no older frame is taken, but for one that another thread is taking right now.
        """
        report = self._timeline.interrupt()
        self._executor.wake()
        self._ring()
        return report

    clear_buffer = interrupt

    def _push(self, chunk: ArrayLike | bytes, sample_rate: int) -> None:
        self._timeline.push(as_samples(chunk), sample_rate)
        self._executor.wake()

    def _must_wait(self, samples: NDArray[Any], sample_rate: int) -> bool:
        timeline = self._timeline
        return not timeline.is_closed and not timeline.has_room(len(samples) / max(1, sample_rate))

    def _take(self) -> Frame | None:
        frame = self._timeline.take(self._executor.clock())
        if frame is not None:
            self._executor.wake()  # there is room
        return frame

    def _wait_s(self) -> float | None:
        """Until the next frame is due; None while it is not drawn."""
        due = self._timeline.next_due()
        return None if due is None else max(0.0, due - self._executor.clock())

    def _is_over(self, until_drained: bool) -> bool:
        return self._timeline.is_closed or (until_drained and self._timeline.is_drained)

    def _begin(self) -> None:
        if self._is_consumed:
            raise RuntimeError("somebody waits for this session's frames already: one consumer at a time")
        self._is_consumed = True

    def _full(self) -> CapacityError:
        limits = self._timeline.limits
        return CapacityError(
            f"{limits.pending_s:g} s of sound wait, and for {limits.stall_s:g} s nobody has taken a frame: take frames "
            "while you push (in another task or thread), push less at a time, or raise Limits.pending_s",
            limit=limits.pending_s,
            load=self._timeline.stats().pending_ms / 1000.0,
        )

    def _close(self) -> None:
        self._timeline.close()
        self._executor.remove(self._timeline)
        self._ring()

    @abstractmethod
    def _ring(self) -> None:
        """Wake whoever waits for frames or for room."""


class Session(_Base):
    """A stream of frames for asyncio; open it with ``async with avatar.session() as session``."""

    def __init__(self, timeline: Timeline, executor: Executor) -> None:
        """Most callers want ``Avatar.session``."""
        super().__init__(timeline, executor)
        self._bell, self._room = _Bell(), _Bell()

    async def __aenter__(self) -> Session:
        """Raises: CapacityError: no room for one more, with the reason."""
        self._bell.bind()
        self._room.bind()
        await asyncio.to_thread(self._executor.probe, self._timeline.stage)
        self._executor.add(self._timeline, self._bell.ring)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def aclose(self) -> None:
        """What leaving ``async with`` does: drop everything, end ``run``."""
        self._close()

    async def push_audio(self, chunk: ArrayLike | bytes, sample_rate: int) -> None:
        """Append sound: samples [n] or [n, channels] of int16, int32, uint8 or float, or bytes (16-bit mono).

        Waits while ``Limits.pending_s`` of sound wait to be spoken; a push of any length fits where none waits. What is
        still waiting when an interruption comes is dropped like the rest.
        Raises: MediaError: no sound; ValueError: another rate inside an utterance; CapacityError: it waited and no
        frame was taken; RuntimeError: the session is closed.
        """
        samples, generation = as_samples(chunk), self._timeline.generation
        while self._must_wait(samples, sample_rate):
            if not await self._room.wait(self._timeline.limits.stall_s):
                raise self._full()
            if self._timeline.generation != generation:
                return
        self._push(samples, sample_rate)

    async def swap(self, avatar: _Staged) -> None:
        """Go on as another avatar, from the next frame that is planned, also in the midst of a sound.

        Raises: ValueError: an avatar of another frame rate, or, in the midst of a sound, other audio settings.
        """
        await asyncio.to_thread(self._executor.probe, avatar.stage)
        self._timeline.swap(avatar.stage)

    def run(self, until: Until = "closed") -> Frames:
        """Frames, each when it is due. Break off and call it again at will.

        until: ``closed``: the session is; ``drained``: every sound so far has been spoken (the last flushed utterance's
        ``end_of_speech``), or the session is closed. Raises: ValueError: another word.
        """
        return Frames(self, _is_until_drained(until))

    def frames(self) -> Frames:
        """Deprecated: ``run(until="drained")``."""
        deprecated("session.frames()", 'session.run(until="drained")')
        return Frames(self, until_drained=True)

    async def _next(self, until_drained: bool) -> Frame:
        self._begin()
        try:
            if self._timeline.pace == "fast":
                await asyncio.sleep(0)  # frames that are ready must not keep other tasks waiting
            while True:
                self._bell.clear()
                if (frame := self._take()) is not None:
                    self._room.ring()
                    return frame
                if self._is_over(until_drained):
                    raise StopAsyncIteration
                await self._bell.wait(self._wait_s())
        finally:
            self._is_consumed = False

    def _ring(self) -> None:
        self._bell.ring()
        self._room.ring()


class Frames:
    """An asynchronous iterator over a session's frames; nothing is lost when waiting for one is cancelled."""

    def __init__(self, session: Session, until_drained: bool) -> None:
        self._session, self._until_drained = session, until_drained

    def __aiter__(self) -> Frames:
        return self

    async def __anext__(self) -> Frame:
        return await self._session._next(self._until_drained)


class _Bell:
    """Wakes a coroutine from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[asyncio.Future[bool]] = []
        self._is_rung = False

    def bind(self) -> None:
        self._loop = asyncio.get_running_loop()

    def clear(self) -> None:
        self._is_rung = False

    def ring(self) -> None:
        self._is_rung = True
        if self._waiting and self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # closed in this very moment: nobody waits there any more
                return

    async def wait(self, timeout_s: float | None) -> bool:
        """Until it rings, has rung since ``clear``, or the time is over; whether it rang."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(future)
        timer = None if timeout_s is None else loop.call_later(timeout_s, _resolve, future, False)
        try:
            if self._is_rung:
                self._is_rung = False
                return True
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            self._waiting.remove(future)

    def _wake(self) -> None:
        for future in self._waiting:
            _resolve(future, True)


def _resolve(future: asyncio.Future[bool], has_rung: bool) -> None:
    if not future.done():
        future.set_result(has_rung)


class SyncSession(_Base):
    """A stream of frames without asyncio; open it with ``with avatar.sync_session() as session``."""

    def __init__(self, timeline: Timeline, executor: Executor) -> None:
        """Most callers want ``Avatar.sync_session``."""
        super().__init__(timeline, executor)
        self._condition = threading.Condition()
        self._is_rung = False

    def __enter__(self) -> SyncSession:
        """Raises: CapacityError: no room for one more, with the reason."""
        self._executor.add(self._timeline, self._ring)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def close(self) -> None:
        """What leaving ``with`` does: drop everything, end ``run``."""
        self._close()

    def push_audio(self, chunk: ArrayLike | bytes, sample_rate: int) -> None:
        """As ``Session.push_audio``. It waits for room only while another thread takes frames."""
        samples, generation = as_samples(chunk), self._timeline.generation
        while self._must_wait(samples, sample_rate):
            with self._condition:
                if not self._condition.wait(self._timeline.limits.stall_s):
                    raise self._full()
            if self._timeline.generation != generation:
                return
        self._push(samples, sample_rate)

    def swap(self, avatar: _Staged) -> None:
        """As ``Session.swap``."""
        self._executor.probe(avatar.stage)
        self._timeline.swap(avatar.stage)

    def run(self, until: Until = "closed") -> SyncFrames:
        """As ``Session.run``."""
        return SyncFrames(self, _is_until_drained(until))

    def frames(self) -> SyncFrames:
        """Deprecated: ``run(until="drained")``."""
        deprecated("session.frames()", 'session.run(until="drained")')
        return SyncFrames(self, until_drained=True)

    def poll(self) -> Frame | None:
        """The next frame if it is there and due, without waiting: for the loop of a game or a window."""
        return self._take()

    def _next(self, until_drained: bool) -> Frame:
        self._begin()
        try:
            while True:
                with self._condition:
                    self._is_rung = False
                if (frame := self._take()) is not None:
                    with self._condition:
                        self._condition.notify_all()  # there is room for a push that waits
                    return frame
                if self._is_over(until_drained):
                    raise StopIteration
                wait_s = self._wait_s()
                with self._condition:
                    self._condition.wait_for(lambda: self._is_rung, wait_s)
        finally:
            self._is_consumed = False

    def _ring(self) -> None:
        with self._condition:
            self._is_rung = True
            self._condition.notify_all()


class SyncFrames:
    """An iterator over a session's frames."""

    def __init__(self, session: SyncSession, until_drained: bool) -> None:
        self._session, self._until_drained = session, until_drained

    def __iter__(self) -> SyncFrames:
        return self

    def __next__(self) -> Frame:
        return self._session._next(self._until_drained)

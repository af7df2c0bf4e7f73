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
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synctalk.audio import whole_rate
from synctalk.control import Control
from synctalk.deprecation import deprecated
from synctalk.errors import CapacityError
from synctalk.executor import Executor
from synctalk.forks import Birthplace
from synctalk.frame import Frame
from synctalk.sound import Audio, Chunk, SampleStream, Sound, duration_s, open_sound
from synctalk.stage import Stage
from synctalk.timeline import Interrupted, SessionStats, Timeline

__all__ = ["Session", "SyncSession", "Until"]

Until: TypeAlias = Literal["closed", "drained"]
"""When ``run`` ends."""

Float = NDArray[np.float32]


class _Staged(Protocol):
    """What a session swaps to: an ``Avatar``."""

    @property
    def stage(self) -> Stage: ...


class _Base(ABC):
    """What both kinds of session share."""

    def __init__(self, timeline: Timeline, executor: Executor) -> None:
        self._timeline, self._executor = timeline, executor
        self._is_consumed = False
        self._n_interruptions = 0
        self._birthplace = Birthplace()

    def _check_process(self) -> None:
        if not self._birthplace.is_here:
            raise RuntimeError(
                "this session was opened before the process was forked, and goes on in the parent: open another here"
            )

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
        self._check_process()
        self._timeline.flush()
        self._executor.wake()

    def interrupt(self) -> Interrupted:
        """Fall silent now: pushed sound and undisplayed frames are dropped, later frames count a new generation.

        Returns how much of the current sound was handed out and how much is dropped; with nothing to say, zeros. After
        it returns no older frame is taken, but for one that another thread is taking right now.
        """
        self._check_process()
        self._n_interruptions += 1
        report = self._timeline.interrupt()
        self._executor.wake()
        self._ring()
        return report

    clear_buffer = interrupt

    def _push(self, chunk: Chunk, sample_rate: int) -> None:
        self._check_process()
        self._timeline.push(chunk, sample_rate)
        self._executor.wake()

    def _must_wait(self, chunk: Chunk, sample_rate: int) -> bool:
        timeline = self._timeline
        return not timeline.is_closed and not timeline.has_room(duration_s(chunk, sample_rate))

    def _take(self) -> Frame | None:
        self._check_process()
        frame = self._timeline.take(self._executor.clock())
        if frame is not None:
            self._executor.wake()  # there is room
        return frame

    def _wait_s(self) -> float | None:
        """Until the next frame is due; None while it is not drawn."""
        due = self._timeline.next_due()
        return None if due is None else max(0.0, due - self._executor.clock())

    def _is_closed(self) -> bool:
        return self._timeline.is_closed

    def _is_drained(self) -> bool:
        return self._timeline.is_closed or self._timeline.is_drained

    def _end(self, until: Until) -> Callable[[], bool]:
        """What says that ``run`` is over."""
        if until not in ("closed", "drained"):
            raise ValueError(f"until: expected 'closed' or 'drained', got {until!r}")
        return self._is_drained if until == "drained" else self._is_closed

    def _begin(self) -> None:
        self._check_process()
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
        if not self._birthplace.is_here:
            return  # it goes on in the parent
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
        """Raises: CapacityError: no room for one more, with the reason; RuntimeError: another process made it."""
        self._check_process()
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

    async def push_audio(self, chunk: Chunk, sample_rate: int) -> None:
        """Append sound: samples [n], [n, channels] or [channels, n], or bytes (16-bit mono) of any number.

        Waits while ``Limits.pending_s`` of sound wait to be spoken; a push of any length fits where none waits. What is
        still waiting when an interruption comes is dropped like the rest.
        Raises: MediaError: no sound; ValueError: another rate inside an utterance; CapacityError: it waited and no
        frame was taken; RuntimeError: the session is closed.
        """
        self._check_process()
        sample_rate, generation = whole_rate(sample_rate), self._timeline.generation
        while self._must_wait(chunk, sample_rate):
            if not await self._room.wait(self._timeline.limits.stall_s):
                raise self._full()
            if self._timeline.generation != generation:
                return
        self._push(chunk, sample_rate)

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
        return Frames(self, self._end(until))

    def frames(self) -> Frames:
        """Deprecated: ``run(until="drained")``."""
        deprecated("session.frames()", 'session.run(until="drained")')
        return self.run(until="drained")

    async def speak(
        self, audio: Audio | AsyncIterable[Chunk], sample_rate: int | None = None
    ) -> AsyncIterator[Frame]:
        """Say a sound, and give the session's frames until all sound so far has been spoken: push, flush, ``run``.

        audio, sample_rate: as for ``Avatar.speak``; or an async iterable of chunks, as a text-to-speech client has. Files
        and iterables are read in a thread. Breaking off leaves what was pushed; ``interrupt`` drops it.
        Raises: as ``Avatar.speak`` and ``push_audio``.
        """
        feeding = asyncio.create_task(self._feed(audio, sample_rate))
        feeding.add_done_callback(lambda _: self._bell.ring())
        timeline = self._timeline

        def is_over() -> bool:
            if not feeding.done():
                return timeline.is_closed
            return timeline.is_closed or timeline.is_drained or feeding.exception() is not None

        try:
            async for frame in Frames(self, is_over):
                yield frame
            if not timeline.is_closed:
                await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, audio: Audio | AsyncIterable[Chunk], sample_rate: int | None) -> None:
        """Push a sound and flush; an interruption ends it."""
        n_interruptions = self._n_interruptions
        async for mono, rate in _pieces(audio, sample_rate):
            if self._n_interruptions == n_interruptions:
                await self.push_audio(mono, rate)
            if self._n_interruptions != n_interruptions:
                return
        self.flush()

    async def _next(self, is_over: Callable[[], bool]) -> Frame:
        self._begin()
        try:
            if self._timeline.pace == "fast":
                await asyncio.sleep(0)  # frames that are ready must not keep other tasks waiting
            while True:
                self._bell.clear()
                if (frame := self._take()) is not None:
                    self._room.ring()
                    return frame
                if is_over():
                    raise StopAsyncIteration
                await self._bell.wait(self._wait_s())
        finally:
            self._is_consumed = False

    def _ring(self) -> None:
        self._bell.ring()
        self._room.ring()


async def _pieces(
    audio: Audio | AsyncIterable[Chunk], sample_rate: int | None
) -> AsyncIterator[tuple[Float, int]]:
    """A sound's samples as they come, float32 [n] mono, and their rate."""
    if not isinstance(audio, AsyncIterable):
        sound = await asyncio.to_thread(open_sound, audio, sample_rate)
        pieces = iter(sound)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece, sound.rate
        return
    stream = SampleStream(sample_rate)
    async for chunk in audio:
        mono = stream.push(chunk)
        if len(mono) and stream.rate is None:
            raise ValueError("chunks need a sample_rate: session.speak(chunks, sample_rate=16_000)")
        if stream.rate is not None:
            yield mono, stream.rate


class Frames:
    """An asynchronous iterator over a session's frames; nothing is lost when waiting for one is cancelled."""

    def __init__(self, session: Session, is_over: Callable[[], bool]) -> None:
        self._session, self._is_over = session, is_over

    def __aiter__(self) -> Frames:
        return self

    async def __anext__(self) -> Frame:
        return await self._session._next(self._is_over)


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
        """Raises: CapacityError: no room for one more, with the reason; RuntimeError: another process made it."""
        self._check_process()
        self._executor.add(self._timeline, self._ring)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def close(self) -> None:
        """What leaving ``with`` does: drop everything, end ``run``."""
        self._close()

    def push_audio(self, chunk: Chunk, sample_rate: int) -> None:
        """As ``Session.push_audio``. It waits for room only while another thread takes frames."""
        self._check_process()
        sample_rate, generation = whole_rate(sample_rate), self._timeline.generation
        while self._must_wait(chunk, sample_rate):
            with self._condition:
                if not self._condition.wait(self._timeline.limits.stall_s):
                    raise self._full()
            if self._timeline.generation != generation:
                return
        self._push(chunk, sample_rate)

    def speak(self, audio: Audio, sample_rate: int | None = None) -> Iterator[Frame]:
        """As ``Session.speak``. While an iterable of chunks keeps waiting for its next one, no frames come."""
        n_interruptions, sound = self._n_interruptions, open_sound(audio, sample_rate)
        return self._spoken(sound, n_interruptions)

    def _spoken(self, sound: Sound, n_interruptions: int) -> Iterator[Frame]:
        for mono in sound:
            while self._must_wait(mono, sound.rate) and (frame := next(self.run(), None)) is not None:
                yield frame
            if self._n_interruptions != n_interruptions or self._timeline.is_closed:
                return
            self._push(mono, sound.rate)
            while (ready := self.poll()) is not None:
                yield ready
        self.flush()
        yield from self.run(until="drained")

    def swap(self, avatar: _Staged) -> None:
        """As ``Session.swap``."""
        self._executor.probe(avatar.stage)
        self._timeline.swap(avatar.stage)

    def run(self, until: Until = "closed") -> SyncFrames:
        """As ``Session.run``."""
        return SyncFrames(self, self._end(until))

    def frames(self) -> SyncFrames:
        """Deprecated: ``run(until="drained")``."""
        deprecated("session.frames()", 'session.run(until="drained")')
        return self.run(until="drained")

    def poll(self) -> Frame | None:
        """The next frame if it is there and due, without waiting: for the loop of a game or a window."""
        return self._take()

    def _next(self, is_over: Callable[[], bool]) -> Frame:
        self._begin()
        try:
            while True:
                with self._condition:
                    self._is_rung = False
                if (frame := self._take()) is not None:
                    with self._condition:
                        self._condition.notify_all()  # there is room for a push that waits
                    return frame
                if is_over():
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

    def __init__(self, session: SyncSession, is_over: Callable[[], bool]) -> None:
        self._session, self._is_over = session, is_over

    def __iter__(self) -> SyncFrames:
        return self

    def __next__(self) -> Frame:
        return self._session._next(self._is_over)

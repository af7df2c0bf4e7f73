"""One client: a WebSocket that carries commands, sound and, without WebRTC, the video; behind it one session."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from numpy.typing import NDArray

from synctalk.avatar import Avatar
from synctalk.control import KEEP
from synctalk.errors import CapacityError, MediaError
from synctalk.executor import Executor
from synctalk.frame import Frame
from synctalk.serve import messages
from synctalk.serve.fmp4 import FragmentedMp4
from synctalk.serve.guard import TokenBucket
from synctalk.serve.metrics import Metrics, Pulse
from synctalk.serve.rtc import Peer
from synctalk.serve.settings import ServeSettings
from synctalk.serve.sound import Speech
from synctalk.session import Session
from synctalk.sound import Chunk, duration_s
from synctalk.timeline import Limits

__all__ = ["Conversation", "GoneError", "RefusedError"]

_REPORT_S = 1.0
_BURST_S = 2.0
_MAX_BAD = 100
_MAX_TALKS = 4


class RefusedError(Exception):
    """Something that a client is told: a word for programs and a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class GoneError(Exception):
    """The client has left, or takes nothing any more."""


class Conversation:
    """Runs until the client leaves, asks nothing for too long or takes nothing; then its session is closed."""

    def __init__(
        self, socket: WebSocket, avatar: Avatar, executor: Executor, settings: ServeSettings, metrics: Metrics
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        """Nobody else can guess it."""
        self._socket, self._avatar, self._executor = socket, avatar, executor
        self._settings, self._metrics = settings, metrics
        limits = Limits(pending_s=settings.max_sound_s + 1.0)
        self._session: Session = avatar.session(limits=limits, executor=executor)
        self._bucket = TokenBucket(settings.messages_per_s, _BURST_S * settings.messages_per_s)
        self._rate = 16_000  # of the binary sound that comes next
        self._open_rate: int | None = None  # of the utterance that is being pushed
        self._peer: Peer | None = None
        self._pulse = Pulse(metrics)
        self._asked = time.monotonic()
        self._n_bad = 0
        self._sending, self._talking = asyncio.Lock(), asyncio.Lock()
        self._talks: set[asyncio.Task[None]] = set()

    async def run(self, transport: str, speech: Speech | None) -> None:
        """Serve the client. Raises: RefusedError: no room, or it was let go for what it did; GoneError: it has left."""
        self._speech = speech
        try:
            async with self._session:
                self._metrics.opened.labels(transport).inc()
                await self._send(self._ready())
                pump = self._pump_socket if transport == "websocket" else self._pump_peer
                await _first_of(pump(), self._listen(), self._report())
        except CapacityError as error:
            raise RefusedError("full", str(error)) from error
        finally:
            self._cancel_talks()
            self._pulse.settle(self._session.stats)
            if self._peer is not None:
                await self._peer.close()

    async def speak(self, samples: NDArray[np.float32], rate: int) -> None:
        """Say a whole sound after what waits. Raises: RefusedError: too much sound."""
        self._asked = time.monotonic()
        async with self._talking:
            self._flush()
            step = rate  # a second at a time: others run in between
            self._check_room(len(samples), rate)
            for at in range(0, len(samples), step):
                await self._push(samples[at : at + step], rate)
                await asyncio.sleep(0)
            self._flush()

    # --- what comes ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise GoneError
            if not self._bucket.take():
                raise RefusedError("too_fast", "too many messages: send sound in pieces of 20 ms or more")
            try:
                if message.get("text") is not None:
                    await self._obey(messages.parse(message["text"]))
                else:
                    await self._take(message.get("bytes") or b"")
            except RefusedError as refusal:
                await self._tell(refusal)
            except (
                ValueError,
                MediaError,
            ):  # pydantic's error is a ValueError; what it says is for programmers
                await self._tell(RefusedError("bad_message", "this message is not understood"))

    async def _obey(self, message: messages.Message) -> None:
        if not isinstance(message, messages.Ping):
            self._asked = time.monotonic()
        match message:
            case messages.Ping(at=at):
                await self._send({"type": "pong", "at": at})
            case messages.Sound(sample_rate=rate):
                self._rate = rate
            case messages.Flush():
                self._flush()
            case messages.Interrupt():
                await self._interrupt()
            case messages.Control():
                self._steer(message)
            case messages.Say(text=text):
                self._say(text)
            case messages.Offer(sdp=sdp):
                await self._connect(sdp)
            case _:
                raise RefusedError("bad_message", "the session has begun already")

    async def _take(self, data: bytes) -> None:
        """A binary message: sound, or a background."""
        kind, rest = data[:1], memoryview(data)[1:]
        if kind == bytes([messages.SOUND]):
            self._asked = time.monotonic()
            self._check_room(len(rest) // 2, self._rate)
            if self._open_rate not in (None, self._rate):
                self._flush()
            await self._push(rest, self._rate)
        elif kind == bytes([messages.PICTURE]):
            width, height = self._avatar.size
            if len(rest) != 3 * width * height:
                raise RefusedError("bad_message", f"a background has {width} x {height} x 3 bytes")
            picture = np.frombuffer(rest, np.uint8).reshape(height, width, 3)
            self._session.control.set(background=picture, lerp_s=0.3)
        else:
            raise RefusedError("bad_message", "binary messages begin with 0 (16-bit sound) or 1 (a picture)")

    def _check_room(self, n_samples: int, rate: int) -> None:
        waiting_s = self._session.stats.pending_ms / 1000.0
        if waiting_s + n_samples / rate > self._settings.max_sound_s:
            raise RefusedError(
                "too_much_sound",
                f"more than {self._settings.max_sound_s:g} s of sound would wait: send it later",
            )

    async def _push(self, samples: Chunk, rate: int) -> None:
        if duration_s(samples, rate):
            self._pulse.pushed()
            self._open_rate = rate
            await self._session.push_audio(samples, rate)

    def _flush(self) -> None:
        self._open_rate = None
        self._session.flush()

    async def _interrupt(self) -> None:
        self._cancel_talks()
        report = self._session.interrupt()
        self._open_rate = None
        self._pulse.silenced()
        self._metrics.interruptions.inc()
        await self._send(
            {"type": "interrupted", "played_ms": report.played_ms, "dropped_ms": report.dropped_ms}
        )

    def _steer(self, control: messages.Control) -> None:
        """Of what is named; a thing that is named as null goes back to the avatar's own."""
        named = control.model_fields_set
        try:
            self._session.control.set(
                pose=_pose(control.pose) if "pose" in named else KEEP,
                expression=control.expression if "expression" in named else KEEP,
                blink=control.blink if "blink" in named else KEEP,
                background=control.background if "background" in named else KEEP,
                lerp_s=control.lerp_s,
            )
        except ValueError as error:
            raise RefusedError("bad_control", str(error)) from error

    def _say(self, text: str) -> None:
        if self._speech is None:
            raise RefusedError("no_speech", "this server has no speech program (synctalk serve --tts)")
        if not text.strip() or len(text) > self._settings.max_text:
            raise RefusedError("bad_text", f"give 1 to {self._settings.max_text} characters")
        if len(self._talks) >= _MAX_TALKS:
            raise RefusedError("busy", "several texts wait to be spoken already")
        task = asyncio.create_task(self._talk(self._speech, text))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _talk(self, speech: Speech, text: str) -> None:
        try:
            await self.speak(*await speech(text))
        except RefusedError as refusal:
            await self._tell(refusal)
        except MediaError as error:
            await self._tell(RefusedError("no_speech", str(error)))
        except (GoneError, RuntimeError):  # the session was closed meanwhile
            return

    def _cancel_talks(self) -> None:
        for task in self._talks:
            task.cancel()

    async def _connect(self, sdp: str) -> None:
        if self._peer is not None:
            raise RefusedError("bad_message", "one offer a session")
        peer = Peer(self._avatar.sample_rate, self._settings.ice_servers)
        client = self._socket.client
        try:
            answer = await peer.answer(sdp, client.host if client else "127.0.0.1")
        except BaseException:
            await peer.close()
            raise
        self._peer = peer
        await self._send({"type": "answer", "sdp": answer})

    # --- what goes ----------------------------------------------------------------------------------------------------

    async def _pump_peer(self) -> None:
        async for frame in self._session.run():
            await self._note(frame)
            if self._peer is not None:
                self._peer.put(frame)

    async def _pump_socket(self) -> None:
        mp4 = FragmentedMp4(self._avatar.size, self._avatar.fps, self._avatar.sample_rate)
        is_first = True
        try:
            async for frame in self._session.run():
                await self._note(frame)
                data = await asyncio.to_thread(mp4.write, frame)
                if is_first:
                    await self._send({"type": "media", "mime": mp4.mime(data)})
                    is_first = False
                if data:
                    await self._send(data)
        finally:
            await asyncio.to_thread(mp4.close)

    async def _note(self, frame: Frame) -> None:
        for event in self._pulse.frame(frame):
            await self._send(event)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            if time.monotonic() - self._asked > self._settings.idle_timeout_s:
                raise RefusedError("idle", "nothing was asked for a long time")
            stats = self._session.stats
            figures = self._pulse.report(stats)
            load, sessions = self._executor.load, self._executor.n_sessions
            await self._send({"type": "stats", "load": round(load, 3), "sessions": sessions, **figures})

    def _ready(self) -> dict[str, Any]:
        width, height = self._avatar.size
        names = list(self._session.control.names)
        return {
            "type": "ready",
            "session": self.id,
            "width": width,
            "height": height,
            "fps": self._avatar.fps,
            "expressions": names,
        }

    async def _tell(self, refusal: RefusedError) -> None:
        """An error that the conversation survives, a limited number of times."""
        self._metrics.refused.labels(refusal.code).inc()
        self._n_bad += 1
        if self._n_bad > _MAX_BAD:
            raise RefusedError("too_many_errors", "too many messages that could not be obeyed")
        await self._send({"type": "error", "code": refusal.code, "message": refusal.message})

    async def _send(self, message: dict[str, Any] | bytes) -> None:
        try:
            async with asyncio.timeout(self._settings.send_timeout_s), self._sending:
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_json(message)
        except (TimeoutError, WebSocketDisconnect, RuntimeError) as error:
            raise GoneError from error


def _pose(degrees: list[float] | None) -> tuple[float, float, float] | None:
    return None if degrees is None else (degrees[0], degrees[1], degrees[2])


async def _first_of(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends; then end the others, and raise what it raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        await task

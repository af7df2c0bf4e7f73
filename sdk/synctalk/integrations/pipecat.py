"""Pipecat: a video service that turns what a speech synthesiser says into pictures and the same sound, in step.

    Pipeline([transport.input(), stt, user, llm, tts, SyncTalkVideoService(avatar), transport.output(), assistant])

The transport needs ``video_out_enabled=True``, ``video_out_is_live=True`` and the avatar's size and frame rate
(``transport_options``). Needs ``pip install "synctalk[pipecat]"``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    StopFrame,
    SystemFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings

from synctalk import frame as avatar_frame
from synctalk.avatar import Avatar
from synctalk.deprecation import deprecated
from synctalk.errors import SyncTalkError
from synctalk.session import Session
from synctalk.sound import SampleStream, to_int16
from synctalk.timeline import Limits

from .source import SourceSound

__all__ = ["AvatarProcessor", "SyncTalkVideoService", "transport_options"]


def transport_options(avatar: Avatar) -> dict[str, Any]:
    """What a transport's parameters need: ``TransportParams(audio_out_enabled=True, **transport_options(avatar))``."""
    width, height = avatar.size
    return {
        "video_out_enabled": True,
        "video_out_is_live": True,
        "video_out_width": width,
        "video_out_height": height,
        "video_out_framerate": avatar.fps,
    }


@dataclass(frozen=True)
class _Held:
    """A frame that must not overtake the sound before it."""

    after: int
    """It goes on when so many samples of sound have."""
    frame: Frame


class SyncTalkVideoService(AIService):
    """Takes ``TTSAudioRawFrame``; pushes ``OutputImageRawFrame`` in real time, and sound with those that speak.

    Pictures go on in silence. Other frames stay behind the sound that came before them, so that texts are not counted as
    spoken before they are; those that are urgent (system frames) or have a time of their own pass at once. An interruption
    drops sound, pictures and frames that wait, but for uninterruptible ones.
    """

    def __init__(self, avatar: Avatar, *, seed: int = 0, limits: Limits | None = None) -> None:
        """seed, limits: of the session; the latter say how much sound may wait."""
        super().__init__(settings=ServiceSettings(model=None))
        self._avatar, self._seed, self._limits = avatar, seed, limits
        self._session: Session | None = None
        self._sound = SourceSound(avatar.sample_rate)
        self._stream: SampleStream | None = None  # of the utterance that is being pushed
        self._held: deque[_Held] = deque()
        self._context_id: str | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def session(self) -> Session:
        """To steer: ``service.session.control.set(...)``. Raises: RuntimeError: the pipeline does not run."""
        if self._session is None:
            raise RuntimeError("the avatar's session opens when the pipeline starts")
        return self._session

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Raises: CapacityError: no room for one more session, with the reason."""
        await super().setup(setup)
        session = self._avatar.session(seed=self._seed, limits=self._limits)
        self._session = await session.__aenter__()

    async def cleanup(self) -> None:
        await super().cleanup()
        if self._session is not None:
            await self._session.aclose()
        if self._task is not None:
            await self.cancel_task(self._task)
            self._task = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            await self._speak(frame)
            return
        if isinstance(frame, InterruptionFrame):
            await self._interrupt()
        elif isinstance(frame, TTSStoppedFrame | EndFrame | StopFrame):
            self._flush()
        elif isinstance(frame, CancelFrame):
            self._held.clear()
        elif isinstance(frame, StartFrame):
            await self.push_frame(frame, direction)  # ahead of the first picture
            self._task = self.create_task(self._show())
            return
        is_urgent = isinstance(frame, SystemFrame) or direction is FrameDirection.UPSTREAM or bool(frame.pts)
        if is_urgent or not self._is_speaking:
            await self.push_frame(frame, direction)
        else:
            self._held.append(_Held(self._sound.n_pushed, frame))

    @property
    def _is_speaking(self) -> bool:
        """Whether sound, or a frame behind it, waits for the pictures that it goes on with."""
        has_more = bool(self._held) or self._sound.n_taken < self._sound.n_pushed
        return has_more and self._task is not None and not self._task.done()

    async def _speak(self, frame: TTSAudioRawFrame) -> None:
        if self._sound.rate not in (None, frame.sample_rate):
            self._flush()
        if self._stream is None:
            self._stream = SampleStream(frame.sample_rate, frame.num_channels)
        pcm = to_int16(self._stream.push(frame.audio))
        try:
            await self.session.push_audio(pcm, frame.sample_rate)
        except SyncTalkError as error:
            await self.push_error(f"the avatar cannot say this: {error}", exception=error)
            return
        self._context_id = frame.context_id
        self._sound.push(pcm, frame.sample_rate)

    def _flush(self) -> None:
        self._stream = None
        self._sound.flush()
        self.session.flush()

    async def _interrupt(self) -> None:
        self.session.interrupt()
        self._stream = None
        self._sound.clear()
        kept = [held for held in self._held if not held.frame.interruptible]
        self._held = deque(kept)
        await self._release()

    async def _show(self) -> None:
        try:
            async for frame in self.session.run():
                await self._give(frame)
        except (
            Exception
        ) as error:  # drawing went wrong: the pipeline must know that there are no more pictures
            await self.push_error(
                f"the avatar cannot be drawn: {error}", exception=error, force_treat_as_permanent=True
            )
            self._sound.clear()
            await self._release()

    async def _give(self, frame: avatar_frame.Frame) -> None:
        height, width = frame.image.shape[:2]
        taken = self._sound.take(frame)
        await self.push_frame(OutputImageRawFrame(frame.image.tobytes(), (width, height), "RGB"))
        if frame.generation != self.session.stats.generation:
            return  # interrupted meanwhile
        if taken is not None and len(taken[0]):
            pcm, rate = taken
            await self.push_frame(TTSAudioRawFrame(pcm.tobytes(), rate, 1, context_id=self._context_id))
        await self._release()

    async def _release(self) -> None:
        """Let go on what waited for sound that has gone on."""
        while self._held and self._held[0].after <= self._sound.n_taken:
            await self.push_frame(self._held.popleft().frame)


class AvatarProcessor(SyncTalkVideoService):
    """Deprecated: ``SyncTalkVideoService``."""

    def __init__(self, avatar: Avatar, *, seed: int = 0, limits: Limits | None = None) -> None:
        deprecated("AvatarProcessor", "SyncTalkVideoService")
        super().__init__(avatar, seed=seed, limits=limits)

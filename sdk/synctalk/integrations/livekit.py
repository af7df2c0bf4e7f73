"""LiveKit Agents: an avatar session as the avatar plugins have it.

    session = AvatarSession(Avatar.from_bundle("may.avatar"))
    await session.start(agent_session, room)

Beneath it: the avatar as a ``VideoGenerator``, and a runner that publishes H.264 in a single layer. Needs ``pip install "synctalk[livekit]"``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType

import numpy as np
from livekit import rtc
from livekit.agents import AgentSession
from livekit.agents.voice.avatar import (
    AudioReceiver,
    AudioSegmentEnd,
    AvatarOptions,
    AvatarRunner,
    QueueAudioOutput,
    VideoGenerator,
)

from synctalk.avatar import Avatar
from synctalk.frame import Frame
from synctalk.timeline import Limits

from .source import SourceSound

__all__ = ["AvatarSession", "AvatarVideo", "H264Runner"]

_LIMITS = Limits(pending_s=120.0, stall_s=120.0)
"""Nothing is taken before somebody subscribes to the video: sound may wait so long."""


class AvatarVideo(VideoGenerator):
    """Sound in; pictures, and the same sound in step with them, out. Between sounds pictures alone, of idle motion."""

    def __init__(
        self, avatar: Avatar, *, sample_rate: int = 24_000, seed: int = 0, limits: Limits = _LIMITS
    ) -> None:
        """sample_rate: Hz of the mono sound that will be pushed, and is published. seed, limits: of the session."""
        width, height = avatar.size
        self.session = avatar.session(seed=seed, limits=limits)
        self.options = AvatarOptions(
            video_width=width,
            video_height=height,
            video_fps=avatar.fps,
            audio_sample_rate=sample_rate,
            audio_channels=1,
        )
        self._sound = SourceSound(avatar.sample_rate)

    async def __aenter__(self) -> AvatarVideo:
        """Raises: CapacityError: no room for one more session, with the reason."""
        await self.session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.aclose()

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Raises: ValueError: another rate or channel count than promised; CapacityError: no pictures are taken."""
        if isinstance(frame, AudioSegmentEnd):
            self._sound.flush()
            self.session.flush()
            return
        expected = self.options.audio_sample_rate
        if frame.sample_rate != expected or frame.num_channels != 1:
            raise ValueError(
                f"sound of {frame.sample_rate} Hz and {frame.num_channels} channels, expected {expected} Hz mono: "
                "give the audio output, or AvatarVideo, the other sample_rate"
            )
        generation = self.session.stats.generation
        pcm = np.frombuffer(frame.data, np.int16, frame.samples_per_channel).copy()
        await self.session.push_audio(pcm, expected)
        if self.session.stats.generation == generation:
            self._sound.push(pcm, expected)

    def clear_buffer(self) -> None:
        """Fall silent at once."""
        self.session.interrupt()
        self._sound.clear()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Pictures in real time until the session is closed, each followed by its sound."""
        async for frame in self.session.run():
            taken = self._sound.take(frame)
            yield _picture(frame)
            if frame.generation != self.session.stats.generation:
                continue  # interrupted meanwhile
            if taken is not None and len(taken[0]):
                pcm, rate = taken
                yield rtc.AudioFrame(pcm.tobytes(), rate, 1, len(pcm))
            if frame.end_of_speech:
                yield AudioSegmentEnd()


def _picture(frame: Frame) -> rtc.VideoFrame:
    height, width = frame.image.shape[:2]
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, frame.image.tobytes())


class H264Runner(AvatarRunner):
    """LiveKit's runner, publishing what talking heads need: H.264, one layer, a fixed bit rate.

    LiveKit's own takes VP8 in several layers: each is encoded, and on a CPU that draws the avatar that time is dear.
    """

    def __init__(
        self,
        room: rtc.Room,
        *,
        audio_recv: AudioReceiver,
        video_gen: AvatarVideo,
        options: AvatarOptions | None = None,
        max_bitrate: int = 1_500_000,
    ) -> None:
        """max_bitrate: of the video, bits a second. options: the generator's own if left out."""
        super().__init__(
            room, audio_recv=audio_recv, video_gen=video_gen, options=options or video_gen.options
        )
        self._max_bitrate = max_bitrate

    @property
    def video_publishing(self) -> rtc.TrackPublishOptions:
        """How the video track is published."""
        return rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_CAMERA,
            video_codec=rtc.VideoCodec.H264,
            simulcast=False,
            video_encoding=rtc.VideoEncoding(
                max_bitrate=self._max_bitrate, max_framerate=self._options.video_fps
            ),
        )

    async def _publish_track(self) -> None:
        """In the place of the base class's, which publishes with LiveKit's defaults."""
        async with self._lock:
            await self._room_connected_fut
            participant = self._room.local_participant
            voice = rtc.LocalAudioTrack.create_audio_track("avatar_audio", self._audio_source)
            microphone = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
            self._audio_publication = await participant.publish_track(voice, microphone)
            await self._audio_publication.wait_for_subscription()
            face = rtc.LocalVideoTrack.create_video_track("avatar_video", self._video_source)
            self._video_publication = await participant.publish_track(face, self.video_publishing)


class AvatarSession:
    """An avatar that speaks what an agent says, in the agent's room."""

    def __init__(
        self,
        avatar: Avatar,
        *,
        sample_rate: int = 24_000,
        seed: int = 0,
        limits: Limits = _LIMITS,
        max_bitrate: int = 1_500_000,
    ) -> None:
        """sample_rate: Hz of the sound that is published. seed, limits: of the session. max_bitrate: bits a second."""
        self.video = AvatarVideo(avatar, sample_rate=sample_rate, seed=seed, limits=limits)
        self._max_bitrate = max_bitrate
        self._stack = AsyncExitStack()

    async def start(self, agent_session: AgentSession, room: rtc.Room) -> None:
        """Publish the avatar in the room and let the agent's sound go through it; call it before ``agent_session.start``.

        Raises: CapacityError: no room for one more session, with the reason.
        """
        await self._stack.enter_async_context(self.video)
        sound = QueueAudioOutput(sample_rate=self.video.options.audio_sample_rate, wait_playback_start=True)
        runner = H264Runner(room, audio_recv=sound, video_gen=self.video, max_bitrate=self._max_bitrate)
        self._stack.push_async_callback(runner.aclose)
        await runner.start()
        agent_session.output.audio = sound

    async def aclose(self) -> None:
        """Take the avatar out of the room: ``job.add_shutdown_callback(session.aclose)``."""
        await self._stack.aclose()

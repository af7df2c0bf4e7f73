"""The LiveKit adapter, against the real package: its generator interface, its runner, its synchroniser, its tracks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mouths import bursts, lip_correlation
from synctalk import Avatar

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed: make integrations")

from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice.avatar import AudioSegmentEnd, QueueAudioOutput, VideoGenerator
from synctalk.integrations.livekit import AvatarSession, AvatarVideo, H264Runner

RATE = 24_000
AVATAR = Avatar.mock()
Event = rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd


def _frames(pcm: np.ndarray, piece: int = 2400) -> list[rtc.AudioFrame]:
    parts = [pcm[at : at + piece] for at in range(0, len(pcm), piece)]
    return [rtc.AudioFrame(part.tobytes(), RATE, 1, len(part)) for part in parts]


def _pcm(frames: list[rtc.AudioFrame]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int16), *(np.frombuffer(one.data, np.int16) for one in frames)])


async def _push(video: AvatarVideo, pcm: np.ndarray) -> None:
    for frame in _frames(pcm):
        await video.push_audio(frame)


async def _until_end(video: AvatarVideo, after_s: float = 0.0) -> list[Event]:
    """Events up to the end of a segment, and so long after it."""
    events: list[Event] = []
    ended = None
    async for event in video:
        events.append(event)
        if isinstance(event, AudioSegmentEnd):
            ended = time.monotonic()
        if ended is not None and time.monotonic() >= ended + after_s:
            break
    return events


def test_a_segment_comes_back_whole_with_pictures_in_step() -> None:
    async def main() -> list[Event]:
        async with AvatarVideo(AVATAR) as video:
            assert isinstance(video, VideoGenerator)
            await _push(video, bursts(RATE))
            await video.push_audio(AudioSegmentEnd())
            return await _until_end(video, after_s=0.3)

    events = asyncio.run(main())
    kinds = [type(event) for event in events]
    sounds = [event for event in events if isinstance(event, rtc.AudioFrame)]
    np.testing.assert_array_equal(_pcm(sounds), bursts(RATE))  # at its own rate, not one sample off
    assert {(one.sample_rate, one.num_channels) for one in sounds} == {(RATE, 1)}
    assert kinds.count(AudioSegmentEnd) == 1
    end = kinds.index(AudioSegmentEnd)
    assert rtc.AudioFrame not in kinds[end:]
    assert kinds[end:].count(rtc.VideoFrame) >= 5  # idle motion goes on, without sound
    pairs = [(events[i - 1], one) for i, one in enumerate(events) if isinstance(one, rtc.AudioFrame)]
    images = [np.frombuffer(a.data, np.uint8).reshape(a.height, a.width, 3) for a, _ in pairs]  # type: ignore[union-attr]
    assert lip_correlation(images, [np.frombuffer(b.data, np.int16) for _, b in pairs]) > 0.8


def test_clearing_silences_at_once_and_the_next_segment_is_whole() -> None:
    second = bursts(RATE, 1)

    async def main() -> tuple[list[Event], list[Event]]:
        async with AvatarVideo(AVATAR) as video:
            await _push(video, bursts(RATE))
            events: list[Event] = []
            async for event in video:
                events.append(event)
                if sum(isinstance(one, rtc.AudioFrame) for one in events) == 8:
                    break
            video.clear_buffer()
            await video.push_audio(AudioSegmentEnd())  # of the segment that is gone
            await _push(video, second)
            await video.push_audio(AudioSegmentEnd())
            return events, await _until_end(video)

    before, after = asyncio.run(main())
    assert not any(isinstance(event, AudioSegmentEnd) for event in before)
    sounds = [event for event in after if isinstance(event, rtc.AudioFrame)]
    np.testing.assert_array_equal(_pcm(sounds), second)


def test_sound_of_another_kind_is_refused() -> None:
    async def main() -> None:
        async with AvatarVideo(AVATAR) as video:
            with pytest.raises(ValueError, match="expected 24000 Hz mono"):
                await video.push_audio(rtc.AudioFrame(bytes(640), 16_000, 1, 320))

    asyncio.run(main())


class _Participant:
    """Publishes nowhere; somebody subscribes at once."""

    def __init__(self) -> None:
        self.published: dict[str, tuple[Any, rtc.TrackPublishOptions]] = {}

    async def publish_track(self, track: Any, options: rtc.TrackPublishOptions) -> Any:
        self.published[track.name] = track, options

        async def subscribed() -> None:
            return None

        return SimpleNamespace(wait_for_subscription=subscribed)


class _Room:
    """A room that is connected."""

    def __init__(self) -> None:
        self.local_participant = _Participant()

    def isconnected(self) -> bool:
        return True

    def on(self, event: str, callback: object) -> None: ...

    off = on


async def _runner(video: AvatarVideo) -> tuple[H264Runner, QueueAudioOutput, _Participant]:
    room, sound = _Room(), QueueAudioOutput(sample_rate=RATE)
    runner = H264Runner(room, audio_recv=sound, video_gen=video, max_bitrate=800_000)  # type: ignore[arg-type]
    await runner.start()
    return runner, sound, room.local_participant


def test_the_runner_publishes_h264_in_one_layer_and_counts_what_was_played() -> None:
    async def main() -> None:
        finished = asyncio.get_running_loop().create_future()
        async with AvatarVideo(AVATAR) as video:
            runner, sound, participant = await _runner(video)
            sound.on("playback_finished", finished.set_result)
            for frame in _frames(bursts(RATE, 2)):
                await sound.capture_frame(frame)
            sound.flush()
            event = await asyncio.wait_for(finished, 10.0)
            assert event.interrupted is False
            assert event.playback_position == pytest.approx(len(bursts(RATE, 2)) / RATE, abs=1e-6)
            track, options = participant.published["avatar_video"]
            assert options.video_codec == rtc.VideoCodec.H264
            assert options.simulcast is False
            assert options.source == rtc.TrackSource.SOURCE_CAMERA
            assert options.video_encoding.max_bitrate == 800_000
            assert options.video_encoding.max_framerate == 25.0
            assert "avatar_audio" in participant.published
            stream = rtc.VideoStream(track)  # what a viewer's end would be given
            picture = (await asyncio.wait_for(anext(aiter(stream)), 5.0)).frame
            assert (picture.width, picture.height) == AVATAR.size
            await stream.aclose()
            await runner.aclose()

    asyncio.run(main())


def test_an_interruption_reports_how_much_was_played() -> None:
    async def main() -> None:
        finished = asyncio.get_running_loop().create_future()
        async with AvatarVideo(AVATAR) as video:
            runner, sound, _ = await _runner(video)
            sound.on("playback_finished", finished.set_result)
            for frame in _frames(bursts(RATE)):
                await sound.capture_frame(frame)
            sound.flush()
            await asyncio.sleep(1.0)
            sound.clear_buffer()
            event = await asyncio.wait_for(finished, 5.0)
            assert event.interrupted is True
            assert 0.3 < event.playback_position < 1.5
            assert video.session.stats.generation == 1
            await runner.aclose()

    asyncio.run(main())


def test_the_example_lets_an_agent_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real agent session, which says recorded words, in a room that is nowhere."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    example = import_module("livekit_agent")
    assert example.AvatarSession is AvatarSession

    async def words() -> AsyncIterator[rtc.AudioFrame]:
        for frame in _frames(bursts(RATE, 2)):
            yield frame

    async def main() -> None:
        session: AgentSession = AgentSession()
        spoken = asyncio.get_running_loop().create_future()
        async with AsyncExitStack() as stack:
            avatar = AvatarSession(AVATAR)
            stack.push_async_callback(avatar.aclose)
            await avatar.start(session, _Room())
            assert session.output.audio is not None
            session.output.audio.on("playback_finished", spoken.set_result)
            await session.start(Agent(instructions=""), record=False)
            await asyncio.wait_for(session.say("hello", audio=words()), 15.0)
            event = await asyncio.wait_for(spoken, 1.0)
            assert event.playback_position == pytest.approx(len(bursts(RATE, 2)) / RATE, abs=0.01)
            await session.aclose()

    asyncio.run(main())
    assert example.server.setup_fnc is example.load

"""The Pipecat processor, against the real package: a pipeline of its own, and its real output transport."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from mouths import bursts, lip_correlation, opening
from synctalk import Avatar, Limits
from synctalk.backends import HeadRequest
from synctalk.mock import MockBackend, MockBundle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    pytest.importorskip("pipecat", reason="pipecat-ai is not installed: make integrations")
    from pipecat.frames.frames import (
        EndFrame,
        ErrorFrame,
        Frame,
        InterruptionFrame,
        OutputImageRawFrame,
        TextFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.filters.identity_filter import IdentityFilter
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.tests.utils import SleepFrame, run_test
    from pipecat.transports.base_output import BaseOutputTransport
    from pipecat.transports.base_transport import BaseTransport, TransportParams
    from pipecat.workers.runner import WorkerRunner
    from synctalk.integrations.pipecat import SyncTalkVideoService, transport_options

RATE = 24_000
AVATAR = Avatar.mock()
SECOND = bursts(RATE, 2)[: RATE // 2]


def _speech(pcm: np.ndarray, rate: int = RATE, channels: int = 1) -> list[Frame]:
    """What a synthesiser pushes: far faster than it is spoken."""
    piece = rate // 10
    parts = [pcm[at : at + piece] for at in range(0, len(pcm), piece)]
    return [
        TTSStartedFrame(),
        *(TTSAudioRawFrame(part.tobytes(), rate, channels) for part in parts),
        TTSStoppedFrame(),
    ]


def _run(
    frames: Sequence[Frame], processor: SyncTalkVideoService | None = None
) -> tuple[list[Frame], list[Frame]]:
    """What a pipeline gives downstream and upstream until it has ended."""
    running = run_test(processor or SyncTalkVideoService(AVATAR), frames_to_send=frames)
    down, up = asyncio.run(asyncio.wait_for(running, 30.0))
    return list(down), list(up)


def _pcm(frames: Sequence[Frame]) -> np.ndarray:
    parts = [np.frombuffer(one.audio, np.int16) for one in frames if isinstance(one, TTSAudioRawFrame)]
    return np.concatenate([np.zeros(0, np.int16), *parts])


def test_speech_comes_back_whole_with_pictures_in_step() -> None:
    down, _ = _run([*_speech(bursts(RATE)), TextFrame("said")])
    np.testing.assert_array_equal(_pcm(down), bursts(RATE))
    kinds = [type(frame) for frame in down]
    last = max(i for i, kind in enumerate(kinds) if kind is TTSAudioRawFrame)
    assert kinds.index(TTSStoppedFrame) > last  # the bot is speaking until it has spoken
    assert kinds.index(TextFrame) > kinds.index(TTSStoppedFrame)
    spoken = [(down[i - 1], one) for i, one in enumerate(down) if isinstance(one, TTSAudioRawFrame)]
    assert all(isinstance(picture, OutputImageRawFrame) for picture, _ in spoken)
    images = [np.frombuffer(a.image, np.uint8).reshape(*a.size[::-1], 3) for a, _ in spoken]  # type: ignore[union-attr]
    assert lip_correlation(images, [np.frombuffer(b.audio, np.int16) for _, b in spoken]) > 0.8


def test_pictures_go_on_in_silence() -> None:
    down, _ = _run([SleepFrame(1.0)])
    n_pictures = sum(isinstance(frame, OutputImageRawFrame) for frame in down)
    assert 20 <= n_pictures <= 27
    assert len(_pcm(down)) == 0


def test_an_interruption_silences_and_drops_what_waits() -> None:
    again = _speech(SECOND)
    sent = [*_speech(bursts(RATE)), TextFrame("never said"), SleepFrame(0.8), InterruptionFrame()]
    down, _ = _run([*sent, SleepFrame(0.2), *again])
    (at,) = [i for i, frame in enumerate(down) if isinstance(frame, InterruptionFrame)]
    assert 0.2 * RATE < len(_pcm(down[:at])) < 1.2 * RATE
    np.testing.assert_array_equal(_pcm(down[at:]), SECOND)
    assert not any(isinstance(frame, TextFrame) for frame in down)
    assert sum(isinstance(frame, TTSStoppedFrame) for frame in down) == 1


def test_rates_may_change_and_channels_are_mixed() -> None:
    stereo = np.repeat(SECOND[:, None], 2, axis=1)
    other = bursts(16_000, 1)
    down, _ = _run([*_speech(stereo, RATE, 2), *_speech(other, 16_000)[1:-1]])
    sounds = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    rates = [frame.sample_rate for frame in sounds]
    assert rates == sorted(rates, reverse=True)
    assert set(rates) == {RATE, 16_000}
    np.testing.assert_array_equal(_pcm(down), np.concatenate([SECOND, other]))


def test_a_pipeline_ends_when_all_is_said() -> None:
    down, _ = _run(_speech(SECOND)[:-1])  # nobody says that the speech is over, but the end
    np.testing.assert_array_equal(_pcm(down), SECOND)


def test_too_much_sound_is_an_error_frame() -> None:
    limits = Limits(pending_s=0.2, stall_s=0.01)  # a synthesiser that is far ahead, and no patience
    processor = SyncTalkVideoService(AVATAR, limits=limits)
    _, up = _run(_speech(bursts(RATE)), processor)
    errors = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert errors
    assert "cannot say this" in errors[0].error


class _Tiring(MockBackend):
    """Draws so many frames, and then no more."""

    n_left = 20

    def render_head(self, request: HeadRequest) -> np.ndarray:
        self.n_left -= 1
        if self.n_left < 0:
            raise MemoryError("no more paint")
        return super().render_head(request)


def test_a_drawing_that_fails_is_an_error_and_ends_nothing_in_limbo() -> None:
    bundle = MockBundle()
    avatar = Avatar(bundle, _Tiring(bundle.manifest))
    down, up = _run([*_speech(bursts(RATE)), TextFrame("said")], SyncTalkVideoService(avatar))
    errors = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert any("no more paint" in error.error for error in errors)
    assert 5 <= sum(isinstance(frame, OutputImageRawFrame) for frame in down) <= 20


class _Output(BaseOutputTransport):
    """Pipecat's own output with all its queues and clocks; at its end the times at which things would be sent."""

    def __init__(self) -> None:
        super().__init__(
            TransportParams(audio_out_enabled=True, audio_out_sample_rate=RATE, **transport_options(AVATAR))
        )
        self.loud: list[float] = []
        self.shown: list[tuple[float, np.ndarray]] = []
        self._plays_until = 0.0

    async def start(self, frame: Frame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: TTSAudioRawFrame) -> bool:
        now = time.monotonic()
        self._plays_until = max(self._plays_until, now)
        pcm = np.frombuffer(frame.audio, np.int16)
        self.loud += [
            self._plays_until + i / RATE
            for i in range(0, len(pcm), 240)
            if np.abs(pcm[i : i + 240]).max() > 1000
        ]
        self._plays_until += len(pcm) / RATE
        await asyncio.sleep(self._plays_until - now)  # as a sound card does
        return True

    async def write_video_frame(self, frame: OutputImageRawFrame) -> bool:
        self.shown.append(
            (time.monotonic(), np.frombuffer(frame.image, np.uint8).reshape(*frame.size[::-1], 3))
        )
        return True


def test_lips_and_sound_leave_the_transport_together() -> None:
    async def main() -> _Output:
        output = _Output()
        worker = PipelineWorker(Pipeline([SyncTalkVideoService(AVATAR), output]), enable_rtvi=False)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await worker.queue_frames([*_speech(bursts(RATE)), EndFrame()])
        await asyncio.wait_for(runner.run(), 30.0)
        return output

    output = asyncio.run(main())
    weights = np.array([max(0, opening(image) - 10) for _, image in output.shown], float)
    at = np.array([at for at, _ in output.shown]) + 0.02  # the middle of the time that a picture is seen
    later_s = float(weights @ at / weights.sum() - np.mean(output.loud))
    assert len(output.loud) == pytest.approx(len(bursts(RATE)) / 2 / 240, abs=8)
    assert (
        abs(later_s) < 0.06
    )  # 0.015 is the mock's own, up to 0.04 the transport's wait for its next picture


class _Voice(FrameProcessor):
    """Speaks every text as bursts of noise."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSSpeakFrame):
            for one in _speech(SECOND):
                await self.push_frame(one)
        else:
            await self.push_frame(frame, direction)


class _Transport(BaseTransport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = _Output()

    def input(self) -> FrameProcessor:
        return IdentityFilter()

    def output(self) -> FrameProcessor:
        return self.sent


def test_the_example_gives_a_bot_a_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = import_module("pipecat_bot")

    async def main() -> _Output:
        transport = _Transport()
        whole = example.pipeline(AVATAR, transport, IdentityFilter(), IdentityFilter(), _Voice())
        worker = PipelineWorker(whole, enable_rtvi=False)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await worker.queue_frames([TTSSpeakFrame("hello"), EndFrame()])
        await asyncio.wait_for(runner.run(), 30.0)
        return transport.sent

    sent = asyncio.run(main())
    assert len(sent.loud) == pytest.approx(
        np.abs(SECOND.reshape(-1, 240)).max(axis=1).astype(bool).sum(), abs=4
    )
    assert len({opening(image) for _, image in sent.shown}) > 2

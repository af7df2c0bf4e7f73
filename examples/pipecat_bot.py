"""A Pipecat bot with a face, in the browser. Needs: pip install "synctalk[pipecat]" "pipecat-ai[webrtc,runner,openai]"

    export OPENAI_API_KEY=… SYNCTALK_AVATAR=may.avatar
    python examples/pipecat_bot.py          # then open http://localhost:7860

Ears, mind and voice are OpenAI's here; any other services of Pipecat do as well.
"""

from __future__ import annotations

import os

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner
from synctalk import Avatar
from synctalk.integrations.pipecat import SyncTalkVideoService, transport_options

PROMPT = "You are a friendly host. Answer in one or two sentences."


def pipeline(
    avatar: Avatar, transport: BaseTransport, stt: FrameProcessor, llm: FrameProcessor, tts: FrameProcessor
) -> Pipeline:
    """Listen, think, speak, and show who speaks. The avatar comes right after the voice."""
    context = LLMContextAggregatorPair(
        LLMContext([{"role": "system", "content": PROMPT}]),
        user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()),
    )
    face = SyncTalkVideoService(avatar)
    ends = transport.input(), transport.output()
    return Pipeline([ends[0], stt, context.user(), llm, tts, face, ends[1], context.assistant()])


async def bot(arguments: RunnerArguments) -> None:
    """Pipecat's runner calls this for everybody who connects."""
    from pipecat.services.openai.llm import OpenAILLMService
    from pipecat.services.openai.stt import OpenAISTTService
    from pipecat.services.openai.tts import OpenAITTSService

    bundle = os.environ.get("SYNCTALK_AVATAR")
    avatar = Avatar.from_bundle(bundle) if bundle else Avatar.demo()
    parameters = TransportParams(audio_in_enabled=True, audio_out_enabled=True, **transport_options(avatar))
    transport = await create_transport(arguments, {"webrtc": lambda: parameters})
    key = os.environ["OPENAI_API_KEY"]
    services = (OpenAISTTService(api_key=key), OpenAILLMService(api_key=key), OpenAITTSService(api_key=key))
    worker = PipelineWorker(pipeline(avatar, transport, *services))

    @transport.event_handler("on_client_connected")
    async def greet(transport: BaseTransport, client: object) -> None:
        await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def leave(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=arguments.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()

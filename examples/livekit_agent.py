"""A LiveKit agent with a face. Needs: pip install "synctalk[livekit]", and a LiveKit server.

    export LIVEKIT_URL=… LIVEKIT_API_KEY=… LIVEKIT_API_SECRET=… SYNCTALK_AVATAR=may.avatar
    python examples/livekit_agent.py dev

Ears, mind and voice are LiveKit Inference's here; any other plugins of LiveKit Agents do as well.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from livekit import rtc
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, JobProcess, cli
from livekit.agents.voice.avatar import QueueAudioOutput
from synctalk import Avatar
from synctalk.cli import DEMO
from synctalk.integrations.livekit import AvatarVideo, H264Runner


async def show(avatar: Avatar, session: AgentSession, room: rtc.Room, stack: AsyncExitStack) -> H264Runner:
    """Let what an agent says be spoken by an avatar in its room, until the stack is closed."""
    video = await stack.enter_async_context(AvatarVideo(avatar))
    sound = QueueAudioOutput(sample_rate=video.options.audio_sample_rate, wait_playback_start=True)
    runner = H264Runner(room, audio_recv=sound, video_gen=video, max_bitrate=1_500_000)
    await runner.start()
    stack.push_async_callback(runner.aclose)
    session.output.audio = sound
    return runner


def load(process: JobProcess) -> None:
    """Once a process: the weights serve every conversation in it."""
    process.userdata["avatar"] = Avatar.from_bundle(os.environ.get("SYNCTALK_AVATAR", DEMO / "demo.avatar"))


server = AgentServer(setup_fnc=load)


@server.rtc_session()
async def converse(job: JobContext) -> None:
    session: AgentSession = AgentSession(
        stt="deepgram/nova-3", llm="openai/gpt-4.1-mini", tts="cartesia/sonic-3"
    )
    stack = AsyncExitStack()
    job.add_shutdown_callback(stack.aclose)
    await job.connect()
    await show(job.proc.userdata["avatar"], session, job.room, stack)
    await session.start(Agent(instructions="You are a friendly host. Answer in one or two sentences."))
    session.generate_reply(instructions="Greet the user.")


if __name__ == "__main__":
    cli.run_app(server)

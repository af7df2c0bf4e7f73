"""A LiveKit agent with a face. Needs: pip install "synctalk[livekit]", and a LiveKit server.

    export LIVEKIT_URL=… LIVEKIT_API_KEY=… LIVEKIT_API_SECRET=… SYNCTALK_AVATAR=may.avatar
    python examples/livekit_agent.py dev

Ears, mind and voice are LiveKit Inference's here; any other plugins of LiveKit Agents do as well.
"""

from __future__ import annotations

import os

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, JobProcess, cli
from synctalk import Avatar
from synctalk.integrations.livekit import AvatarSession


def load(process: JobProcess) -> None:
    """Once a process: the weights serve every conversation in it."""
    bundle = os.environ.get("SYNCTALK_AVATAR")
    process.userdata["avatar"] = Avatar.from_bundle(bundle) if bundle else Avatar.demo()


server = AgentServer(setup_fnc=load)


@server.rtc_session()
async def converse(job: JobContext) -> None:
    session: AgentSession = AgentSession(
        stt="deepgram/nova-3", llm="openai/gpt-4.1-mini", tts="cartesia/sonic-3"
    )
    avatar = AvatarSession(job.proc.userdata["avatar"])
    job.add_shutdown_callback(avatar.aclose)
    await job.connect()
    await avatar.start(session, job.room)
    await session.start(Agent(instructions="You are a friendly host. Answer in one or two sentences."))
    session.generate_reply(instructions="Greet the user.")


if __name__ == "__main__":
    cli.run_app(server)

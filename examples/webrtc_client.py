"""A viewer of `synctalk serve` in Python: connect by WebRTC, let the avatar speak a sound, record what comes.

    synctalk serve may.avatar &
    python examples/webrtc_client.py hello.wav seen.mp4 [http://127.0.0.1:8000]

Needs what the server needs: pip install "synctalk[serve]". A server elsewhere wants its token: SYNCTALK_TOKEN.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaRecorder
from synctalk.media import read_audio
from websockets.asyncio.client import ClientConnection, connect

TOKEN = os.environ.get("SYNCTALK_TOKEN")
AFTER_S = 1.0
"""How long it goes on recording when all is said."""


async def told(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next message of one of these types."""
    async for text in socket:
        message: dict[str, Any] = json.loads(text)
        if message["type"] == "error":
            raise SystemExit(f"the server says: {message['message']}")
        if message["type"] in kinds:
            return message
    raise SystemExit("the server hung up")


def first_avatar(url: str) -> str:
    """The id of one that the server has."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
    with urlopen(Request(f"{url}/api/avatars", headers=headers)) as answer:
        return str(json.load(answer)["avatars"][0]["id"])


async def call(socket: ClientConnection, peer: RTCPeerConnection, avatar: str) -> None:
    """Ask for a session and for its video and sound."""
    start = {"type": "start", "avatar": avatar, "transport": "webrtc", "token": TOKEN}
    await socket.send(json.dumps(start))
    ready = await told(socket, "ready")
    print("session {session}: {width} x {height} at {fps} fps".format(**ready))
    for kind in ("video", "audio"):
        peer.addTransceiver(kind, direction="recvonly")
    await peer.setLocalDescription(await peer.createOffer())  # with all candidates
    await socket.send(json.dumps({"type": "offer", "sdp": peer.localDescription.sdp}))
    answer = await told(socket, "answer")
    await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))


async def speak(socket: ClientConnection, sound: str) -> None:
    """Send a sound in pieces, and wait until it has been spoken."""
    samples, rate = read_audio(sound)
    pcm = (32767.0 * np.clip(samples, -1.0, 1.0)).astype("<i2")
    await socket.send(json.dumps({"type": "sound", "sample_rate": rate}))
    for at in range(0, len(pcm), rate // 5):
        await socket.send(b"\0" + pcm[at : at + rate // 5].tobytes())
        await asyncio.sleep(0.02)
    await socket.send(json.dumps({"type": "flush"}))
    await told(socket, "spoken")


async def main(sound: str, out: str, url: str) -> None:
    url = url.rstrip("/")
    avatar = await asyncio.to_thread(first_avatar, url)
    peer, recorder = RTCPeerConnection(), MediaRecorder(out)
    peer.on("track", recorder.addTrack)
    async with connect(f"ws{url.removeprefix('http')}/api/session") as socket:
        await call(socket, peer, avatar)
        await recorder.start()
        await speak(socket, sound)
        await asyncio.sleep(AFTER_S)
        await recorder.stop()
        await peer.close()
    print(f"{out}: what a viewer saw and heard")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:], *["http://127.0.0.1:8000"][len(sys.argv) - 3 :]))

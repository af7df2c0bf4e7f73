"""Hostile clients against a server of their own, beside a well-behaved one whose video must not stop.

    python scripts/serve_attack.py [--scale 1.0] [--only connects fuzz …] [--json out/attack.json]

Ends with status 1 where the good client's video stalled, the server did not answer, or it kept sessions, descriptors or
threads. docs/serving.md explains the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

HOST = "127.0.0.1"
FRIEND = "127.0.0.9"
"""Where the good client comes from: limits on one address must not be its own."""
_POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads that asyncio's own pool of the server grows to, and keeps."""
_FAILURES = (OSError, WebSocketException, TimeoutError, asyncio.IncompleteReadError)


@dataclass
class Target:
    """A server, and chance."""

    port: int
    chance: random.Random

    def open(self, local: str = HOST) -> connect:
        address = f"ws://{HOST}:{self.port}/api/session"
        return connect(address, max_size=None, local_addr=(local, 0), compression=None)

    async def session(self, client: ClientConnection, transport: str = "websocket") -> dict[str, Any]:
        await client.send(json.dumps({"type": "start", "avatar": "mock", "transport": transport}))
        async for message in client:
            if isinstance(message, str):
                told: dict[str, Any] = json.loads(message)
                if told["type"] in ("ready", "error"):
                    return told
        return {"type": "closed"}

    async def request(self, data: bytes, local: str = HOST) -> bytes:
        """The answer to raw bytes, as far as it comes."""
        reader, writer = await asyncio.open_connection(HOST, self.port, local_addr=(local, 0))
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(15):
                return await reader.read()
        finally:
            writer.transport.abort()

    async def health(self) -> bool:
        head = f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
        return (await self.request(head.encode(), FRIEND)).startswith(b"HTTP/1.1 200")

    async def post(self, session: str, body: bytes, length: int | None = None) -> bytes:
        head = f"POST /api/sessions/{session}/sound HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
        return await self.request(f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body)


Attack = Callable[[Target, int], Awaitable[None]]


async def connects(target: Target, n: int) -> None:
    """Connections that ask for nothing and leave."""
    gate = asyncio.Semaphore(50)

    async def one() -> None:
        async with gate:
            with contextlib.suppress(*_FAILURES):
                _, writer = await asyncio.open_connection(HOST, target.port)
                writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(n)))


async def half_open(target: Target, n: int) -> None:
    """Connections that begin a request and never end it, until the server has enough."""

    async def one(i: int) -> None:
        with contextlib.suppress(*_FAILURES):
            await target.request(b"" if i % 2 else b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")

    await asyncio.gather(*(one(i) for i in range(n)))


async def garbage(target: Target, n: int) -> None:
    """Random bytes instead of HTTP, and heads without end."""
    for _ in range(n):
        data = target.chance.randbytes(target.chance.randrange(1, 4000))
        if target.chance.random() < 0.2:
            data = b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 100_000
        with contextlib.suppress(*_FAILURES):
            await target.request(data + b"\r\n\r\n")


_SEEDS: tuple[dict[str, Any], ...] = (
    {"type": "control", "pose": [1.0, 2.0, 3.0], "expression": {"browInnerUp": 0.5}, "lerp_s": 0.1},
    {"type": "control", "background": [1, 2, 3], "blink": 0.5},
    {"type": "sound", "sample_rate": 16000},
    {"type": "flush"},
    {"type": "interrupt"},
    {"type": "say", "text": "hello"},
    {"type": "offer", "sdp": "v=0"},
    {"type": "ping", "at": 1.0},
    {"type": "start", "avatar": "../../etc/passwd", "transport": "webrtc"},
)
_ODD: tuple[Any, ...] = (None, -1, 1e308, float("nan"), "x" * 1000, [], {}, True, [[[]]], "\ud800", 2**70)


def _mutated(chance: random.Random) -> str | bytes:
    kind = chance.random()
    if kind < 0.2:
        return chance.randbytes(chance.randrange(0, 2000))
    if kind < 0.3:
        return "".join(chr(chance.randrange(1, 0xD7FF)) for _ in range(chance.randrange(200)))
    if kind < 0.35:
        return "[" * chance.randrange(1, 50_000)
    message = dict(chance.choice(_SEEDS))
    for _ in range(chance.randrange(4)):
        message[chance.choice([*message, "extra"])] = chance.choice(_ODD)
    text = json.dumps(message)
    if kind < 0.5:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice('{}[]",:0e\\') + text[at + 1 :]
    return text


async def fuzz(target: Target, n: int) -> None:
    """Mutated WebSocket messages, in sessions that are opened anew when the server has had enough."""
    left = n
    while left > 0:
        with contextlib.suppress(*_FAILURES):
            async with target.open() as client:
                if (await target.session(client))["type"] != "ready":
                    left -= 1
                    continue
                drain = asyncio.create_task(_drain(client))
                try:
                    while left > 0:
                        left -= 1
                        await client.send(_mutated(target.chance))
                finally:
                    drain.cancel()


async def _drain(client: ClientConnection) -> None:
    with contextlib.suppress(*_FAILURES):
        async for _ in client:
            pass


def _section(mid: int, kind: str, payload: int, codec: str) -> str:
    """One medium of an offer."""
    return f"""m={kind} 9 UDP/TLS/RTP/SAVPF {payload}
c=IN IP4 0.0.0.0
a=mid:{mid}
a=recvonly
a=rtcp-mux
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuvwx
a=fingerprint:sha-256 AA:BB
a=setup:actpass
a=candidate:1 1 udp 2130706431 10.0.0.1 5000 typ host
a=rtpmap:{payload} {codec}
"""


_SDP = (
    "v=0\no=- 1 2 IN IP4 127.0.0.1\ns=-\nt=0 0\na=group:BUNDLE 0 1\n"
    + _section(0, "video", 96, "H264/90000")
    + _section(1, "audio", 111, "opus/48000/2")
)


async def sdp(target: Target, n: int) -> None:
    """WebRTC offers with lines that are cut, doubled, left out, swapped or scrambled."""
    chance = target.chance
    for _ in range(n):
        lines = _SDP.splitlines()
        for _ in range(chance.randrange(6)):
            i = chance.randrange(len(lines))
            change = chance.randrange(5)
            if change == 0:
                del lines[i]
            elif change == 1:
                lines.insert(i, lines[i] * chance.randrange(1, 50))
            elif change == 2:
                lines[i] = lines[i][: chance.randrange(len(lines[i]) + 1)]
            elif change == 3:
                lines[i] = "".join(chr(chance.randrange(32, 900)) for _ in range(60))
            else:
                lines[i] = lines[i].replace("9", str(chance.choice([-1, 2**40, "x"])))
            lines = lines or ["v=0"]
        with contextlib.suppress(*_FAILURES):
            async with target.open() as client:
                await target.session(client, "webrtc")
                await client.send(json.dumps({"type": "offer", "sdp": "\r\n".join(lines)}))
                async with asyncio.timeout(3):
                    async for message in client:
                        if json.loads(message)["type"] in ("answer", "error"):
                            break


async def huge(target: Target, n: int) -> None:
    """Messages, sounds and bodies far too large; more sound than may wait."""
    for i in range(n):
        with contextlib.suppress(*_FAILURES):
            async with target.open() as client:
                told = await target.session(client)
                if i % 3 == 0:
                    await client.send(b"\0" * (16 << 20))
                elif i % 3 == 1:
                    for _ in range(50):
                        await client.send(b"\0" + bytes(2 << 20))
                else:
                    await target.post(told["session"], bytes(1 << 20), length=1 << 34)
                    await target.post(told["session"], bytes(40 << 20))


def _wav(chance: random.Random) -> bytes:
    samples = chance.randbytes(2 * chance.randrange(1, 4000))
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16
    )
    return head + struct.pack("<4sI", b"data", len(samples)) + samples


async def sounds(target: Target, n: int) -> None:
    """Sound files with flipped bytes, cut, or of nothing but noise, for an open session."""
    chance = target.chance
    async with target.open() as client:
        told = await target.session(client)
        drain = asyncio.create_task(_drain(client))
        for i in range(n):
            data = bytearray(_wav(chance) if i % 4 else chance.randbytes(500))
            for _ in range(chance.randrange(1, 20)):
                data[chance.randrange(min(64, len(data)))] = chance.randrange(256)
            with contextlib.suppress(*_FAILURES):
                await target.post(told["session"], bytes(data[: chance.randrange(1, len(data) + 1)]))
            if i % 50 == 0:
                await client.send('{"type": "interrupt"}')
        drain.cancel()


async def deaf(target: Target, n: int) -> None:
    """Clients that ask for video and never read, until the server lets them go."""

    async def one() -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        loop = asyncio.get_running_loop()
        with plain, contextlib.suppress(*_FAILURES):
            await loop.sock_connect(plain, (HOST, target.port))
            head = (
                f"GET /api/session HTTP/1.1\r\nHost: {HOST}:{target.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await loop.sock_sendall(plain, head.encode())
            await loop.sock_recv(plain, 1000)
            start = b'{"type": "start", "avatar": "mock"}'
            await loop.sock_sendall(plain, bytes([0x81, 0x80 | len(start), 0, 0, 0, 0]) + start)
            await asyncio.sleep(25)

    await asyncio.gather(*(one() for _ in range(n)))


async def vanish(target: Target, n: int) -> None:
    """Sessions whose client disappears without a word, at any moment."""
    for _ in range(n):
        with contextlib.suppress(*_FAILURES):
            async with target.open() as client:
                await client.send(json.dumps({"type": "start", "avatar": "mock"}))
                await asyncio.sleep(target.chance.random() * 0.1)
                client.transport.abort()


ATTACKS: dict[str, tuple[Attack, int]] = {
    "connects": (connects, 10_000),
    "half_open": (half_open, 400),
    "garbage": (garbage, 1000),
    "fuzz": (fuzz, 10_000),
    "sdp": (sdp, 300),
    "huge": (huge, 30),
    "sounds": (sounds, 1000),
    "deaf": (deaf, 12),
    "vanish": (vanish, 300),
}


class Friend:
    """A well-behaved client: listens to video all the time and lets the avatar speak."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.times: list[float] = []
        self.error: str | None = None

    async def run(self) -> None:
        tone = (4000 * np.sin(np.arange(16_000) * 0.05)).astype("<i2").tobytes()
        async with self._target.open(FRIEND) as client:
            self.error = (await self._target.session(client)).get("code")
            n = 0
            async for message in client:
                if isinstance(message, bytes):
                    self.times.append(time.monotonic())
                    n += 1
                    if n % 100 == 1:
                        await client.send(b"\0" + tone)
                        await client.send('{"type": "flush"}')
        self.error = self.error or "the server hung up"

    def since(self, began: float) -> tuple[float, float]:
        """Pieces of video a second, and the longest gap, seconds."""
        times = [began, *(at for at in self.times if at > began), time.monotonic()]
        return (len(times) - 2) / (times[-1] - began), float(np.diff(times).max())


def _burden(pid: int) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
    }


async def _n_sessions(target: Target) -> int:
    head = f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    text = (await target.request(head.encode(), FRIEND)).decode()
    (line,) = [line for line in text.splitlines() if line.startswith("synctalk_sessions ")]
    return int(float(line.split()[1]))


async def assault(port: int, pid: int, scale: float, only: list[str]) -> list[dict[str, Any]]:
    """Every attack in turn; figures of each."""
    target = Target(port, random.Random(1))
    friend = Friend(target)
    watching = asyncio.create_task(friend.run())
    await asyncio.sleep(3)
    at_first, rows = _burden(pid), []
    for name in only or list(ATTACKS):
        attack, n = ATTACKS[name]
        n = max(1, round(n * scale))
        before, began = _burden(pid), time.monotonic()
        await attack(target, n)
        seconds = time.monotonic() - began
        per_s, gap_s = friend.since(began)
        for _ in range(100):  # what is left is let go soon
            await asyncio.sleep(0.2)
            after = _burden(pid)
            kept = {key: after[key] - at_first[key] for key in ("threads", "descriptors")}
            if kept["threads"] <= _POOL and kept["descriptors"] <= 0 and await _n_sessions(target) == 1:
                break
        row = {
            "attack": name, "n": n, "seconds": seconds, "friend_per_s": per_s, "friend_gap_s": gap_s,
            "healthy": await target.health(), "sessions_left": await _n_sessions(target) - 1,
            "error": friend.error, **{f"{key}_more": after[key] - before[key] for key in after},
            **{f"{key}_kept": kept[key] for key in kept},
        }  # fmt: skip
        rows.append(row)
        print(
            json.dumps({key: round(v, 2) if isinstance(v, float) else v for key, v in row.items()}),
            flush=True,
        )
    watching.cancel()
    return rows


def is_good(row: dict[str, Any]) -> bool:
    """Threads and descriptors count from the start of the run, so that small leaks add up."""
    is_served = row["healthy"] and row["error"] is None and row["friend_gap_s"] < 2.0
    keeps = row["sessions_left"], row["threads_kept"], row["descriptors_kept"]
    return bool(is_served and all(kept <= most for kept, most in zip(keeps, (0, _POOL, 0), strict=True)))


def serve() -> None:
    """The target: real limits, but for the rates, which would keep most of an attack outside."""
    from synctalk import Avatar
    from synctalk.serve.app import create_app
    from synctalk.serve.server import create_server
    from synctalk.serve.settings import ServeSettings

    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    settings = ServeSettings(port=port, requests_per_s=1e6, header_timeout_s=5.0, ping_s=5.0)
    server = create_server(create_app({"mock": Avatar.mock()}, settings), settings)
    print(port, flush=True)
    server.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=[])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        time.sleep(1)
        try:
            rows = asyncio.run(assault(port, server.pid, arguments.scale, arguments.only))
        finally:
            server.terminate()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    sys.exit(0 if all(is_good(row) for row in rows) else 1)


if __name__ == "__main__":
    main()

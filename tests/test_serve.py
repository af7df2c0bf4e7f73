"""The server over a mock avatar: protocol, media, limits, who may come in."""

from __future__ import annotations

import asyncio
import io
import json
import socket as plain
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from fake_avatar import write_tiny_bundle
from serving import Running, running
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from synctalk import Avatar, MediaError, SyncTalkError
from synctalk.serve import messages
from synctalk.serve.app import create_app
from synctalk.serve.command import _free, _program
from synctalk.serve.fmp4 import FragmentedMp4
from synctalk.serve.guard import Door, RateLimit, TokenBucket, network
from synctalk.serve.rtc import Peer, tamed
from synctalk.serve.settings import ServeSettings, is_loopback
from synctalk.serve.sound import Speech, decode
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

RATE = 16_000
TOKEN = "a-token-of-many-letters"
FAST = ServeSettings(
    port=0, requests_per_s=1e6, header_timeout_s=0.5, send_timeout_s=1.0, start_timeout_s=0.5
)
LOCAL = {"host": "127.0.0.1"}


def _tone(seconds: float) -> np.ndarray:
    return (8000 * np.sin(np.arange(round(seconds * RATE)) * 0.1)).astype("<i2")


def _wav(seconds: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, _tone(seconds), RATE, format="WAV")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(FAST) as one:
        yield one


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app({"mock": Avatar.mock()}, FAST), headers=LOCAL)


@contextmanager
def _join(server: Running, **options: Any) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{server.port}/api/session", compression=None, close_timeout=0.5) as socket:
        socket.send(json.dumps({"type": "start", "avatar": "mock", **options}))
        yield socket


def _hear(socket: ClientConnection, kind: str, seconds: float = 10.0) -> dict[str, Any]:
    """The next message of that type."""
    end = time.monotonic() + seconds
    while True:
        data = socket.recv(timeout=max(0.01, end - time.monotonic()))
        if isinstance(data, str) and (message := json.loads(data))["type"] == kind:
            return message


def _post(server: Running, session: str, body: bytes, length: int | None = None) -> tuple[int, Any]:
    """Status and JSON of an upload."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    with closing(connection):
        headers = {"content-length": str(length or len(body))}
        connection.request("POST", f"/api/sessions/{session}/sound", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def _ask(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


# --- settings, guards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "talk.example.com"])
def test_others_are_let_in_with_a_token_only(host: str) -> None:
    with pytest.raises(SyncTalkError, match="token"):
        ServeSettings(host=host)
    assert ServeSettings(host=host, token=TOKEN).token == TOKEN


def test_a_weak_token_and_half_a_certificate_are_refused() -> None:
    with pytest.raises(SyncTalkError, match="characters"):
        ServeSettings(token="short")
    with pytest.raises(SyncTalkError, match="TLS"):
        ServeSettings(certificate=Path("cert.pem"))


def test_loopback_is_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.8.9.1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com")))


def test_token_must_be_the_right_one() -> None:
    door = Door(ServeSettings(token=TOKEN))
    assert door.is_locked and door.opens_to(TOKEN)
    assert not any(map(door.opens_to, (None, "", TOKEN[:-1], TOKEN + "x", "\ud800", "é" * 20)))
    assert Door(ServeSettings()).opens_to(None)


@pytest.mark.parametrize(
    ("origin", "host", "is_known"),
    [
        (None, "127.0.0.1:8000", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://127.0.0.1:9000", "127.0.0.1:8000", False),
        ("http://evil.example", "127.0.0.1:8000", False),
        ("null", "127.0.0.1:8000", False),
        ("", "", False),
        ("file://", "", False),
        ("https://talk.example.com", "127.0.0.1:8000", True),
        ("https://talk.example.com.evil.example", "127.0.0.1:8000", False),
    ],
)
def test_origin_must_be_known(origin: str | None, host: str, is_known: bool) -> None:
    door = Door(ServeSettings(allowed_origins=("https://talk.example.com/",)))
    assert door.knows_origin(origin, host) is is_known


def test_a_local_server_answers_to_local_names_only() -> None:
    local, public = Door(ServeSettings()), Door(ServeSettings(host="0.0.0.0", token=TOKEN))
    assert all(map(local.knows_host, ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST")))
    assert not any(map(local.knows_host, ("evil.example", None, "", "[::1", "127.0.0.1.evil.example")))
    assert public.knows_host("talk.example.com")


def test_buckets_fill_with_time() -> None:
    now = [0.0]
    bucket = TokenBucket(2.0, 4.0, lambda: now[0])
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
    now[0] = 1.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    limit = RateLimit(1.0, 1.0, lambda: now[0])
    assert limit.take("10.0.0.1") and limit.take("10.0.0.2") and not limit.take("10.0.0.1")
    assert network("2001:db8::1") == network("2001:db8::2") != network("2001:db8:0:1::1")
    assert network("::ffff:10.0.0.1") == "10.0.0.1" and network("testclient") == "testclient"


def test_commands_are_programs_that_exist() -> None:
    assert _program(None) == () and _program(f"'{sys.executable}' -c 1") == (sys.executable, "-c", "1")
    with pytest.raises(SyncTalkError, match="no program"):
        _program("there-is-no-such-program --x")
    assert _free("may", {"may", "may-2"}) == "may-3"


# --- messages, sound -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '{"type": "nothing"}', '{"type": "start"}', '{"type": "flush", "more": 1}',
        '{"type": "sound", "sample_rate": "16000"}', '{"type": "sound", "sample_rate": 1}',
        '{"type": "control", "pose": [1, 2]}', '{"type": "control", "pose": [NaN, 0, 0]}',
        '{"type": "control", "expression": {"a": 2}}', '{"type": "control", "lerp_s": -1}',
        '{"type": "control", "background": [1, 2, 256]}', "[" * 10_000, "x" * 100_000,
    ],
)  # fmt: skip
def test_messages_that_are_not_ours_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        messages.parse(text)


def test_decode_reads_sound_files_with_limits() -> None:
    samples, rate = decode(_wav(0.5), max_s=1.0)
    assert rate == RATE and len(samples) == RATE // 2 and samples.dtype == np.float32
    with pytest.raises(MediaError, match="longer"):
        decode(_wav(1.5), max_s=1.0)
    for data in (
        b"",
        b"x" * 1000,
        _wav()[:30],
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile x\n",
    ):
        with pytest.raises(MediaError):
            decode(data, max_s=1.0)


@pytest.mark.parametrize(
    ("form", "codec"),
    [("ipod", "aac"), ("mp4", "aac"), ("webm", "libopus"), ("ogg", "libopus"), ("mp3", "libmp3lame")],
)
def test_decode_reads_what_telephones_and_browsers_record(form: str, codec: str) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        tone = (0.3 * np.sin(np.arange(48_000) / 20)).astype(np.float32)
        fifo = av.AudioFifo()
        sound = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
        sound.sample_rate = 48_000
        for piece in av.AudioResampler(format=stream.format, layout="mono", rate=48_000).resample(sound):
            fifo.write(piece)
        while (piece := fifo.read(stream.frame_size or 1024, partial=True)) is not None:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    samples, rate = decode(buffer.getvalue(), max_s=2.0)
    assert rate == 48_000
    assert len(samples) == pytest.approx(48_000, abs=2_500)
    assert np.std(samples[9_000:30_000]) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)
    with pytest.raises(MediaError, match="longer"):
        decode(buffer.getvalue(), max_s=0.5)


def test_decode_survives_flipped_bytes() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(_wav(0.05))
        for at in generator.integers(0, 60, 4):
            data[at] = generator.integers(256)
        try:
            samples, _ = decode(bytes(data), max_s=10.0)
        except MediaError:
            continue
        assert np.isfinite(samples).all() and len(samples) <= 10 * 192_000


def _speaker(code: str, **options: Any) -> Speech:
    return Speech((sys.executable, "-c", code), options.get("timeout_s", 20.0), 10.0)


def test_speech_program_gets_the_text_and_gives_a_wav() -> None:
    code = (
        "import sys, io, numpy, soundfile; n = len(sys.stdin.read()); b = io.BytesIO();"
        "soundfile.write(b, numpy.full(n * 100, 0.5), 8000, format='WAV'); sys.stdout.buffer.write(b.getvalue())"
    )
    samples, rate = asyncio.run(_speaker(code)("$(reboot); -v"))
    assert (len(samples), rate) == (1300, 8000)


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit(3)", "print('no wav')", "import time; time.sleep(60)"],
    ids=["fails", "text", "hangs"],
)
def test_speech_program_that_misbehaves_is_an_error(code: str) -> None:
    began = time.monotonic()
    with pytest.raises(MediaError):
        asyncio.run(_speaker(code, timeout_s=2.0)("hello"))
    assert time.monotonic() - began < 15


# --- media -----------------------------------------------------------------------------------------------------------


def _mouth(image: np.ndarray) -> int:
    """Pixels of the mock's mouth."""
    r, g, b = (image[..., i].astype(int) for i in range(3))
    return int(((r > 80) & (r - g > 55) & (r - b > 40) & (g < 60)).sum())


def test_mp4_fragments_keep_sound_and_pictures_in_step() -> None:
    """Sound in bursts of 400 ms: where the sound that comes out is loud, the mouth that comes out is open."""
    avatar = Avatar.mock()
    burst = np.concatenate([np.zeros(6400), np.random.default_rng(0).uniform(-0.5, 0.5, 6400)])
    writer = FragmentedMp4(avatar.size, avatar.fps, avatar.sample_rate)
    pieces = [writer.write(frame) for frame in avatar.speak(np.tile(burst, 5).astype(np.float32), RATE)]
    writer.close()
    assert writer.write(next(avatar.speak(burst, RATE))) == b""
    assert writer.mime(pieces[0]).startswith('video/mp4; codecs="avc1.42')
    data = io.BytesIO(b"".join(pieces))
    loud, open_ = {}, {}
    with av.open(data) as container:
        for frame in container.decode(audio=0):
            for i, sample in enumerate(frame.to_ndarray()[0, ::16]):
                loud[round(1000 * (frame.time + i / 3000) / 4)] = abs(sample) > 0.02
    data.seek(0)
    with av.open(data) as container:
        for frame in container.decode(video=0):
            open_[frame.time] = _mouth(frame.to_ndarray(format="rgb24"))
    times = np.array(sorted(open_))
    assert np.allclose(np.diff(times[1:]), 0.04, atol=1e-3)
    heights = np.array([open_[at] for at in times])
    share = [
        np.mean([loud.get(k, False) for k in range(round(250 * at), round(250 * (at + 0.04)))])
        for at in times
    ]
    assert np.corrcoef(heights[1:], share[1:])[0, 1] > 0.9


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux tells them")
def test_a_closed_mp4_keeps_no_thread() -> None:
    """Even where something still holds on to it, as an exception's frames do."""

    def n_threads() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    avatar = Avatar.mock()
    frame, before = next(avatar.speak(np.zeros(RATE, np.float32), RATE)), n_threads()
    writer = FragmentedMp4(avatar.size, avatar.fps, avatar.sample_rate)
    writer.write(frame)
    writer.close()
    assert n_threads() == before


_OFFER = """v=0\r\na=candidate:1 1 udp 1 10.9.8.7 5000 typ host\r\na=candidate:2 1 UDP 1 secret.local 80 typ host
a=candidate:3 1 tcp 1 10.9.8.7 5000 typ host\r\na=candidate:junk\r\n""" + "".join(
    f"a=candidate:{i} 1 udp 1 10.9.8.7 {2000 + i} typ srflx raddr 1.1.1.1 rport 4\r\n" for i in range(100)
)


def test_offers_name_no_foreign_address() -> None:
    lines = [line for line in tamed(_OFFER, "192.0.2.5").splitlines() if line.startswith("a=candidate")]
    assert len(lines) == 16
    assert all(line.split()[4] == "192.0.2.5" and int(line.split()[5]) >= 1024 for line in lines)


@pytest.mark.parametrize("sdp", ["", "v=0", "m=video 9 x y\nm=audio 9 x y", "\0" * 1000, "m=audio\n" * 100])
def test_garbage_offers_are_value_errors(sdp: str) -> None:
    async def answer() -> None:
        peer = Peer(RATE, ())
        try:
            await peer.answer(sdp, "127.0.0.1")
        finally:
            await peer.close()

    with pytest.raises(ValueError, match="offer"):
        asyncio.run(answer())


# --- pages and routes ------------------------------------------------------------------------------------------------


def test_pages_come_with_their_parts_and_a_strict_policy(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text and "https://" not in page.text  # nothing from elsewhere
    for part in ("app.css", "app.js", "player.js", "microphone.js", "icon.svg"):
        answer = client.get(f"/{part}")
        assert answer.status_code == 200 and "server" not in answer.headers
    assert client.get("/docs").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/%2e%2e/settings.py",
        "/web/index.html",
        "/app.js/..%2fapp.py",
        "//etc/passwd",
        "/%00",
    ],
)
def test_paths_reach_no_files(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json()["error"] == "not_found"


def test_routes_say_what_is_there(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    told = client.get("/api/avatars").json()
    (avatar,) = told["avatars"]
    assert (avatar["id"], avatar["width"], avatar["fps"]) == ("mock", 64, 25)
    assert "eyeBlinkLeft" in avatar["expressions"] and avatar["poster"].startswith(
        "data:image/png;base64,iVBOR"
    )
    assert "synctalk_sessions 0.0" in client.get("/metrics").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/health", "/metrics", "/api/avatars", "/api/sessions/{session}/sound"} <= set(paths)


def test_foreign_hosts_and_origins_are_refused(client: TestClient) -> None:
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/health", headers={"origin": "http://evil.example"}).json()["error"] == "wrong_origin"
    foreign = client.websocket_connect("/api/session", headers={"origin": "http://e.x"})
    with pytest.raises(WebSocketDisconnect), foreign:
        pytest.fail("it let a foreign page in")


def test_with_a_token_everything_but_page_and_health_is_locked() -> None:
    client = TestClient(create_app({"mock": Avatar.mock()}, replace(FAST, token=TOKEN)), headers=LOCAL)
    assert client.get("/health").status_code == client.get("/").status_code == 200
    for path in ("/api/avatars", "/metrics"):
        for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": TOKEN}):
            assert client.get(path, headers=wrong).json()["error"] == "unauthorised"
        assert client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.post("/api/sessions/x/sound", content=b"x").status_code == 401


def test_requests_beyond_the_rate_are_refused_but_health_answers() -> None:
    app = create_app({"mock": Avatar.mock()}, replace(FAST, requests_per_s=1.0))
    client = TestClient(app, headers=LOCAL)
    codes = [client.get("/api/avatars").status_code for _ in range(8)]
    assert codes[:5] == [200] * 5 and codes[-1] == 429
    assert client.get("/health").status_code == 200


# --- sessions over real sockets --------------------------------------------------------------------------------------


def test_a_session_streams_speaks_and_is_interrupted(server: Running) -> None:
    with _join(server) as socket:
        ready = _hear(socket, "ready")
        assert (ready["width"], ready["height"], ready["fps"]) == (64, 64, 25)
        assert _hear(socket, "media")["mime"].startswith("video/mp4")
        socket.send(b"\0" + _tone(5.0).tobytes())
        _ask(socket, type="flush")
        _hear(socket, "speaking")
        _ask(socket, type="interrupt")
        report = _hear(socket, "interrupted")
        assert report["played_ms"] > 0 and report["dropped_ms"] > 3000
        assert _hear(socket, "stats")["reaction_ms"] < 1000
    server.wait_for_sessions(0)


def test_uploaded_sound_is_spoken(server: Running) -> None:
    with _join(server) as socket:
        session = _hear(socket, "ready")["session"]
        assert _post(server, session, _wav(0.4)) == (200, {"seconds": 0.4})
        _hear(socket, "spoken")
        assert _post(server, session, b"no sound")[0] == 415
        assert _post(server, session, _wav(121.0))[0] == 415
        assert _post(server, session, b"", length=1 << 40)[0] == 413
    assert _post(server, "none", _wav())[0] == 404


def test_controls_reach_the_session_and_wrong_ones_are_told(server: Running) -> None:
    with _join(server) as socket:
        session = server.host.conversations[_hear(socket, "ready")["session"]]._session
        _ask(socket, type="control", pose=[0, 8, 0], expression={"browInnerUp": 1.0}, lerp_s=0.0)
        socket.send(b"\1" + bytes([9]) * (3 * 64 * 64))
        _ask(socket, type="control", expression={"tail": 1.0})
        assert "tail" in _hear(socket, "error")["message"]
        assert session.control.pose(1e6) == (0.0, 8.0, 0.0)
        picture, share = session.control.background(1e6)
        assert share == 1.0 and (picture == 9).all()
        socket.send(b"\1abc")
        assert _hear(socket, "error")["code"] == "bad_message"
        socket.send(b"\7")
        assert _hear(socket, "error")["code"] == "bad_message"
        _ask(socket, type="say", text="hello")
        assert _hear(socket, "error")["code"] == "no_speech"
        _ask(socket, type="control", pose=None)
        _ask(socket, type="ping", at=3.5)
        assert _hear(socket, "pong")["at"] == 3.5
        assert session.control.pose(1e6) == (0.0, 0.0, 0.0)


def test_more_sound_than_may_wait_is_refused(server: Running) -> None:
    with _join(server) as socket:
        _hear(socket, "ready")
        for _ in range(13):
            socket.send(b"\0" + _tone(10.0).tobytes())
        assert _hear(socket, "error")["code"] == "too_much_sound"
        _ask(socket, type="interrupt")
        assert _hear(socket, "interrupted")["dropped_ms"] < 121_000


def _ended(socket: ClientConnection, seconds: float = 10.0) -> tuple[str, int]:
    """The last error that was told, and the code that the connection was closed with."""
    code, end = "", time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            data = socket.recv(timeout=seconds)
            if isinstance(data, str) and json.loads(data)["type"] == "error":
                code = json.loads(data)["code"]
    except ConnectionClosed as closed:
        return code, closed.rcvd.code if closed.rcvd else 1006
    pytest.fail("the server did not hang up")


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ('{"type": "start", "avatar": "../mock"}', 4404),
        ('{"type": "flush"}', 4400),
        ("junk", 4400),
        (b"junk", 4400),
        (None, 4400),
    ],
)
def test_who_does_not_begin_rightly_is_let_go(server: Running, first: str | bytes | None, code: int) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/api/session", compression=None, close_timeout=0.5) as socket:
        if first is not None:
            socket.send(first)
        assert _ended(socket)[1] == code
    server.wait_for_sessions(0)


def test_too_many_messages_end_a_session(server: Running) -> None:
    with _join(server) as socket:
        _hear(socket, "ready")
        with pytest.raises(ConnectionClosed):
            for _ in range(20_000):
                _ask(socket, type="flush")
    server.wait_for_sessions(0)


def test_full_idle_and_locked_servers_say_so() -> None:
    settings = replace(FAST, token=TOKEN, max_sessions=2, max_sessions_per_address=1, idle_timeout_s=1.5)
    with running(settings) as server:
        with _join(server, token="x" * 20) as socket:
            assert _ended(socket) == ("unauthorised", 4401)
        with _join(server, token=TOKEN) as first:
            _hear(first, "ready")
            with _join(server, token=TOKEN) as second:
                assert _ended(second) == ("full", 4503)
            assert _ended(first) == ("idle", 4408)
        server.wait_for_sessions(0)


def test_no_session_outlives_its_client(server: Running) -> None:
    for i in range(8):
        with _join(server, transport="webrtc" if i % 2 else "websocket") as socket:
            if i > 3:
                _hear(socket, "ready")
            socket.socket.shutdown(plain.SHUT_RDWR)  # without a word
    server.wait_for_sessions(0)


def test_webrtc_sends_video_and_sound_in_step(server: Running) -> None:
    """A peer of the same library: what it receives is on the clock of the frames."""
    from aiortc import RTCPeerConnection, RTCSessionDescription

    async def call() -> tuple[list[float], list[float]]:
        peer, tracks = RTCPeerConnection(), {}
        peer.on("track", lambda track: tracks.update({track.kind: track}))
        for kind in ("video", "audio"):
            peer.addTransceiver(kind, direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        with _join(server, transport="webrtc") as socket:
            await asyncio.to_thread(_hear, socket, "ready")
            _ask(socket, type="offer", sdp=peer.localDescription.sdp)
            answer = (await asyncio.to_thread(_hear, socket, "answer"))["sdp"]
            assert "H264" in answer and "opus" in answer
            await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            try:
                async with asyncio.timeout(20):
                    pictures = [(await tracks["video"].recv()).time for _ in range(15)]
                    sounds = [(await tracks["audio"].recv()).time for _ in range(15)]
            finally:
                await peer.close()
        return pictures, sounds

    pictures, sounds = asyncio.run(call())
    assert np.median(np.diff(pictures)) == pytest.approx(0.04, abs=1e-3)
    assert np.median(np.diff(sounds)) == pytest.approx(0.02, abs=1e-3)
    server.wait_for_sessions(0)


def test_a_bundle_is_served_like_the_mock(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny.avatar")
    avatars = {"tiny": Avatar.from_bundle(path, threads=1)}
    with running(FAST, avatars) as server, _join(server, avatar="tiny") as socket:
        _hear(socket, "ready")
        assert _hear(socket, "media")["mime"].startswith("video/mp4")


def test_half_open_connections_are_dropped_and_others_served() -> None:
    with running(replace(FAST, max_connections_per_address=20)) as server:
        held = [plain.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
        try:
            for i, one in enumerate(held):
                one.settimeout(5.0)
                if i % 2:
                    try:
                        one.send(b"GET / HTTP/1.1\r\nX-")
                    except OSError:
                        continue
            for one in held:
                try:
                    assert one.recv(10) == b""
                except ConnectionError:
                    continue
        finally:
            for one in held:
                one.close()
                assert _post(server, "none", b"")[0] == 404  # it answers


def test_a_client_that_never_reads_is_let_go() -> None:
    """Its socket is full soon: the server must not wait for it for ever, nor keep what it would have got."""
    with running(replace(FAST, ping_s=1.0)) as server:
        deaf = plain.socket()
        deaf.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", server.port))
        head = "GET /api/session HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        deaf.send(f"{head}Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        assert b"101" in deaf.recv(100)
        start = b'{"type": "start", "avatar": "mock"}'
        deaf.send(struct.pack("!BBI", 0x81, 0x80 | len(start), 0) + start)
        server.wait_for_sessions(1)
        server.wait_for_sessions(0)
        deaf.close()

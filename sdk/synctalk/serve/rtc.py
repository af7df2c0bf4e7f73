"""WebRTC: one browser's video (H.264, else VP8) and sound (Opus), stamped on the session's clock."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from synctalk.frame import Frame

__all__ = ["Peer", "tamed"]

_PIECE_S = 0.02
_MAX_WAITING = 8
_MAX_CANDIDATES = 16
_ANSWER_TIMEOUT_S = 10.0
_SECTION = re.compile(r"^m=(\w+)", re.MULTILINE)
_Media = TypeVar("_Media", av.VideoFrame, av.AudioFrame)


@dataclass(frozen=True)
class _Timed:
    at: float
    """``time.monotonic`` when it is to be sent."""
    frame: av.VideoFrame | av.AudioFrame


class _Track(MediaStreamTrack):
    """What was put in, each when it is due; the oldest is dropped where nobody takes it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._pieces: asyncio.Queue[_Timed | None] = asyncio.Queue(_MAX_WAITING)

    def put(self, timed: _Timed | None) -> None:
        if self._pieces.full():
            self._pieces.get_nowait()
        self._pieces.put_nowait(timed)

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        timed = await self._pieces.get()
        if timed is None or self.readyState != "live":
            raise MediaStreamError
        if (wait := timed.at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        return timed.frame


class Peer:
    """The server's end of one WebRTC connection. It only sends."""

    def __init__(self, sample_rate: int, ice_servers: tuple[str, ...]) -> None:
        """sample_rate: of the frames' sound."""
        self._rate = sample_rate
        servers = [RTCIceServer(urls=url) for url in ice_servers]
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._video, self._audio = _Track("video"), _Track("audio")

    async def answer(self, sdp: str, address: str) -> str:
        """The answer to an offer from ``address``. Raises: ValueError: not an offer for one video and one sound."""
        kinds = _SECTION.findall(sdp)
        if sorted(kinds) != ["audio", "video"]:
            raise ValueError("expected an offer with one video and one audio section")
        connection = self._connection
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                offer = RTCSessionDescription(tamed(sdp, address), "offer")
                await connection.setRemoteDescription(offer)
                connection.addTrack(self._video)
                connection.addTrack(self._audio)
                for transceiver in connection.getTransceivers():
                    if transceiver.kind == "video":
                        codecs = RTCRtpSender.getCapabilities("video").codecs
                        transceiver.setCodecPreferences(
                            sorted(codecs, key=lambda codec: codec.mimeType != "video/H264")
                        )
                await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # whatever a parser made of garbage
            raise ValueError("this offer cannot be answered") from error
        return str(connection.localDescription.sdp)

    def put(self, frame: Frame) -> None:
        """Send a frame now, and its sound in step."""
        now = time.monotonic()
        height, width = frame.image.shape[0] & ~1, frame.image.shape[1] & ~1
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.image[:height, :width, :3]), "rgb24")
        self._video.put(_Timed(now, self._stamped(picture, frame.pts_samples)))
        values = np.round(np.clip(frame.audio, -1.0, 1.0) * 32767.0).astype(np.int16)
        piece = round(_PIECE_S * self._rate)
        for at in range(0, len(values), piece):
            sound = av.AudioFrame.from_ndarray(values[None, at : at + piece], "s16", "mono")
            sound.sample_rate = self._rate
            due = now + at / self._rate
            self._audio.put(_Timed(due, self._stamped(sound, frame.pts_samples + at)))

    def _stamped(self, media: _Media, pts: int) -> _Media:
        media.pts, media.time_base = pts, Fraction(1, self._rate)
        return media

    async def close(self) -> None:
        """Hang up."""
        for track in (self._video, self._audio):
            track.stop()
            track.put(None)
        await self._connection.close()


def tamed(sdp: str, address: str) -> str:
    """An offer whose candidates all lie at the client's own address, from which it speaks to us.

    Otherwise an offer could make the server send packets to whatever address it names. A client behind a router is
    found by its own checks.
    """
    lines, n_candidates = [], 0
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            fields = line.split()
            is_fit = len(fields) >= 8 and fields[2].lower() == "udp" and fields[5].isdigit()
            if not is_fit or not 1024 <= int(fields[5]) <= 65535 or n_candidates >= _MAX_CANDIDATES:
                continue
            n_candidates += 1
            fields[4] = address
            line = " ".join(fields[:8])
        lines.append(line)
    return "\r\n".join(lines) + "\r\n"

"""Frames and their sound as fragmented mp4 (H.264 + AAC), a fragment a frame, for Media Source Extensions."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any

import av
import numpy as np

from synctalk.frame import Frame

__all__ = ["FragmentedMp4"]

_AAC_RATE = 48_000
_PRIMING = 1024
"""Samples that AAC puts in front. Players of live streams know no edit list: pictures wait as long instead."""
_FRAGMENT_US = 20_000
"""A fragment ends with the first packet after so long: less than a frame. (frag_every_frame would lose time stamps.)"""


class _Sink:
    """A file that cannot seek; what was written is taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class FragmentedMp4:
    """An endless mp4. Thread-safe; written to after it was closed, it returns nothing."""

    def __init__(self, size: tuple[int, int], fps: int, sample_rate: int) -> None:
        """size: width and height of the frames, pixels; sample_rate: of their sound."""
        self._sink = _Sink()
        self._lock, self._is_closed = threading.Lock(), False
        self._fps, self._rate = fps, sample_rate
        self._first: int | None = None
        options = {
            "movflags": "empty_moov+default_base_moof",
            "frag_duration": str(_FRAGMENT_US),
            "flush_packets": "1",
        }
        self._container = av.open(self._sink, "w", format="mp4", options=options)
        self._video: Any = self._container.add_stream("libx264", rate=fps)
        self._video.width, self._video.height = size[0] & ~1, size[1] & ~1
        self._video.pix_fmt = "yuv420p"
        self._video.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": "22",
            "profile": "baseline",
            "g": str(fps),
            "threads": "1",
        }
        self._video.codec_context.time_base = Fraction(1, _AAC_RATE)
        self._audio: Any = self._container.add_stream("aac", rate=_AAC_RATE, layout="mono")
        self._audio.bit_rate = 96_000
        self._resampler: Any = av.AudioResampler(format="fltp", layout="mono", rate=_AAC_RATE)

    @staticmethod
    def mime(start: bytes) -> str:
        """The media type of what the first ``write`` returned."""
        at = start.index(b"avcC") + 5
        return f'video/mp4; codecs="avc1.{start[at : at + 3].hex()}, mp4a.40.2"'

    def write(self, frame: Frame) -> bytes:
        """Append a frame; the bytes to send, which may be none for now."""
        with self._lock:
            if self._is_closed:
                return b""
            self._write(frame)
            return self._sink.take()

    def _write(self, frame: Frame) -> None:
        first = self._first
        if first is None:
            first = self._first = frame.pts_samples
            self._write_image(frame, 0)  # something to see while AAC is priming
        at = frame.pts_samples - first
        self._write_image(frame, at * _AAC_RATE // self._rate + _PRIMING)
        sound = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(frame.audio[None], np.float32), "fltp", "mono"
        )
        sound.sample_rate, sound.pts, sound.time_base = self._rate, at, Fraction(1, self._rate)
        for piece in self._resampler.resample(sound):
            piece.pts = (piece.pts or 0) + _PRIMING
            self._container.mux(self._audio.encode(piece))

    def _write_image(self, frame: Frame, at: int) -> None:
        """at: 48 kHz samples."""
        image = frame.image[: self._video.height, : self._video.width, :3]
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts, picture.time_base = at, Fraction(1, _AAC_RATE)
        packets = self._video.encode(picture)
        for packet in packets:
            packet.duration = _AAC_RATE // self._fps  # a fragment of one frame cannot tell it from the next
        self._container.mux(packets)

    def close(self) -> None:
        """Let the encoders go."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._container.close()
                self._video = self._audio = self._resampler = None  # their threads end with them

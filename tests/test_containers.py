"""Containers as cameras, telephones and browsers write them, each with a small clip that is made here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from synctalk import Avatar, pictures
from synctalk.media import VideoFrames, read_audio
from synctalk_trainer.prepare.source import decode_frames, decode_sound, probe, sample_frames

RATE, FPS, SIDE, N = 48_000, 25, 64, 50
LEVELS = 20 + 4 * np.arange(N)
"""Frame k is grey of this level."""
CLICK = RATE
"""The sound is silent but for 5 ms at one second."""


def _click() -> np.ndarray:
    sound = np.zeros(2 * RATE, np.float32)
    sound[CLICK : CLICK + 240] = 0.8
    return sound


def write(
    path: Path,
    form: str,
    video: str,
    audio: str,
    *,
    options: dict[str, str] | None = None,
    start_s: float = 0.0,
    first: Callable[[Any], Any] | None = None,
) -> Path:
    """Two seconds of grey that grows lighter, and the click. first: adds a stream before the others, and its packets."""
    with av.open(str(path), "w", format=form, options=options or {}) as container:
        extra = first(container) if first else []
        pictures_out: Any = container.add_stream(video, rate=FPS)
        pictures_out.width = pictures_out.height = SIDE
        pictures_out.pix_fmt = "yuv420p"
        sound_out: Any = container.add_stream(audio, rate=RATE, layout="mono")
        for packet in extra:
            container.mux(packet)
        fifo = av.AudioFifo()
        sound = av.AudioFrame.from_ndarray(_click()[None], "fltp", "mono")
        sound.sample_rate = RATE
        for piece in av.AudioResampler(format=sound_out.format, layout="mono", rate=RATE).resample(sound):
            fifo.write(piece)
        at = round(start_s * RATE)
        for k, level in enumerate(LEVELS):
            frame = av.VideoFrame.from_ndarray(np.full((SIDE, SIDE, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = k + round(start_s * FPS), Fraction(1, FPS)
            container.mux(pictures_out.encode(frame))
            while fifo.samples and at <= (k + 1 + start_s * FPS) * RATE // FPS:
                piece = fifo.read(sound_out.frame_size or 1024, partial=True)
                piece.pts, piece.time_base = at, Fraction(1, RATE)
                at += piece.samples
                container.mux(sound_out.encode(piece))
        while (piece := fifo.read(sound_out.frame_size or 1024, partial=True)) is not None:
            piece.pts, piece.time_base = at, Fraction(1, RATE)
            at += piece.samples
            container.mux(sound_out.encode(piece))
        container.mux(pictures_out.encode(None))
        container.mux(sound_out.encode(None))
    return path


def _cover(container: Any) -> list[Any]:
    """A cover picture, as the first video stream."""
    stream = container.add_stream("mjpeg", rate=1)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuvj420p"
    stream.disposition = Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 255, np.uint8), format="rgb24")
    return [*stream.encode(frame.reformat(format="yuvj420p")), *stream.encode(None)]


def _second_sound(container: Any) -> list[Any]:
    """A quiet, short track of a second microphone, as the first audio stream."""
    stream = container.add_stream("aac", rate=RATE, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    return [*stream.encode(frame), *stream.encode(None)]


CLIPS: dict[str, Callable[[Path], Path]] = {
    "MPEG-TS": lambda folder: write(folder / "a.ts", "mpegts", "libx264", "aac"),
    "MPEG-TS, mp2": lambda folder: write(folder / "a.ts", "mpegts", "mpeg2video", "mp2"),
    "live WebM": lambda folder: write(folder / "a.webm", "webm", "libvpx", "libopus", options={"live": "1"}),
    "live MKV": lambda folder: write(folder / "a.mkv", "matroska", "libx264", "aac", options={"live": "1"}),
    "edit list": lambda folder: write(folder / "a.mp4", "mp4", "libx264", "aac", start_s=0.4),
    "fragments": lambda folder: write(
        folder / "a.mp4", "mp4", "libx264", "aac", options={"movflags": "frag_keyframe+empty_moov+delay_moov"}
    ),
    "MOV with a cover": lambda folder: write(folder / "a.mov", "mov", "libx264", "aac", first=_cover),
    "MP4 with a cover": lambda folder: write(folder / "a.mp4", "mp4", "libx264", "aac", first=_cover),
}


@pytest.mark.parametrize("name", CLIPS)
def test_pictures_and_sound_of_every_container(name: str, tmp_path: Path) -> None:
    path = CLIPS[name](tmp_path)
    samples, rate = read_audio(path)
    assert rate == RATE
    heard = int(np.abs(samples).argmax())
    start, _, sound = decode_sound(path)
    assert abs(int(np.abs(sound).argmax()) - heard) < 240
    seen = list(decode_frames(path))
    assert len(seen) == N
    for (_, picture), level in zip(seen, LEVELS, strict=True):
        assert abs(int(np.median(picture)) - level) <= 4
    # The click comes with the 25th picture, a second after the first.
    assert abs(start + heard / rate - (seen[0][0] + 1.0)) < 0.03
    source = probe(path)
    assert (source.width, source.height) == (SIDE, SIDE)
    assert source.duration_s == pytest.approx(2.0, abs=0.5)
    assert len(list(sample_frames(path, 4, source.duration_s))) == 4
    assert abs(int(np.median(VideoFrames(path)[10])) - LEVELS[10]) <= 4
    assert len(list(Avatar.mock().speak(path))) == pytest.approx(50, abs=2)


def _grey(path: Path, transfer: int, level: int) -> Path:
    """Ten-bit BT.2020 pictures of one level, lossless."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=FPS)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = (
            transfer,
            9,
            9,
            1,
        )
        frame = av.VideoFrame(32, 32, "yuv420p10le")
        for plane, value in zip(frame.planes, (level, 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
        frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = transfer, 9, 9, 1
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def _signal(share: float) -> int:
    """Ten bits, limited range."""
    return round(64 + 876 * share)


@pytest.mark.parametrize(
    ("transfer", "share", "expected"),
    [
        (18, 0.0, 0),
        (18, 0.5, 143),  # 50.7 nits of 203
        (18, 0.75, 245),  # white
        (18, 1.0, 255),
        (16, 0.0, 0),
        (16, 0.58, 245),  # 203 nits: white
        (16, 0.44, 143),  # 51 nits
        (16, 1.0, 255),
    ],
)
def test_hdr_is_mapped_and_told_of_once(
    transfer: int, share: float, expected: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _grey(tmp_path / "hdr.mkv", transfer, _signal(share))
    pictures._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ((_, picture),) = decode_frames(path)
    assert len(caplog.records) == 1
    assert abs(int(np.median(picture)) - expected) <= 3
    assert int(np.ptp(picture)) <= 1


def test_hdr_keeps_hues_and_order() -> None:
    ramp = np.linspace(0, 65_535, 300).astype(np.uint16)
    for transfer in (16, 18):
        grey = pictures._tone_mapped(np.repeat(ramp[None, :, None], 3, axis=2), transfer)[0].astype(int)
        assert (np.diff(grey, axis=0) >= 0).all()
        red = pictures._tone_mapped(np.stack([ramp, ramp // 2, ramp // 2], axis=1)[None], transfer)[0].astype(
            int
        )
        assert (red[:, 0] >= red[:, 1]).all()

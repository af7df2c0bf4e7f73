"""A video file, decoded stream-wise: upright pictures with their times, sound on the same clock.

Times are seconds of the container's clock, as the streams' own time stamps say; nothing assumes that streams start at
zero or that frames are evenly spaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray
from synctalk.errors import MediaError
from synctalk.pictures import upright

__all__ = ["Source", "decode_frames", "decode_sound", "probe", "sample_frames"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]

_GAP_S = 0.05
"""Sound whose time stamps leave a gap longer than this is filled with silence."""


@dataclass(frozen=True)
class Source:
    """What ``dataset.json`` keeps of the video. width, height: upright, square pixels."""

    name: str
    sha256: str
    width: int
    height: int
    rotation: int
    fps: float
    duration_s: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise MediaError(f"no such file: {path}. Give a video with sound.")
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"cannot read {path}: {error}. Give an intact video file.") from None


def probe(path: Path) -> Source:
    """Look at a file without decoding it all.

    Raises: MediaError: no such file, unreadable, or without picture or sound.
    """
    with closing(_open(path)) as container:
        stream = _pictures(container)
        if stream is None:
            raise MediaError(f"{path} has no video stream. Give a video of one person speaking.")
        if container.streams.best("audio") is None:
            raise MediaError(
                f"{path} has no audio stream: the mouth is learned from the sound. Give a video with sound."
            )
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        duration = _duration(container, path)
        picture, rotation = _first_picture(container, path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    height, width = picture.shape[:2]
    return Source(path.name, digest, width, height, rotation, round(rate, 3), round(duration, 3))


def _pictures(container: InputContainer) -> Any:
    """The video stream that a player shows: not a cover picture or a telephone's extra track; None where there is none."""
    return container.streams.best("video")


def _duration(container: InputContainer, path: Path) -> float:
    stream = _pictures(container)
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration) / av.time_base
    with closing(_open(path)) as live:  # a recording that never learned its length: its packets tell
        stream = _pictures(live)
        ends = [
            packet.pts + (packet.duration or 0) for packet in live.demux(stream) if packet.pts is not None
        ]
        return float((max(ends) - (stream.start_time or 0)) * stream.time_base) if ends else 0.0


def _first_picture(container: InputContainer, path: Path) -> tuple[Picture, int]:
    try:
        stream = _pictures(container)
        for frame in container.decode(stream):
            aspect = stream.sample_aspect_ratio
            return _upright(frame, aspect), int(frame.rotation) % 360
    except av.error.FFmpegError as error:
        raise MediaError(f"{path} is damaged: {error}. Convert or download it again.") from None
    raise MediaError(f"{path} has no pictures. Give an intact video.")


def _upright(frame: av.VideoFrame, aspect: Fraction | None) -> Picture:
    """RGB, square pixels, turned as the display matrix says. aspect: a pixel's width over its height."""
    picture = upright(frame)
    aspect = aspect or Fraction(1)
    if aspect != 1:
        is_turned = round(frame.rotation / 90) % 2 == 1
        height, width = picture.shape[:2]
        size = (width, _stretched(height, aspect)) if is_turned else (_stretched(width, aspect), height)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    return picture


def _stretched(n: int, aspect: Fraction) -> int:
    return max(2, round(n * float(aspect)))


def decode_frames(path: Path) -> Iterator[tuple[float, Picture]]:
    """Time in seconds and upright RGB picture of every frame, in the order they are shown.

    Raises: MediaError: nothing can be decoded. A damaged end is simply the end: the caller compares durations.
    """
    count = 0
    with closing(_open(path)) as container:
        stream = _pictures(container)
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                if frame.pts is not None and not frame.is_corrupt:
                    count += 1
                    time = float(frame.pts * (frame.time_base or 0))
                    yield time, _upright(frame, stream.sample_aspect_ratio)
        except av.error.FFmpegError as error:
            raise MediaError(
                f"{path} is damaged after {count} pictures: {error}. Convert or download it again."
            ) from None


def sample_frames(path: Path, n: int, duration_s: float) -> Iterator[Picture]:
    """About ``n`` pictures spread over a file, found by seeking.

    Raises: MediaError: damaged.
    """
    with closing(_open(path)) as container:
        stream = _pictures(container)
        start = stream.start_time or 0
        picture: Picture | None = None
        for i in range(n):
            offset = round((i + 0.5) / n * duration_s / float(stream.time_base or 1))
            try:
                found = _after(container, stream, start + offset, 1 + 5 * (i % 3))
                if found is None and picture is None:  # behind the last key frame
                    found = next((first for _, first in decode_frames(path)), None)
            except av.error.FFmpegError as error:
                raise MediaError(f"{path} is damaged: {error}. Convert or download it again.") from None
            picture = picture if found is None else found
            if picture is None:
                raise MediaError(f"{path} has no pictures. Give an intact video.")
            yield picture


def _after(container: InputContainer, stream: Any, time: int, n: int) -> Picture | None:
    """The ``n``-th picture from a time on, or the last one; None where there is none."""
    container.seek(time, stream=stream)
    frames = list(islice(container.decode(stream), n))
    return _upright(frames[-1], stream.sample_aspect_ratio) if frames else None


def decode_sound(path: Path) -> tuple[float, int, Float]:
    """Time of the first sample, rate in Hz, and the sound, float32 [n] mono; gaps between time stamps are silent.

    Raises: MediaError: damaged or empty.
    """
    pieces: list[Float] = []
    start: float | None = None
    n = 0
    with closing(_open(path)) as container:
        stream: Any = container.streams.best("audio")
        rate = int(stream.rate)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        try:
            for frame in container.decode(stream):
                if frame.pts is not None and frame.time_base is not None:
                    time = float(frame.pts * frame.time_base)
                    start = time if start is None else start
                    gap = round((time - start) * rate) - n
                    if gap > _GAP_S * rate:
                        pieces.append(np.zeros(gap, np.float32))
                        n += gap
                frame.pts = None
                for out in resampler.resample(frame):
                    pieces.append(out.to_ndarray()[0].astype(np.float32))
                    n += len(pieces[-1])
        except av.error.FFmpegError as error:
            raise MediaError(
                f"the sound of {path} is damaged after {n / rate:.1f} s: {error}. Convert it again."
            ) from None
    if start is None or n == 0:
        raise MediaError(f"the sound of {path} is empty. Give a video in which someone speaks.")
    return start, rate, np.concatenate(pieces)

"""The stretch of the training clip that a bundle takes its motion and its plate from, and pictures as files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from synctalk.errors import ExportError
from synctalk.media import write_mp4

__all__ = ["choose_span", "encode_plate", "encode_png"]

Picture = NDArray[np.uint8]

_MIN_FRAMES = 25
_HEAD_RADIUS_M = 0.1


def choose_span(
    takes: Sequence[tuple[int, int]],
    usable: NDArray[np.bool_],
    rotation: NDArray[np.float32],
    translation: NDArray[np.float32],
    max_frames: int,
) -> tuple[int, int]:
    """The frames [first, end) for the track: unbroken, inside one take, at most ``max_frames``.

    usable: [N]; rotation [N, 3, 3] and translation [N, 3] of all frames. The longest stretch wins. Where it is longer
    than ``max_frames``, the part whose two ends move least: the track is walked forwards and backwards, and turns there.

    Raises: ExportError: no stretch of a second.
    """
    first, end = max(_stretches(takes, usable), key=lambda span: span[1] - span[0], default=(0, 0))
    if end - first < _MIN_FRAMES:
        raise ExportError(
            f"the longest stretch of usable frames has {end - first} of at least {_MIN_FRAMES}: see the dataset's "
            "report for frames without a face, and prepare a longer clip"
        )
    n = max(_MIN_FRAMES, min(max_frames, end - first))
    turn = np.linalg.norm(np.diff(rotation[first:end], axis=0), axis=(1, 2))
    shift = np.linalg.norm(np.diff(translation[first:end], axis=0), axis=1)
    motion = turn + shift / _HEAD_RADIUS_M  # [end - first - 1]
    starts = np.arange(end - first - n + 1)
    start = first + int(np.argmin(motion[starts] + motion[starts + n - 2]))
    return start, start + n


def _stretches(takes: Sequence[tuple[int, int]], usable: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Unbroken runs of usable frames inside takes."""
    spans = []
    for first, end in takes:
        padded = np.concatenate([[False], usable[first:end], [False]])
        edges = first + np.flatnonzero(np.diff(padded.astype(np.int8)))
        spans += [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return spans


def encode_plate(frames: Iterable[Picture], fps: int, crf: int) -> bytes:
    """``plate.mp4``. frames: uint8 [H, W, 3] RGB, even sides; crf: 0 (best) .. 51."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plate.mp4"
        write_mp4(path, frames, fps, crf=crf)
        return path.read_bytes()


def encode_png(picture: Picture) -> bytes:
    """A PNG of a picture uint8 [H, W, 3] RGB."""
    codec = av.CodecContext.create("png", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.height, codec.width = picture.shape[:2]
    codec.pix_fmt = "rgb24"
    codec.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    packets = [*codec.encode(frame), *codec.encode(None)]
    return b"".join(bytes(packet) for packet in packets)

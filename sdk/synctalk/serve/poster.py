"""A still picture of an avatar, to choose it by."""

from __future__ import annotations

import io
from typing import Any

import av

from synctalk.avatar import Avatar
from synctalk.stage import Shot

__all__ = ["poster"]

_WIDTH = 192


def poster(avatar: Avatar) -> bytes:
    """A small PNG of the avatar at rest. Raises: BundleError: it cannot be drawn."""
    stage = avatar.stage
    image = stage.draw(Shot(0, stage.shaping.rest, stage.track.expression[0]))
    height, width = image.shape[:2]
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    if width > _WIDTH:
        frame = frame.reformat(_WIDTH, round(height * _WIDTH / width), interpolation="AREA")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="image2pipe") as container:
        stream: Any = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "rgb24"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()

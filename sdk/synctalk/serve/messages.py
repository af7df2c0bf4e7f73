"""What a client may say over the WebSocket, as JSON text; everything else is refused.

Binary messages are one byte that says what follows: 0 for sound (little-endian 16-bit mono at the rate of the last
``sound`` message), 1 for a background picture (RGB, 8 bits, of the avatar's size).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "MAX_MESSAGE",
    "PICTURE",
    "SOUND",
    "Control",
    "Flush",
    "Interrupt",
    "Message",
    "Offer",
    "Ping",
    "Say",
    "Sound",
    "Start",
    "parse",
]

SOUND, PICTURE = 0, 1
MAX_MESSAGE = 4 << 20
"""Bytes: a picture of 1024 x 1024."""

_MAX_TEXT_MESSAGE = 64 << 10


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Start(_Message):
    """The first message. token: where the server demands one."""

    type: Literal["start"]
    avatar: Annotated[str, Field(max_length=100)]
    transport: Literal["webrtc", "websocket"] = "websocket"
    token: Annotated[str, Field(max_length=1000)] | None = None


class Offer(_Message):
    """WebRTC: a complete offer (candidates gathered) that wants to receive one video and one audio stream."""

    type: Literal["offer"]
    sdp: Annotated[str, Field(max_length=_MAX_TEXT_MESSAGE)]


class Sound(_Message):
    """The rate of the binary sound that follows."""

    type: Literal["sound"]
    sample_rate: Annotated[int, Field(ge=8_000, le=48_000)]


class Flush(_Message):
    """The utterance is complete."""

    type: Literal["flush"]


class Interrupt(_Message):
    """Fall silent now."""

    type: Literal["interrupt"]


class Say(_Message):
    """Text for the text-to-speech program."""

    type: Literal["say"]
    text: Annotated[str, Field(max_length=10_000)]


_Share: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]
_Degrees: TypeAlias = Annotated[float, Field(ge=-90.0, le=90.0)]
_Byte: TypeAlias = Annotated[int, Field(ge=0, le=255)]


class Control(_Message):
    """What is left out stays; None gives a thing back to the avatar. See ``Control.set``."""

    type: Literal["control"]
    # JSON has lists only, and strict tuples would refuse them.
    pose: Annotated[list[_Degrees], Field(min_length=3, max_length=3)] | None = None
    expression: Annotated[dict[str, _Share | None], Field(max_length=64)] | None = None
    blink: _Share | None = None
    background: Annotated[list[_Byte], Field(min_length=3, max_length=3)] | None = None
    lerp_s: Annotated[float, Field(ge=0.0, le=5.0)] = 0.2


class Ping(_Message):
    """Answered with ``pong`` and the same ``at``, to measure the way there and back."""

    type: Literal["ping"]
    at: float


Message: TypeAlias = Start | Offer | Sound | Flush | Interrupt | Say | Control | Ping
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def parse(text: str) -> Message:
    """Raises: ValueError: no such message (pydantic's error is one)."""
    if len(text) > _MAX_TEXT_MESSAGE + 1000:
        raise ValueError("the message is too long")
    return _ADAPTER.validate_json(text)

"""The one door for sound: whatever an app hands over becomes float32 mono in -1..1 with its rate, or is refused in words.

``open_sound`` takes a whole sound or its chunks, ``SampleStream`` chunks that are pushed. Both give the same samples for
every way of cutting. What is accepted: docs/sdk.md.
"""

from __future__ import annotations

import io
import os
import struct
from array import array
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Set, Sized
from dataclasses import dataclass
from itertools import chain
from numbers import Number
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synctalk.audio import Resampler, channels_last, downmix, whole_rate
from synctalk.errors import MediaError
from synctalk.sound_file import AudioFile, container_of, source_name

__all__ = [
    "Audio",
    "Chunk",
    "FilmSound",
    "SampleStream",
    "Sound",
    "as_array",
    "duration_s",
    "named_file",
    "open_sound",
    "to_int16",
]

Float = NDArray[np.float32]
Bytes: TypeAlias = bytes | bytearray | memoryview


class Tensor(Protocol):
    """What NumPy can make an array of: a torch tensor, say."""

    def __array__(self, dtype: Any = None) -> NDArray[Any]: ...


Chunk: TypeAlias = ArrayLike | Bytes | Tensor
"""Samples [n], [n, channels] or [channels, n], a list of numbers, or bytes of little-endian 16-bit mono."""
Audio: TypeAlias = str | os.PathLike[str] | Bytes | BinaryIO | Chunk | Iterable[Chunk]
"""A file's path, its content, an open binary file, samples, raw bytes, or chunks of samples."""

_RAW = (".pcm", ".raw", ".s16", ".s16le")
_HEAD = 4096
"""Bytes that are looked at to tell a sound file from raw samples."""
_READ = 1 << 16
_UNKNOWN = (0, 0xFFFF_FFFF)
"""Sizes in a wav's header that mean: until the end."""
_LONGEST_HEADER = 1 << 16
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Rates that players of AAC know."""


@dataclass(frozen=True)
class _Layout:
    """How samples lie in bytes."""

    rate: int | None = None
    channels: int = 1
    bits: int = 16
    is_float: bool = False

    @property
    def block(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.bits // 8

    def read(self, data: bytes) -> NDArray[Any]:
        """[n], of several channels their mean. data: whole blocks."""
        if self.bits == 24:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            values: NDArray[Any] = wide.view("<i4")[:, 0]
        else:
            kind = "f" if self.is_float else "u" if self.bits == 8 else "i"
            values = np.frombuffer(data, f"<{kind}{self.bits // 8}")
        if self.channels > 1:
            values = self._mean(values)
        return values

    def _mean(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.is_float:
            return np.asarray(values.reshape(-1, self.channels).mean(axis=1))
        scale, zero = 2.0 ** (values.dtype.itemsize * 8 - 1), 128.0 if self.bits == 8 else 0.0
        return np.asarray((values.reshape(-1, self.channels).mean(axis=1, dtype=np.float64) - zero) / scale)


class SampleStream:
    """One sound in chunks of any kind and size; float32 mono out."""

    def __init__(self, rate: int | None, channels: int = 1) -> None:
        """rate: Hz of what will be pushed; None where the first bytes are a wav's header, which says it. channels: of
        raw bytes, interleaved.

        Raises: TypeError, ValueError, MediaError: no sample rate (``whole_rate``).
        """
        self.rate = None if rate is None else whole_rate(rate)
        self._is_first: bool | None = None  # whether channels come first
        self._layout = _Layout(channels=channels)
        self._rest = b""  # less than a sample
        self._header = b""  # of a wav, as far as it came
        self._left: int | None = None  # bytes until the wav says that its samples end
        self._is_begun = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was pushed so far."""
        return not self._is_begun

    def push(self, chunk: Chunk) -> Float:
        """The samples that a chunk completes, [m].

        Raises: MediaError: no sound; ValueError: a wav of another rate; TypeError: nothing that holds samples.
        """
        if _is_bytes(chunk):
            data = bytes(cast("Bytes", chunk))
            mono = self._push_bytes(data)
            self._is_begun = self._is_begun or bool(data)
            return mono
        values, self._is_first = channels_last(as_array(chunk), self._is_first)
        self._is_begun = self._is_begun or bool(len(values))
        return downmix(values)

    def _push_bytes(self, data: bytes) -> Float:
        if self._header or _is_wav(data) or (not self._is_begun and _may_be_wav(data)):
            data, self._header = self._header + data, b""
            if _may_be_wav(data):
                header = _wav_header(data)
                if header is None:
                    self._header = data
                    return np.zeros(0, np.float32)
                self._layout, self._left, start = header
                self._take_rate(self._layout.rate)
                data, self._rest = data[start:], b""
        elif not self._is_begun and container_of(data) not in (None, "wav"):
            raise MediaError(
                f"these bytes are {container_of(data)}, not samples: decode them, or give all of them to speak()"
            )
        return self._samples(data)

    def _take_rate(self, rate: int | None) -> None:
        if self.rate is None:
            self.rate = whole_rate(rate)
        elif rate != self.rate:
            raise ValueError(
                f"the wav is at {rate} Hz, sample_rate says {self.rate}: give the one that it has"
            )

    def _samples(self, data: bytes) -> Float:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        data = self._rest + data
        whole = len(data) - len(data) % self._layout.block
        self._rest = data[whole:]
        return downmix(self._layout.read(data[:whole]))


def _is_bytes(value: object) -> bool:
    """Whether this is raw bytes; a memoryview of wider items holds samples."""
    return isinstance(value, bytes | bytearray) or (isinstance(value, memoryview) and value.itemsize == 1)


def _is_wav(data: bytes) -> bool:
    return data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE"


def _may_be_wav(data: bytes) -> bool:
    """Whether bytes are the beginning of a wav, or of its header."""
    return bool(data) and (
        (data[:4] in (b"RIFF", b"RF64") and b"WAVE".startswith(data[8:12]))
        or data in (b"R", b"RI", b"RIF", b"RF", b"RF6")
    )


def _wav_header(data: bytes) -> tuple[_Layout, int | None, int] | None:
    """Layout, bytes of samples (None: until the end) and where they start; None while the header is incomplete."""
    if len(data) > _LONGEST_HEADER:
        raise MediaError("the wav's header does not end: write it again")
    at, layout = 12, None
    while len(data) >= at + 8:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"data":
            if layout is None:
                raise MediaError("the wav's header does not say how its samples lie: write it again")
            return layout, None if size in _UNKNOWN else size, at
        if name == b"fmt ":
            if len(data) < at + size:
                return None
            layout = _wav_layout(data[at : at + size])
        at += size + size % 2
    return None


def _wav_layout(fields: bytes) -> _Layout:
    if len(fields) < 16:
        raise MediaError("the wav's header is damaged: write it again")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", fields[:16])
    if code == _EXTENSIBLE and len(fields) >= 26:
        code = int.from_bytes(fields[24:26], "little")
    is_known = (code == _PCM and bits in (8, 16, 24, 32)) or (code == _FLOAT and bits in (32, 64))
    if not is_known or not channels:
        raise MediaError(
            f"a wav in chunks holds PCM or float, this one has format {code} with {bits} bits: decode it first"
        )
    return _Layout(rate, channels, bits, code == _FLOAT)


def as_array(chunk: Chunk) -> NDArray[Any]:
    """Samples as a NumPy array: of tensors on any device, lists and all that NumPy reads.

    Raises: TypeError: something else.
    """
    value: Any = chunk
    if hasattr(value, "detach"):  # a torch tensor, which may be on a GPU, or of a type that NumPy lacks
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    try:
        values = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{type(chunk).__name__} holds no samples ({error}): give an array, numbers or bytes"
        ) from None
    if values.ndim == 0 or values.dtype == object:
        raise TypeError(
            f"a chunk is an array, a list of numbers or bytes, not {type(chunk).__name__}: {_EXPECTED}"
        )
    return values


_EXPECTED = "give a path, the bytes of a file, an open binary file, samples or raw bytes with sample_rate, or an iterable of these chunks"


def duration_s(chunk: Chunk, rate: int) -> float:
    """About how long a chunk lasts: raw bytes are taken as 16-bit mono."""
    if _is_bytes(chunk):
        return memoryview(cast("Bytes", chunk)).nbytes / 2 / max(1, rate)
    shape = getattr(chunk, "shape", None) or (len(chunk) if isinstance(chunk, Sized) else 0,)
    return float(max(shape)) / max(1, rate)


def to_int16(mono: Float) -> NDArray[np.int16]:
    """16-bit samples of float32 in -1..1."""
    return np.round(32768.0 * mono).clip(-32768, 32767).astype(np.int16)


class Sound:
    """A sound that is open: its rate at once, its samples piece by piece. It is read once."""

    def __init__(self, rate: int, pieces: Iterable[Float], n_samples: int | None = None) -> None:
        self.rate, self._pieces = rate, pieces
        self.n_samples = n_samples
        """How many there are, where that is known beforehand (for files: as they claim)."""

    def __iter__(self) -> Iterator[Float]:
        """float32 [n] mono, a second at most. Raises: MediaError: no sound after all."""
        for piece in self._pieces:
            for at in range(0, len(piece), self.rate):
                yield piece[at : at + self.rate]


def open_sound(audio: Audio, sample_rate: int | None = None) -> Sound:
    """Open whatever an app calls a sound; all that can be told without reading it is checked here.

    audio: a path; the bytes of a file; an open binary file; samples; raw bytes; an iterable of such samples or bytes.
    sample_rate: Hz of samples and raw bytes; for what has a rate of its own it must agree.
    Raises: MediaError: no sound; ValueError: a rate that is missing, or not the sound's own; TypeError: nothing of these.
    """
    rate = None if sample_rate is None else whole_rate(sample_rate)
    if isinstance(audio, str | os.PathLike):
        if rate is not None and Path(audio).suffix.lower() in _RAW:
            return _opened_raw(audio, rate)
        return _of_file(AudioFile(audio), audio, rate)
    if _is_bytes(audio):
        return _of_bytes(bytes(cast("Bytes", audio)), rate)
    if hasattr(audio, "read") and not hasattr(audio, "__array__"):
        return _of_open_file(cast("BinaryIO", audio), rate)
    if _is_samples(audio):
        return _of_samples(as_array(cast("Chunk", audio)), _needed(rate, "samples"))
    if isinstance(audio, AsyncIterable):
        raise TypeError(
            f"{type(audio).__name__} is asynchronous and needs a session: async with avatar.session() as session: "
            "async for frame in session.speak(chunks, sample_rate)"
        )
    if not isinstance(audio, Iterable) or isinstance(audio, Mapping | Set):
        raise TypeError(f"{type(audio).__name__} is no sound: {_EXPECTED}")
    return _of_chunks(iter(audio), rate)


def named_file(audio: object) -> Path | None:
    """The file that a sound is read from, where it has a name."""
    if isinstance(audio, str | os.PathLike):
        return Path(audio)
    name = getattr(audio, "name", None) if hasattr(audio, "read") else None
    return Path(name) if isinstance(name, str) else None


def _needed(rate: int | None, what: str) -> int:
    if rate is None:
        raise ValueError(f"{what} need a sample_rate: speak({what}, sample_rate=16_000)")
    return rate


def _is_samples(audio: object) -> bool:
    """Whether this is one array of samples, not an iterable of chunks."""
    if isinstance(audio, list | tuple):
        return bool(audio) and isinstance(audio[0], Number | np.generic)
    return (
        isinstance(audio, array | memoryview)
        or hasattr(audio, "__array__")
        or hasattr(audio, "__array_interface__")
    )


def _of_file(file: AudioFile, source: Any, rate: int | None) -> Sound:
    if rate is not None and rate != file.rate:
        file.close()
        raise ValueError(
            f"{source_name(source)} is at {file.rate} Hz, sample_rate says {rate}: leave sample_rate out for sound files"
        )
    return Sound(file.rate, file, file.n_samples)


def _opened_raw(path: str | os.PathLike[str], rate: int) -> Sound:
    if not Path(path).is_file():
        raise MediaError(f"no such file: {path}. Give a file of little-endian 16-bit mono samples.")

    def pieces() -> Iterator[bytes]:
        with Path(path).open("rb") as file:
            yield from iter(lambda: file.read(_READ), b"")

    return Sound(rate, _pushed(SampleStream(rate), pieces()), Path(path).stat().st_size // 2)


def _of_bytes(data: bytes, rate: int | None) -> Sound:
    if rate is None or container_of(data[:_HEAD]) is not None:
        try:
            return _of_file(AudioFile(data), data, rate)
        except MediaError as error:
            if rate is None and container_of(data[:_HEAD]) is None:
                raise MediaError(
                    f"{error} Raw samples (little-endian 16-bit mono) need a sample_rate."
                ) from None
            raise
    pieces = (data[at : at + _READ] for at in range(0, len(data), _READ))
    return Sound(rate, _pushed(SampleStream(rate), pieces), len(data) // 2)


def _of_open_file(file: BinaryIO | io.TextIOBase, rate: int | None) -> Sound:
    if isinstance(file, io.TextIOBase):
        raise TypeError("a file opened as text is no sound: open it with mode 'rb'")
    if rate is None:
        return _of_file(AudioFile(file), file, None)
    head = file.read(_HEAD)
    if not isinstance(head, bytes):
        raise TypeError(
            f"read() of the open file gave {type(head).__name__}, expected bytes: open it with mode 'rb'"
        )
    rest = _Joined(head, lambda: file.read(_READ))
    if container_of(head) is not None:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(-len(head), os.SEEK_CUR)
            return _of_file(AudioFile(file), file, rate)
        return _of_file(AudioFile(cast("BinaryIO", rest)), file, rate)
    return Sound(rate, _pushed(SampleStream(rate), iter(lambda: rest.read(_READ), b"")))


def _of_samples(values: NDArray[Any], rate: int) -> Sound:
    """All of it is checked now, a second at a time."""
    values, _ = channels_last(values)
    n = len(values)

    def pieces() -> Iterator[Float]:
        for at in range(0, n, rate):
            yield downmix(values[at : at + rate])

    for _ in pieces():
        pass
    return Sound(rate, pieces(), n)


def _of_chunks(chunks: Iterator[Chunk], rate: int | None) -> Sound:
    """Nothing is read before it is needed, but for the header of a wav where no rate was given."""
    if rate is not None:
        return Sound(rate, _heard(chunks, rate))
    first = next(chunks, b"")
    if not _is_bytes(first) or container_of(bytes(cast("Bytes", first))) is None:
        _needed(rate, "chunks")
    first = bytes(cast("Bytes", first))
    if container_of(first) != "wav":
        return _of_file(_encoded(first, chunks), "the sound in chunks", None)
    stream, pieces = SampleStream(None), []
    for chunk in chain([first], chunks):
        pieces.append(stream.push(chunk))
        if stream.rate is not None:
            return Sound(stream.rate, chain(pieces, _pushed(stream, chunks)))
    raise MediaError("the wav ends within its header: give all of it")


def _heard(chunks: Iterator[Chunk], rate: int) -> Iterator[Float]:
    first = next(chunks, b"")
    form = container_of(bytes(cast("Bytes", first))) if _is_bytes(first) else None
    if form in (None, "wav"):
        yield from _pushed(SampleStream(rate), chain([first], chunks))
    else:
        yield from _of_file(_encoded(bytes(cast("Bytes", first)), chunks), "the sound in chunks", rate)


def _encoded(first: bytes, chunks: Iterator[Chunk]) -> AudioFile:
    """Chunks of a compressed sound, as a text-to-speech service sends them."""
    return AudioFile(cast("BinaryIO", _Joined(first, lambda: bytes(cast("Bytes", next(chunks, b""))))))


def _pushed(stream: SampleStream, chunks: Iterable[Chunk]) -> Iterator[Float]:
    for chunk in chunks:
        yield stream.push(chunk)


class _Joined:
    """Bytes that were read already, and what comes after them, as a file that cannot seek."""

    def __init__(self, head: bytes, more: Callable[[], bytes]) -> None:
        self._held, self._more = head, more

    def read(self, size: int = -1) -> bytes:
        while size < 0 or not self._held:
            piece = self._more()
            self._held += piece
            if not piece:
                break
        taken = self._held if size < 0 else self._held[:size]
        self._held = self._held[len(taken) :]
        return taken


class FilmSound:
    """The sound of a film, at its own rate where players know it, handed out as its frames come."""

    def __init__(self, rate: int) -> None:
        """rate: Hz of the sound that goes in."""
        self.rate = rate if rate in _AAC_RATES else 48_000
        """Hz of what comes out."""
        self._resampler = Resampler(rate, self.rate)
        self._held: deque[Float] = deque()
        self._n_given = 0

    def through(self, sound: Iterable[Float]) -> Iterator[Float]:
        """The sound itself; what goes through is kept for the film."""
        for piece in sound:
            self._held.append(self._resampler.push(piece))
            yield piece
        self._held.append(self._resampler.flush())

    def take(self, index: int, fps: int, *, is_last: bool = False) -> Float:
        """What frame ``index`` plays with, as far as it is there (the rest comes with the next); all for the last."""
        end = (index + 1) * self.rate // fps
        parts: list[Float] = [np.zeros(0, np.float32)]
        while self._held and (is_last or self._n_given < end):
            piece = self._held.popleft()
            taken = piece if is_last else piece[: end - self._n_given]
            if len(taken) < len(piece):
                self._held.appendleft(piece[len(taken) :])
            self._n_given += len(taken)
            parts.append(taken)
        return np.concatenate(parts)

"""Sound files of any container, from a path, from bytes or from an open file, read piece by piece.

PyAV and soundfile are imported on first use.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from synctalk.audio import downmix, frame_count
from synctalk.errors import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["AudioFile", "Source", "claimed_frames", "container_of", "open_media", "read_audio", "source_name"]

Float = NDArray[np.float32]
Source = str | os.PathLike[str] | bytes | BinaryIO
"""A file's path, its content, or an open binary file."""

_BLOCK = 1 << 16
"""Samples read at once: headers may claim any length."""
_HEAD = 8192
"""Bytes that are looked at to tell a container: two frames of mp3."""
_LEAST_BYTES_S = 100
"""A second of the most compressed sound has more: what a header claims beyond is not believed."""

_MAGICS = {
    b"RIFF": "wav",
    b"RF64": "wav",
    b"RIFX": "wav",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"FORM": "aiff",
    b"ID3": "mp3",
    b"\x1aE\xdf\xa3": "matroska",
    b"caff": "caf",
    b".snd": "au",
    b"#!AMR": "amr",
}
_UNTRUSTED = {"wav": "wav", "mp4": "mov", "matroska": "matroska"}
"""FFmpeg's names of the containers that are opened for strangers: they name no further files or addresses."""
_UNTRUSTED_CODECS = ("aac", "flac", "mp3", "mp3float", "opus", "libopus", "vorbis", "alac")


def container_of(head: bytes) -> str | None:
    """Which container bytes begin with, such as ``wav`` or ``mp3``; None for raw samples, or what is not known."""
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return "mp4"
    return "mp3" if _is_mpeg(head) else None


def _is_mpeg(head: bytes) -> bool:
    """Whether two frames of MPEG layer III, or of AAC in ADTS, follow each other."""
    length = _mpeg_length(head)
    return length > 0 and _mpeg_length(head[length:]) > 0


_KBIT_S = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBIT_S_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _mpeg_length(head: bytes) -> int:
    """Bytes of the frame that begins here; 0 where none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    if head[1] & 0xF6 == 0xF0:  # ADTS
        return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, bits = head[2] >> 2 & 3, head[2] >> 4
    if layer != 1 or version == 1 or rate == 3 or bits in (0, 15):
        return 0
    hz = (44_100, 48_000, 32_000)[rate] >> (3 - version if version == 3 else 1 if version == 2 else 2)
    kbit_s = (_KBIT_S if version == 3 else _KBIT_S_2)[bits]
    return (144 if version == 3 else 72) * 1000 * kbit_s // hz + (head[2] >> 1 & 1)


def source_name(source: Source) -> str:
    """What messages call a source."""
    if isinstance(source, bytes):
        return f"{len(source)} bytes of media"
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "name", None)
    return str(name) if isinstance(name, str) else "the open file"


def open_media(source: Source, form: str | None = None, name: str | None = None) -> InputContainer:
    """An open container. form: FFmpeg's name of the only one that is tried; name: what messages call the source.

    Raises: MediaError: no such file, or no media.
    """
    import av

    try:
        place: Any = source
        if isinstance(source, bytes):
            place = io.BytesIO(source)
        elif isinstance(source, str | os.PathLike):
            place = os.path.abspath(source)  # noqa: PTH100 - "12:30.m4a" would be a protocol named 12
        container: InputContainer = av.open(place, "r", format=form, metadata_errors="ignore")
        return container
    except (av.error.FFmpegError, OSError, ValueError) as error:
        name = name or source_name(source)
        raise MediaError(f"cannot read {name}: {error}. Give an intact media file.") from error


class _Content:
    """A file for libsndfile, which in damaged files seeks to before their start; it begins where the file stands."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._start = file, file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            self._file.seek(self._start + offset if whence == 0 else offset, whence)
        except (ValueError, OSError):
            return self.tell()
        if self.tell() < 0:
            self._file.seek(self._start)
        return self.tell()


class AudioFile:
    """The (first) sound of a sound or video file: its rate at once, its samples block by block."""

    def __init__(self, source: Source, *, is_trusted: bool = True) -> None:
        """is_trusted: False opens only wav, flac, ogg, mp3, mp4 and WebM: FFmpeg knows formats that name further files.

        Raises: MediaError: no such file, no sound inside, or damaged.
        """
        self._source, self._is_trusted = source, is_trusted
        self._name = source_name(source)
        self._is_own = isinstance(source, str | os.PathLike | bytes)
        self._container: InputContainer | None = None
        self._n_bytes: int | None = None
        self._file: BinaryIO | None = None
        self._file = file = self._open(source)
        try:
            self._blocks = self._begin(file)
            self._first = next(self._blocks, np.zeros(0, np.float32))
            if not len(self._first):
                raise MediaError(f"{self._name} holds no samples. Give a sound that lasts.")
        except BaseException:
            self.close()
            raise

    rate: int
    """Samples a second."""
    n_samples: int | None
    """As the file claims, where that can be; None where it does not say."""

    def __iter__(self) -> Iterator[Float]:
        """Its samples, float32 [n] mono at a time; once. Raises: MediaError: damaged."""
        try:
            yield self._first
            yield from self._blocks
        finally:
            self.close()

    def close(self) -> None:
        """Let the file go; one that was given open stays open."""
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._is_own and self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def _open(source: Source) -> BinaryIO:
        if isinstance(source, bytes):
            return io.BytesIO(source)
        if not isinstance(source, str | os.PathLike):
            return source
        if not Path(source).is_file():
            raise MediaError(f"no such file: {source}. Give a sound file, such as a wav, mp3, m4a or mp4.")
        try:
            return Path(source).open("rb")
        except OSError as error:
            raise MediaError(f"cannot read {source}: {error.strerror}. Check its permissions.") from error

    def _begin(self, opened: BinaryIO) -> Iterator[Float]:
        """Find out rate and length; the blocks."""
        import soundfile

        if not _is_seekable(opened):
            return self._decode(opened)
        start = opened.tell()
        head = opened.read(_HEAD)
        opened.seek(0, os.SEEK_END)
        self._n_bytes = opened.tell() - start
        opened.seek(start)
        try:
            file = soundfile.SoundFile(_Content(opened))
            first = file.read(_BLOCK, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, TypeError, ValueError, OverflowError, RuntimeError):
            first = np.zeros((0, 1), np.float32)  # not one of its formats: video containers, AAC ...
        if len(first):
            self.rate = int(file.samplerate)
            self.n_samples = self._believed(int(file.frames))
            return self._read(file, first)
        opened.seek(start)
        if not self._is_trusted:
            return self._decode(opened, _untrusted(head))
        if container_of(head) != "wav":
            return self._decode(self._source)
        return self._decode(opened)  # a stream, whose header says that nothing follows

    def _believed(self, n_samples: int) -> int | None:
        """A length that a header claims, where the file may hold so much."""
        most = None if self._n_bytes is None else self._n_bytes * self.rate // _LEAST_BYTES_S
        return n_samples if n_samples > 0 and (most is None or n_samples <= most) else None

    def _read(self, file: Any, first: NDArray[np.float32]) -> Iterator[Float]:
        import soundfile

        block = first
        try:
            while len(block):
                yield downmix(block)
                block = file.read(_BLOCK, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise MediaError(f"{self._name} is damaged: {error}. Convert it again.") from error
        finally:
            with suppress(soundfile.LibsndfileError):
                file.close()

    def _decode(self, source: Source, form: str | None = None) -> Iterator[Float]:
        self._container = open_media(source, form, self._name)
        stream = self._container.streams.best("audio")
        if stream is None:
            raise MediaError(f"{self._name} has no sound. Give a file with an audio stream.")
        if not stream.codec_context:  # spatial sound of a telephone, beside plain stereo
            known = [one for one in self._container.streams.audio if one.codec_context]
            stream = known[0] if known else stream
        context: Any = stream.codec_context
        if not context or not context.sample_rate:
            raise MediaError(f"the sound of {self._name} has no known coding. Convert it again.")
        if not self._is_trusted and not context.name.startswith(("pcm_", *_UNTRUSTED_CODECS)):
            raise MediaError(
                f"the coding {context.name} is not taken here: give a wav, flac, ogg, mp3 or m4a"
            )
        self.rate, self.n_samples = int(context.sample_rate), None
        if stream.duration is not None and stream.time_base is not None:
            self.n_samples = self._believed(int(stream.duration * stream.time_base * self.rate))
        return self._decoded(self._container.decode(cast("Any", stream)))

    def _decoded(self, frames: Iterable[Any]) -> Iterator[Float]:
        import av

        resampler = av.AudioResampler(format="fltp", layout="mono", rate=self.rate)
        try:
            for frame in frames:
                for out in resampler.resample(frame):
                    if out.samples:
                        yield downmix(out.to_ndarray()[0])
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(f"the sound of {self._name} is damaged: {error}. Convert it again.") from error


def claimed_frames(source: Source, fps: int) -> int | None:
    """Frames that a sound lasts, as its file says; None where it does not. Raises: MediaError: as ``AudioFile``."""
    with closing(AudioFile(source)) as file:
        return None if file.n_samples is None else frame_count(file.n_samples, file.rate, fps)


def _is_seekable(file: BinaryIO) -> bool:
    return (
        hasattr(file, "seek") and hasattr(file, "tell") and (not hasattr(file, "seekable") or file.seekable())
    )


def _untrusted(head: bytes) -> str:
    """FFmpeg's name of a container that strangers may send. Raises: MediaError: it is another."""
    form = _UNTRUSTED.get(container_of(head) or "")
    if form is None:
        raise MediaError("this is no sound that can be read here: give a wav, flac, ogg, mp3, m4a or webm")
    return form


def read_audio(source: Source) -> tuple[Float, int]:
    """Read the (first) sound of a sound or video file.

    Returns samples float32 [n] mono in -1..1 and their rate in Hz.
    Raises: MediaError: no such file, no sound inside, or damaged.
    """
    file = AudioFile(source)
    return np.concatenate(list(file)), file.rate

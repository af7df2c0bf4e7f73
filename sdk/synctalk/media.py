"""Files in and out: sound of any container, video frames, H.264 + AAC in mp4.

Pictures are uint8 [H, W, 3] RGB; sound is float32 mono. PyAV is imported on first use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synctalk.audio import to_mono, whole_rate
from synctalk.errors import MediaError
from synctalk.forks import renew_in_children
from synctalk.outputs import atomic_path, check_film
from synctalk.sound import Audio, FilmSound, open_sound
from synctalk.sound_file import Source, open_media, read_audio, source_name

if TYPE_CHECKING:
    from av.container import OutputContainer

__all__ = [
    "Mp4Writer",
    "VideoFrames",
    "atomic_path",
    "least_bytes",
    "open_media",
    "open_mp4",
    "read_audio",
    "read_video",
    "write_mp4",
]

Float = NDArray[np.float32]
Picture = NDArray[np.uint8]
_SOUND_BYTES_S, _PIXEL_BYTES = 4_000, 0.001
"""What quiet sound and still pictures take."""
_LEFT_BEHIND: list[Any] = []
"""Of a parent, by forked children: to close it would wait for its threads."""
_BT709 = 1
_LIMITED_RANGE = 1


class VideoFrames:
    """The frames of a video as uint8 [H, W, 3], decoded once and only as far as asked for. Thread-safe.

    They are kept as decoded: half the memory of RGB, for 0.15 ms a frame of 512 x 512.
    """

    def __init__(self, source: Source) -> None:
        """Raises: MediaError: unreadable, or without video."""
        from av.video.reformatter import VideoReformatter

        self._source = source
        self._frames: list[Any] = []
        self._reformatter = VideoReformatter
        self._begin(0)
        renew_in_children(self)

    def _begin(self, n_decoded: int) -> None:
        self._container = open_media(self._source)
        stream = self._container.streams.best("video")
        if stream is None or not stream.codec_context:
            raise MediaError(f"{source_name(self._source)} has no video stream that can be read.")
        # Frame threads cost memory and start late; plates have one slice; and a forked child would wait for threads.
        stream.codec_context.thread_count = 1
        self._decoded = self._container.decode(cast("Any", stream))
        for _ in range(n_decoded):
            next(self._decoded)
        self._to_rgb = self._reformatter()
        self._lock = threading.Lock()

    def renew_after_fork(self) -> None:
        """Go on; begin again where a thread was decoding in that moment."""
        if self._lock.locked():
            _LEFT_BEHIND.append((self._container, self._decoded, self._to_rgb))
            self._begin(len(self._frames))

    def __getitem__(self, index: int) -> Picture:
        """Frame ``index`` >= 0. Raises: IndexError: past the end; MediaError: damaged."""
        with self._lock:
            while len(self._frames) <= index:
                self._frames.append(self._decode())
            rgb = self._to_rgb.reformat(self._frames[index], format="rgb24", threads=1)
            picture = rgb.to_ndarray()
        picture.setflags(write=False)
        return np.asarray(picture, np.uint8)

    def __iter__(self) -> Iterator[Picture]:
        """The frames in order. Raises: MediaError: damaged."""
        for index in count():
            try:
                yield self[index]
            except IndexError:
                return

    def _decode(self) -> Any:
        import av

        try:
            return next(self._decoded)
        except StopIteration:
            self._container.close()
            raise IndexError(f"{source_name(self._source)} has {len(self._frames)} frames") from None
        except av.error.FFmpegError as error:
            raise MediaError(f"{source_name(self._source)} is damaged: {error}.") from error


def read_video(source: Source) -> Picture:
    """All frames of a video, uint8 [P, H, W, 3]. Raises: MediaError: unreadable, empty or damaged."""
    frames = list(VideoFrames(source))
    if not frames:
        raise MediaError(f"{source_name(source)} holds no frames.")
    return np.stack(frames)


class Mp4Writer:
    """Appends frames and sound to an open mp4; see ``open_mp4``."""

    def __init__(
        self, container: OutputContainer, path: str | os.PathLike[str], fps: int, rate: int | None, crf: int
    ) -> None:
        self._container, self._path, self._fps, self._rate, self._crf = container, path, fps, rate, crf
        self._video: Any = None
        self._audio: Any = None
        self._n_frames = 0
        self._n_samples = 0

    def write(self, image: Picture, audio: ArrayLike | None = None) -> None:
        """Append a frame, uint8 [H, W, 3], and the samples it plays with, [n] as ``audio.to_mono`` takes them."""
        if self._video is None:
            self._start(image)
        with _told(self._path):
            self._write(image, audio)

    def _write(self, image: Picture, audio: ArrayLike | None) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(self._even(image), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts = self._n_frames
        self._n_frames += 1
        self._container.mux(self._video.encode(frame))
        if audio is not None and self._audio is not None and np.size(audio):
            self._write_audio(to_mono(audio))

    def _start(self, image: Picture) -> None:
        height, width = self._even(image).shape[:2]
        video = self._container.add_stream("libx264", rate=self._fps)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"crf": str(self._crf), "preset": "veryfast"}
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        self._video = video
        if self._rate is not None:
            self._audio = self._container.add_stream("aac", rate=self._rate, layout="mono")
            self._audio.bit_rate = 128_000

    @staticmethod
    def _even(image: Picture) -> Picture:
        height, width = image.shape[:2]
        return np.ascontiguousarray(image[: height & ~1, : width & ~1, :3])

    def _write_audio(self, audio: Float) -> None:
        import av

        frame = av.AudioFrame.from_ndarray(audio[None], "fltp", "mono")
        frame.sample_rate = self._audio.rate
        frame.pts, frame.time_base = self._n_samples, Fraction(1, self._audio.rate)
        self._n_samples += len(audio)
        self._container.mux(self._audio.encode(frame))

    def finish(self) -> None:
        """Write what the encoders still hold. Raises: MediaError: there was no frame."""
        if self._video is None:
            raise MediaError("there are no frames to write. Give a sound that lasts.")
        with _told(self._path):
            self._container.mux(self._video.encode(None))
            if self._audio is not None:
                self._container.mux(self._audio.encode(None))


@contextmanager
def open_mp4(
    path: str | os.PathLike[str], fps: int, rate: int | None = None, crf: int = 18
) -> Iterator[Mp4Writer]:
    """A writer of an mp4 (H.264, AAC, index in front) that appears at ``path`` when the block ends well.

    rate: samples a second of the sound that will be written, None for a silent video; crf: 0 (best) .. 51. Odd sizes
    lose their last row or column: H.264 stores colour for 2 x 2 pixels.
    Raises: MediaError: a folder that cannot be written, or no frames.
    """
    import av

    rate = None if rate is None else whole_rate(rate)
    check_film(path)
    with atomic_path(path) as temporary:
        options = {"movflags": "+faststart"}
        container = av.open(str(temporary), "w", format="mp4", options=options)
        try:
            writer = Mp4Writer(container, path, fps, rate, crf)
            yield writer
            writer.finish()
        except BaseException:
            with suppress(OSError, av.error.FFmpegError):  # what comes first is told
                container.close()
            raise
        with _told(path):
            container.close()


@contextmanager
def _told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of a file system that is full, or gone, in words."""
    import av

    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        raise MediaError(
            f"cannot write {path}: {error.strerror or error}. Make room, or choose another folder."
        ) from error


def least_bytes(seconds: float, size: tuple[int, int], fps: int) -> float:
    """Fewer bytes than a film, and its copy while it is signed, can do with. size: width and height, pixels."""
    return 2.0 * seconds * (_SOUND_BYTES_S + _PIXEL_BYTES * size[0] * size[1] * fps)


def write_mp4(
    path: str | os.PathLike[str],
    frames: Iterable[Picture],
    fps: int,
    samples: Audio | None = None,
    rate: int | None = None,
    crf: int = 18,
) -> int:
    """Write frames (uint8 [H, W, 3]) and, if given, as much of their sound as they last; how many frames.

    samples, rate: any sound that ``Avatar.speak`` takes.
    Raises: MediaError: no frames, no sound, or a folder that cannot be written; ValueError: samples without ``rate``.
    """
    film: FilmSound | None = None
    if samples is not None:
        sound = open_sound(samples, rate)
        film = FilmSound(sound.rate)
        for _ in film.through(sound):
            pass
    n_frames = 0
    with open_mp4(path, fps, None if film is None else film.rate, crf) as writer:
        for image in frames:
            writer.write(image, None if film is None else film.take(n_frames, fps))
            n_frames += 1
    return n_frames

"""``Avatar``: load a bundle once, then turn sound into frames.

avatar = Avatar.from_bundle("may.avatar")
for frame in avatar.speak("hello.wav"):
    show(frame.image)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synctalk.backends import Backend, HeadRequest, create_backend
from synctalk.bundle import open_bundle
from synctalk.condition import ConditionStream, Shaping, Spoken
from synctalk.errors import BundleError
from synctalk.media import VideoFrames, frame_sound, open_mp4, playable, read_audio
from synctalk.render import compose, person_alpha
from synctalk.track import Track

if TYPE_CHECKING:
    from synctalk.bundle import Bundle

__all__ = ["Audio", "Avatar", "Frame", "describe"]

Float = NDArray[np.float32]
Chunk: TypeAlias = NDArray[Any] | bytes
Audio: TypeAlias = str | os.PathLike[str] | bytes | NDArray[Any] | Iterable[Chunk]
"""A file's path or content, samples, or chunks of samples (arrays, or bytes of little-endian 16-bit mono)."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and the sound it plays with, stamped on the audio clock."""

    image: NDArray[np.uint8]
    """[H, W, 3] RGB, or [H, W, 4] straight RGBA where that was asked for."""
    index: int
    pts_samples: int
    """When the frame starts, in samples at the avatar's rate (16 kHz) from the start of the sound."""
    audio: Float
    """[n] mono at the avatar's rate: 40 ms at 25 fps; the last frame's may be shorter."""
    speaking: bool
    """Whether somebody speaks here; where not, the mouth is at rest."""
    end_of_speech: bool
    """Whether this is the sound's last frame."""
    generation: int = 0
    """Counts interruptions: a frame of an older generation is stale."""
    render_ms: float = 0.0
    """How long this frame took: audio branch, head, composing."""


class Avatar:
    """A loaded avatar: weights once, any number of ``speak`` calls from any threads."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Most callers want ``from_bundle``."""
        self._bundle, self._backend = bundle, backend
        self._manifest = bundle.manifest
        self._spec = bundle.manifest.spec
        tensors = bundle.tensors
        self._track = Track(
            tensors["track.rotation"], tensors["track.translation"], tensors["track.expression"]
        )
        gain = float(np.ravel(tensors["condition.gain"])[0])
        self._shaping = Shaping(tensors["condition.rest"], tensors["condition.mean"], gain)
        self._appearance = np.asarray(tensors["field.appearance"], np.float32)
        self._plates = VideoFrames(bundle.read("plate.mp4"))
        self._background = VideoFrames(bundle.read("background.png"))

    @staticmethod
    def from_bundle(
        path: str | os.PathLike[str], device: str = "auto", backend: str = "auto", threads: int | None = None
    ) -> Avatar:
        """Load an avatar.

        path: a ``.avatar`` file or folder. device: ``auto``, ``cpu`` or ``cuda``. backend: ``auto`` takes the fastest
        that works here; a named one works or raises. threads: CPU threads, None for all this process may use.
        Raises: BundleError: missing, damaged or newer; BackendError: what was asked for cannot work here.
        """
        bundle = open_bundle(Path(path))
        return Avatar(bundle, create_backend(backend, bundle, device=device, threads=threads))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame, pixels."""
        return self._manifest.frame.width, self._manifest.frame.height

    @property
    def fps(self) -> int:
        """Frames a second."""
        return self._spec.fps

    @property
    def sample_rate(self) -> int:
        """Samples a second of the clock that frames are stamped on."""
        return self._spec.audio.sample_rate

    def speak(self, audio: Audio, sample_rate: int | None = None, *, rgba: bool = False) -> Iterator[Frame]:
        """Frames for a sound, ``ceil(fps * seconds)`` of them, each as soon as the sound it needs is there.

        audio: a path; the bytes of a sound file; samples [n] or [n, channels] of int16, int32, uint8 or float; or an
        iterable of such chunks (or of bytes: little-endian 16-bit mono), which is read no further than needed.
        sample_rate: Hz, for samples and chunks. rgba: pictures with an alpha of the person (``person_alpha``).
        Raises: MediaError: a sound that cannot be read; ValueError: samples without ``sample_rate``.
        """
        chunks, rate = _chunks(audio, sample_rate)
        return self._frames(chunks, rate, rgba)

    def save(
        self,
        path: str | os.PathLike[str],
        audio: Audio,
        sample_rate: int | None = None,
        *,
        on_frame: Callable[[Frame], None] | None = None,
    ) -> int:
        """Write an mp4 (H.264, AAC) of the avatar saying a sound; how many frames it has.

        audio, sample_rate: as for ``speak``. on_frame: called after each frame, to show progress.
        Raises: MediaError: a sound that cannot be read, or a place that cannot be written.
        """
        if not isinstance(audio, str | os.PathLike | bytes | np.ndarray):
            return self._write(path, self.speak(audio, sample_rate), None, self.sample_rate, on_frame)
        samples, rate = _whole(audio, sample_rate)
        sound, sound_rate = playable(samples, rate)
        return self._write(path, self.speak(samples, rate), sound, sound_rate, on_frame)

    def info(self) -> dict[str, Any]:
        """What this avatar is, in plain JSON types."""
        return describe(self._bundle) | {"backend": self._backend.name}

    def _frames(self, chunks: Iterable[NDArray[Any]], rate: int, rgba: bool) -> Iterator[Frame]:
        stream = ConditionStream(self._spec, rate, self._backend.condition, self._shaping)
        for chunk in chunks:
            yield from self._timed(stream.push(chunk), rgba)
        yield from self._timed(stream.flush(), rgba)

    def _timed(self, spoken: Iterator[Spoken], rgba: bool) -> Iterator[Frame]:
        started = time.perf_counter()
        for one in spoken:
            image = self._picture(one, rgba)
            frame_samples = self.sample_rate // self.fps
            yield Frame(
                image=image,
                index=one.index,
                pts_samples=one.index * frame_samples,
                audio=one.audio,
                speaking=one.is_speaking,
                end_of_speech=one.is_last,
                render_ms=1000.0 * (time.perf_counter() - started),
            )
            started = time.perf_counter()

    def _picture(self, spoken: Spoken, rgba: bool) -> NDArray[np.uint8]:
        at = self._track.index(spoken.index)
        request = HeadRequest(
            camera=self._manifest.camera,
            rotation=self._track.rotation[at],
            translation=self._track.translation[at],
            condition=spoken.condition,
            expression=self._track.expression[at],
            appearance=self._appearance,
        )
        head = self._backend.render_head(request)
        plate = self._plate(at)
        image = compose(head, plate)
        return np.dstack([image, person_alpha(head, plate, self._background[0])]) if rgba else image

    def _plate(self, index: int) -> NDArray[np.uint8]:
        try:
            return self._plates[index]
        except IndexError as error:
            raise BundleError(
                f"plate.mp4 has fewer frames than the motion track ({len(self._track)}): export the avatar again"
            ) from error

    def _write(
        self,
        path: str | os.PathLike[str],
        frames: Iterator[Frame],
        sound: Float | None,
        rate: int,
        on_frame: Callable[[Frame], None] | None,
    ) -> int:
        """Write frames with ``sound``, or with their own."""
        n_frames = 0
        with open_mp4(path, self.fps, rate) as writer:
            for frame in frames:
                own = frame.audio if sound is None else frame_sound(sound, rate, frame.index, self.fps)
                writer.write(frame.image, own)
                n_frames += 1
                if on_frame is not None:
                    on_frame(frame)
        return n_frames


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, in plain JSON types; it needs no backend."""
    manifest, spec = bundle.manifest, bundle.manifest.spec
    return {
        "name": manifest.name,
        "preset": spec.name,
        "width": manifest.frame.width,
        "height": manifest.frame.height,
        "fps": spec.fps,
        "sample_rate": spec.audio.sample_rate,
        "lookahead_ms": spec.audio.lookahead_ms,
        "track_frames": len(bundle.tensors["track.rotation"]),
        "licence": manifest.licence,
        "consent": manifest.consent,
        "made_by": manifest.made_by,
        "created": manifest.created,
        "training": manifest.training,
    }


def _whole(
    audio: str | os.PathLike[str] | bytes | NDArray[Any], rate: int | None
) -> tuple[NDArray[Any], int]:
    """The samples of a sound that is all there, and their rate."""
    if not isinstance(audio, np.ndarray):
        return read_audio(audio)
    if rate is None:
        raise ValueError("samples need a sample_rate: speak(samples, sample_rate=16_000)")
    return audio, rate


def _chunks(audio: Audio, rate: int | None) -> tuple[Iterable[NDArray[Any]], int]:
    """A sound as chunks and their rate. A whole sound is cut, so that the first frame comes soon."""
    if isinstance(audio, str | os.PathLike | bytes | np.ndarray):
        samples, own_rate = _whole(audio, rate)
        return (samples[i : i + own_rate] for i in range(0, len(samples), own_rate)), own_rate
    if rate is None:
        raise ValueError("chunks need a sample_rate: speak(chunks, sample_rate=16_000)")
    return (np.frombuffer(c, "<i2") if isinstance(c, bytes) else c for c in audio), rate

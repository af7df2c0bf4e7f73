"""``Avatar``: load a bundle once, then turn sound into frames.

avatar = Avatar.from_bundle("may.avatar")
for frame in avatar.speak("hello.wav"):
    show(frame.image)
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from synctalk.backends import Backend, BackendName, Detail, Device, Precision, create_backend
from synctalk.bundle import open_bundle
from synctalk.consent import check_consent
from synctalk.credentials import attach_credentials, check_credentials
from synctalk.errors import MediaError
from synctalk.executor import Executor
from synctalk.expression import Source
from synctalk.forks import renew_in_children
from synctalk.frame import Frame
from synctalk.info import AvatarInfo, describe
from synctalk.media import least_bytes, open_mp4
from synctalk.mock import MockBackend, MockBundle
from synctalk.outputs import atomic_path, check_film, check_space
from synctalk.paste import Paste
from synctalk.session import Session, SyncSession
from synctalk.sound import Audio, FilmSound, named_file, open_sound
from synctalk.stage import Stage
from synctalk.timeline import Limits, Pace, Timeline

if TYPE_CHECKING:
    from synctalk.bundle import Bundle

__all__ = ["DEMO", "Audio", "Avatar", "Frame"]

DEMO = Path(__file__).parent / "demo"
"""Where the demo avatar and its sentence lie."""

Float = NDArray[np.float32]


class Avatar:
    """A loaded avatar: weights once, any number of ``speak`` calls and sessions from any threads."""

    def __init__(self, bundle: Bundle | MockBundle, backend: Backend, *, watermark: bool = True) -> None:
        """Most callers want ``from_bundle``."""
        self._bundle, self._backend = bundle, backend
        self._stage = Stage(bundle, backend, watermark=watermark)
        self._executor: Executor | None = None
        self._executor_lock = threading.Lock()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """A child uses the weights that its parent loaded."""
        self._executor_lock = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an avatar cannot be pickled: give the other process the bundle's path, and load it there with "
            "Avatar.from_bundle"
        )

    @staticmethod
    def from_bundle(
        path: str | os.PathLike[str],
        device: Device = "auto",
        backend: BackendName = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
        detail: Detail = "auto",
        *,
        watermark: bool = True,
        allow_expired_consent: bool = False,
    ) -> Avatar:
        """Load an avatar.

        path: a ``.avatar`` file or folder. device: ``auto``, ``cpu`` or ``cuda``. backend: ``auto`` takes the fastest
        that works here; a named one works or raises. threads: CPU threads, None for all this process may use.
        precision: ``auto`` takes the fastest that export found good; or ``float32``, ``int16``, ``int8``.
        detail: ``auto`` renders heads at half the size on CPUs where the bundle can upsample them; or ``full``, ``half``.
        watermark: mark every frame invisibly; without, the app itself must see to it that its pictures are known as
        made by AI. allow_expired_consent: load, and log, what is otherwise refused.
        Raises: BundleError: missing, damaged or newer; BackendError: what was asked for cannot work here.
        """
        bundle = open_bundle(Path(path))
        check_consent(bundle.manifest, allow_expired=allow_expired_consent)
        chosen = create_backend(
            backend, bundle, device=device, threads=threads, precision=precision, detail=detail
        )
        return Avatar(bundle, chosen, watermark=watermark)

    @staticmethod
    def demo(
        device: Device = "auto",
        backend: BackendName = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
        detail: Detail = "auto",
    ) -> Avatar:
        """The computer-generated person that comes with synctalk; arguments as for ``from_bundle``.

        Raises: BundleError: this installation lacks it; BackendError: as ``from_bundle``.
        """
        return Avatar.from_bundle(DEMO / "demo.avatar", device, backend, threads, precision, detail)

    @staticmethod
    def mock(seed: int = 0) -> Avatar:
        """An avatar without weights or file, 64 x 64 pixels: a drawn face whose mouth opens with the sound.

        For the tests of apps: everything else is the real thing, and the same sound gives the same frames. Its sessions
        are admitted on the busiest machine.
        """
        bundle = MockBundle(seed)
        avatar = Avatar(bundle, MockBackend(bundle.manifest))
        avatar._executor = Executor(load_limit=math.inf)
        return avatar

    def __enter__(self) -> Avatar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the avatar's own executor: open sessions' ``run`` ends. Memory is given back with the last reference; an
        avatar that is closed twice, or used again, is no mistake."""
        with self._executor_lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.close()

    @property
    def path(self) -> Path | None:
        """The bundle that was loaded; None for ``mock``."""
        return getattr(self._bundle, "path", None)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame, pixels."""
        return self._stage.size

    @property
    def fps(self) -> int:
        """Frames a second."""
        return self._stage.spec.fps

    @property
    def sample_rate(self) -> int:
        """Samples a second of the clock that frames are stamped on."""
        return self._stage.spec.audio.sample_rate

    def speak(
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        rgba: bool = False,
        expression: Source = "generated",
        seed: int = 0,
    ) -> Iterator[Frame]:
        """Frames for a sound, ``ceil(fps * seconds)`` of them, each as soon as the sound it needs is there.

        audio: a path; the bytes of a sound file; an open binary file; samples [n], [n, channels] or [channels, n]; raw
        bytes (little-endian 16-bit mono); or an iterable of samples or bytes, which is read no further than needed.
        sample_rate: Hz, for samples and raw bytes; what has a rate of its own must agree. rgba: pictures with an alpha of the person (``person_alpha``).
        expression: ``generated`` adds blinks, and brows that follow the voice, to the recorded expression; ``recorded``
        is that alone. seed: of the blinks.
        Raises: MediaError: a sound that cannot be read; ValueError: samples without ``sample_rate``, or not the file's
        own; TypeError: nothing that could be a sound.
        """
        sound = open_sound(audio, sample_rate)
        return _frames(Timeline(self._stage, rgba=rgba, expression=expression, seed=seed), sound, sound.rate)

    def save(
        self,
        path: str | os.PathLike[str],
        audio: Audio,
        sample_rate: int | None = None,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        credentials: bool = True,
        expression: Source = "generated",
        seed: int = 0,
        paste: Paste | None = None,
    ) -> int:
        """Write an mp4 (H.264, AAC) of the avatar saying a sound; how many frames it has.

        audio, sample_rate, expression, seed: as for ``speak``. on_frame: called after each frame, to show progress. credentials: sign into
        the file that an AI made it (``synctalk.credentials``). paste: the
        full-size video to put the frames back into, from ``onto``; its own sound is not heard.
        Raises: MediaError: a sound that cannot be read; a place that cannot be written, or is one of the inputs; no room;
        keys that cannot sign. All that can be is checked before the first frame.
        """
        check_film(path, self.path, named_file(audio), None if paste is None else paste.source)
        if credentials:
            check_credentials()
        sound = open_sound(audio, sample_rate)
        if sound.n_samples is not None:
            size = self.size if paste is None else paste.size
            check_space(path, least_bytes(sound.n_samples / sound.rate, size, self.fps))
        film = FilmSound(sound.rate)
        timeline = Timeline(self._stage, expression=expression, seed=seed)
        frames = _frames(timeline, film.through(sound), sound.rate)
        show = (lambda frame: frame.image) if paste is None else self._pasted(paste)
        with atomic_path(path) as unsigned:
            n_frames = self._write(unsigned, frames, film, on_frame, show)
            if credentials:
                self._sign(unsigned)
        return n_frames

    def _sign(self, film: Path) -> None:
        """Raises: MediaError: it cannot be signed; then it is kept under another name."""
        try:
            attach_credentials(film, self._bundle.manifest.id, self._bundle.manifest.name)
        except MediaError as error:
            kept = film.with_name(f"unsigned{film.name}")
            film.rename(kept)
            raise MediaError(f"{error}. The film without credentials is {kept}") from error

    def onto(self, source: str | os.PathLike[str]) -> Paste:
        """The full-size video that the avatar was cut from, for ``save(..., paste=...)``; it is looked through once.

        Raises: MediaError: unreadable, of another size, or another video.
        """
        return Paste(source, self._stage, self._bundle.manifest.placement)

    def session(
        self,
        *,
        pace: Pace = "realtime",
        idle: bool = True,
        rgba: bool = False,
        expression: Source = "generated",
        seed: int = 0,
        limits: Limits | None = None,
        executor: Executor | None = None,
    ) -> Session:
        """A stream of frames for asyncio: ``async with avatar.session() as session``.

        pace: ``realtime``: frame ``i`` comes ``i / fps`` seconds after the first; ``fast``: as fast as sound and machine
        allow. idle: frames go on while nobody speaks (in real time), with blinks and the mouth at rest; without, frames
        are exactly those of ``speak``. rgba, expression: as for ``speak``. seed: of blinks and sway. executor: to be
        shared by avatars on one machine; the avatar's own if left out.
        """
        timeline = Timeline(
            self._stage, pace=pace, idle=idle, rgba=rgba, expression=expression, seed=seed, limits=limits
        )
        return Session(timeline, executor or self.executor)

    def sync_session(
        self,
        *,
        pace: Pace = "realtime",
        idle: bool = True,
        rgba: bool = False,
        expression: Source = "generated",
        seed: int = 0,
        limits: Limits | None = None,
        executor: Executor | None = None,
    ) -> SyncSession:
        """A stream of frames without asyncio: ``with avatar.sync_session() as session``. See ``session``."""
        timeline = Timeline(
            self._stage, pace=pace, idle=idle, rgba=rgba, expression=expression, seed=seed, limits=limits
        )
        return SyncSession(timeline, executor or self.executor)

    @property
    def executor(self) -> Executor:
        """What draws for this avatar's sessions."""
        with self._executor_lock:
            if self._executor is None:
                self._executor = Executor()
            return self._executor

    @property
    def stage(self) -> Stage:
        """The loaded weights, motion and pictures, as sessions use them."""
        return self._stage

    def info(self) -> AvatarInfo:
        """What this avatar is."""
        return describe(self._bundle, self._backend.name)

    def _pasted(self, paste: Paste) -> Callable[[Frame], NDArray[np.uint8]]:
        return lambda frame: paste(self._stage.track.index(frame.index), frame.image)

    def _write(
        self,
        path: str | os.PathLike[str],
        frames: Iterator[Frame],
        film: FilmSound,
        on_frame: Callable[[Frame], None] | None,
        show: Callable[[Frame], NDArray[np.uint8]],
    ) -> int:
        """Write what is to be shown of frames, with the sound at its own rate."""
        n_frames = 0
        with open_mp4(path, self.fps, film.rate) as writer:
            for frame in frames:
                writer.write(show(frame), film.take(frame.index, self.fps, is_last=frame.end_of_speech))
                n_frames += 1
                if on_frame is not None:
                    on_frame(frame)
        return n_frames


def _frames(timeline: Timeline, chunks: Iterable[Float], rate: int) -> Iterator[Frame]:
    """The frames of a sound, as its chunks are read."""
    for chunk in chunks:
        timeline.push(chunk, rate)
        yield from _drawn(timeline)
    timeline.flush()
    yield from _drawn(timeline)


def _drawn(timeline: Timeline) -> Iterator[Frame]:
    """The frames that the sound so far allows, as fast as the machine can."""
    while (plan := timeline.plan(0.0)) is not None:
        timeline.finish(plan, plan.stage.draw(plan.shot), 0.0)
        if (frame := timeline.take(0.0)) is not None:
            yield frame

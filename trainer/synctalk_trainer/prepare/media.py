"""Steps ``media`` and ``sound``: the video at 25 fps on the audio clock, cropped around the head; its sound at 16 kHz.

Time zero is the first sample of the sound. Frame ``k`` shows the source picture whose time is nearest to ``k / 25``.
Where the pictures start later than the sound, both start at the first ``k`` that has a picture.
"""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk.audio import resample
from synctalk.errors import MediaError
from synctalk.media import atomic_path
from synctalk.spec import FPS
from synctalk_trainer.prepare.crop import find_crop
from synctalk_trainer.prepare.landmarks import Landmarker
from synctalk_trainer.prepare.source import Source, decode_frames, decode_sound, probe, sample_frames
from synctalk_trainer.prepare.workspace import ArrayWriter, Workspace

__all__ = ["RATE", "nearest_pictures", "run_media", "run_sound"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]

RATE = 16_000
_SHORT_S, _GOOD_S = 60.0, 120.0
"""A clip below the first is told how far it is below the second."""
_LARGEST = 512
_MULTIPLE = 8
"""Of the side: the upsampler halves it three times."""
_SAMPLES = 24
_SLACK_S = 0.5
"""Streams whose ends differ by less than this are not worth a warning."""


def run_media(work: Workspace, landmarker: Landmarker) -> None:
    """Write ``frames.npy``, as many as have sound.

    Raises: MediaError: unreadable, no sound, too short, no face, a face that is too small.
    """
    video = _video(work)
    source = probe(video)
    start, rate, sound = decode_sound(video)
    shortest_s = work.options.shortest_s
    _check_length(min(len(sound) / rate, source.duration_s or math.inf), shortest_s, source)
    crop = find_crop(sample_frames(video, _SAMPLES, source.duration_s), landmarker, source, work)
    size = work.options.size or min(_LARGEST, round(crop.side / _MULTIPLE) * _MULTIPLE)
    limit_s = len(sound) / rate
    with ArrayWriter.open(work.folder / "frames.npy") as writer:
        first, end_s = 0, 0.0
        for k, time, picture in nearest_pictures(decode_frames(video), start, limit_s):
            first, end_s = (k if writer.n == 0 else first), time - start
            writer.append(crop.cut(picture, size))
            work.advance(min(1.0, k / (limit_s * FPS)))
        _check_length(writer.n / FPS, shortest_s, source)
        n = min(writer.n, math.ceil(round(limit_s * RATE) * FPS / RATE) - first)
    _warn_of_ends(work, source, limit_s, end_s, first, n)
    _warn_of_length(work, n / FPS)
    work.info.update(n_frames=n, size=size, fps=FPS, source=source.to_dict(), crop=crop.to_dict())
    work.info.update(takes=[[0, n]], first_frame=first)


def run_sound(work: Workspace) -> None:
    """Write ``audio.wav``: the sound of the frames, later by ``sound_shift_ms``, with silence where there is none.

    Raises: MediaError: unreadable, no sound, a shift as long as the clip.
    """
    _, rate, sound = decode_sound(_video(work))
    samples = resample(sound, rate, RATE)
    first = work.info["first_frame"] * RATE // FPS - round(work.options.sound_shift_ms * RATE / 1000)
    n = work.n_frames * RATE // FPS
    heard = samples[max(0, first) : max(0, first + n)]
    if not len(heard):
        raise MediaError(
            f"--sound-shift {work.options.sound_shift_ms:g} leaves no sound in a clip of {work.n_frames / FPS:.1f} s: "
            "give milliseconds, below 0 where the sound is late"
        )
    before = max(0, -first)
    _write_wave(work.folder / "audio.wav", np.pad(heard, (before, n - before - len(heard))))


def _video(work: Workspace) -> Path:
    if work.video is None:
        raise MediaError("no video was given: name the video that the dataset is made from")
    return work.video


def _check_length(seconds: float, shortest_s: float, source: Source) -> None:
    if seconds < shortest_s:
        raise MediaError(
            f"{source.name} has {seconds:.1f} s of picture with sound; at least {shortest_s:.0f} s are needed, "
            "and two to five minutes make a good avatar. Give a longer video."
        )


def nearest_pictures(
    frames: Iterator[tuple[float, Picture]], start_s: float, limit_s: float
) -> Iterator[tuple[int, float, Picture]]:
    """Resample to 25 fps: index ``k``, time and picture of the source frame nearest to ``start_s + k / 25``.

    The first ``k`` is the first that lies at most half a frame before the first picture; the last one begins before
    ``limit_s`` of sound ends, at most half a frame after the last picture's time (a held picture may last longer).
    """
    half = 0.5 / FPS
    k, end = 0, math.ceil(limit_s * FPS - 1e-6)
    last: tuple[float, Picture] | None = None
    for time, picture in frames:
        if last is None:
            k = max(0, math.ceil((time - start_s - half) * FPS - 1e-6))
        else:
            while k < end and start_s + k / FPS <= (last[0] + time) / 2:
                yield k, *last
                k += 1
        if k >= end:
            return
        last = (time, picture)
    while last is not None and k < end and start_s + k / FPS <= last[0] + half:
        yield k, *last
        k += 1


def _write_wave(path: Path, samples: Float) -> None:
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767.0).round().clip(-32768, 32767).astype("<i2").tobytes())


def _warn_of_ends(
    work: Workspace, source: Source, sound_s: float, picture_s: float, first: int, n: int
) -> None:
    if first:
        work.warn(
            "media",
            "late_video",
            f"the pictures start {first / FPS:.2f} s after the sound: the dataset starts there",
        )
    if picture_s + _SLACK_S < sound_s:
        work.warn(
            "media",
            "short_video",
            f"the pictures end {sound_s - picture_s:.1f} s before the sound: it is cut there",
            [(n / FPS, n / FPS)],
        )
    spare = source.duration_s - sound_s
    if spare > _SLACK_S:
        work.warn(
            "media",
            "short_audio",
            f"the sound ends {spare:.1f} s before the pictures: they are cut there",
            [(n / FPS, n / FPS)],
        )


def _warn_of_length(work: Workspace, seconds: float) -> None:
    if seconds < _SHORT_S:
        work.warn(
            "media",
            "short_clip",
            f"the clip has {seconds:.0f} s, {_GOOD_S - seconds:.0f} s below the two minutes that make a good avatar: sounds and sides of "
            "the head that do not occur are guessed. Film longer if you can.",
        )

"""Fakes for the tests of ``prepare``: drawn people, a landmarker and a segmenter that read them, and video files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.face_mesh import ANCHORS_CM, JAW, OVAL
from synctalk_trainer.prepare.landmarks import Face

Picture = NDArray[np.uint8]
SKIN, HAIR, SHIRT, WALL = (220, 170, 140), (60, 40, 20), (40, 60, 160), (150, 200, 150)


def mesh_m() -> NDArray[np.float64]:
    """A face mesh [478, 3] in head space, metres."""
    rng = np.random.default_rng(3)
    points = rng.uniform((-0.06, -0.07, 0.0), (0.06, 0.07, 0.05), (478, 3))
    for i, index in enumerate(OVAL):
        angle = 2 * np.pi * i / len(OVAL)
        points[index] = (0.075 * np.sin(angle), 0.09 * np.cos(angle), 0.0)
    for index, place in ANCHORS_CM.items():
        points[index] = np.array(place) / 100
    points[list(JAW), 2] = 0.02
    return points


def draw_person(size: int, x: float, y: float, face: float, code: int = 0) -> Picture:
    """A person whose face is centred at (x, y), ``face`` pixels high; ``code`` (8 bits) is written as blocks."""
    picture = np.full((size, size, 3), WALL, np.uint8)
    at = (round(x), round(y))
    cv2.rectangle(picture, (round(x - face), round(y + 0.75 * face)), (round(x + face), size), SHIRT, -1)
    cv2.rectangle(
        picture, (round(x - 0.2 * face), round(y)), (round(x + 0.2 * face), round(y + 0.8 * face)), SKIN, -1
    )
    cv2.ellipse(
        picture,
        (at[0], round(y - 0.1 * face)),
        (round(0.5 * face), round(0.62 * face)),
        0,
        180,
        360,
        HAIR,
        -1,
    )
    cv2.ellipse(picture, at, (round(0.4 * face), round(0.5 * face)), 0, 0, 360, SKIN, -1)
    for bit in range(8):
        level = 255 if code >> bit & 1 else 0
        picture[4:16, 4 + 12 * bit : 16 + 12 * bit] = level
    return picture


def read_code(picture: Picture) -> int:
    """The number that ``draw_person`` wrote."""
    return sum(1 << bit for bit in range(8) if picture[6:14, 6 + 12 * bit : 14 + 12 * bit].mean() > 128)


class FakeLandmarker:
    """Finds drawn faces by the colour of their skin."""

    def detect(self, picture: Picture) -> list[Face]:
        skin = (np.abs(picture.astype(int) - SKIN).max(axis=-1) < 40).astype(np.uint8)
        skin = cv2.morphologyEx(skin, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        n, _, stats, _ = cv2.connectedComponentsWithStats(skin)
        parts = sorted((tuple(map(float, stats[i])) for i in range(1, n)), key=lambda part: -part[4])
        return [self._face(*part[:3]) for part in parts[:2] if part[4] > 60]

    @staticmethod
    def _face(left: float, top: float, width: float) -> Face:
        face = width / 0.8
        points = mesh_m() * np.array([1, -1, -1]) * (face / 0.18)
        points += np.array([left + width / 2, top + face / 2, 0.0])
        shapes = np.full(52, 0.25, np.float32)
        return Face(points.astype(np.float32), shapes, np.eye(4, dtype=np.float32))


class FakeSegmenter:
    """Takes everything that is not the wall as the person."""

    def person(self, picture: Picture) -> NDArray[np.float32]:
        is_wall = np.abs(picture.astype(int) - WALL).max(axis=-1) < 40
        is_wall[:20, :104] = True  # the written number
        return (~is_wall).astype(np.float32)


def write_video(
    path: Path,
    pictures: list[Picture],
    times_s: list[float] | None = None,
    fps: int = 25,
    sound_s: float | None = None,
    sound_at_s: float = 0.0,
) -> Path:
    """A Matroska file with pictures at the given times and a sound of clicks, one a second."""
    times = times_s or [k / fps for k in range(len(pictures))]
    seconds = sound_s if sound_s is not None else times[-1] + 1 / fps - sound_at_s
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=fps, options={"crf": "12", "preset": "ultrafast", "bf": "0"}
        )
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt, video.time_base = "yuv420p", Fraction(1, 1000)
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono") if seconds > 0 else None
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            samples = np.zeros(round(seconds * 16_000), np.int16)
            samples[::16_000] = 20_000
            for first in range(0, len(samples), 1600):
                chunk = av.AudioFrame.from_ndarray(samples[None, first : first + 1600], "s16", "mono")
                chunk.sample_rate, chunk.time_base = 16_000, Fraction(1, 16_000)
                chunk.pts = first + round(sound_at_s * 16_000)
                container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
    return path

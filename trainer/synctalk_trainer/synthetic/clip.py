"""A talking-head clip of a computer-generated person, with exact ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from synctalk.errors import MediaError
from synctalk.geometry import Camera
from synctalk_trainer.synthetic.motion import Motion, move
from synctalk_trainer.synthetic.plain_head import plain_head
from synctalk_trainer.synthetic.render import Person, Pose, Renderer, make_person
from synctalk_trainer.synthetic.rig import Floats, load_ict
from synctalk_trainer.synthetic.speech import SAMPLE_RATE, Speech, babble, say

__all__ = ["synthesize"]

_VIEW_M = 0.46
"""Height of what the picture shows, at the distance of the head."""
_DISTANCE_M = 1.0

_Truth = dict[str, list[NDArray[Any]]]


@dataclass(frozen=True)
class _Scene:
    """One clip before it is drawn."""

    person: Person
    renderer: Renderer
    motion: Motion
    speech: Speech
    camera: Camera
    fps: int


def synthesize(
    out_folder: Path,
    seconds: float,
    size: int = 360,
    seed: int = 0,
    head: Path | None = None,
    fps: int = 25,
    voice: Literal["espeak", "babble"] = "espeak",
    turn: float = 1.0,
    grain: float = 0.9,
) -> Path:
    """Render ``video.mp4`` (H.264 and AAC, ``size`` x ``size``) and ``truth.npz`` into ``out_folder``.

    ``seed`` chooses identity, colours, motion and voice. ``head``: the ICT-FaceKit light mesh (.npz); without it a
    plain procedural head speaks. ``voice``: "espeak" reads sentences; "babble" needs no library. ``turn``: factor on the
    head's angles. ``grain``: standard deviation of the sensor's noise, of 255.

    ``truth.npz``: rotation [N, 3, 3], translation [N, 3] (head to camera), torso_rotation, torso_translation, focal_px, centre [2] (conventions of ``synctalk/geometry.py``); expression [N, K] with expression_names; gaze [N, 2] (degrees: to the left, up); aperture_m [N] (inner lips);
    masks uint8 [N, S, S] (0 background, 1 torso, 2 head); landmarks_m [N, 68, 3] (moving, head space) and rigid_m [68, 3] (neutral face); phoneme_names, phoneme_times [P, 2] in seconds.
    Returns the path of the video.

    Raises: MediaError: the clip is too short or too small, or espeak-ng is missing; ModelError: ``head`` is not the mesh.
    """
    if seconds < 0.5 or size < 64 or size % 2:
        raise MediaError(
            f"got {seconds} s at {size} pixels: a clip needs at least 0.5 s and an even size from 64"
        )
    out_folder = Path(out_folder)
    out_folder.mkdir(parents=True, exist_ok=True)
    scene = _set_up(seconds, size, seed, head, fps, voice, turn)
    truth: _Truth = {"masks": [], "aperture_m": [], "landmarks_m": []}
    video = out_folder / "video.mp4"
    partial = out_folder / "video.partial.mp4"
    _write_video(partial, _frames(scene, seed, grain, truth), scene, size)
    partial_truth = out_folder / "truth.partial.npz"
    arrays: dict[str, Any] = _truth(scene, truth)
    np.savez_compressed(partial_truth, **arrays)
    partial_truth.replace(out_folder / "truth.npz")
    partial.replace(video)
    return video


def _set_up(
    seconds: float, size: int, seed: int, head: Path | None, fps: int, voice: str, turn: float
) -> _Scene:
    """Draw the person, what they say and how they move."""
    supersampling = 2
    identity = np.random.default_rng([seed, 0])
    rig = load_ict(head, identity) if head is not None else plain_head(identity)
    detail = 1.0 if head is not None else 0.12
    person = make_person(rig, seed, size * supersampling, detail)
    spoken = np.random.default_rng([seed, 2])
    gender = "m" if person.has_stubble else "f"
    speech = say(seconds, spoken, gender) if voice == "espeak" else babble(seconds, spoken)
    camera = Camera(size, size, size * _DISTANCE_M / _VIEW_M, size / 2, size / 2)
    start = np.array([0.0, -0.035, _DISTANCE_M], np.float32)
    n_frames = int(len(speech.audio) * fps / SAMPLE_RATE)
    motion = move(speech, rig.names, n_frames, fps, start, np.random.default_rng([seed, 3]), turn)
    return _Scene(person, Renderer(person, camera, supersampling), motion, speech, camera, fps)


def _frames(scene: _Scene, seed: int, grain: float, truth: _Truth) -> Iterator[NDArray[np.uint8]]:
    """Draw frame after frame and note its truth."""
    motion, renderer, head = scene.motion, scene.renderer, scene.person.head
    generator = np.random.default_rng([seed, 4])
    for i in track(
        range(len(motion.expression)), description="Rendering", disable=len(motion.expression) < 250
    ):
        yaw, pitch = (float(angle) for angle in motion.gaze[i])
        pose = Pose(
            motion.rotation[i],
            motion.translation[i],
            motion.torso_rotation[i],
            motion.torso_translation[i],
            motion.expression[i],
            (yaw, pitch),
        )
        drawn = renderer.draw(pose)
        truth["masks"].append(drawn.mask)
        truth["aperture_m"].append(np.array(renderer.aperture(drawn.vertices), np.float32))
        truth["landmarks_m"].append(drawn.vertices[head.landmarks])
        noise = generator.standard_normal(drawn.picture.shape[:2], np.float32)[..., None] * np.float32(grain)
        yield (drawn.picture + noise + 0.5).clip(0, 255).astype(np.uint8)


def _truth(scene: _Scene, drawn: _Truth) -> dict[str, NDArray[Any]]:
    motion, camera, head = scene.motion, scene.camera, scene.person.head
    phonemes = scene.speech.phonemes
    return {
        "rotation": motion.rotation,
        "translation": motion.translation,
        "torso_rotation": motion.torso_rotation,
        "torso_translation": motion.torso_translation,
        "focal_px": np.array(camera.focal_px, np.float32),
        "centre": np.array([camera.centre_x, camera.centre_y], np.float32),
        "expression": motion.expression,
        "expression_names": np.array(head.names),
        "gaze": motion.gaze,
        "rigid_m": head.to_metres(head.vertices[head.landmarks]),
        "phoneme_names": np.array([p.name for p in phonemes]),
        "phoneme_times": np.array([(p.start, p.end) for p in phonemes], np.float32),
        **{name: np.stack(values) for name, values in drawn.items()},
    }


def _write_video(path: Path, frames: Iterator[NDArray[np.uint8]], scene: _Scene, size: int) -> None:
    """Encode frames and speech so that frame k plays at k / fps of the sound."""
    samples_per_frame = Fraction(SAMPLE_RATE, scene.fps)
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=scene.fps, options={"crf": "14", "preset": "fast", "threads": "1"}
        )
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        sound.bit_rate = 96_000
        done = 0
        for i, picture in enumerate(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            until = int((i + 1) * samples_per_frame)
            container.mux(sound.encode(_audio_frame(scene.speech.audio[done:until], done)))
            done = until
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


def _audio_frame(samples: Floats, first: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    frame.pts = first
    frame.time_base = Fraction(1, SAMPLE_RATE)
    return frame

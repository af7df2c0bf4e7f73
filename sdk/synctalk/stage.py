"""A loaded avatar as speech and sessions see it: it listens to sound and draws shots. Thread-safe, without a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from synctalk.backends import Backend, BatchBackend, HeadRequest
from synctalk.condition import ConditionStream, Shaping
from synctalk.errors import BackendError, BundleError
from synctalk.forks import Birthplace
from synctalk.geometry import head_turn
from synctalk.manifest import Manifest
from synctalk.media import VideoFrames
from synctalk.render import compose, person_alpha, replace_background
from synctalk.track import Track
from synctalk.watermark import Watermark

__all__ = ["LoadedBundle", "Shot", "Stage"]

Float = NDArray[np.float32]
Picture = NDArray[np.uint8]

NECK_M = np.array([0.0, -0.08, -0.03], np.float32)
"""Where a turned head hinges, in head space: there the head meets the recorded neck."""


class LoadedBundle(Protocol):
    """What a stage reads of a bundle."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def tensors(self) -> dict[str, NDArray[np.generic]]: ...
    def read(self, member: str) -> bytes: ...


@dataclass(frozen=True, eq=False)
class Shot:
    """What one picture shows."""

    at: int
    """Which recorded frame gives pose and plate."""
    condition: Float
    """[C], the mouth."""
    expression: Float
    """[E]"""
    pose_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Pitch, yaw, roll on top of the recorded pose (``geometry.head_turn``)."""
    background: Picture | None = None
    """uint8 [H, W, 3] or [3] instead of the recorded one."""
    background_share: float = 1.0
    """How far ``background`` has replaced the recorded one, 0..1."""
    rgba: bool = False


class Stage:
    """The weights, motion and pictures of one avatar."""

    def __init__(self, bundle: LoadedBundle, backend: Backend, *, watermark: bool = True) -> None:
        """watermark: mark every picture invisibly (``synctalk.watermark``)."""
        tensors = bundle.tensors
        self.backend = backend
        self._batches = backend if isinstance(backend, BatchBackend) else None
        self.spec = bundle.manifest.spec
        self.size = (bundle.manifest.frame.width, bundle.manifest.frame.height)
        self.track = Track(
            _float(tensors["track.rotation"]),
            _float(tensors["track.translation"]),
            _float(tensors["track.expression"]),
            _float(tensors["expression.range"]) if "expression.range" in tensors else None,
        )
        gain = float(np.ravel(tensors["condition.gain"])[0])
        rest, mean = _float(tensors["condition.rest"]), _float(tensors["condition.mean"])
        self.shaping = Shaping(rest, mean, gain)
        self._camera = bundle.manifest.camera
        self._appearance = _float(tensors["field.appearance"])
        self._plates = VideoFrames(bundle.read("plate.mp4"))
        self._background = VideoFrames(bundle.read("background.png"))
        self._watermark = Watermark(*self.size) if watermark else None
        self._birthplace = Birthplace()

    @property
    def is_marked(self) -> bool:
        """Whether pictures carry the invisible mark."""
        return self._watermark is not None

    @property
    def is_batched(self) -> bool:
        """Whether many shots together cost less than one after the other."""
        return self._batches is not None

    @property
    def frame_samples(self) -> int:
        """Samples of the audio clock that one frame lasts."""
        return self.spec.audio.sample_rate // self.spec.fps

    def listen(self, rate: int) -> ConditionStream:
        """A new sound of that many samples a second. Raises: MediaError: an impossible rate; BackendError: forked."""
        self._check_process()
        return ConditionStream(self.spec, rate, self.backend.condition, self.shaping)

    def draw(self, shot: Shot) -> Picture:
        """uint8 [H, W, 3], or [H, W, 4] for ``shot.rgba``. Raises: BundleError: plates that do not fit the track."""
        return self.draw_all([shot])[0]

    def draw_all(self, shots: Sequence[Shot]) -> list[Picture]:
        """As ``draw``, of shots of any sessions: together, where the backend draws batches."""
        self._check_process()
        requests, plates = [self._request(shot) for shot in shots], [self.plate(shot.at) for shot in shots]
        if self._batches is None:
            heads = [self.backend.render_head(request) for request in requests]
            return [self._over(*each) for each in zip(shots, heads, plates, strict=True)]
        images: dict[int, Picture] = {}
        if cut := [i for i, shot in enumerate(shots) if _is_cut_out(shot)]:  # they need the head alone
            heads = self._batches.draw([requests[i] for i in cut]).numpy()
            images |= {i: self._over(shots[i], head, plates[i]) for i, head in zip(cut, heads, strict=True)}
        if plain := [i for i, shot in enumerate(shots) if not _is_cut_out(shot)]:
            below = np.stack([plates[i] for i in plain])
            drawn = self._batches.draw([requests[i] for i in plain], below).numpy()
            images |= {i: self._marked(picture.copy()) for i, picture in zip(plain, drawn, strict=True)}
        return [images[i] for i in range(len(shots))]

    def _check_process(self) -> None:
        """Raises: BackendError: a GPU was taken into a forked child, where it answers nothing."""
        is_on_gpu = self.is_batched or getattr(self.backend, "device", "cpu") == "cuda"
        if is_on_gpu and not self._birthplace.is_here:
            raise BackendError(
                f"backend {self.backend.name}: this avatar was loaded on the GPU before the process was forked. Load it "
                "in the child (Avatar.from_bundle), or start children with multiprocessing's 'spawn'"
            )

    def _request(self, shot: Shot) -> HeadRequest:
        rotation, translation = self.track.rotation[shot.at], self.track.translation[shot.at]
        if any(shot.pose_deg):
            turn = head_turn(*shot.pose_deg)
            translation = translation + rotation @ (NECK_M - turn @ NECK_M)
            rotation = rotation @ turn
        return HeadRequest(
            camera=self._camera,
            rotation=rotation,
            translation=translation,
            condition=shot.condition,
            expression=shot.expression,
            appearance=self._appearance,
        )

    def _over(self, shot: Shot, head: Float, plate: Picture) -> Picture:
        """A shot's picture from the head alone."""
        image = compose(head, plate)
        if not _is_cut_out(shot):
            return self._marked(image)
        alpha = person_alpha(head, plate, self._background[0])
        if shot.background is not None:
            image = replace_background(image, alpha, shot.background, shot.background_share)
        image = self._marked(image)
        return np.dstack([image, alpha]) if shot.rgba else image

    def _marked(self, image: Picture) -> Picture:
        if self._watermark is not None:
            self._watermark.apply(image)
        return image

    def plate(self, index: int) -> Picture:
        """Torso and background of a recorded frame, uint8 [H, W, 3]. Raises: BundleError: too few of them."""
        try:
            return self._plates[index]
        except IndexError as error:
            raise BundleError(
                f"plate.mp4 has fewer frames than the motion track ({len(self.track)}): export the avatar again"
            ) from error


def _is_cut_out(shot: Shot) -> bool:
    """Whether the person is told from what is behind."""
    return shot.rgba or shot.background is not None


def _float(values: NDArray[np.generic]) -> Float:
    return np.asarray(values, np.float32)

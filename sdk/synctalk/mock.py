"""An avatar without weights, for the tests of apps: small, quick, deterministic, and in step with the sound.

Only the learned functions are stand-ins: the mouth opens as loud as the sound is at the frame's own time, the head is
a disc. Sound, gate, sessions, composing and clocks are the real ones.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.backends import HeadRequest
from synctalk.bundle import Frame, Manifest, Placement
from synctalk.geometry import Camera
from synctalk.spec import preset

__all__ = ["MOCK_SIZE", "MockBackend", "MockBundle"]

Float = NDArray[np.float32]
Picture = NDArray[np.uint8]

MOCK_SIZE = 64
"""Width and height of a mock avatar's frames, pixels."""

_TRACK = 50
_QUIET, _LOUD = -4.0, -2.0
"""Mean mel values at which the mouth is shut, and wide open"""

_SKIN, _EYE, _MOUTH = (0.87, 0.67, 0.55), (0.15, 0.2, 0.3), (0.45, 0.08, 0.1)


class MockBundle:
    """What an ``Avatar`` reads of a bundle: a slowly nodding track of two seconds, plates with a torso."""

    def __init__(self, seed: int = 0) -> None:
        spec = preset("default")
        n_condition, n_expression = spec.field.condition, spec.field.expression
        self.manifest = Manifest(
            id=f"mock-{seed}",
            name="Mock",
            spec=spec,
            frame=Frame(MOCK_SIZE, MOCK_SIZE, spec.fps),
            camera=Camera(MOCK_SIZE, MOCK_SIZE, 3.0 * MOCK_SIZE, MOCK_SIZE / 2, MOCK_SIZE / 2),
            placement=Placement(MOCK_SIZE, MOCK_SIZE, 0.0, 0.0, float(MOCK_SIZE)),
            made_by="synctalk mock",
            created="2026-01-01T00:00:00+00:00",
            licence="Apache-2.0",
            consent="computer-generated picture, nobody's likeness",
        )
        walk = np.linspace(0.0, np.pi, _TRACK)
        offset = np.random.default_rng(seed).uniform(-0.01, 0.01, 3)
        translation = np.tile(offset + np.array([0.0, 0.0, 1.2]), (_TRACK, 1))
        translation[:, 1] += 0.006 * np.cos(walk)
        expression = np.zeros((_TRACK, n_expression))
        expression[:3] = np.array([0.3, 1.0, 0.3])[:, None]  # a blink, at one end of the walk
        self.tensors: dict[str, NDArray[Any]] = {
            "track.rotation": np.tile(np.diag([1.0, -1.0, -1.0]).astype(np.float32), (_TRACK, 1, 1)),
            "track.translation": translation.astype(np.float32),
            "track.expression": expression.astype(np.float32),
            "condition.rest": np.zeros(n_condition, np.float32),
            "condition.mean": np.zeros(n_condition, np.float32),
            "condition.gain": np.ones(1, np.float32),
            "field.appearance": np.zeros(spec.field.appearance, np.float32),
        }

    def read(self, member: str) -> bytes:
        """``plate.mp4`` or ``background.png``, both lossless."""
        background = np.full((MOCK_SIZE, MOCK_SIZE, 3), (96, 128, 160), np.uint8)
        if member == "background.png":
            return _encode("apng", [background])
        plate = background.copy()
        plate[3 * MOCK_SIZE // 4 :, MOCK_SIZE // 5 : -MOCK_SIZE // 5] = (40, 44, 60)
        return _encode("apng", [plate] * _TRACK)


class MockBackend:
    """Listens for loudness, draws a disc with eyes and a mouth."""

    name = "mock"

    def __init__(self, manifest: Manifest) -> None:
        self._field, self._audio = manifest.spec.field, manifest.spec.audio
        self._blinks = [
            i for i, name in enumerate(self._field.expression_names) if name.startswith("eyeBlink")
        ]
        rows, columns = np.mgrid[: 2 * MOCK_SIZE, : 2 * MOCK_SIZE] - (MOCK_SIZE - 0.5)
        distance = np.hypot(rows / 0.3, columns / 0.24) / MOCK_SIZE
        alpha = np.clip((1.0 - distance) * 0.25 * MOCK_SIZE, 0.0, 1.0)[..., None]
        self._points = np.array(
            [[0, 0, 0], [0.04, 0.03, 0.09], [-0.04, 0.03, 0.09], [0, -0.06, 0.09]], np.float32
        )
        self._disc = np.concatenate([alpha * _SKIN, alpha], axis=2).astype(np.float32)

    def condition(self, windows: Float) -> Float:
        """[N, taps, mels, columns] -> [N, C]: the first is how wide the mouth is, 0..1; the rest is 0."""
        now = self._audio.window_columns - self._audio.window_future_columns
        heard = np.maximum(windows[:, self._audio.taps_past, :, now : now + 3], _QUIET)
        level = heard.mean(axis=(1, 2)) - _QUIET
        condition = np.zeros((len(windows), self._field.condition), np.float32)
        condition[:, 0] = np.clip(level / (_LOUD - _QUIET), 0.0, 1.0)
        return condition

    def render_head(self, request: HeadRequest) -> Float:
        """Premultiplied RGBA [H, W, 4] in 0..1."""
        camera = request.camera
        seen = self._points @ request.rotation.T + request.translation  # [4, 3] metres
        where = camera.focal_px * seen[:, :2] / seen[:, 2:] + MOCK_SIZE / 2
        centre, left, right, mouth = [
            [min(MOCK_SIZE - 8, max(8, round(value))) for value in pair] for pair in where.tolist()
        ]
        x, y = MOCK_SIZE - centre[0], MOCK_SIZE - centre[1]
        head = self._disc[y : y + MOCK_SIZE, x : x + MOCK_SIZE].copy()
        shut = float(request.expression[self._blinks].max(initial=0.0))
        for column, row in (left, right):
            _fill(head, row, column, max(1, round(3 * (1.0 - shut))), 3, _EYE)
        opening = min(1.0, max(0.0, float(request.condition[0])))
        _fill(head, mouth[1], mouth[0], 1 + round(6 * opening), 5, _MOUTH)
        return head


def _fill(
    head: Float, row: int, column: int, height: int, half_width: int, colour: tuple[float, ...]
) -> None:
    head[row - height // 2 : row - height // 2 + height, column - half_width : column + half_width] = (
        *colour,
        1.0,
    )


def _encode(form: str, pictures: list[Picture]) -> bytes:
    """Pictures as one lossless file."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream: Any = container.add_stream("apng", rate=25)
        stream.height, stream.width, stream.pix_fmt = (*pictures[0].shape[:2], "rgb24")
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()

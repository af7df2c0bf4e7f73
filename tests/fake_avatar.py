"""A bundle and a backend made of plain arrays, for tests of what lies above the seam."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import av
import numpy as np
import onnx
from synctalk.avatar import Avatar
from synctalk.backends import HeadRequest
from synctalk.bundle import Frame, Manifest, Placement, tensor_shapes, write_bundle
from synctalk.geometry import Camera
from synctalk.media import write_mp4
from synctalk.render import compose
from synctalk.spec import Spec, preset

SIZE, TRACK = 48, 5


@cache
def _plates() -> bytes:
    """Grey pictures, lighter from frame to frame."""
    frames = [np.full((SIZE, SIZE, 3), 60 + 20 * i, np.uint8) for i in range(TRACK)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plate.mp4"
        write_mp4(path, frames, 25, crf=1)
        return path.read_bytes()


@cache
def _background() -> bytes:
    """Like the plates' first frame on the left, black on the right: the torso is on the right."""
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[:, : SIZE // 2] = 60
    encoder = av.CodecContext.create("png", "w")
    encoder.width = encoder.height = SIZE
    encoder.pix_fmt, encoder.framerate = "rgb24", 25
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


class FakeBundle:
    """What ``Avatar`` reads of a bundle."""

    def __init__(self, spec: Spec) -> None:
        n = spec.field.condition
        self.manifest = Manifest(
            id="fake",
            name="Fake",
            spec=spec,
            frame=Frame(SIZE, SIZE, 25),
            camera=Camera(SIZE, SIZE, 100.0, SIZE / 2, SIZE / 2),
            placement=Placement(SIZE, SIZE, 0.0, 0.0, float(SIZE)),
            made_by="tests",
            created="2026-01-01T00:00:00Z",
            licence="Apache-2.0",
            consent="computer-generated",
        )
        self.tensors = {
            "track.rotation": np.tile(np.eye(3, dtype=np.float32), (TRACK, 1, 1)),
            "track.translation": np.arange(TRACK * 3, dtype=np.float32).reshape(TRACK, 3),
            "track.expression": np.zeros((TRACK, spec.field.expression), np.float32),
            "condition.rest": np.zeros(n, np.float32),
            "condition.mean": np.zeros(n, np.float32),
            "condition.gain": np.ones(1, np.float32),
            "field.appearance": np.zeros(spec.field.appearance, np.float32),
        }

    def read(self, member: str) -> bytes:
        return {"plate.mp4": _plates, "background.png": _background}[member]()


class FakeBackend:
    """A red square whose height is how loud it is; remembers what was asked."""

    name = "fake"

    def __init__(self, n_condition: int) -> None:
        self.n_condition = n_condition
        self.requests: list[HeadRequest] = []

    def condition(self, windows: np.ndarray) -> np.ndarray:
        heard = windows[..., -25:-1]  # 0.3 s; behind them is the voice
        level = (heard.mean(axis=(1, 2, 3)) + 4.0) / 8.0
        return np.repeat(level[:, None], self.n_condition, axis=1).astype(np.float32)

    def render_head(self, request: HeadRequest) -> np.ndarray:
        self.requests.append(request)
        head = np.zeros((SIZE, SIZE, 4), np.float32)
        height = 4 + int(20 * request.condition[0])
        head[10 : 10 + height, 16:32] = (0.5, 0.0, 0.0, 0.5)
        return head


class FakeFrames:
    """Pictures that are somewhere else."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def numpy(self) -> np.ndarray:
        return self._values


class FakeBatchBackend(FakeBackend):
    """The same, many at once; remembers how many."""

    def __init__(self, n_condition: int) -> None:
        super().__init__(n_condition)
        self.batches: list[int] = []

    def draw(
        self, requests: Sequence[HeadRequest], plates: np.ndarray | None = None, stream: int | None = None
    ) -> FakeFrames:
        self.batches.append(len(requests))
        heads = np.stack([self.render_head(request) for request in requests])
        if plates is None:
            return FakeFrames(heads)
        return FakeFrames(np.stack([compose(*each) for each in zip(heads, plates, strict=True)]))


def fake_avatar() -> tuple[Avatar, FakeBackend]:
    spec = preset("tiny")
    backend = FakeBackend(spec.field.condition)
    return Avatar(FakeBundle(spec), backend), backend  # type: ignore[arg-type]


def _audio_onnx(spec: Spec) -> bytes:
    """A linear map of the mel windows."""
    audio = spec.audio
    shape = [audio.n_taps, audio.n_mels, audio.window_values]
    weight = np.random.default_rng(1).standard_normal((int(np.prod(shape)), spec.field.condition)) * 1e-3
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["mel_windows"], ["flat"], axis=1),
            onnx.helper.make_node("MatMul", ["flat", "weight"], ["condition"]),
        ],
        "audio",
        [onnx.helper.make_tensor_value_info("mel_windows", onnx.TensorProto.FLOAT, ["N", *shape])],
        [
            onnx.helper.make_tensor_value_info(
                "condition", onnx.TensorProto.FLOAT, ["N", spec.field.condition]
            )
        ],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), "weight")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9, producer_name="tests"
    )
    return bytes(model.SerializeToString())


def write_tiny_bundle(path: Path) -> Path:
    """A whole bundle of the tiny preset with random weights, for native-cpu (its head and colour networks are tensors)."""
    spec = preset("tiny")
    generator = np.random.default_rng(0)
    tensors = {
        name: (generator.standard_normal(shape) * 0.1).astype(dtype)
        for name, (dtype, shape) in tensor_shapes(spec, TRACK).items()
    }
    fake = FakeBundle(spec)
    tensors |= {name: values for name, values in fake.tensors.items() if not name.startswith("track")}
    tensors["track.rotation"] = np.tile(np.diag(np.float32([1, -1, -1])), (TRACK, 1, 1))
    tensors["track.translation"] = np.tile(np.float32([0, 0, 0.8]), (TRACK, 1))
    tensors["field.ranges"] = np.abs(tensors["field.ranges"])
    tensors["field.byte_reach"] = np.array([0.7], np.float32)
    tensors["occupancy"] = np.full_like(tensors["occupancy"], 255)
    members = dict.fromkeys(("head.onnx", "colour.onnx"), b"not used here")
    members |= {"audio.onnx": _audio_onnx(spec), "plate.mp4": _plates(), "background.png": _background()}
    write_bundle(path, fake.manifest, tensors, members)
    return path

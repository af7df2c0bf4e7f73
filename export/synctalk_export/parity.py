"""Is a bundle the same function as the trained model? PyTorch, ONNX Runtime and the native renderer, side by side."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk import _native
from synctalk.backends import Backend, HeadRequest, create_backend
from synctalk.backends.field_march import FieldMarcher
from synctalk.backends.half_size import Modulation
from synctalk.backends.sessions import open_model, open_session, usable_cpus
from synctalk.bundle import TENSORS, Bundle
from synctalk.errors import ExportError
from synctalk_trainer.modules import Field
from synctalk_trainer.upsampler import Upsampler

from .calibrate import Half
from .onnx_models import Enlarge, upsampler_model
from .subject import Subject

__all__ = [
    "Check",
    "check_parity",
    "half_check",
    "int8_check",
    "int16_check",
    "parity_table",
    "upsampler_checks",
    "upsampler_int8_check",
]

Float = NDArray[np.float32]

_N_POINTS, _N_WINDOWS, _N_FRAMES = 4096, 16, 2
_FRAME_SIDE = 256
"""Frames are compared at this size at most."""

_TOLERANCE = 5e-4
"""Of the largest value, or of 1 where all are smaller."""
_COLOUR_TOLERANCE = 1e-4
_FRAME_DB = 60.0
_BYTE_DB = 40.0
"""What 8-bit integers may cost."""
_ROUNDING_DB = 46.0
"""What half precision of the planes may cost."""
_HALF_DB = 55.0
"""What half precision of the networks may cost: less than the planes' rounding."""
_UPSAMPLED_BYTE_DB = 48.0
"""As good as those of the renderer: what they cost does not measure (docs/native.md)."""
_UPSAMPLED_LOSS_DB = 0.3
"""What rendering at half the size may cost on frames that were held out."""


@dataclass(frozen=True)
class Check:
    """One comparison: the largest difference, its PSNR for pictures, and what was allowed."""

    what: str
    max_abs: float
    limit: float
    psnr_db: float | None = None
    """Where given, ``limit`` is the least PSNR; else the largest difference."""

    @property
    def passed(self) -> bool:
        if self.psnr_db is not None:
            return self.psnr_db >= self.limit
        return self.max_abs <= self.limit


def check_parity(subject: Subject, bundle: Bundle, seed: int = 0) -> list[Check]:
    """Compare a bundle with the model it was made from, on random inputs and on frames of its track.

    Raises: ExportError: a comparison beyond its tolerance; the message holds the table.
    """
    generator = np.random.default_rng(seed)
    rounded = _half_precision(subject.field)
    checks = [
        _audio_check(subject, bundle, generator),
        *_point_checks(rounded, bundle, generator),
        *_frame_checks(subject, rounded, bundle),
    ]
    if not all(check.passed for check in checks):
        raise ExportError(
            f"the bundle is not the trained model:\n{parity_table(checks)}\n"
            "train a little longer if half precision is to blame; else report it with this table"
        )
    return checks


def int16_check(bundle: Bundle) -> Check:
    """The native renderer in 16-bit integers against itself in float32; one that fails is not offered."""
    return _integer_check(bundle, "int16", _FRAME_DB)


def int8_check(bundle: Bundle, reach: float) -> Check:
    """The same where layers behind a ReLU have bytes, of which 7 bits span that share of the ranges."""
    trial = copy.copy(bundle)
    trial.tensors = bundle.tensors | {"field.byte_reach": np.array([reach], np.float32)}
    return _integer_check(trial, "int8", _BYTE_DB)


def _integer_check(bundle: Bundle, precision: str, limit_db: float) -> Check:
    requests = _requests(bundle)
    exact, fast = (
        _rendered(create_backend("native-cpu", bundle, precision=chosen, detail="full"), requests)
        for chosen in ("float32", precision)
    )
    return _picture_check(f"frames: native-cpu float32 - {precision}", exact, fast, limit_db)


def half_check(bundle: Bundle, head_model: bytes, half: Sequence[str]) -> Check:
    """The head with some networks in half precision against the bundle's ``head.onnx``; one that fails is not offered."""
    providers = ["CPUExecutionProvider"]
    colour = open_session(bundle, "colour.onnx", providers)
    frames = []
    for model in (bundle.read("head.onnx"), head_model):
        head = open_model(model, bundle.read(TENSORS), providers, "head")
        marcher = _session_marcher(bundle, head, colour)
        frames.append([marcher.render(request) for request in _requests(bundle)])
    return _picture_check(
        f"frames: onnx float32 - {' and '.join(half)} in float16", frames[0], frames[1], _HALF_DB
    )


def upsampler_checks(subject: Subject, seed: int = 0) -> list[Check]:
    """The upsampler in ONNX Runtime and in the native module against PyTorch, and what it lost on held-out frames; one
    that fails is not offered.

    Empty where the subject has no upsampler.
    """
    if subject.upsampler is None:
        return []
    design, generator = subject.upsampler.spec, np.random.default_rng(seed)
    sizes = {"N": 2, "H": 48, "W": 56}
    feed = {
        name: generator.random([axis if isinstance(axis, int) else sizes[axis] for axis in shape], np.float32)
        for name, shape in design.inputs.items()
    }
    small = feed[next(iter(feed))]  # the picture comes first
    small[generator.random(small.shape[:3]) < 0.5] = 0.0
    with torch.no_grad():
        exact = Enlarge(subject.upsampler)(*(torch.from_numpy(values) for values in feed.values())).numpy()
    model = open_model(
        upsampler_model(subject.upsampler, subject.spec), b"", ["CPUExecutionProvider"], "upsampler"
    )
    (onnx,) = model.run(list(design.outputs), feed)
    upsampler, modulation = native_network(subject.upsampler), Modulation(subject.upsampler.tensors())
    native = np.empty_like(exact, order="C")
    for picture, drive, out in zip(small, feed["drive"], native, strict=True):
        upsampler.apply(picture, modulation(drive), out)
    scores = subject.upsampler_figures
    regions = ("psnr_full", "psnr_head", "psnr_mouth")
    loss = max(scores["full"][region] - scores["half"][region] for region in regions)
    return [
        Check("upsampler: torch - onnx", _max_abs(exact, onnx), _COLOUR_TOLERANCE),
        Check("upsampler: torch - native", _max_abs(exact, native), _COLOUR_TOLERANCE),
        Check("held-out frames: dB lost at half size", max(0.0, loss), _UPSAMPLED_LOSS_DB),
    ]


def native_network(upsampler: Upsampler, ranges: Sequence[float] = ()) -> _native.Upsampler:
    """The same in the native module."""
    return _native.Upsampler([weight.detach().numpy() for weight in upsampler.weights], list(ranges))


def upsampler_int8_check(upsampler: Upsampler, ranges: Float, heads: list[Half]) -> Check:
    """The native upsampler in 8-bit integers against itself in float32, on heads at half the size; one that fails is not
    offered."""
    modulation = Modulation(upsampler.tensors())

    def enlarged(network: _native.Upsampler) -> list[Float]:
        pictures = [np.empty((2 * head.shape[0], 2 * head.shape[1], 4), np.float32) for head, _ in heads]
        for (head, drive), picture in zip(heads, pictures, strict=True):
            network.apply(head, modulation(drive), picture)
        return pictures

    exact, fast = enlarged(native_network(upsampler)), enlarged(native_network(upsampler, ranges.tolist()))
    return _picture_check("heads: upsampler float32 - int8", exact, fast, _UPSAMPLED_BYTE_DB)


def _session_marcher(bundle: Bundle, head: Any, colour: Any) -> FieldMarcher:
    def query(positions: Float, condition: Float, expression: Float) -> tuple[Float, Float]:
        feed = {"positions": positions, "condition": condition, "expression": expression}
        log_density, feature = head.run(["log_density", "feature"], feed)
        return log_density, feature

    def colour_of(feature: Float, direction: Float, appearance: Float) -> Float:
        feed = {"feature": feature, "direction": direction, "appearance": appearance}
        rgb: Float = colour.run(["colour"], feed)[0]
        return rgb

    return FieldMarcher(
        bundle.manifest.spec.field, bundle.tensors["occupancy"], query, colour_of, usable_cpus()
    )


def parity_table(checks: list[Check]) -> str:
    """The comparisons as text, a line each."""
    width = max(len(check.what) for check in checks)
    lines = [f"{'':{width}}  largest difference      PSNR     allowed"]
    for check in checks:
        psnr = "" if check.psnr_db is None else f"{min(check.psnr_db, 999):.1f} dB"
        allowed = f"<= {check.limit:g}" if check.psnr_db is None else f">= {check.limit:g} dB"
        verdict = "" if check.passed else "  FAILS"
        lines.append(f"{check.what:{width}}  {check.max_abs:18.2e}  {psnr:>8}  {allowed:>10}{verdict}")
    return "\n".join(lines)


def _half_precision(field: Field) -> Field:
    """The field with its tables as the planes hold them."""
    rounded = copy.deepcopy(field)
    with torch.no_grad():
        rounded.tables.copy_(rounded.tables.half().float())
    return rounded


def _max_abs(a: Float, b: Float) -> float:
    return float(np.abs(a - b).max())


def _value_check(what: str, expected: Float, got: Float) -> Check:
    scale = max(1.0, float(np.abs(expected).max()))
    return Check(what, _max_abs(expected, got), float(f"{_TOLERANCE * scale:.2g}"))


def _audio_check(subject: Subject, bundle: Bundle, generator: np.random.Generator) -> Check:
    audio = subject.spec.audio
    shape = (_N_WINDOWS, audio.n_taps, audio.n_mels, audio.window_values)
    windows = generator.uniform(-4, 4, shape).astype(np.float32)
    with torch.no_grad():
        expected = subject.audio(torch.from_numpy(windows)).numpy()
    got = open_session(bundle, "audio.onnx", ["CPUExecutionProvider"]).run(None, {"mel_windows": windows})[0]
    return _value_check("audio: torch - onnx, condition", expected, got)


def _point_checks(field: Field, bundle: Bundle, generator: np.random.Generator) -> list[Check]:
    spec = field.spec
    positions = generator.uniform(-0.02, 1.02, (_N_POINTS, 3)).astype(np.float32)  # a little outside, too
    positions[: _N_POINTS // 8] = np.round(positions[: _N_POINTS // 8])  # corners
    condition = generator.normal(size=(_N_POINTS, spec.condition)).astype(np.float32)
    expression = generator.uniform(size=(_N_POINTS, spec.expression)).astype(np.float32)
    head = open_session(bundle, "head.onnx", ["CPUExecutionProvider"])
    feed = {"positions": positions, "condition": condition, "expression": expression}
    log_density, feature = head.run(["log_density", "feature"], feed)
    true_density, true_feature = _torch_head(field, positions, condition, expression)

    direction = generator.normal(size=(_N_POINTS, 3)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    appearance = generator.normal(size=(_N_POINTS, spec.appearance)).astype(np.float32)
    colour = open_session(bundle, "colour.onnx", ["CPUExecutionProvider"])
    feed = {"feature": feature, "direction": direction, "appearance": appearance}
    (rgb,) = colour.run(["colour"], feed)
    true_rgb = _torch_colour(field, feature, direction, appearance)
    return [
        _value_check("head: torch - onnx, log density", true_density, log_density),
        _value_check("head: torch - onnx, feature", true_feature, feature),
        Check("colour: torch - onnx", _max_abs(true_rgb, rgb), _COLOUR_TOLERANCE),
    ]


@torch.no_grad()
def _torch_head(field: Field, positions: Float, condition: Float, expression: Float) -> tuple[Float, Float]:
    arrays = [torch.from_numpy(np.array(values)) for values in (positions, condition, expression)]
    log_density, feature = field.query(*arrays)
    return log_density.numpy(), feature.numpy()


@torch.no_grad()
def _torch_colour(field: Field, feature: Float, direction: Float, appearance: Float) -> Float:
    arrays = [torch.from_numpy(np.array(values)) for values in (feature, direction, appearance)]
    colour: Float = field.colour_of(*arrays).numpy()
    return colour


def _marcher(field: Field, bundle: Bundle) -> FieldMarcher:
    """PyTorch in the place of a backend."""

    def head(positions: Float, condition: Float, expression: Float) -> tuple[Float, Float]:
        return _torch_head(field, positions, condition, expression)

    def colour(feature: Float, direction: Float, appearance: Float) -> Float:
        return _torch_colour(field, feature, direction, appearance)

    return FieldMarcher(field.spec, bundle.tensors["occupancy"], head, colour)


def _frame_checks(subject: Subject, rounded: Field, bundle: Bundle) -> list[Check]:
    requests = _requests(bundle)
    exact = [_marcher(subject.field, bundle).render(request) for request in requests]
    torch_frames = [_marcher(rounded, bundle).render(request) for request in requests]
    onnx_frames = _rendered(create_backend("onnxruntime", bundle, device="cpu", detail="full"), requests)
    native_frames = _rendered(
        create_backend("native-cpu", bundle, precision="float32", detail="full"), requests
    )
    return [
        _picture_check("frames: torch - onnx", torch_frames, onnx_frames, _FRAME_DB),
        _picture_check("frames: onnx - native-cpu", onnx_frames, native_frames, _FRAME_DB),
        _picture_check("frames: planes in half precision", exact, torch_frames, _ROUNDING_DB),
    ]


def _rendered(backend: Backend, requests: list[HeadRequest]) -> list[Float]:
    return [backend.render_head(request) for request in requests]


def _requests(bundle: Bundle) -> list[HeadRequest]:
    """Frames spread over the track, with the mean and the resting mouth."""
    tensors, camera = bundle.tensors, bundle.manifest.camera
    if (largest := max(camera.width, camera.height)) > _FRAME_SIDE:
        factor = _FRAME_SIDE / largest
        camera = camera.resized(round(camera.width * factor), round(camera.height * factor))
    frames = np.linspace(0, len(tensors["track.rotation"]) - 1, _N_FRAMES).astype(int)
    conditions = [tensors["condition.mean"], tensors["condition.rest"]]
    return [
        HeadRequest(
            camera=camera,
            rotation=tensors["track.rotation"][frame],
            translation=tensors["track.translation"][frame],
            condition=conditions[i % 2],
            expression=tensors["track.expression"][frame],
            appearance=tensors["field.appearance"],
        )
        for i, frame in enumerate(frames)
    ]


def _picture_check(what: str, a: list[Float], b: list[Float], limit_db: float) -> Check:
    """PSNR where either picture shows anything; infinite where they are equal."""
    difference = np.concatenate(
        [(x - y)[(x[..., 3] > 0) | (y[..., 3] > 0)] for x, y in zip(a, b, strict=True)]
    )
    if not difference.size:
        raise ExportError(
            "the head is not in the picture of its own track: the occupancy is empty; train longer"
        )
    squared = float(np.square(difference, dtype=np.float64).mean())
    psnr = -10 * math.log10(squared) if squared else math.inf
    return Check(what, float(np.abs(difference).max()), limit_db, psnr)

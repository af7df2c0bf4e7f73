"""A subject becomes a bundle: planes, tensors, ONNX files, plate; written as a draft, compared, then written for good."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk._version import __version__
from synctalk.bundle import Bundle, open_bundle, pack_tensors, write_bundle
from synctalk.errors import ExportError
from synctalk.manifest import Frame, Manifest
from synctalk_trainer.planes import node_planes
from synctalk_trainer.upsampler import Upsampler

from .calibrate import Half, activation_ranges, half_size_heads, upsampler_ranges
from .onnx_models import audio_model, colour_model, head_model, upsampler_model
from .parity import (
    Check,
    check_parity,
    half_check,
    int8_check,
    int16_check,
    upsampler_checks,
    upsampler_int8_check,
)
from .subject import Subject
from .track import choose_span, encode_plate, encode_png

__all__ = ["ExportOptions", "Exported", "export_bundle"]

_INFINITE_DB = 999.0
_EXPRESSION_RANGE = (0.002, 0.998)
"""Quantiles over the trained frames: what a single frame showed was hardly learned."""
_BYTE_REACHES = (1.0, 0.7)
"""Shares of the ranges that 7 bits may span: rare peaks are cut, so that all else is finer. At 0.5 one avatar of three
gained 1.5 dB, and another lost ten."""
_HALF_CHOICES = (("attention", "density"), ("attention",))
"""Networks that may compute in half precision, the boldest choice first."""


@dataclass(frozen=True)
class ExportOptions:
    """What the user chooses."""

    licence: str = "all rights reserved"
    consent: str = "not stated"
    plate_seconds: float = 12.0
    """Length of the plate and of the motion track, at most."""
    crf: int = 20
    """Quality of the plate, 0 (best) .. 51."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    manifest: Manifest
    checks: list[Check]


def export_bundle(
    subject: Subject,
    out: str | Path,
    options: ExportOptions | None = None,
    say: Callable[[str], None] | None = None,
) -> Exported:
    """Write a subject as a bundle that is the same function as the model; nothing is written where it is not.

    ``say`` is told each stage as it begins. Raises: ExportError: parity, empty occupancy, no usable stretch of frames.
    BundleError: ``out`` cannot be written.
    """
    options = options or ExportOptions()
    say = say or (lambda _: None)
    _check_subject(subject)
    size_checks = upsampler_checks(subject)
    if not all(check.passed for check in size_checks):
        say("the upsampler stays out: it costs too much on held-out frames")
        subject = replace(subject, spec=replace(subject.spec, upsampler=None), upsampler=None)
    first, end = choose_span(
        subject.takes,
        subject.usable,
        subject.rotation,
        subject.translation,
        max_frames=round(options.plate_seconds * subject.spec.fps),
    )
    say("planes and tensors")
    planes = node_planes(subject.field.tables.detach().numpy(), subject.spec.field.grid)
    tensors = planes | _tensors(subject, first, end)
    tensors["field.ranges"] = activation_ranges(subject, tensors["occupancy"])
    tensors["field.byte_reach"] = np.zeros(1, np.float32)  # found below; ONNX files point behind it
    if subject.upsampler is not None:
        tensors["upsampler.ranges"] = np.zeros(len(subject.upsampler.weights) - 1, np.float32)
    packed = pack_tensors(tensors)
    say("ONNX files")
    members = {
        "audio.onnx": audio_model(subject.audio, subject.spec),
        "head.onnx": head_model(subject.field, planes, subject.spec, packed),
        "colour.onnx": colour_model(subject.field, subject.spec),
    }
    if subject.upsampler is not None:
        members["upsampler.onnx"] = upsampler_model(subject.upsampler, subject.spec)
    say(f"plate: frames {first} to {end - 1}")
    members["plate.mp4"] = encode_plate(iter(subject.plates[first:end]), subject.spec.fps, options.crf)
    members["background.png"] = encode_png(subject.background)
    manifest = _manifest(subject, options, packed)
    say("parity: torch, onnx, native-cpu")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.avatar"
        write_bundle(draft, manifest, tensors, members)
        checks = check_parity(subject, open_bundle(draft))
        checks += _half_head(subject, planes, packed, open_bundle(draft), members)
        ranges, reach, integer_checks = _integers(open_bundle(draft))
        checks += integer_checks
        if subject.upsampler is not None:
            tensors["upsampler.ranges"], check = _upsampler_ranges(
                subject.upsampler, half_size_heads(subject, open_bundle(draft))
            )
            checks.append(check)
    tensors |= {"field.ranges": ranges, "field.byte_reach": np.array([reach], np.float32)}
    checks += size_checks
    manifest = replace(manifest, training={**subject.training, "parity": _figures(checks)})
    return Exported(Path(out), write_bundle(out, manifest, tensors, members), checks)


def _half_head(
    subject: Subject,
    planes: Mapping[str, NDArray[np.float16]],
    packed: bytes,
    bundle: Bundle,
    members: dict[str, bytes],
) -> list[Check]:
    """Add ``head.fp16.onnx`` with as many networks in half precision as the pictures bear; none where they bear none."""
    checks = []
    for half in _HALF_CHOICES:
        model = head_model(subject.field, planes, subject.spec, packed, half)
        checks.append(half_check(bundle, model, half))
        if checks[-1].passed:
            members["head.fp16.onnx"] = model
            break
    return checks


def _integers(bundle: Bundle) -> tuple[NDArray[np.float32], float, list[Check]]:
    """The ranges, zeros where integers are not good enough; the best reach of bytes, 0 where none is; the checks."""
    ranges = bundle.tensors["field.ranges"]
    checks = [int16_check(bundle)]
    if not checks[0].passed:
        return np.zeros_like(ranges), 0.0, checks  # the run time stays with float32
    trials = {reach: int8_check(bundle, reach) for reach in _BYTE_REACHES}
    reach = max(trials, key=lambda one: trials[one].psnr_db or 0.0)
    return ranges, reach if trials[reach].passed else 0.0, [*checks, trials[reach]]


def _upsampler_ranges(upsampler: Upsampler, heads: list[Half]) -> tuple[NDArray[np.float32], Check]:
    """The ranges of the upsampler's layers, zeros where 8-bit integers are not good enough; the check."""
    ranges = upsampler_ranges(upsampler, heads)
    check = upsampler_int8_check(upsampler, ranges, heads[:: max(1, len(heads) // 4)])
    return ranges if check.passed else np.zeros_like(ranges), check


def _check_subject(subject: Subject) -> None:
    if subject.camera.width % 2 or subject.camera.height % 2:
        raise ExportError(
            f"frames of {subject.camera.width} x {subject.camera.height} pixels: H.264 needs even sides; prepare the "
            "clip again with an even --size"
        )
    if not subject.occupancy.any():
        raise ExportError("the occupancy grid is empty: the head was not found in training; train longer")


def _tensors(subject: Subject, first: int, end: int) -> dict[str, NDArray[Any]]:
    """Everything of ``tensors.safetensors`` but the planes."""
    field = subject.field
    networks = {"attention": field.attention, "density": field.density, "colour": field.colour}
    tensors = {
        f"field.{name}.{i}": weight.detach().numpy()
        for name, weights in networks.items()
        for i, weight in enumerate(weights)
    }
    tensors |= {
        "field.appearance": subject.appearance,
        "track.rotation": subject.rotation[first:end],
        "track.translation": subject.translation[first:end],
        "track.expression": subject.expression[first:end],
        "expression.range": np.quantile(subject.expression[subject.usable], _EXPRESSION_RANGE, axis=0),
        "condition.rest": subject.condition_rest,
        "condition.mean": subject.condition_mean,
        "condition.gain": np.array([subject.condition_gain], np.float32),
    }
    if subject.upsampler is not None:
        tensors |= subject.upsampler.tensors()
    tensors = {name: np.ascontiguousarray(values, np.float32) for name, values in tensors.items()}
    tensors["occupancy"] = np.packbits(subject.occupancy.reshape(-1), bitorder="little")
    return tensors


def _manifest(subject: Subject, options: ExportOptions, packed: bytes) -> Manifest:
    camera, spec = subject.camera, subject.spec
    return Manifest(
        id=hashlib.sha256(packed).hexdigest()[:16],
        name=subject.name,
        spec=spec,
        frame=Frame(camera.width, camera.height, spec.fps),
        camera=camera,
        placement=subject.placement,
        made_by=f"synctalk {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        licence=options.licence,
        consent=options.consent,
    )


def _figures(checks: list[Check]) -> dict[str, dict[str, float]]:
    figures = {}
    for check in checks:
        figure = {"max_abs": float(f"{check.max_abs:.3g}")}
        if check.psnr_db is not None:
            figure["psnr_db"] = round(min(check.psnr_db, _INFINITE_DB), 1)
        figures[check.what] = figure
    return figures

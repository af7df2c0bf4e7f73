"""``manifest.json`` of a bundle: what an avatar is, and whose. Reading is strict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from synctalk.errors import BundleError
from synctalk.geometry import Camera
from synctalk.spec import Spec

__all__ = ["MANIFEST", "FileEntry", "Frame", "Manifest", "Placement"]

FORMAT = "synctalk-avatar"
VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of a member."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Frame:
    """The picture that is rendered: pixels, and frames a second."""

    width: int
    height: int
    fps: int


@dataclass(frozen=True)
class Placement:
    """Where the frame was cut from: a square at (``x``, ``y``) of ``side`` pixels in a ``width`` x ``height`` picture."""

    width: int
    height: int
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``: what an avatar is, and whose."""

    id: str
    name: str
    spec: Spec
    frame: Frame
    camera: Camera
    """In pixels of ``frame``."""
    placement: Placement
    made_by: str
    created: str
    """ISO 8601, UTC."""
    licence: str
    consent: str
    training: dict[str, Any] = field(default_factory=dict)
    """Figures of the training and of the parity check at export."""
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def lookahead_ms(self) -> float:
        """How far ahead of a frame its audio is needed."""
        return self.spec.audio.lookahead_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        camera = self.camera
        return {
            "format": FORMAT,
            "version": VERSION,
            "id": self.id,
            "name": self.name,
            "spec": self.spec.to_dict(),
            "frame": asdict(self.frame),
            "camera": {
                "focal_px": camera.focal_px,
                "centre_x": camera.centre_x,
                "centre_y": camera.centre_y,
            },
            "lookahead_ms": self.lookahead_ms,
            "files": {name: asdict(entry) for name, entry in sorted(self.files.items())},
            "made_by": self.made_by,
            "created": self.created,
            "licence": self.licence,
            "consent": self.consent,
            "training": self.training,
            "placement": asdict(self.placement),
        }

    @staticmethod
    def from_dict(values: Any) -> Manifest:
        """The inverse of ``to_dict``; strict.

        Raises: BundleError: another format, a newer version, an unknown or missing key, a wrong type or value.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise _manifest_error(f"format is not {FORMAT!r}", "this is not an avatar; export the run again")
        version = values.get("version")
        if type(version) is not int or version < 1:
            raise _manifest_error(f"version is {version!r}, not a whole number from 1")
        if version > VERSION:
            raise _manifest_error(
                f"version {version} is newer than {VERSION}, which this synctalk reads",
                "update: pip install --upgrade synctalk",
            )
        _check_keys(values, _MANIFEST_TYPES, "")
        frame = _record(Frame, values["frame"], "frame")
        eye = values["camera"]
        _check_keys(eye, {"focal_px": float, "centre_x": float, "centre_y": float}, "camera")
        manifest = Manifest(
            id=values["id"],
            name=values["name"],
            spec=_spec_of(values["spec"]),
            frame=frame,
            camera=Camera(frame.width, frame.height, eye["focal_px"], eye["centre_x"], eye["centre_y"]),
            placement=_record(Placement, values["placement"], "placement"),
            made_by=values["made_by"],
            created=values["created"],
            licence=values["licence"],
            consent=values["consent"],
            training=values["training"],
            files={k: _record(FileEntry, v, f"files.{k}") for k, v in values["files"].items()},
        )
        _check_values(manifest, values["lookahead_ms"])
        return manifest


_MANIFEST_TYPES: dict[str, type] = {
    "format": str,
    "version": int,
    "id": str,
    "name": str,
    "spec": dict,
    "frame": dict,
    "camera": dict,
    "lookahead_ms": float,
    "files": dict,
    "made_by": str,
    "created": str,
    "licence": str,
    "consent": str,
    "training": dict,
    "placement": dict,
}


def _manifest_error(what: str, remedy: str = "get the bundle again, or export the run again") -> BundleError:
    return BundleError(f"{MANIFEST}: {what}: {remedy}")


def _check_keys(values: Any, types: Mapping[str, type], where: str) -> None:
    """Check that a mapping has exactly these keys, with values of these JSON types."""
    if not isinstance(values, dict):
        raise _manifest_error(f"{where} is a {type(values).__name__}, not a mapping")
    prefix = f"{where}." if where else ""
    if unknown := sorted(set(values) - set(types)):
        raise _manifest_error(f"unknown keys {[prefix + key for key in unknown]}")
    if missing := sorted(set(types) - set(values)):
        raise _manifest_error(f"missing keys {[prefix + key for key in missing]}")
    for key, kind in types.items():
        value = values[key]
        accepted = (int, float) if kind is float else (kind,)
        is_right = isinstance(value, accepted) and not isinstance(value, bool)
        if not is_right or (kind is float and not math.isfinite(value)):
            raise _manifest_error(f"{prefix}{key} is {value!r}, expected {kind.__name__}")


_TYPES: dict[str, type] = {"int": int, "float": float, "str": str}


def _record(kind: type[Any], values: Any, where: str) -> Any:
    """A flat dataclass of numbers and texts from JSON."""
    _check_keys(values, {f.name: _TYPES[str(f.type)] for f in fields(kind)}, where)
    return kind(**values)


def _spec_of(values: Any) -> Spec:
    try:
        spec = Spec.from_dict(values)
        spec.field.grid.levels  # noqa: B018  derived here, so that nonsense fails here
        return spec
    except (ValueError, TypeError, ArithmeticError, KeyError) as error:
        raise _manifest_error(str(error)) from None


def _check_values(manifest: Manifest, lookahead_ms: float) -> None:
    frame, place, grid = manifest.frame, manifest.placement, manifest.spec.field
    if not (1 <= frame.width <= 8192 and 1 <= frame.height <= 8192):
        raise _manifest_error(f"frame is {frame.width} x {frame.height}, expected 1 to 8192 pixels")
    if frame.fps != manifest.spec.fps:
        raise _manifest_error(f"frame.fps is {frame.fps}, the spec's is {manifest.spec.fps}")
    if not manifest.camera.focal_px > 0 or not place.side > 0:
        raise _manifest_error("camera.focal_px and placement.side must be positive")
    if not 1 <= grid.occupancy_resolution <= 1024 or not grid.step_m > 0 or grid.max_samples < 1:
        raise _manifest_error("spec.field: occupancy_resolution, step_m or max_samples is out of range")
    if (up := manifest.spec.upsampler) is not None:
        if (
            up.width % 16
            or not 16 <= up.width <= 128
            or not 1 <= up.levels <= 4
            or not 1 <= up.hidden <= 1024
        ):
            raise _manifest_error("spec.upsampler: expected 1 to 4 levels of 16, 32 ... 128 channels")
        if up.expression != grid.expression:
            raise _manifest_error(
                f"spec.upsampler: expression is {up.expression}, the field's {grid.expression}"
            )
        if frame.width % up.multiple or frame.height % up.multiple:
            raise _manifest_error(f"spec.upsampler: the frame's sides must be multiples of {up.multiple}")
    if not math.isclose(lookahead_ms, manifest.lookahead_ms, abs_tol=1e-3):
        raise _manifest_error(f"lookahead_ms is {lookahead_ms}, the spec says {manifest.lookahead_ms}")

"""``manifest.json`` of a bundle: what an avatar is, and whose. Reading is strict; what an older version did not write yet
takes the value that held then."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from synctalk._version import __version__
from synctalk.errors import BundleError
from synctalk.geometry import Camera
from synctalk.spec import Spec

__all__ = [
    "AGAIN",
    "FORMAT",
    "MANIFEST",
    "VERSION",
    "FileEntry",
    "Frame",
    "Manifest",
    "Placement",
    "unreadable",
]

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
    version: int = VERSION
    """Of the format it was written in."""

    @property
    def lookahead_ms(self) -> float:
        """How far ahead of a frame its audio is needed."""
        return self.spec.audio.lookahead_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        camera = self.camera
        return {
            "format": FORMAT,
            "version": self.version,
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

        Raises: BundleError: another format, a newer version (with the synctalk that is needed), an unknown key, a missing
        one that no version leaves out, a wrong type or value.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BundleError(
                f"{MANIFEST}: format is not {FORMAT!r}: this is not an avatar; export the run again"
            )
        try:
            return _manifest_of(values)
        except ValueError as fault:
            raise unreadable(MANIFEST, str(fault), values.get("made_by")) from None


def _manifest_of(values: dict[str, Any]) -> Manifest:
    version = values.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"version is {version!r}, not a whole number from 1")
    if version > VERSION:
        what = f"format version {version} is newer than {VERSION}"
        raise unreadable(MANIFEST, what, values.get("made_by"), "update: pip install --upgrade synctalk")
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
        version=version,
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


AGAIN = "get the bundle again, or export the run again"


def unreadable(member: str, what: str, made_by: object, remedy: str = AGAIN) -> BundleError:
    """The error for what this version cannot read; where a newer synctalk made it, that one is needed."""
    needed = _newer(made_by)
    if needed is not None:
        command = f"pip install --upgrade 'synctalk>={needed}'"
        remedy = f"it was made by synctalk {needed}, and this is {__version__}: {command}"
    return BundleError(f"{member}: {what}: {remedy}", needed_version=needed)


def _newer(made_by: object) -> str | None:
    """The version in ``made_by`` where it is newer than this one."""
    found = re.match(r"synctalk (\d{1,6}(?:\.\d{1,6}){0,3})", str(made_by))
    return found[1] if found and _numbers(found[1]) > _numbers(__version__) else None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _check_keys(values: Any, types: Mapping[str, type], where: str) -> None:
    """Check that a mapping has exactly these keys, with values of these JSON types."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is a {type(values).__name__}, not a mapping")
    prefix = f"{where}." if where else ""
    if unknown := sorted(set(values) - set(types)):
        raise ValueError(f"unknown keys {[prefix + key for key in unknown]}")
    if missing := sorted(set(types) - set(values)):
        raise ValueError(f"missing keys {[prefix + key for key in missing]}")
    for key, kind in types.items():
        value = values[key]
        accepted = (int, float) if kind is float else (kind,)
        is_right = isinstance(value, accepted) and not isinstance(value, bool)
        if not is_right or (kind is float and not math.isfinite(value)):
            raise ValueError(f"{prefix}{key} is {value!r}, expected {kind.__name__}")


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
    except (TypeError, ArithmeticError, KeyError) as error:
        raise ValueError(f"spec: {error}") from None


def _check_values(manifest: Manifest, lookahead_ms: float) -> None:
    frame, place, grid = manifest.frame, manifest.placement, manifest.spec.field
    if not (1 <= frame.width <= 8192 and 1 <= frame.height <= 8192):
        raise ValueError(f"frame is {frame.width} x {frame.height}, expected 1 to 8192 pixels")
    if frame.fps != manifest.spec.fps:
        raise ValueError(f"frame.fps is {frame.fps}, the spec's is {manifest.spec.fps}")
    if not manifest.camera.focal_px > 0 or not place.side > 0:
        raise ValueError("camera.focal_px and placement.side must be positive")
    if not 1 <= grid.occupancy_resolution <= 1024 or not grid.step_m > 0 or grid.max_samples < 1:
        raise ValueError("spec.field: occupancy_resolution, step_m or max_samples is out of range")
    if (up := manifest.spec.upsampler) is not None:
        if (
            up.width % 16
            or not 16 <= up.width <= 128
            or not 1 <= up.levels <= 4
            or not 1 <= up.hidden <= 1024
        ):
            raise ValueError("spec.upsampler: expected 1 to 4 levels of 16, 32 ... 128 channels")
        if up.expression != grid.expression:
            raise ValueError(f"spec.upsampler: expression is {up.expression}, the field's {grid.expression}")
        if frame.width % up.multiple or frame.height % up.multiple:
            raise ValueError(f"spec.upsampler: the frame's sides must be multiples of {up.multiple}")
    if not math.isclose(lookahead_ms, manifest.lookahead_ms, abs_tol=1e-3):
        raise ValueError(f"lookahead_ms is {lookahead_ms}, the spec says {manifest.lookahead_ms}")

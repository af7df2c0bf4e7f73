"""What an avatar is, for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from synctalk.bundle import Bundle
from synctalk.consent import Consent
from synctalk.deprecation import deprecated
from synctalk.manifest import FORMAT
from synctalk.mock import MockBundle

__all__ = ["AvatarInfo", "describe"]


@dataclass(frozen=True)
class AvatarInfo:
    """What an avatar is."""

    format: str
    version: int
    """Of the format it was written in"""
    id: str
    name: str
    preset: str
    width: int
    """Pixels of a frame"""
    height: int
    fps: int
    sample_rate: int
    """Hz, of the clock that frames are stamped on"""
    lookahead_ms: float
    """How far ahead of a frame its sound is needed"""
    expressions: tuple[str, ...]
    """Coefficients that ``Control.set`` moves"""
    track_frames: int
    """Frames of recorded motion"""
    licence: str
    consent: Consent
    made_by: str
    created: str
    """ISO 8601, UTC"""
    training: dict[str, Any] = field(default_factory=dict)
    """Figures of the training and of the parity check at export"""
    backend: str | None = None
    """What computes it here; None where it was not loaded"""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"expressions": list(self.expressions), "consent": self.consent.to_dict()}

    def __getitem__(self, key: str) -> Any:
        """Deprecated: ``info.fps`` is in the place of ``info["fps"]``."""
        deprecated("avatar.info()[key]", "its attributes, such as avatar.info().fps, or .to_dict()")
        return self.to_dict()[key]


def describe(bundle: Bundle | MockBundle, backend: str | None = None) -> AvatarInfo:
    """What a bundle is; it need not be loaded."""
    manifest, spec = bundle.manifest, bundle.manifest.spec
    return AvatarInfo(
        format=FORMAT,
        version=manifest.version,
        id=manifest.id,
        name=manifest.name,
        preset=spec.name,
        width=manifest.frame.width,
        height=manifest.frame.height,
        fps=spec.fps,
        sample_rate=spec.audio.sample_rate,
        lookahead_ms=spec.audio.lookahead_ms,
        expressions=spec.field.expression_names,
        track_frames=len(bundle.tensors["track.rotation"]),
        licence=manifest.licence,
        consent=Consent.parse(manifest.consent),
        made_by=manifest.made_by,
        created=manifest.created,
        training=manifest.training,
        backend=backend,
    )

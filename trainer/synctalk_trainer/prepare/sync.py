"""Step ``sync``: are the lips and the sound in step? A warning with the milliseconds where they surely are not."""

from __future__ import annotations

import json

from ..audio_visual.films import SHORTEST, read_clip
from ..audio_visual.offset import Offset, SyncDetector
from .workspace import Workspace

__all__ = ["run_sync"]


def run_sync(work: Workspace) -> None:
    """Write ``sync.json``; warn of an offset of two frames or more that the windows agree on."""
    work.save()  # the takes are read back with the landmarks
    seen = work.arrays("landmarks.npz")["valid"]
    offset = SyncDetector().offset(read_clip(work.folder)) if seen.sum() >= SHORTEST else Offset(0, 0.0, 0)
    values = {"lips_late_ms": offset.ms, "agreement": offset.agreement, "windows": offset.n_windows}
    (work.folder / "sync.json").write_text(json.dumps(values), encoding="utf-8")
    if (sentence := offset.sentence()) is not None:
        work.warn("sync", "out_of_step", sentence)

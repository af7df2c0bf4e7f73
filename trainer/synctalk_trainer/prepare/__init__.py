"""``synctalk prepare``: from a video of one person to a dataset."""

from __future__ import annotations

from synctalk_trainer.prepare.pipeline import Summary, prepare
from synctalk_trainer.prepare.workspace import Options

__all__ = ["Options", "Summary", "prepare"]

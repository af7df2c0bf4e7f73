"""A computer-generated person who talks: video with exact ground truth. See ``docs/synthetic.md``."""

from __future__ import annotations

from synctalk_trainer.synthetic.clip import synthesize

__all__ = ["synthesize"]

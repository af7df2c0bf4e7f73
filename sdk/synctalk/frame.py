"""What comes out: one picture with its sound, on the audio clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame"]


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and the sound it plays with, stamped on the audio clock."""

    image: NDArray[np.uint8]
    """[H, W, 3] RGB, or [H, W, 4] straight RGBA where that was asked for."""
    index: int
    pts_samples: int
    """When the frame starts, in samples at the avatar's rate (16 kHz) from the start of the sound or session."""
    audio: NDArray[np.float32]
    """[n] mono at the avatar's rate: 40 ms at 25 fps; the last frame of a sound may have fewer without idle motion."""
    speaking: bool
    """Whether somebody speaks here; where not, the mouth is at rest."""
    end_of_speech: bool
    """Whether this is the last frame of a sound (in a session: of what ``flush`` ended)."""
    sound_pts_samples: int | None = None
    """Where ``audio`` begins in the utterance (what was pushed since the last ``flush``), in samples at the avatar's
    rate; None in idle frames."""
    generation: int = 0
    """Counts interruptions: a frame of an older generation is stale."""
    render_ms: float = 0.0
    """How long this frame took: audio branch, head, composing."""

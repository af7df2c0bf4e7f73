"""What comes out: one picture with its sound, on the audio clock."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame

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
    sample_rate: int = 16_000
    """Hz of ``pts_samples`` and ``audio``: the avatar's rate."""

    @property
    def pts_s(self) -> float:
        """When the frame starts, in seconds from the start of the sound or session."""
        return self.pts_samples / self.sample_rate

    def to_av(self) -> VideoFrame:
        """The picture for PyAV (encoders, aiortc), with its time: rgb24, or rgba; ``time_base`` 1 / ``sample_rate``."""
        from av import VideoFrame

        picture = VideoFrame.from_ndarray(self.image, "rgba" if self.image.shape[-1] == 4 else "rgb24")
        picture.pts, picture.time_base = self.pts_samples, Fraction(1, self.sample_rate)
        return picture

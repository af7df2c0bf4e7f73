"""The two networks that learn to agree: one hears 0.2 s of sound, the other sees a mouth for 0.2 s.

Source of the idea: Chung and Zisserman 2016, "Out of time" (a sound and a picture network with a common space).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mouths import MEASURES
from .voices import VISEME_NAMES

__all__ = [
    "COLUMNS",
    "MELS",
    "MOUTH_FRAMES",
    "POOLED_BANDS",
    "POOLED_COLUMNS",
    "AudioNetwork",
    "AudioVisual",
    "MouthNetwork",
]

MELS, COLUMNS = 80, 16
MOUTH_FRAMES = 5
"""Frames of the mouth that one embedding sees, its own in the middle."""
_CHANNELS = (16, 32, 64, 96, 128)
_KERNELS = ((5, 3), (3, 3), (3, 3), (3, 3), (5, 3))
_COMMON = 32
"""Width of the space in which sound and mouth are compared."""
POOLED_BANDS, POOLED_COLUMNS = 20, 8
"""The picture of the sound that the embedding must be able to give back."""
_LEFT = COLUMNS - 2 * len(_KERNELS)
"""Columns that are left of a window after convolutions without padding in time."""


class AudioNetwork(nn.Module):
    """Mel window [N, 1, 80, 16] -> embedding [N, D]: five convolutions and a linear layer.

    Nothing is padded in time, so that ``along`` gives the same embeddings for all frames of a segment at a third of the
    cost: neighbouring windows share their columns.
    """

    def __init__(self, n_embedding: int = 192) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 1
        for k, (n_out, kernel) in enumerate(zip(_CHANNELS, _KERNELS, strict=True)):
            is_last = k == len(_CHANNELS) - 1
            padding = 0 if is_last else kernel[0] // 2
            layers += [
                nn.Conv2d(n_in, n_out, kernel, 1 if is_last else (2, 1), (padding, 0), bias=False),
                nn.BatchNorm2d(n_out),
                nn.ReLU(),
            ]
            n_in = n_out
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(n_in * _LEFT, n_embedding)

    def forward(self, windows: Tensor) -> Tensor:
        left = self.convolutions(windows / 4.0)  # [N, 128, 1, 6]
        return torch.relu(self.project(left.flatten(1)))

    def along(self, mel: Tensor, starts: Tensor) -> Tensor:
        """Segments [B, 1, 80, T] and the first columns [B, L] of the windows in them -> embeddings [B * L, D]."""
        left = self.convolutions(mel / 4.0)[:, :, 0].unfold(2, _LEFT, 1)  # [B, 128, T - 15, 6]
        index = starts[:, None, :, None].expand(-1, left.shape[1], -1, _LEFT)
        chosen = left.gather(2, index).transpose(1, 2)  # [B, L, 128, 6]
        return torch.relu(self.project(chosen.flatten(0, 1).flatten(1)))


class MouthNetwork(nn.Module):
    """Standardised mouth measures of a few frames [N, MOUTH_FRAMES, measures] -> [N, common]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(MOUTH_FRAMES * len(MEASURES), 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, _COMMON),
        )

    def forward(self, mouths: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(mouths), dim=-1)


class AudioVisual(nn.Module):
    """Both networks, the common space, and what else the embedding must tell: the mouth's measures, the
    viseme, and roughly the sound itself, so that nothing is lost that a new speaker's mouth may follow."""

    def __init__(self, n_embedding: int = 192) -> None:
        super().__init__()
        self.audio = AudioNetwork(n_embedding)
        self.mouth = MouthNetwork()
        self.common = nn.Linear(n_embedding, _COMMON)
        self.measures = nn.Linear(n_embedding, len(MEASURES))
        self.viseme = nn.Linear(n_embedding, len(VISEME_NAMES))
        self.sound = nn.Linear(n_embedding, POOLED_BANDS * POOLED_COLUMNS)
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        """Logarithm of what similarities are multiplied by before they compete."""

    def heard(self, embedding: Tensor) -> Tensor:
        """Embedding [..., D] -> its place in the common space, [..., common], of unit length."""
        return nn.functional.normalize(self.common(embedding), dim=-1)

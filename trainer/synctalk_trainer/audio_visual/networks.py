"""The generic speech-to-mouth network: 0.8 s of anybody's sound, and what is known of the voice, to the mouth's measures."""

from __future__ import annotations

import torch
from synctalk.voice import average_voice
from torch import Tensor, nn

from .mouths import MEASURES

__all__ = [
    "COLUMNS",
    "EMBEDDING",
    "HINTS",
    "MELS",
    "N_MEASURES",
    "OUTPUTS",
    "REACH",
    "SPREAD",
    "SpeechToMouth",
]

MELS, COLUMNS = 80, 64
"""Mel columns of a window; the voice is one more."""
EMBEDDING = 128
N_MEASURES = len(MEASURES)
OUTPUTS = (*MEASURES, "shut", "speaking")
"""What the network says of a frame: the mouth's measures about the talker's mean in units of his spread; logits of "the lips
touch" and of "somebody speaks"."""
HINTS = 64
"""Values of what the teacher hears that the embedding must tell, too, while it is trained: they say much more of the sound
than a mouth does."""
_WIDTHS = (144, 144, 160)
_KERNELS = (4, 4, 3)
_LEFT = 6
"""Columns that are left of a window after three convolutions of stride 2."""
SPREAD, REACH = 1.0, 3.0
"""Deviation of mel values about a voice's own long-term spectrum while it speaks; what is farther is cut off."""


class _Layer(nn.Module):
    """A convolution over time that halves the columns, and one without neighbours beside it; batch norm and ReLU behind both."""

    def __init__(self, n_in: int, n_out: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(n_in, n_out, kernel, 2, bias=False)
        self.norm = nn.BatchNorm1d(n_out)
        self.beside = nn.Conv1d(n_out, n_out, 1, bias=False)
        self.beside_norm = nn.BatchNorm1d(n_out)

    def forward(self, x: Tensor, bias: Tensor | None = None, dilation: int = 0) -> Tensor:
        """x: [N, in, T] -> [N, out, T / 2]; with a dilation the columns stay as many, see ``SpeechToMouth.along``."""
        if dilation:
            y = nn.functional.conv1d(x, self.convolution.weight, dilation=dilation)
        else:
            y = self.convolution(x)
        y = torch.relu(self.norm(y if bias is None else y + bias))
        return torch.relu(y + self.beside_norm(self.beside(y)))


class SpeechToMouth(nn.Module):
    """Windows [N, 1, 80, 65] -> what they say [N, OUTPUTS], and an embedding [N, EMBEDDING].

    ``along`` gives the same for all frames of a segment at a quarter of the cost: convolutions of stride 2 on
    single windows are dilated ones on the segment. Source of the trick: Holschneider et al. 1989 (à trous).
    """

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.from_numpy(average_voice(MELS)).float())
        self.voice = nn.Linear(MELS, _WIDTHS[0])
        before = (MELS, *_WIDTHS[:-1])
        self.layers = nn.ModuleList(map(_Layer, before, _WIDTHS, _KERNELS))
        self.project = nn.Linear(_WIDTHS[-1] * _LEFT, EMBEDDING)
        self.say = nn.Linear(EMBEDDING, len(OUTPUTS))
        self.hint = nn.Linear(EMBEDDING, HINTS)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        mel, known = windows[:, 0, :, :COLUMNS], windows[:, 0, :, COLUMNS]
        hidden, bias = self.normalised(mel, known), self._bias(known)
        for k, layer in enumerate(self.layers):
            hidden = layer(hidden, bias if k == 0 else None)
        embedding = torch.relu(self.project(hidden.flatten(1)))
        return self.say(embedding), embedding

    def along(self, mel: Tensor, known: Tensor, starts: Tensor) -> Tensor:
        """Segments [B, 80, T], the voice in each [B, 80], and the first columns [B, L] of the windows in them ->
        [B, L, OUTPUTS + HINTS]."""
        hidden, bias = self.normalised(mel, known), self._bias(known)
        for k, layer in enumerate(self.layers):
            hidden = layer(hidden, bias if k == 0 else None, 2**k)
        columns = starts[..., None] + 2 ** len(self.layers) * torch.arange(_LEFT)  # [B, L, _LEFT]
        index = columns.flatten(1)[:, None].expand(-1, hidden.shape[1], -1)
        chosen = (
            hidden.gather(2, index).view(*hidden.shape[:2], -1, _LEFT).transpose(1, 2)
        )  # [B, L, width, _LEFT]
        embedding = torch.relu(self.project(chosen.flatten(2)))
        return torch.cat([self.say(embedding), self.hint(embedding)], dim=-1)

    def normalised(self, mel: Tensor, known: Tensor) -> Tensor:
        """Mel columns [N, 80, T] about the voice's own spectrum [N, 80]."""
        return ((mel - known[..., None]) / SPREAD).clamp(-REACH, REACH)

    def _bias(self, known: Tensor) -> Tensor:
        """What the shape of the voice's spectrum adds to the first layer, [N, width, 1]."""
        shape = known - self.average
        shape = shape - shape.mean(dim=-1, keepdim=True)
        bias: Tensor = self.voice(shape)
        return bias[..., None]

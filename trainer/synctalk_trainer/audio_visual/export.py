"""What training leaves behind: ``speech_to_mouth.onnx``, and a picture of the training."""

from __future__ import annotations

import copy
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from .networks import COLUMNS, MELS, N_MEASURES, SpeechToMouth

__all__ = ["draw_curves", "write_model"]

_OPSET = 20


class _Said(nn.Module):
    """What the network says, and behind it the embedding."""

    def __init__(self, network: SpeechToMouth) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        """windows: [N, 1, 80, 65] -> [N, OUTPUTS + EMBEDDING]."""
        return torch.cat(self.network(windows), dim=1)


def write_model(
    network: SpeechToMouth, mean: NDArray[np.float32], spread: NDArray[np.float32], file: Path
) -> None:
    """Write the network under a temporary name and rename.

    mean, spread: [measures] of what it says of many voices while they speak; in the file measures are about that mean, in
    units of that spread, so that a subject's own range can be put in their place.
    """
    scaled = copy.deepcopy(network).eval()
    with torch.no_grad():
        scale = torch.from_numpy(spread)
        scaled.say.weight[:N_MEASURES] /= scale[:, None]
        scaled.say.bias[:N_MEASURES] = (scaled.say.bias[:N_MEASURES] - torch.from_numpy(mean)) / scale
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the exporter, and inside it
        warnings.filterwarnings("ignore", category=TracerWarning)
        torch.onnx.export(
            _Said(scaled).eval(),
            (torch.zeros(3, 1, MELS, COLUMNS + 1),),
            buffer,
            dynamo=False,
            input_names=["windows"],
            output_names=["said"],
            dynamic_axes={"windows": {0: "N"}, "said": {0: "N"}},
            opset_version=_OPSET,
        )
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(file)


def draw_curves(log: Path, picture: Path) -> None:
    """Losses and validation figures over the steps, from ``log.jsonl``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    step = [line["step"] for line in lines]
    for name in ("measures", "motion", "shut", "speaking"):
        left.plot(step, [line.get(name, float("nan")) for line in lines], label=name)
    for name in sorted(
        {name for line in lines for name in line if name.endswith(("_r", "_shut", "_speaking"))}
    ):
        right.plot(step, [line.get(name, float("nan")) for line in lines], label=name.replace("_", ": "))
    left.set(xlabel="step", title="losses", ylim=(0, None))
    right.set(xlabel="step", title="held-out sounds", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    plt.close(figure)

"""What training leaves behind: ``encoder.onnx`` of the contract, ``sync.onnx`` for the offset detector, a picture."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from .mouths import MEASURES
from .networks import COLUMNS, MELS, MOUTH_FRAMES, AudioVisual

__all__ = ["draw_curves", "write_models"]

_OPSET = 20


class _Common(nn.Module):
    """Embedding and mouths to their places in the common space."""

    def __init__(self, model: AudioVisual) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        """embedding: [N, D]; mouths: [M, MOUTH_FRAMES, measures]."""
        return self.model.heard(embedding), self.model.mouth(mouths)


def write_models(model: AudioVisual, encoder_file: Path, sync_file: Path) -> None:
    """Write both files under temporary names and rename."""
    model.eval()
    n_embedding = model.common.in_features
    windows, embedding = torch.zeros(3, 1, MELS, COLUMNS), torch.zeros(3, n_embedding)
    mouths = torch.zeros(2, MOUTH_FRAMES, len(MEASURES))
    _write(model.audio, (windows,), {"mel_window": "N"}, {"embedding": "N"}, encoder_file)
    inputs, outputs = {"embedding": "N", "mouths": "M"}, {"heard": "N", "seen": "M"}
    _write(_Common(model).eval(), (embedding, mouths), inputs, outputs, sync_file)


def _write(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: dict[str, str],
    outputs: dict[str, str],
    file: Path,
) -> None:
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the exporter, and inside it
        warnings.filterwarnings("ignore", category=TracerWarning)
        torch.onnx.export(
            module,
            examples,
            buffer,
            dynamo=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: rows} for name, rows in (inputs | outputs).items()},
            opset_version=_OPSET,
        )
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(file)


def draw_curves(log: Path, picture: Path, names: Sequence[str] = ("frames", "segment", "measures")) -> None:
    """Losses and validation figures over the steps, from ``log.jsonl``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    step = [line["step"] for line in lines]
    for name in (*names, "viseme"):
        left.plot(step, [line.get(name, float("nan")) for line in lines], label=name)
    for name in ("real_r", "synthetic_r", "real_in_step", "synthetic_in_step"):
        right.plot(step, [line.get(name, float("nan")) for line in lines], label=name)
    left.set(xlabel="step", title="losses", ylim=(0, None))
    right.set(xlabel="step", title="held-out clips", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    plt.close(figure)

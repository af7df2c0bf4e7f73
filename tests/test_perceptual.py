"""A perceptual distance that the user brings as TorchScript."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from synctalk.errors import TrainingError
from synctalk_trainer.perceptual import load_perceptual
from torch import Tensor, nn


class Contrast(nn.Module):
    """Mean absolute difference, a distance for each picture as LPIPS gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.weight * (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)


def write_contrast(path: Path) -> Path:
    pictures = torch.zeros(1, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # newer PyTorch has other ways, older ones only this
        torch.jit.trace(Contrast(), (pictures, pictures)).save(str(path))  # type: ignore[no-untyped-call]
    return path


def test_pictures_are_taken_to_minus_one_to_one(tmp_path: Path) -> None:
    distance = load_perceptual(write_contrast(tmp_path / "contrast.pt"))
    rendered = torch.full((2, 3, 32, 32), 0.75, requires_grad=True)
    found = distance(rendered, torch.full((2, 3, 32, 32), 0.25))
    assert float(found.detach()) == pytest.approx(0.5)  # half of 2 * (0.75 - 0.25)
    found.backward()  # type: ignore[no-untyped-call]
    assert rendered.grad is not None and float(rendered.grad.sum()) == pytest.approx(1.0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not a TorchScript function"):
        load_perceptual(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(TrainingError, match="not a TorchScript function"):
        load_perceptual(tmp_path / "text.pt")

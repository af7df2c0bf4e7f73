"""LPIPS with weights that the user brings, as one TorchScript file: nothing is downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from synctalk.errors import TrainingError
from torch import Tensor

__all__ = ["Perceptual", "load_perceptual"]

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Pictures [B, 3, H, W] in 0..1, rendered and true -> their mean distance, a scalar"""


def load_perceptual(path: str | Path, device: str | torch.device = "cpu") -> Perceptual:
    """A distance from a TorchScript file: a function of two batches of pictures in -1..1, as LPIPS takes them.

    Raises: TrainingError: no such file, not TorchScript, or not such a function.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # what replaces it fixes the pictures' size
            distance = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
        probe = torch.zeros(1, 3, 32, 32, device=device)
        found = distance(probe, probe)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(
            f"--lpips {path}: not a TorchScript function of two pictures ({str(error).splitlines()[0]}); where the package "
            "lpips is installed, torch.jit.trace(lpips.LPIPS(), (a, b)).save(FILE) writes one, a and b being zeros of "
            "1 x 3 x 64 x 64"
        ) from None
    if not isinstance(found, Tensor):
        raise TrainingError(
            f"--lpips {path}: it must return a tensor of distances, not {type(found).__name__}"
        )
    for parameter in distance.parameters():
        parameter.requires_grad_(False)

    def mean_distance(rendered: Tensor, truth: Tensor) -> Tensor:
        distances: Tensor = distance(2 * rendered - 1, 2 * truth - 1)
        return distances.mean()

    return mean_distance

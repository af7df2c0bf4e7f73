"""What training minimises: L1 on pixels, thick surfaces, and on patches a perceptual term that needs no downloaded weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["patch_loss", "structural_similarity", "thickness"]

_WINDOW = 7


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM of pictures [B, 3, H, W] in 0..1 with a 7 x 7 box window. Source: Wang et al. 2004."""
    means = _box_means(torch.cat([a, b, a * a, b * b, a * b], dim=1))
    mean_a, mean_b, square_a, square_b, product = torch.split(means, a.shape[1], dim=1)
    var_a, var_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    return (luminance * structure).mean()


def _box_means(values: Tensor) -> Tensor:
    """Means of windows, columns first: two convolutions, which take a quarter of the time that pooling takes."""
    n = values.shape[1]
    column = values.new_full((n, 1, _WINDOW, 1), 1 / _WINDOW)
    means: Tensor = F.conv2d(F.conv2d(values, column, groups=n), column.transpose(2, 3), groups=n)
    return means


def _gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """L1 between the pictures' first differences: edges in the right place, and no fewer of them."""
    across = (a[..., 1:] - a[..., :-1]) - (b[..., 1:] - b[..., :-1])
    down = (a[..., 1:, :] - a[..., :-1, :]) - (b[..., 1:, :] - b[..., :-1, :])
    return across.abs().mean() + down.abs().mean()


def patch_loss(rendered: Tensor, truth: Tensor) -> Tensor:
    """Structure and edges over three scales. rendered, truth: [B, 3, P, P] in 0..1, P >= 28."""
    loss = rendered.new_zeros(())
    for scale in range(3):
        if scale:
            rendered, truth = F.avg_pool2d(rendered, 2), F.avg_pool2d(truth, 2)
        loss = (
            loss + 0.5 * (1 - structural_similarity(rendered, truth)) + _gradient_difference(rendered, truth)
        )
    return loss / 3


def thickness(weights: Tensor, rays: Tensor, opacity: Tensor) -> Tensor:
    """How far samples are from carrying all of a ray or nothing, a ray. Half-opaque rays are left out: shadows would be made
    of opaque grains.

    weights: [M] of samples; rays: [M] each one's; opacity: [R] that is asked for.
    """
    solid = (2 * opacity - 1) ** 2
    return (weights * (1 - weights) * solid[rays.long()]).sum() / len(opacity)

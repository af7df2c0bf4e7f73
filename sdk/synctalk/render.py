"""One frame: the head over the picture that holds torso and background.

Pictures are uint8 [H, W, 3] RGB; an alpha is uint8 [H, W], 255 where the person is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synctalk import _native

__all__ = ["compose", "person_alpha", "replace_background"]

Float = NDArray[np.float32]
Picture = NDArray[np.uint8]

_TORSO_ALPHA = np.clip((np.arange(256) - 10) * 12.75, 0.0, 255.0).astype(np.uint8)
"""Alpha by the difference of plate and background: up to 10 it is coding noise, from 30 on the torso."""


def compose(head: Float, plate: Picture) -> Picture:
    """Put a head over a plate, uint8 [H, W, 3].

    head: float32 [H, W, 4] premultiplied RGBA in 0..1; plate: uint8 [H, W, 3].
    Raises: ValueError: sizes that differ.
    """
    if head.shape[:2] != plate.shape[:2]:
        raise ValueError(f"the head is {head.shape[:2]} pixels, the plate {plate.shape[:2]}: they must agree")
    image = np.empty(plate.shape, np.uint8)
    _native.paste(np.ascontiguousarray(head), np.ascontiguousarray(plate), image)
    return image


def person_alpha(head: Float, plate: Picture, background: Picture) -> Picture:
    """How much of each pixel is the person, uint8 [H, W]: the head, or the torso where the plate shows it.

    head: [H, W, 4] as in ``compose``; plate, background: uint8 [H, W, 3]. The torso is where the plate differs from
    the background: clothes of the background's colour turn out clear.
    """
    red, green, blue = np.moveaxis(np.maximum(plate, background) - np.minimum(plate, background), 2, 0)
    difference = np.maximum(np.maximum(red, green), blue)  # an axis of three reduces slowly
    covered = np.clip(head[..., 3] * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
    alpha: Picture = np.maximum(_TORSO_ALPHA[difference], covered)
    return alpha


def replace_background(image: Picture, alpha: Picture, background: Picture, share: float = 1.0) -> Picture:
    """Put another background behind the person, uint8 [H, W, 3].

    image: [H, W, 3]; alpha: [H, W] of the person; background: [H, W, 3], or [3] for one colour; share: 0..1, how far
    it has replaced the old one.
    """
    clear = np.float32(share / 255.0) * (255 - alpha)[..., None].astype(np.float32)  # [H, W, 1]
    shown = image + clear * (background.astype(np.float32) - image)
    return np.asarray(shown + 0.5, np.uint8)

"""Decoded video frames as pictures: RGB, upright, of standard dynamic range.

HDR (HLG and PQ, as telephones record) is mapped to SDR: light in nits, BT.2020 to BT.709, highlights rolled off above
three quarters of white, BT.1886. White is 203 nits. It takes 0.15 s for 1920 x 1080.
Source: ITU-R BT.2100, BT.2408 and BT.1886.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["upright"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]

_LOG = logging.getLogger(__name__)

_UNTAGGED = 2
"""FFmpeg's number of an unspecified colour space."""
_HD_ROWS = 720
"""Pictures of so many rows or more without a colour tag are taken as BT.709, smaller ones as BT.601."""
_PQ, _HLG = 16, 18
"""FFmpeg's numbers of the transfer functions of HDR."""
_NAMES = {_PQ: "PQ", _HLG: "HLG"}
_WHITE_NITS = 203.0
_HLG_PEAK_NITS, _HLG_GAMMA = 1000.0, 1.2
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_2020_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_KNEE = np.float32(0.75)
_ROWS = 256
"""Rows that are mapped at once: floats take sixteen times the memory of the picture."""


def upright(frame: Any) -> Picture:
    """A decoded frame as uint8 [H, W, 3], turned as its display matrix says. HDR is mapped, and told of once in the log."""
    transfer, colours = int(frame.color_trc), frame.colorspace
    if colours == _UNTAGGED:
        colours = "ITU709" if frame.height >= _HD_ROWS else "ITU601"
    if transfer in _NAMES:
        _say_once(transfer)
        signal = frame.reformat(format="rgb48le", src_colorspace=colours).to_ndarray()
        blocks = [_tone_mapped(signal[at : at + _ROWS], transfer) for at in range(0, len(signal), _ROWS)]
        picture = np.concatenate(blocks)
    else:
        picture = frame.reformat(format="rgb24", src_colorspace=colours).to_ndarray()
    turns = round(frame.rotation / 90) % 4  # rotation is counter-clockwise
    return np.ascontiguousarray(np.rot90(picture, turns), np.uint8)


@cache
def _say_once(transfer: int) -> None:
    _LOG.warning("this video is HDR (%s): its colours are mapped to standard dynamic range", _NAMES[transfer])


def _tone_mapped(signal: NDArray[np.uint16], transfer: int) -> Picture:
    """uint8 [H, W, 3] of a signal, uint16 [H, W, 3]."""
    light = _light(transfer)[signal]
    if transfer == _HLG:  # scene light becomes that of a display of 1000 nits
        luma = light @ _LUMA_2020
        light *= (np.maximum(luma, 1e-6) ** (_HLG_GAMMA - 1.0) * (_HLG_PEAK_NITS / _WHITE_NITS))[..., None]
    light = np.maximum(light @ _2020_TO_709.T, 0.0)
    brightest = light.max(axis=2)
    rolled = 1.0 - (1.0 - _KNEE) * np.exp((_KNEE - brightest) / (1.0 - _KNEE))
    light *= np.where(brightest > _KNEE, rolled / np.maximum(brightest, _KNEE), 1.0)[..., None]
    return np.asarray(255.0 * light ** (1.0 / 2.4) + 0.5, np.uint8)


@cache
def _light(transfer: int) -> Float:
    """Light of each of 65536 levels: of PQ in units of white, of HLG the scene's, 0..1."""
    level = np.arange(65_536) / 65_535.0
    if transfer == _PQ:
        root = level ** (1.0 / 78.84375)
        nits = 10_000.0 * (np.maximum(root - 0.8359375, 0.0) / (18.8515625 - 18.6875 * root)) ** (
            1.0 / 0.1593017578125
        )
        return np.asarray(nits / _WHITE_NITS, np.float32)
    low, high = level**2 / 3.0, (np.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12.0
    return np.asarray(np.where(level <= 0.5, low, high), np.float32)

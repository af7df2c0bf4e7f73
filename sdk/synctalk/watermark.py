"""The invisible watermark: a fixed pattern of a few grey levels in every frame, and how it is found again.

The pattern is a tile of 128 x 128 pixels that repeats. It is the sum of random signs on squares of 8 pixels, which
outlive strong compression, and of 4 pixels, which are many; each is one grey level, the same in red, green and blue. A
frame changes by 0 or 2 levels: 45.1 dB at worst.

The detector averages what is left of the frames of two seconds without their smooth parts, folds it to one tile, and
correlates phases at every shift. A score counts standard deviations: of an unmarked picture it is normally distributed.
The key is public, as the program is: whoever wants to remove the mark can. It tells honest people, not forgers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPAN_FRAMES", "TILE", "Detection", "Watermark", "detect", "detect_spans", "pattern"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]
Spectrum = NDArray[np.complex128]

TILE = 128
"""Side of the pattern, pixels of the rendered frame."""
SPAN_FRAMES = 50
"""Frames that one decision is made from: two seconds."""

_KEY = 0x5A1C
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_FLOOR = 0.7
"""Grey levels: texture below this is not amplified."""
_SCALES = (1.0, 1 / 2, 2 / 3, 3 / 4, 3 / 2, 2.0)
"""Sizes, relative to the rendered frame, that are always tried."""
_THOROUGH = tuple(np.geomspace(0.4, 2.0, 403))
"""Steps of 0.4 %: half a square across 1000 pixels."""
_IN_PLACE, _ANYWHERE = 4.2, 6.2
"""Scores that decide, where the picture was not cut, and among all 16 384 shifts."""


@cache
def pattern(key: int = _KEY) -> NDArray[np.int8]:
    """One tile, int8 [128, 128]: -2, 0 or 2 grey levels."""
    generator = np.random.default_rng(key)
    n = TILE // 8
    coarse = generator.choice(np.array([-1, 1], np.int8), (n, n))
    fine = generator.permuted(
        np.tile(np.array([-1, -1, 1, 1], np.int8), (n, n, 1)), axis=2
    )  # no mean: no overlap
    quarters = fine.reshape(n, n, 2, 2).swapaxes(1, 2).reshape(2 * n, 2 * n)
    tile = np.kron(coarse, np.ones((8, 8), np.int8)) + np.kron(quarters, np.ones((4, 4), np.int8))
    tile.setflags(write=False)
    return tile


class Watermark:
    """Marks frames of one size."""

    def __init__(self, width: int, height: int) -> None:
        tiles = np.tile(pattern(), (-(-height // TILE), -(-width // TILE)))[:height, :width, None]
        change = np.repeat(tiles.astype(np.int16), 3, axis=2)  # [H, W, 3]
        self._least = np.maximum(-change, 0).astype(np.uint8)
        self._most = (255 - np.maximum(change, 0)).astype(np.uint8)
        self._change = change.astype(np.uint8)  # modulo 256

    def apply(self, image: Picture) -> None:
        """Add the pattern to an image, uint8 [H, W, 3], in place; black and white stay what they can."""
        np.minimum(image, self._most, out=image)
        np.maximum(image, self._least, out=image)
        np.add(image, self._change, out=image)


@dataclass(frozen=True)
class Detection:
    """What a detector makes of a few frames."""

    is_marked: bool
    score: float
    """Standard deviations of the best match."""
    scale: float
    """Size of the picture relative to the rendered frame, at the best match."""
    n_frames: int


def detect(frames: Iterable[Picture], *, is_thorough: bool = False) -> Detection:
    """Whether frames (uint8 [H, W, 3], all of one size, two seconds or more) carry the mark.

    is_thorough: try every size from 0.4 to 2 times the rendered frame, which takes seconds, instead of the common ones.
    Raises: ValueError: no frames.
    """
    total, n_frames = np.zeros((1, 1), np.float32), 0
    for frame in frames:
        total, n_frames = total + _residual(frame), n_frames + 1
    if not n_frames:
        raise ValueError("there are no frames to look at")
    scales = _SCALES + _THOROUGH if is_thorough else _SCALES
    return _decide(((scale, _folded(total, scale)) for scale in scales), n_frames, _wanted())


def detect_spans(frames: Iterable[Picture], *, is_thorough: bool = False) -> Iterator[Detection]:
    """``detect`` for each two seconds of a film; a shorter rest counts only where it is all there is."""
    iterator, is_first = iter(frames), True
    while span := list(islice(iterator, SPAN_FRAMES)):
        if len(span) == SPAN_FRAMES or is_first:
            yield detect(span, is_thorough=is_thorough)
        is_first = False


def _decide(spectra: Iterable[tuple[float, Spectrum]], n_frames: int, wanted: Spectrum) -> Detection:
    best = Detection(False, -np.inf, 1.0, n_frames)
    for scale, spectrum in spectra:
        scores = _scores(spectrum, wanted)
        in_place, anywhere = float(scores[0, 0]), float(scores.max())
        is_marked = in_place >= _IN_PLACE or anywhere >= _ANYWHERE
        found = Detection(is_marked, anywhere if anywhere >= _ANYWHERE else in_place, float(scale), n_frames)
        best = max(best, found, key=lambda one: (one.is_marked, one.score))
    return best


def _residual(frame: Picture) -> Float:
    """Luma without its smooth parts, [H, W], scaled down where it is textured."""
    luma = frame[..., :3].astype(np.float32) @ _LUMA
    high = luma - _smooth(luma)
    spread = np.sqrt(np.maximum(_smooth(high * high), 0.0))
    return np.asarray(np.clip(high / (spread + _FLOOR), -2.0, 2.0))


def _smooth(values: Float) -> Float:
    """The mean of a square of 15 pixels around each."""
    for _ in range(2):
        n = len(values)
        ones = np.pad(values, ((7, 7), (0, 0)), mode="edge")
        twos = ones[:-1] + ones[1:]
        fours = twos[:-2] + twos[2:]
        eights = fours[:-4] + fours[4:]
        values = eights[:n] + fours[8 : 8 + n] + twos[12 : 12 + n] + ones[14:]
        values = values.T / np.float32(15)  # each axis in turn
    return values


@lru_cache(32)
def _folding(n: int, scale: float) -> Float:
    """One axis of n pixels brought back to the size it would have unscaled, bilinear, and folded: [128, n]."""
    matrix = np.zeros((TILE, n), np.float32)
    at = np.clip((np.arange(max(1, round(n / scale))) + 0.5) * scale - 0.5, 0, n - 1)
    low, row = at.astype(int), np.arange(len(at)) % TILE
    np.add.at(matrix, (row, low), 1 - (at - low))
    np.add.at(matrix, (row, np.minimum(low + 1, n - 1)), at - low)
    return matrix


def _folded(residual: Float, scale: float) -> Spectrum:
    """The phases, [128, 65], of a residual that was brought back to its size and folded to one tile."""
    height, width = residual.shape
    tile = _folding(height, scale) @ residual @ _folding(width, scale).T
    spectrum = np.fft.rfft2(tile.astype(np.float64))
    spectrum /= np.abs(spectrum) + 1e-12
    spectrum[0, 0] = 0.0
    return spectrum


def _scores(spectrum: Spectrum, wanted: Spectrum) -> NDArray[np.float64]:
    """How well a tile fits at each of its shifts, [128, 128], in standard deviations."""
    match = np.fft.irfft2(spectrum * wanted.conj(), (TILE, TILE))
    # Codecs work in blocks of 8: shifts along those vary more, where the picture was coded coarsely.
    return np.asarray(match / (max(match.std(), match[::8, ::8].ravel()[1:].std()) + 1e-12))


@cache
def _wanted(key: int = _KEY) -> Spectrum:
    """The spectrum of a tile as ``_residual`` leaves it: without its smooth parts."""
    around = np.tile(pattern(key).astype(np.float32), (3, 3))
    return np.fft.rfft2((around - _smooth(around))[TILE : 2 * TILE, TILE : 2 * TILE])

"""Which frames are trained on and which are held out: one rule for training and evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from synctalk.errors import DatasetError, TrainingError

__all__ = ["HOLDOUT_LAST", "segments", "split"]

HOLDOUT_LAST = "last"
"""The last 1/11 of the frames: the published systems' protocol."""

_SHARE = 11


def split(
    takes: Sequence[Sequence[int]], n_frames: int, holdout: str, valid: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide a clip into training frames and held-out frames, both ascending, without a common frame.

    takes: [first, end) of each take. valid: [N]; frames that are not valid are in neither part (by default all are).
    ``holdout``: ``last`` keeps the last 1/11 of the frames; ``takes:K`` keeps every K-th take (the K-th, the 2K-th,
    ...) whole, for clips of many takes whose light and hair differ.

    Raises: TrainingError: an unknown ``holdout``. DatasetError: one of the parts would be empty.
    """
    held = np.zeros(n_frames, bool)
    if holdout == HOLDOUT_LAST:
        held[n_frames - n_frames // _SHARE :] = True
    else:
        every = _every(holdout)
        for first, end in takes[every - 1 :: every]:
            held[first:end] = True
    usable = np.ones(n_frames, bool) if valid is None else np.asarray(valid, bool)
    train, kept = np.flatnonzero(usable & ~held), np.flatnonzero(usable & held)
    if not len(train) or not len(kept):
        raise DatasetError(
            f"holdout {holdout!r} leaves {len(train)} training and {len(kept)} held-out frames of {n_frames} frames in "
            f"{len(takes)} takes: give a longer clip, or choose 'last' or 'takes:K' with K up to the number of takes"
        )
    return train, kept


def _every(holdout: str) -> int:
    kind, _, number = holdout.partition(":")
    if kind != "takes" or not number.isdecimal() or int(number) < 2:
        raise TrainingError(
            f"unknown holdout {holdout!r}: choose 'last' or 'takes:K' with K of 2 or more, like takes:11"
        )
    return int(number)


def segments(frames: NDArray[np.int64], takes: Sequence[Sequence[int]]) -> list[slice]:
    """Cut a list of frames into unbroken stretches: consecutive frames of one take.

    frames: [M] ascending. Returns slices into ``frames`` that cover it, in order.
    """
    starts = {int(first) for first, _ in takes}
    cuts = [
        i for i in range(1, len(frames)) if frames[i] != frames[i - 1] + 1 or int(frames[i]) in starts
    ]  # the first frame of a stretch
    edges = [0, *cuts, len(frames)]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]

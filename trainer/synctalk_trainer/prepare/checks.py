"""What the found faces say about a clip: one error or warning for each thing that is wrong, with times."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synctalk.errors import MediaError
from synctalk.spec import FPS
from synctalk_trainer.prepare.workspace import Workspace

__all__ = ["Observations", "check", "find_cuts", "read_takes", "spans_of", "times_of"]

Float = NDArray[np.float32]
Flags = NDArray[np.bool_]

_SECOND_FACE = 0.5
"""A second face of this share of the first one's height counts."""
_TWO_PEOPLE = 0.2
"""A clip with a second face in more than this share of its frames is refused."""
_SHORTEST_TAKE_S = 2.0
_JUMP = 0.10
"""A face that moves further than this share of its height within a frame has jumped."""
_CHANGE = 2.5
"""Grey levels by which a cut changes the picture at least, on average ..."""
_TIMES_USUAL = 6.0
"""... and how many times the usual change around it."""
_FEW_FACES = 0.5


@dataclass(frozen=True)
class Observations:
    """What was seen in every frame."""

    points: Float
    """[N, 478, 3]"""
    valid: Flags
    """[N]: a face was found"""
    second: Float
    """[N]: height of a second face over the first one's, 0 without"""
    change: Float
    """[N]: mean difference from the frame before, grey levels"""


def check(work: Workspace, seen: Observations) -> None:
    """Refuse or warn, and set the takes.

    Raises: MediaError: no face, two people, cuts that leave takes shorter than 2 s.
    """
    _check_faces(work, seen)
    n = len(seen.valid)
    if work.options.takes is not None:
        work.info["takes"] = read_takes(work.options.takes, n)
        return
    cuts = find_cuts(seen)
    edges = [0, *cuts, n]
    takes = [[first, end] for first, end in itertools.pairwise(edges)]
    at = [(cut / FPS, cut / FPS) for cut in cuts]
    with_face = [end - first for first, end in takes if seen.valid[first:end].any()]
    if cuts and min(with_face) < _SHORTEST_TAKE_S * FPS:
        raise MediaError(
            f"the video has cuts at {times_of(at)} that leave pieces shorter than {_SHORTEST_TAKE_S:.0f} s. Give one "
            "continuous recording, remove the short pieces, or name the takes yourself by --takes FILE."
        )
    if cuts:
        work.warn(
            "landmarks",
            "cut",
            f"the video has cuts at {times_of(at)}: each piece is a take of its own, but all share one camera and one "
            "background. If camera, room, light or clothes differ, prepare one piece only; the longest is "
            f"{times_of([_longest(takes)])}",
            at,
        )
    work.info["takes"] = takes


def _longest(takes: list[list[int]]) -> tuple[float, float]:
    first, end = max(takes, key=lambda take: take[1] - take[0])
    return first / FPS, end / FPS


def read_takes(path: Path, n_frames: int) -> list[list[int]]:
    """Takes from a JSON file: ``takes`` as [[first, end), ...] or ``frames_per_take``.

    Raises: MediaError: no such file or not such content.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot read the takes file {path}: {error}") from None
    if isinstance(values, dict) and isinstance(values.get("frames_per_take"), int):
        step = max(1, values["frames_per_take"])
        return [[first, min(first + step, n_frames)] for first in range(0, n_frames, step)]
    takes = values.get("takes") if isinstance(values, dict) else values
    try:
        pairs = [[int(first), min(int(end), n_frames)] for first, end in takes or []]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or any(first >= end for first, end in pairs):
        raise MediaError(f"{path} holds no takes: expected `takes` [[first, end), ...] or `frames_per_take`")
    return pairs


def _check_faces(work: Workspace, seen: Observations) -> None:
    name = work.info.get("source", {}).get("name", "the video")
    n = len(seen.valid)
    if seen.valid.mean() < _FEW_FACES:
        raise MediaError(
            f"a face was found in only {int(seen.valid.sum())} of {n} frames of {name}. Give a video of one person "
            "who looks towards the camera all the time."
        )
    double = seen.second > _SECOND_FACE
    at = spans_of(double)
    if double.mean() > _TWO_PEOPLE:
        raise MediaError(
            f"two faces are in {name} at {times_of(at)}. Give a video of one person, or crop the other one away."
        )
    if double.any():
        work.warn(
            "landmarks",
            "two_faces",
            f"a second face is in the picture at {times_of(at)}: the steadier one is followed",
            at,
        )
    at = spans_of(~seen.valid)
    if at:
        work.warn(
            "landmarks",
            "no_face",
            f"no face was found at {times_of(at)}: these frames are not trained on",
            at,
        )


def find_cuts(seen: Observations) -> list[int]:
    """Frames that begin a new take: the whole picture changes at once, or the face jumps."""
    usual = _moving_median(seen.change, 12)
    cut = (seen.change > _CHANGE) & (seen.change > _TIMES_USUAL * usual)
    centre = seen.points[..., :2].mean(axis=1)
    height = np.maximum(np.ptp(seen.points[..., 1], axis=1), 1.0)
    step = np.zeros(len(height), np.float32)
    step[1:] = np.linalg.norm(np.diff(centre, axis=0), axis=1) / height[1:]
    both = seen.valid.copy()
    both[1:] &= seen.valid[:-1]
    cut |= both & (step > _JUMP) & (step > 4 * _moving_median(step, 12))
    cut[0] = False
    frames = np.flatnonzero(cut)
    return [int(frame) for i, frame in enumerate(frames) if i == 0 or frame - frames[i - 1] > 1]


def _moving_median(values: Float, reach: int) -> Float:
    padded = (
        np.pad(values, reach, mode="reflect") if len(values) > reach else np.pad(values, reach, mode="edge")
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    return np.asarray(np.median(windows, axis=1), np.float32)


def spans_of(flags: Flags) -> list[tuple[float, float]]:
    """Runs of set flags as [from, to) in seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(first / FPS, end / FPS) for first, end in edges.reshape(-1, 2).tolist()]


def times_of(at: list[tuple[float, float]], most: int = 5) -> str:
    """Spans of seconds as people read them: ``3.2 s, 7.0-8.1 s and 4 more``."""
    texts = [f"{a:.1f} s" if b - a < 0.1 else f"{a:.1f}-{b:.1f} s" for a, b in at[:most]]
    more = f" and {len(at) - most} more" if len(at) > most else ""
    return ", ".join(texts) + more

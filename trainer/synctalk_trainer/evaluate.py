"""What `synctalk evaluate` does: held-out frames of a run, every figure as JSON, pictures, a video and a page.

The figures and their protocols are those of ``measure``; ``evaluation.json`` holds them with the run's name, what it
was trained for, and the two trivial baselines.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.errors import TrainingError

from .audio_visual.films import TalkingClip
from .audio_visual.mouths import landmark_measures
from .audio_visual.offset import SyncDetector
from .dataset import Dataset
from .evaluation_report import verdicts, write_report
from .measure import Detect, HeadRenderer, baseline_scores, measure
from .perceptual import Perceptual, load_perceptual
from .run import Settings, load_run, read_json, without_nan, write_json
from .split import segments, split

__all__ = ["Options", "Trained", "evaluate", "judge"]

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate, and against what."""

    dataset: Path | None = None
    """The dataset's folder, if it is not where the run was trained."""
    holdout: str | None = None
    """Another split than the run's; refused if it would judge frames that were trained on."""
    against: Path | None = None
    """Another evaluated run, shown beside this one."""
    limit: int | None = None
    """Judge about so many frames only: the first ones of each unbroken stretch."""
    lpips: Path | None = None
    """A perceptual distance of the user's, see ``perceptual``."""


class Trained(HeadRenderer, Protocol):
    """What evaluation needs of a ``Run``."""

    @property
    def path(self) -> Path: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def seconds_trained(self) -> float: ...
    @property
    def step(self) -> int: ...


def evaluate(
    run: str | Path,
    detect: Detect,
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Judge a run on its held-out frames; write ``evaluation.json`` and ``evaluation/`` into it, return the figures.

    What cannot be measured is None. ``detect`` finds landmarks (``prepare.landmarks``); ``progress`` is called with
    frames done and in all.

    Raises: TrainingError: no checkpoint, a ``holdout`` that overlaps the training frames, an ``against`` that was not
    evaluated. DatasetError: the dataset is gone or too short to hold frames out.
    """
    options = options or Options()
    return judge(load_run(run, options.dataset), detect, options, progress)


def judge(
    run: Trained, detect: Detect, options: Options, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """``evaluate`` of an opened run; ``options.dataset`` has been used up."""
    against = None if options.against is None else _evaluated(options.against)
    data = run.dataset
    train, held = _frames(data.takes, data.valid, run.settings.holdout, options)
    folder = run.path / "evaluation"
    perceptual = None if options.lpips is None else load_perceptual(options.lpips)
    result = measure(data, run, train, held, detect, folder, progress)
    if perceptual is not None:
        result.figures["lpips"] = _mean_distance(perceptual, result.pictures, data.frames, held)
    figures: dict[str, Any] = without_nan(
        {
            "format": "synctalk-evaluation",
            "version": _VERSION,
            "run": run.path.name,
            "preset": run.settings.preset,
            "holdout": options.holdout or run.settings.holdout,
            "seconds_trained": run.seconds_trained,
            "steps_trained": run.step,
            **result.figures,
            "baselines": baseline_scores(data, train, held),
        }
    )
    table = figures if against is None else {**figures, "against": against}
    write_report(data, data.audio, result, table, folder, f"Evaluation of {run.path.name}")
    (folder / "frames.npy").unlink()
    figures["verdicts"] = verdicts(figures) + _out_of_step(data)
    write_json(run.path / "evaluation.json", figures)
    return figures


def _mean_distance(
    perceptual: Perceptual, pictures: NDArray[np.uint8], truth: NDArray[np.uint8], held: NDArray[np.int64]
) -> float:
    """Mean distance of rendered pictures [n, S, S, 3] and the true ones of the frames held."""

    def batch(picture: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255

    with torch.no_grad():
        distances = [
            float(perceptual(batch(picture), batch(truth[frame])))
            for picture, frame in zip(pictures, held, strict=True)
        ]
    return float(np.mean(distances))


def _out_of_step(data: Dataset) -> list[str]:
    """A sentence if the clip itself is surely out of step, which no training can mend."""
    takes = tuple((int(first), int(end)) for first, end in data.takes)
    clip = TalkingClip("clip", data.audio, landmark_measures(data.landmarks), np.asarray(data.valid), takes)
    sentence = SyncDetector().offset(clip).sentence()
    return [] if sentence is None else [f"In the clip itself {sentence}."]


def _frames(
    takes: Any, valid: NDArray[np.bool_], trained: str, options: Options
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training frames of the run and the frames to judge, which are never among them."""
    train, held = split(takes, len(valid), trained, valid)
    if options.holdout not in (None, trained):
        _, held = split(takes, len(valid), options.holdout, valid)
        if n_seen := len(np.intersect1d(train, held)):
            raise TrainingError(
                f"{n_seen} of the {len(held)} frames of holdout {options.holdout!r} were trained on (this run holds out "
                f"{trained!r}): leave --holdout away, or train again with --holdout {options.holdout}"
            )
    if options.limit is not None:
        parts = segments(held, takes)
        share = math.ceil(options.limit / len(parts))
        held = np.concatenate([held[part][:share] for part in parts])
    return train, held


def _evaluated(path: Path) -> dict[str, Any]:
    file = path / "evaluation.json" if path.is_dir() else path
    figures = read_json(file, f"run `synctalk evaluate {path}` first")
    if not isinstance(figures, dict) or figures.get("format") != "synctalk-evaluation":
        raise TrainingError(f"{file} is not an evaluation: run `synctalk evaluate {path}` first")
    return figures

"""What the export needs of a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from synctalk.geometry import Camera
from synctalk.manifest import Placement
from synctalk.spec import Spec
from synctalk_trainer.modules import Field
from synctalk_trainer.split import split
from synctalk_trainer.upsampler import Upsampler, load_upsampler
from torch import nn

if TYPE_CHECKING:
    from synctalk_trainer.run import Run

__all__ = ["Subject", "subject_of"]

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A trained person: networks in evaluation mode, and the clip's motion and plates. N frames, S pixels a side."""

    name: str
    spec: Spec
    field: Field
    audio: nn.Module
    """mel windows [N, taps, 80, columns] -> condition [N, C]"""
    occupancy: NDArray[np.bool_]
    """[G, G, G], index [z, y, x]: the cells that are marched"""
    appearance: Float
    """[A]"""
    condition_rest: Float
    """[C]"""
    condition_mean: Float
    """[C]"""
    condition_gain: float
    conditions: Float
    """[N, C]: as the run time would render every frame of the clip"""
    camera: Camera
    placement: Placement
    rotation: Float
    """[N, 3, 3]"""
    translation: Float
    """[N, 3]"""
    expression: Float
    """[N, E]"""
    takes: Sequence[tuple[int, int]]
    usable: NDArray[np.bool_]
    """[N]: frames with a pose of their own that were trained on"""
    plates: NDArray[np.uint8]
    """[N, S, S, 3]; may be memory-mapped"""
    background: NDArray[np.uint8]
    """[S, S, 3]"""
    training: dict[str, Any] = field(default_factory=dict)
    """Figures for the manifest: plain JSON types"""
    upsampler: Upsampler | None = None
    """As ``spec.upsampler`` says"""
    upsampler_figures: dict[str, Any] = field(default_factory=dict)
    """What ``train_upsampler`` found on held-out frames"""


def subject_of(run: Run, name: str) -> Subject:
    """A run as the export sees it: EMA weights, and only frames that were trained on.

    Raises: DatasetError: the dataset is gone or incomplete.
    """
    data = run.dataset
    trained, _ = split(data.takes, data.n_frames, run.settings.holdout, data.valid)
    usable = np.zeros(data.n_frames, bool)
    usable[trained] = True
    rotation, translation = run.poses
    upsampler, upsampler_figures = load_upsampler(run) or (None, {})
    return Subject(
        name=name,
        spec=replace(run.spec, upsampler=upsampler.spec if upsampler else None),
        field=run.model.field,
        audio=run.model.audio,
        occupancy=run.occupancy,
        appearance=run.appearance_mean,
        condition_rest=run.condition_rest,
        condition_mean=run.condition_mean,
        condition_gain=run.condition_gain,
        conditions=run.conditions_rendered,
        camera=run.camera,
        placement=_placement(data.info),
        rotation=rotation,
        translation=translation,
        expression=run.expression,
        takes=[(int(first), int(end)) for first, end in data.takes],
        usable=usable,
        plates=data.plates,
        background=data.background,
        training={
            "preset": run.settings.preset,
            "steps": run.step,
            "seconds": round(run.seconds_trained, 1),
            "frames": len(trained),
        },
        upsampler=upsampler,
        upsampler_figures=upsampler_figures,
    )


def _placement(info: dict[str, Any]) -> Placement:
    source, crop = info["source"], info["crop"]
    return Placement(int(source["width"]), int(source["height"]), crop["x"], crop["y"], crop["side"])

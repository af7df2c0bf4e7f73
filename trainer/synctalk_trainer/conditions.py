"""Where a training step's condition comes from: a fitted audio branch, or a network that learns with the field.

Fitted: the condition is the mouth's shape (principal components of the lip and chin points). The field is taught with
the true shape at first, so that lips and teeth become sharp, and then more and more with what sound alone predicts
for frames it was not fitted to, so that it meets the errors that new speech will bring.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.condition import calmed
from torch import Tensor

from .audio_branch import ConvolutionalEncoder, GenericEncoder
from .generic_fit import FilmedMouth, fit_generic
from .modules import Avatar
from .mouth import aperture
from .scene import Scene

__all__ = ["Conditions", "FittedConditions", "LearnedConditions", "condition_tensors"]

Ints = NDArray[np.int64]

_TAUGHT_AT_END = 0.3
"""Share of the frames that still get the true shape at the end of training."""


class Conditions(Protocol):
    """What the training loop asks of the audio branch."""

    gain: float
    """By how much conditions are spread around their mean at run time"""
    figures: dict[str, float]
    """How well the branch predicts, for the run's log"""

    def draw(self, frames: Ints, fraction: float, generator: np.random.Generator) -> Tensor:
        """Conditions for a training step, [n, C]; ``fraction`` of the training is done."""

    def predict(self, model: Avatar) -> Tensor:
        """What sound alone says for every frame, [N, C]."""

    def typical(self, frames: Ints, predicted: Tensor) -> Tensor:
        """The mean condition of some frames, [C]."""

    def state(self) -> dict[str, Tensor]:
        """What must be saved to go on."""

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state``."""


class FittedConditions:
    """The mouth's shape, and what the generic audio branch says of it."""

    gain = 1.0

    def __init__(self, model: Avatar, scene: Scene, frames: Ints, generator: np.random.Generator) -> None:
        assert isinstance(model.audio, GenericEncoder)
        self._scene = scene
        film = FilmedMouth.of(scene.dataset, model.spec.field.condition, frames)
        self._truth = film.target
        fit = fit_generic(model.audio, scene.audio.of(frames), film, frames, scene.take, generator)
        self._unseen = self._truth.clone()
        self._unseen[frames] = fit.unseen
        self.figures = fit.figures

    def draw(self, frames: Ints, fraction: float, generator: np.random.Generator) -> Tensor:
        taught = torch.from_numpy(generator.random((len(frames), 1)) < 1 - (1 - _TAUGHT_AT_END) * fraction)
        return torch.where(taught, self._truth[frames], self._unseen[frames])

    @torch.no_grad()
    def predict(self, model: Avatar) -> Tensor:
        device = model.appearance.device
        parts = np.array_split(np.arange(self._scene.dataset.n_frames), 16)
        raw = torch.cat([model.audio(self._scene.audio.of(part).to(device)).cpu() for part in parts]).numpy()
        before = np.concatenate([raw[:1], raw[:-1]])
        first = [first for first, _ in self._scene.dataset.takes]
        before[first] = raw[first]
        return torch.from_numpy(calmed(raw, before, model.spec.audio.calm))

    def typical(self, frames: Ints, predicted: Tensor) -> Tensor:
        return self._truth[frames].mean(dim=0)

    def state(self) -> dict[str, Tensor]:
        return {"truth": self._truth, "unseen": self._unseen}

    def load(self, state: dict[str, Tensor]) -> None:
        self._truth, self._unseen = state["truth"], state["unseen"]


class LearnedConditions:
    """The published way: a network whose only teacher is the field's colour loss."""

    gain = 1.0

    def __init__(self, model: Avatar, scene: Scene) -> None:
        self._model, self._scene = model, scene
        self.figures: dict[str, float] = {}

    def draw(self, frames: Ints, fraction: float, generator: np.random.Generator) -> Tensor:
        condition: Tensor = self._model.audio(self._scene.audio.of(frames).to(self._model.appearance.device))
        return condition

    @torch.no_grad()
    def predict(self, model: Avatar) -> Tensor:
        assert isinstance(model.audio, ConvolutionalEncoder)
        was_training, device = model.training, model.appearance.device
        model.eval()
        audio = self._scene.audio  # frames share windows: each is heard once
        taps = [model.audio.tap(part.to(device)) for part in torch.split(audio.windows, 512)]
        heard = model.audio.attend(torch.cat(taps)[audio.index.to(device)])
        model.train(was_training)
        return heard.cpu()

    def typical(self, frames: Ints, predicted: Tensor) -> Tensor:
        return predicted[frames].mean(dim=0)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        return None


def condition_tensors(
    conditions: Conditions, model: Avatar, scene: Scene, train_frames: Ints
) -> dict[str, Tensor]:
    """What a checkpoint keeps of the audio branch: conditions of all frames, their mean, the closed mouth's (the training
    frames with the least opening), and what going on needs."""
    all_frames = conditions.predict(model)
    opening = aperture(scene.dataset.landmarks)[train_frames]
    closed = train_frames[opening <= np.quantile(opening, 0.1)]
    return {
        "all": all_frames,
        "mean": conditions.typical(train_frames, all_frames),
        "rest": conditions.typical(closed, all_frames),
    } | conditions.state()

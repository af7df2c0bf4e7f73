"""Fits the kernel machine in closed form: mel window -> shape of the mouth, as principal components.

A window of 24 mel columns, and beside it what the generic model and the user's speech encoder say of it, goes through
principal components and random cosine features (a Gaussian kernel) into ridge regression. What is predicted is kept calm: its second differences in time are penalised, as far as that costs little accuracy, instead of smoothing it
afterwards, which would need to wait. The kernel's width, how far around the frame it listens, how much the models weigh,
how calm it is, and each component's ridge are chosen by cross-validation over takes or stretches of the clip, which
also gives, for every training frame, a prediction by a machine that never saw its stretch: the field is trained on
these, so that it meets the same errors in training as with new speech.
Source: Rahimi and Recht 2007 (random features); Wolpert 1992 (stacking).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .audio_branch import KernelEncoder

__all__ = ["AudioFit", "fit_kernel"]

Ints = NDArray[np.int64]

_FOLDS = 8
_WIDTHS = (0.3, 0.45)
_REACHES = (6.0, 30.0)
"""Decay of a window's columns around the frame, in columns: the sound at hand, or all of the window"""
_SPEECH_WEIGHTS = (0.4, 1.0)
"""Deviation of all that models say over that of all mel bands"""
_FRAME_AT = 2 / 3
"""Where in the window the frame's own time lies."""
_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_CALMS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
"""What a squared second difference of the prediction counts against a squared error"""
_CALM_COST = 0.05
"""The calmest is taken whose error is at most this share above the least."""


@dataclass(frozen=True)
class AudioFit:
    """What cross-validation says of the fit."""

    reach: float
    """Columns around the frame that count, see ``_REACHES``"""
    speech_weight: float
    """See ``_SPEECH_WEIGHTS``; 0 where mel bands are all that is heard"""
    width: float
    calm: float
    """See ``_CALMS``"""
    ridges: tuple[float, ...]
    error: float
    """Squared error over variance, all components, frames unseen by their machine"""
    correlation: float
    """First component"""
    gain: float
    """Deviation of the truth over that of the prediction, first component"""
    unseen: Tensor
    """[n, C]: prediction for each training frame by a machine that did not see its stretch"""


def _folds(frames: Ints, take: Ints) -> Ints:
    """Fold of each frame: whole takes in turn, or stretches of equal length when there are fewer takes than folds."""
    takes, which = np.unique(take[frames], return_inverse=True)
    if len(takes) >= _FOLDS:
        return which % _FOLDS
    return np.arange(len(frames)) * _FOLDS // len(frames)


def _triples(frames: Ints, take: Ints, fold: Tensor) -> Ints:
    """Places in ``frames`` from which on three are consecutive, of one take and one fold."""
    kind = np.stack([take[frames], fold[: len(frames)].numpy()])
    is_one = (frames[2:] - frames[:-2] == 2) & (kind[:, 2:] == kind[:, :-2]).all(axis=0)
    return np.flatnonzero(is_one)


class _Ridge:
    """Ridge regression with the sums of each fold kept, so that any ridge and any fold left out cost one solve."""

    def __init__(self, features: Tensor, target: Tensor, fold: Tensor, triples: Ints, calm: float) -> None:
        """features [n, D], target [n, C], float64; fold [n]; triples: rows from which on three follow each other in time;
        calm: weight of the prediction's squared second differences there."""
        self.features = torch.cat(
            [features, features.new_ones(len(features), 1)], dim=1
        )  # the last is the bias
        self.fold, self.target = fold, target
        rows = [(self.features[fold == k], target[fold == k]) for k in range(_FOLDS)]
        self.products = [x.T @ x for x, _ in rows]
        self.moments = [x.T @ y for x, y in rows]
        if calm:
            bends = self.features[triples] - 2 * self.features[triples + 1] + self.features[triples + 2]
            for k, product in enumerate(self.products):
                of_fold = bends[fold[triples] == k]
                product += calm * of_fold.T @ of_fold
        self.product = torch.stack(self.products).sum(dim=0)
        self.moment = torch.stack(self.moments).sum(dim=0)

    def solve(self, ridge: float, without: int | None = None) -> Tensor:
        """Weights [D + 1, C], fitted to all folds but one."""
        product = self.product.clone() if without is None else self.product - self.products[without]
        moment = self.moment if without is None else self.moment - self.moments[without]
        product.diagonal()[:-1] += ridge
        product.diagonal()[-1] += 1e-6
        return torch.cholesky_solve(moment, torch.linalg.cholesky(product))

    def unseen(self, ridge: float) -> Tensor:
        """Each frame's prediction by weights that did not see its fold, [n, C]."""
        predicted = torch.empty(len(self.features), self.moments[0].shape[1], dtype=self.features.dtype)
        for k in range(_FOLDS):
            inside = self.fold == k
            predicted[inside] = self.features[inside] @ self.solve(ridge, without=k)
        return predicted

    def best_unseen(self, ridges: tuple[float, ...]) -> tuple[Tensor, tuple[float, ...]]:
        """``unseen`` with the ridge that is best for each component, [n, C], and those ridges."""
        tried = torch.stack([self.unseen(ridge) for ridge in ridges])  # [ridges, n, C]
        best = torch.stack([_errors(predicted, self.target) for predicted in tried]).argmin(dim=0)  # [C]
        chosen = torch.stack([tried[int(k), :, i] for i, k in enumerate(best)], dim=1)
        return chosen, tuple(ridges[int(k)] for k in best)


def fit_kernel(
    encoder: KernelEncoder,
    inputs: Tensor,
    target: Tensor,
    frames: Ints,
    take: Ints,
    generator: np.random.Generator,
) -> AudioFit:
    """Fit the encoder's kernel machine to the training frames.

    inputs: [n, D] what it hears at ``frames`` (``KernelEncoder.inputs``); target: [n, C]; frames: [n]; take: [N].
    """
    directions = torch.from_numpy(generator.standard_normal(encoder.frequencies.shape).astype(np.float32))
    encoder.phases.copy_(
        torch.from_numpy(generator.uniform(0, 2 * np.pi, len(encoder.phases)).astype(np.float32))
    )
    fold = torch.from_numpy(_folds(frames, take))
    wanted = target.double()
    triples = _triples(frames, take, fold)
    reach, speech_weight, width, calm = _choose(encoder, inputs, wanted, fold, triples, directions)
    _set_components(encoder, inputs, reach, speech_weight)
    encoder.frequencies.copy_(directions * width)
    regression = _Ridge(encoder.features(inputs).double(), wanted, fold, triples, calm)
    unseen, ridges = regression.best_unseen(_RIDGES)
    weights = torch.cat([regression.solve(r)[:, i : i + 1] for i, r in enumerate(ridges)], dim=1)
    encoder.readout.copy_(weights[:-1])
    encoder.bias.copy_(weights[-1])
    first = torch.stack([unseen[:, 0], wanted[:, 0]])
    return AudioFit(
        reach,
        speech_weight,
        width,
        calm,
        ridges,
        float(_errors(unseen, wanted).sum() / wanted.var(dim=0).sum()),
        float(torch.corrcoef(first)[0, 1]),
        float(wanted[:, 0].std() / unseen[:, 0].std().clamp(min=1e-6)),
        unseen.float(),
    )


def _errors(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each component, [C]."""
    return ((predicted - truth) ** 2).mean(dim=0)


def _set_components(encoder: KernelEncoder, inputs: Tensor, reach: float, speech_weight: float) -> None:
    """Set the encoder's principal components: of mel bands faded by a Gaussian around the frame's own time, and of
    embeddings that weigh ``speech_weight`` times as much in all."""
    n_columns = encoder.n_pooled // encoder.n_bands
    distance = torch.arange(n_columns) + 0.5 - n_columns * _FRAME_AT
    fade = torch.ones(inputs.shape[1])
    fade[: encoder.n_pooled] = torch.exp(-((distance / reach) ** 2)).repeat(encoder.n_bands).clamp(min=1e-6)
    faded = inputs * fade
    variance = faded.var(dim=0)
    if inputs.shape[1] > encoder.n_pooled:
        ratio = variance[: encoder.n_pooled].sum() / variance[encoder.n_pooled :].sum().clamp(min=1e-9)
        fade[encoder.n_pooled :] = speech_weight * ratio.sqrt()
        faded = inputs * fade
    centre = faded.mean(dim=0)
    _, _, axes = torch.linalg.svd((faded - centre)[:: max(1, len(inputs) // 3000)], full_matrices=False)
    n_components = min(encoder.components.shape[1], len(axes))
    components = torch.zeros_like(encoder.components)
    components[:, :n_components] = axes[:n_components].T
    spread = ((faded - centre) @ components).std(dim=0).max()
    encoder.centre.copy_(centre / fade)
    encoder.components.copy_(components * fade[:, None] / spread)


def _choose(
    encoder: KernelEncoder, inputs: Tensor, wanted: Tensor, fold: Tensor, triples: Ints, directions: Tensor
) -> tuple[float, float, float, float]:
    """Reach, speech weight and kernel width with the least cross-validated error, then how calm; tried on a quarter of the
    cosines."""
    n_tried = max(64, len(encoder.phases) // 4)
    scaled = tuple(ridge * n_tried / len(encoder.phases) for ridge in _RIDGES)

    def error(reduced: Tensor, width: float, calm: float) -> float:
        projected = reduced @ (directions[:, :n_tried] * width)
        features = torch.cos(projected + encoder.phases[:n_tried]).double()
        regression = _Ridge(features, wanted, fold, triples, calm)
        return float(_errors(regression.best_unseen(scaled)[0], wanted).sum())

    tried = []
    for reach, weight in itertools.product(
        _REACHES, _SPEECH_WEIGHTS if inputs.shape[1] > encoder.n_pooled else (0.0,)
    ):
        _set_components(encoder, inputs, reach, weight)
        reduced = (inputs - encoder.centre) @ encoder.components
        tried += [(error(reduced, width, 0.0), reach, weight, width, reduced) for width in _WIDTHS]
    _, reach, weight, width, reduced = min(tried, key=lambda trial: trial[0])
    errors = {calm: error(reduced, width, calm) for calm in _CALMS}
    calm = max(calm for calm, found in errors.items() if found <= (1 + _CALM_COST) * min(errors.values()))
    return reach, weight, width, calm

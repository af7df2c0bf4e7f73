"""Fits the generic audio branch to a subject, in closed form.

The map from the generic model's measures to the subject's condition is geometry: it is fitted to the filmed mouth
alone, so that twenty seconds of film are enough, and the subject's own range while speaking sets the amplitude. The
correction in the subject's own voice is a kernel machine (``audio_fit``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .audio_branch import GenericEncoder
from .audio_fit import AudioFit, fit_kernel
from .audio_visual.corpus import speaking
from .audio_visual.mouths import SHUT_APERTURE, landmark_measures
from .audio_visual.networks import N_MEASURES, OUTPUTS
from .dataset import Dataset

__all__ = ["FilmedMouth", "GenericFit", "fit_generic"]

Ints = NDArray[np.int64]

_MAP_RIDGE = 0.02
"""Of the number of frames"""
_FEWEST = 5
"""Frames with shut lips that tell what shut lips are"""
_GAIN_REACH = (1.0, 1.6)
"""Predictions are timid: they are spread about their mean until they vary as the filmed mouth does, within this."""
_ALL_VOICES = (2.32, 1.18, 0.94, 0.82, 0.62, 0.63, 0.54)
"""Deviation between voices of the long-term spectrum's shape (``synctalk.voice``); 379 speakers"""
_ONE_VOICE = 0.35
"""The same between stretches of one voice, of that"""


@dataclass(frozen=True, eq=False)
class FilmedMouth:
    """What the film shows of the mouth in every frame."""

    target: Tensor
    """[N, C] the conditions that make the filmed shapes"""
    measures: Tensor
    """[N, measures] about their mean while the subject speaks, in units of their spread then"""
    is_shut: NDArray[np.bool_]
    speaks: NDArray[np.bool_]

    @staticmethod
    def of(data: Dataset, n_condition: int, frames: Ints) -> FilmedMouth:
        """frames: those that set mean and spread."""
        raw = landmark_measures(data.landmarks)
        speaks = speaking(data.audio, data.n_frames) > 0.5
        usual = frames[speaks[frames]] if speaks[frames].sum() >= _FEWEST else frames
        mean, spread = raw[usual].mean(axis=0), np.maximum(raw[usual].std(axis=0), 1e-4)
        measures = ((raw - mean) / spread).clip(-5, 5).astype(np.float32)
        target = torch.from_numpy(data.mouth_shape(n_condition))
        return FilmedMouth(target, torch.from_numpy(measures), raw[:, 0] < SHUT_APERTURE, speaks)


@dataclass(frozen=True, eq=False)
class GenericFit:
    """What the fit found."""

    kernel: AudioFit
    gain: float
    """By how much the kernel machine's predictions were spread"""
    generic_correlation: float
    """Of the first component, as the generic model says it, in the subject's own voice"""
    unseen: Tensor
    """[n, C]: conditions of the training frames by a branch that did not see their stretch, as rendered"""

    @property
    def figures(self) -> dict[str, float]:
        """For the run's log."""
        kernel = self.kernel
        return {
            "correlation": kernel.correlation,
            "generic_correlation": self.generic_correlation,
            "error": kernel.error,
            "gain": self.gain,
            "kernel_width": kernel.width,
            "reach": kernel.reach,
            "speech_weight": kernel.speech_weight,
            "calm": kernel.calm,
        }


def fit_generic(
    encoder: GenericEncoder,
    windows: Tensor,
    film: FilmedMouth,
    frames: Ints,
    take: Ints,
    generator: np.random.Generator,
) -> GenericFit:
    """Fit the encoder's buffers. windows: [n, 1, 80, columns + 1] of ``frames``; frames: [n] to fit; take: [N]."""
    inputs = encoder.inputs(windows)
    said = inputs[:, encoder.n_pooled : encoder.n_pooled + len(OUTPUTS)]
    target = film.target[frames]
    _fit_mouth(encoder, film, frames)
    _fit_voice(encoder, windows[:, 0, :, -1])
    kernel = fit_kernel(encoder, inputs, target, frames, take, generator)
    gain = float(np.clip(kernel.gain, *_GAIN_REACH))
    mean = target.mean(dim=0)
    encoder.readout.mul_(gain)
    encoder.bias.copy_(mean + gain * (encoder.bias - mean))
    unseen = encoder.finished(mean + gain * (kernel.unseen - mean), said)
    generic = encoder.finished(encoder.generic_condition(said), said)
    correlation = float(torch.corrcoef(torch.stack([generic[:, 0], target[:, 0]]))[0, 1])
    return GenericFit(kernel, gain, correlation, unseen)


def _fit_mouth(encoder: GenericEncoder, film: FilmedMouth, frames: Ints) -> None:
    """The map from measures to conditions, and the conditions of shut and of resting lips."""
    target = film.target[frames].double()
    known = torch.cat(
        [film.measures[frames].double(), torch.ones(len(frames), 1, dtype=torch.float64)], dim=1
    )
    penalty = _MAP_RIDGE * len(frames) * torch.eye(N_MEASURES + 1, dtype=torch.float64)
    penalty[-1, -1] = 0
    weights = torch.linalg.solve(known.T @ known + penalty, known.T @ target)
    encoder.mouth.copy_(weights[:-1])
    encoder.mouth_bias.copy_(weights[-1])
    is_shut, speaks = film.is_shut[frames], film.speaks[frames]
    opening = film.measures[frames, 0].numpy()
    least = opening <= np.quantile(opening, 0.05)
    for buffer, chosen in ((encoder.shut, is_shut & speaks), (encoder.rest, is_shut & ~speaks)):
        usable = next(c for c in (chosen, is_shut, least) if c.sum() >= _FEWEST or c is least)
        buffer.copy_(target[torch.from_numpy(usable)].mean(dim=0))


def _fit_voice(encoder: GenericEncoder, known: Tensor) -> None:
    """Where the subject's own voice lies among all voices. known: [n, 80], the voice as known at the frames."""
    shape = known @ encoder.basis.T
    settled = shape[len(shape) // 2 :]
    between = torch.tensor(_ALL_VOICES)
    within = _ONE_VOICE * between
    encoder.voice_centre.copy_(torch.stack([settled.mean(dim=0), encoder.average_shape]))
    encoder.voice_precision.copy_(torch.stack([within**-2, between**-2]))
    encoder.voice_bias.copy_(torch.log(between / within).sum()[None])

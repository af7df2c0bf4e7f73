"""The audio branch learns the mouth's shape from sound alone before the field is trained: cheap, and it starts the
field with a condition that already says how the mouth stands.

The last part of the training frames (or every eighth take) is set aside here to stop before the branch learns the clip
by heart, and to measure by how much its predictions are too timid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .modules import AudioEncoder
from .scene import AudioWindows

__all__ = ["AudioFit", "all_conditions", "fit_audio", "mouth_loss", "noisy"]

Ints = NDArray[np.int64]

_SEQUENCE = 24
_SEQUENCES_PER_STEP = 8
_CHECK_EVERY = 40
_PATIENCE = 12


@dataclass(frozen=True)
class AudioFit:
    """How well the branch predicts frames that it was not fitted to."""

    steps: int
    error: float
    """Mean squared error over the target's variance, first component"""
    correlation: float
    gain: float
    """Deviation of the truth over the deviation of the prediction, first component"""


def noisy(windows: Tensor) -> Tensor:
    """Augmentation in the mel domain: loudness, a spectral tilt, noise, hidden bands. windows: [..., 80, 16]."""
    lead = windows.shape[:-2]
    n_mels = windows.shape[-2]
    loudness = torch.randn(*([1] * len(lead)), 1, 1) * 0.3
    tilt = torch.randn(*([1] * len(lead)), 1, 1) * 0.3 * torch.linspace(-1, 1, n_mels)[:, None]
    shifted = windows + loudness + tilt + 0.1 * torch.randn_like(windows)
    start = int(torch.randint(0, n_mels - 8, ()))
    shifted[..., start : start + int(torch.randint(0, 8, ())), :] = -4.0
    return shifted.clamp(-4.0, 4.0)


def mouth_loss(probe: nn.Module, condition: Tensor, target: Tensor) -> Tensor:
    """Squared error of the mouth's shape. condition: [N, C]; target: [N, K]."""
    return ((probe(condition) - target) ** 2).sum(dim=-1).mean()


@torch.no_grad()
def all_conditions(encoder: AudioEncoder, audio: AudioWindows) -> Tensor:
    """The condition of every frame, [N, C], in evaluation mode."""
    was_training = encoder.training
    encoder.eval()
    taps = torch.cat([encoder.project(encoder.embed(part)) for part in audio.windows.split(512)])
    conditions = encoder.combine(taps[audio.index])
    encoder.train(was_training)
    return conditions


def _sequences(frames: Ints, take: Ints) -> Ints:
    """First frames of all runs of ``_SEQUENCE`` consecutive frames within a take."""
    last = _SEQUENCE - 1
    inside = (frames[last:] - frames[:-last] == last) & (take[frames[last:]] == take[frames[:-last]])
    return frames[:-last][inside]


def _set_aside(frames: Ints, take: Ints) -> tuple[Ints, Ints]:
    """Frames to fit and frames to check on: every eighth take, or the last eighth of a single take."""
    takes = np.unique(take[frames])
    if len(takes) >= 8:
        check = np.isin(take[frames], takes[3::8])
    else:
        check = np.arange(len(frames)) >= len(frames) * 7 // 8
    return frames[~check], frames[check]


def _check(
    encoder: AudioEncoder, probe: nn.Module, audio: AudioWindows, target: Tensor, frames: Ints
) -> tuple[float, float, float]:
    """Error, correlation and gain on some frames."""
    with torch.no_grad():
        predicted = probe(all_conditions(encoder, audio)[frames])
    truth = target[frames]
    error = float(((predicted - truth) ** 2).sum(dim=-1).mean() / truth.var(dim=0).sum())
    pair = torch.stack([predicted[:, 0], truth[:, 0]])
    correlation = float(torch.corrcoef(pair)[0, 1])
    return error, correlation, float(truth[:, 0].std() / predicted[:, 0].std().clamp(min=1e-6))


def fit_audio(
    encoder: AudioEncoder,
    probe: nn.Module,
    audio: AudioWindows,
    target: Tensor,
    frames: Ints,
    take: Ints,
    max_steps: int,
    generator: np.random.Generator,
    on_step: Callable[[int, float], None],
) -> AudioFit:
    """Fit the encoder and the probe (condition -> mouth shape); keeps the weights that predict unseen frames best.

    target: [N, K]; frames: those that may be used; take: [N] take of each frame.
    """
    fitted, checked = _set_aside(frames, take)
    starts = _sequences(fitted, take)
    if not len(starts) or not len(checked):
        return AudioFit(0, 1.0, 0.0, 1.0)
    parameters = [*encoder.parameters(), *probe.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)
    best, best_step, kept = (float("inf"), 0.0, 1.0), 0, _snapshot(encoder, probe)
    encoder.train()
    for step in range(1, max_steps + 1):
        loss = torch.stack(
            [_sequence_loss(encoder, probe, audio, target, s) for s in _draw(starts, generator)]
        ).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % _CHECK_EVERY == 0:
            found = _check(encoder, probe, audio, target, checked)
            on_step(step, found[1])
            if found[0] < best[0]:
                best, best_step, kept = found, step, _snapshot(encoder, probe)
            elif step - best_step > _PATIENCE * _CHECK_EVERY:
                break
    encoder.load_state_dict(kept[0])
    probe.load_state_dict(kept[1])
    return AudioFit(best_step, *best)


def _snapshot(encoder: nn.Module, probe: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return copy.deepcopy(encoder.state_dict()), copy.deepcopy(probe.state_dict())


def _draw(starts: Ints, generator: np.random.Generator) -> Iterator[Ints]:
    for start in generator.choice(starts, _SEQUENCES_PER_STEP):
        yield np.arange(start, start + _SEQUENCE)


def _sequence_loss(
    encoder: AudioEncoder, probe: nn.Module, audio: AudioWindows, target: Tensor, frames: Ints
) -> Tensor:
    """Shape and motion of the mouth over consecutive frames; each window is embedded once."""
    index = audio.index[frames]
    first, last = int(index[0, 0]), int(index[-1, -1])
    taps = encoder.project(encoder.embed(noisy(audio.windows[first : last + 1])))
    predicted = probe(encoder.combine(taps[index - first]))
    truth = target[frames]
    shape = ((predicted - truth) ** 2).sum(dim=-1).mean()
    motion = ((predicted.diff(dim=0) - truth.diff(dim=0)) ** 2).sum(dim=-1).mean()
    return shape + motion

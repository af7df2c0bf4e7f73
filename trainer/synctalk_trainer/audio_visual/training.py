"""The training loop of the speech-to-mouth network.

A step takes some segments of sounds, heard through another vocal tract, microphone and room each, and asks for the
labels of their frames: the mouth's measures and how they change, whether the lips touch, whether somebody speaks. The
state is saved so that a run goes on exactly.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from synctalk.errors import TrainingError
from torch import Tensor, nn

from ..metrics import pearson
from ..run import read_json, write_json, write_tensors
from .corpus import AUDIO, KINDS, Corpus
from .mouths import MEASURES
from .networks import MELS, OUTPUTS, SpeechToMouth

__all__ = ["NetworkSettings", "NetworkTrainer"]

Float = NDArray[np.float32]
Ints = NDArray[np.int64]

_SHARES = {"film": 0.2, "voice": 0.6, "synthetic": 0.1, "nobody": 0.1}
"""Share of the segments that come from each kind of sound, where there are all."""
_N_MEASURES = len(MEASURES)
_SHUT, _SPEAKING = _N_MEASURES, _N_MEASURES + 1
_MEASURE_WEIGHTS = (2.0, *[1.0] * (_N_MEASURES - 1))
_WEIGHTS = {"measures": 1.0, "motion": 1.0, "shut": 0.3, "speaking": 0.2, "hints": 0.5}
_STRETCH, _SHIFT = 0.07, 4.0
"""Formants lie up to this share higher or lower, and up to so many mel bins."""
_NOISE, _FLOOR = 0.08, (-6.0, -2.6)
"""Noise of single values, and the level of a steady background, in units of the mel features"""
_MASKED_BANDS, _MASKED_COLUMNS = 10, 6
_AVERAGING = 0.998


@dataclass(frozen=True)
class NetworkSettings:
    """How to train, written into the run."""

    minutes: float | None = None
    steps: int | None = None
    """Train for so many minutes or so many steps; one of the two."""
    seed: int = 0
    segments: int = 24
    frames: int = 48
    """Frames of a segment, at most; shorter sounds give shorter ones."""
    learning_rate: float = 2e-3


class NetworkTrainer:
    """Trains on a corpus; ``out`` is the folder of the run. ``average`` is the network that counts."""

    def __init__(self, corpus: Corpus, settings: NetworkSettings, out: Path) -> None:
        self.corpus, self.settings, self.out = corpus, settings, out
        self.generator = np.random.default_rng(settings.seed)
        torch.manual_seed(settings.seed)
        self.model = SpeechToMouth()
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), settings.learning_rate, weight_decay=0.02, betas=(0.9, 0.98)
        )
        self.step, self.seconds = 0, 0.0
        groups = {kind: self._of_kind(k) for k, kind in enumerate(KINDS)}
        self._groups = {kind: group for kind, group in groups.items() if len(group)}
        shares = np.array([_SHARES[kind] for kind in self._groups])
        self._shares = shares / max(shares.sum(), 1e-9)
        if not self._groups:
            raise TrainingError("every sound is held out: give more films or voices")

    def _of_kind(self, kind: int) -> Ints:
        _, _, n_frames, kinds, is_held = self.corpus.sounds.T
        return np.flatnonzero((kinds == kind) & (is_held == 0) & (n_frames >= self.settings.frames))

    @property
    def fraction(self) -> float:
        """Share of the training that is done, 0..1."""
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        assert self.settings.minutes is not None
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def run(self, validate_every: int = 250, save_every_s: float = 60.0) -> Iterator[dict[str, float]]:
        """Train to the end; yields the losses of each step, with validation figures among them now and then."""
        saved = time.monotonic()
        try:
            while self.fraction < 1.0:
                started = time.monotonic()
                figures = self._step()
                self.step += 1
                self.seconds += time.monotonic() - started
                if self.step % validate_every == 0 or self.fraction >= 1.0:
                    figures |= self.validate()
                    self._log(figures)
                yield figures
                if time.monotonic() - saved > save_every_s:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.save()

    def _step(self) -> dict[str, float]:
        mel, known, starts, labels = self._batch()
        self.model.train()
        losses = _losses(self.model.along(mel, known, starts), labels)
        total = torch.stack([_WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
        if not math.isfinite(float(total.detach())):
            raise TrainingError(
                f"step {self.step}: the loss is not finite; the last checkpoint is kept: go on with --resume"
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        warm = min(1.0, (self.step + 1) / 100)
        rate = self.settings.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * self.fraction))
        for group in self.optimiser.param_groups:
            group["lr"] = max(rate, 1e-5)
        self.optimiser.step()
        decay = min(_AVERAGING, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
            for held, new in zip(self.average.buffers(), self.model.buffers(), strict=True):
                held.copy_(new)
        return {"loss": float(total.detach())} | {k: float(v.detach()) for k, v in losses.items()}

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mel [B, 80, T], voices [B, 80], window starts [B, L], labels [B, L, OUTPUTS + HINTS] of random segments."""
        parts = []
        for kind in self.generator.choice(list(self._groups), self.settings.segments, p=self._shares):
            group = self._groups[str(kind)]
            n_frames = self.corpus.sounds[group, 2]
            sound = int(self.generator.choice(group, p=n_frames / n_frames.sum()))
            last = int(self.corpus.sounds[sound, 2]) - self.settings.frames
            frames = int(self.generator.integers(0, last + 1)) + np.arange(self.settings.frames)
            mel, known, starts = self.corpus.segment(sound, frames)
            parts.append((*self._changed(mel, known), starts, self.corpus.said(sound, frames)))
        longest = max(part[0].shape[1] for part in parts)  # frames fall on columns in one of two ways
        padded = [np.pad(part[0], ((0, 0), (0, longest - part[0].shape[1])), mode="edge") for part in parts]
        _, voices, begins, labels = zip(*parts, strict=True)
        return _stacked(padded), _stacked(voices), _stacked(begins), _stacked(labels)

    def _changed(self, mel: Float, known: Float) -> tuple[Float, Float]:
        """A segment [80, T] and its voice [80] through another vocal tract, background and microphone."""
        draw = self.generator
        at = np.arange(MELS) * (1 + draw.uniform(-_STRETCH, _STRETCH)) + draw.uniform(-_SHIFT, _SHIFT)
        at = at.clip(0, MELS - 1.001)
        below, share = at.astype(np.int64), (at % 1).astype(np.float32)
        mel = mel[below] * (1 - share)[:, None] + mel[below + 1] * share[:, None]
        known = known[below] * (1 - share) + known[below + 1] * share
        background = (
            draw.uniform(*_FLOOR) * (1 if draw.random() < 0.6 else 2)
            + draw.uniform(-1, 1) * np.linspace(-1, 1, MELS)[:, None]
        )
        mel = np.logaddexp(mel * _NEPER, (background * _NEPER).astype(np.float32)) / np.float32(_NEPER)
        mel += _NOISE * draw.random() * draw.standard_normal(mel.shape, np.float32)
        tilt = (np.linspace(-1, 1, MELS) * draw.uniform(-0.3, 0.3) + draw.uniform(-0.3, 0.3)).astype(
            np.float32
        )
        known = known + tilt * draw.random()  # not all of the voice is known yet
        width = int(draw.integers(0, _MASKED_BANDS))
        first = int(draw.integers(0, MELS - width + 1))
        mel[first : first + width] = known[first : first + width, None]
        return mel.clip(AUDIO.silence, 4.0).astype(np.float32), known.astype(np.float32)

    def usual(self) -> tuple[Float, Float]:
        """Mean and spread of what the averaged network says of the measures of held-out voices (of films, where there are
        none) while they speak, [measures] each."""
        kinds, is_held = self.corpus.sounds[:, 3], self.corpus.sounds[:, 4] == 1
        is_voice, is_film = kinds == KINDS.index("voice"), kinds == KINDS.index("film")
        chosen = next(c for c in (is_voice & is_held, is_film & is_held, is_film) if c.any())
        heard = [self._heard(int(sound)) for sound in np.flatnonzero(chosen)]
        said = np.concatenate([said[labels[:, _SPEAKING] > 0.5] for said, labels in heard])
        return said[:, :_N_MEASURES].mean(axis=0), said[:, :_N_MEASURES].std(axis=0)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On held-out sounds of each kind: r of the opening over all frames, and how often shut lips and speech are told."""
        figures: dict[str, float] = {}
        for k, kind in enumerate(KINDS):
            held = np.flatnonzero((self.corpus.sounds[:, 3] == k) & (self.corpus.sounds[:, 4] == 1))
            if len(held):
                said, labels = zip(*(self._heard(int(sound)) for sound in held), strict=True)
                found = _judged(np.concatenate(said), np.concatenate(labels))
                figures |= {f"{kind}_{name}": value for name, value in found.items()}
        return figures

    @torch.no_grad()
    def _heard(self, sound: int) -> tuple[Float, Float]:
        """What the averaged network says of a whole sound, and the labels, [N, OUTPUTS] each."""
        frames = np.arange(self.corpus.sounds[sound, 2])
        said = []
        for part in np.array_split(frames, max(1, len(frames) // 25)):  # the voice as known then
            mel, known, starts = (torch.from_numpy(v)[None] for v in self.corpus.segment(sound, part))
            said.append(self.average.along(mel, known, starts)[0].numpy())
        return np.concatenate(said), self.corpus.said(sound, frames)

    def _log(self, figures: dict[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        line |= {k: round(v, 4) for k, v in figures.items() if math.isfinite(v)}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write everything needed to go on exactly."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
        write_tensors(self.out / "checkpoint.safetensors", tensors)
        values = {
            "step": self.step,
            "seconds": self.seconds,
            "settings": dataclasses.asdict(self.settings),
            "generator": self.generator.bit_generator.state,
        }
        write_json(self.out / "checkpoint.json", values)

    def resume(self) -> None:
        """Go on from the checkpoint in ``out``. Raises: TrainingError: none there, or made with other settings."""
        values = read_json(self.out / "checkpoint.json", "nothing to resume: train without --resume")
        kept = dict(values["settings"]) | {"minutes": self.settings.minutes, "steps": self.settings.steps}
        if kept != dataclasses.asdict(self.settings):
            raise TrainingError(
                f"{self.out} was trained with other settings ({values['settings']}): give the same, or another -o"
            )
        tensors = load_file(self.out / "checkpoint.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind in parts:
                parts[kind][rest] = tensor
            else:
                index, _, key = rest.partition(".")
                state.setdefault(int(index), {})[key] = tensor
        self.model.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.generator.bit_generator.state = values["generator"]
        self.step, self.seconds = int(values["step"]), float(values["seconds"])


_NEPER = 12.5 / 20 * math.log(10) * 2
"""Natural logarithm of the power that a unit of the mel features is"""


def _stacked(arrays: Iterable[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def _losses(said: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """said, labels: [B, L, OUTPUTS + HINTS]; what nobody knows is NaN and counts nothing."""
    known = labels.isfinite()
    truth = torch.nan_to_num(labels)
    measures, seen = slice(0, _N_MEASURES), known[..., :_N_MEASURES]
    weights = torch.tensor(_MEASURE_WEIGHTS) * seen
    error = (said[..., measures] - truth[..., measures]) ** 2
    both = weights[:, 1:] * seen[:, :-1]
    motion = (said[..., measures].diff(dim=1) - truth[..., measures].diff(dim=1)) ** 2
    losses = {
        "measures": (weights * error).sum() / weights.sum().clamp(min=1),
        "motion": (both * motion).sum() / both.sum().clamp(min=1),
    }
    hints = slice(len(OUTPUTS), None)
    n_known = known[..., hints].sum().clamp(min=1)
    losses["hints"] = (known[..., hints] * (said[..., hints] - truth[..., hints]) ** 2).sum() / n_known
    for name, index in (("shut", _SHUT), ("speaking", _SPEAKING)):
        entropy = nn.functional.binary_cross_entropy_with_logits(
            said[..., index], truth[..., index].clamp(0, 1), reduction="none"
        )
        losses[name] = (entropy * known[..., index]).sum() / known[..., index].sum().clamp(min=1)
    return losses


def _judged(said: Float, labels: Float) -> dict[str, float]:
    figures = {}
    if (seen := np.isfinite(labels[:, 0])).any():
        figures["r"] = pearson(said[seen, 0], labels[seen, 0])
    for name, index in (("shut", _SHUT), ("speaking", _SPEAKING)):
        if (seen := np.isfinite(labels[:, index])).any():
            right = (said[seen, index] > 0) == (labels[seen, index] > 0.5)
            figures[name] = float(right.mean())
    return figures

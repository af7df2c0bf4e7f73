"""The encoder's training loop.

A step takes some segments of clips. In each, the sound of every frame must find its own mouth among the mouths of the
same clip up to 0.4 s away (hard negatives, one by one and averaged over the segment), the embedding must tell the
mouth's measures, and for synthetic speech also the viseme. The state is saved so that a run goes on exactly.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from synctalk.errors import TrainingError
from torch import Tensor, nn

from ..metrics import pearson
from ..run import read_json, write_json, write_tensors
from .corpus import Corpus
from .networks import COLUMNS, MELS, MOUTH_FRAMES, POOLED_BANDS, POOLED_COLUMNS, AudioVisual

__all__ = ["EncoderSettings", "EncoderTrainer", "offset_scores"]

Float = NDArray[np.float32]
Ints = NDArray[np.int64]

REACH = 10
"""Frames by which sound and mouth are shifted, at most."""
_WEIGHTS = {"frames": 0.3, "segment": 1.0, "measures": 2.0, "viseme": 0.3, "sound": 1.0}
_TILT, _LEVEL, _NOISE, _MASKED_BANDS = 0.25, 0.5, 0.08, 10
"""What a segment's mel columns are changed by on the fly, in units of the mel features"""


@dataclass(frozen=True)
class EncoderSettings:
    """How to train, written into the run."""

    minutes: float | None = None
    steps: int | None = None
    """Train for so many minutes or so many steps; one of the two."""
    seed: int = 0
    embedding: int = 192
    segments: int = 16
    frames: int = 30
    """Frames of sound in a segment; the mouths reach further by 0.4 s on both sides."""
    real_share: float = 0.5
    """Share of the segments that come from real clips, where there are both kinds."""
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class _Batch:
    """B segments of L frames of sound."""

    mel: Tensor
    """[B, 80, T]"""
    starts: Tensor
    """[B, L]: first column of each frame's window"""
    mouths: Tensor
    """[B, L + 2 REACH, MOUTH_FRAMES, measures]"""
    measures: Tensor
    """[B, L, measures]"""
    visemes: Tensor
    """[B, L]"""

    def pooled_sound(self) -> Tensor:
        """What each window sounds like, [B * L, POOLED_BANDS * POOLED_COLUMNS]."""
        bands = nn.functional.avg_pool2d(
            self.mel, (MELS // POOLED_BANDS, COLUMNS // POOLED_COLUMNS), (MELS // POOLED_BANDS, 1)
        )
        step = COLUMNS // POOLED_COLUMNS
        columns = self.starts[..., None] + step * torch.arange(POOLED_COLUMNS)  # [B, L, columns]
        index = columns.flatten(1)[:, None].expand(-1, POOLED_BANDS, -1)
        pooled = bands.gather(2, index).view(len(bands), POOLED_BANDS, -1, POOLED_COLUMNS)
        return pooled.transpose(1, 2).flatten(0, 1).flatten(1)


class EncoderTrainer:
    """Trains on a corpus; ``out`` is the folder of the run."""

    def __init__(self, corpus: Corpus, settings: EncoderSettings, out: Path) -> None:
        self.corpus, self.settings, self.out = corpus, settings, out
        self.generator = np.random.default_rng(settings.seed)
        torch.manual_seed(settings.seed)
        self.model = AudioVisual(settings.embedding)
        self.model.audio.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), settings.learning_rate, weight_decay=0.02, betas=(0.9, 0.98)
        )
        self.step, self.seconds = 0, 0.0
        self.needed = settings.frames + 2 * REACH + MOUTH_FRAMES - 1
        """Frames of mouths that a segment takes."""
        self._groups = [group for group in self._clips() if len(group)]
        if not self._groups:
            raise TrainingError(
                f"no clip is as long as a segment ({self.needed} frames): give longer clips or fewer --frames"
            )

    def _clips(self) -> Iterator[Ints]:
        """Clips to draw from: real ones, synthetic ones."""
        _, _, n_frames, is_real, is_held = self.corpus.clips.T
        for kind in (1, 0):
            yield np.flatnonzero((is_real == kind) & (is_held == 0) & (n_frames >= self.needed))

    @property
    def fraction(self) -> float:
        """Share of the training that is done, 0..1."""
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        assert self.settings.minutes is not None
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def run(self, validate_every: int = 100, save_every_s: float = 60.0) -> Iterator[dict[str, float]]:
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
        batch = self._batch()
        self.model.train()
        losses = self._losses(batch)
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
        return {"loss": float(total.detach())} | {k: float(v.detach()) for k, v in losses.items()}

    def _batch(self) -> _Batch:
        parts = []
        length, side = self.settings.frames, REACH + MOUTH_FRAMES // 2
        for _ in range(self.settings.segments):
            group = self._groups[0]
            if len(self._groups) > 1 and self.generator.random() >= self.settings.real_share:
                group = self._groups[1]
            n_frames = self.corpus.clips[group, 2]
            clip = int(self.generator.choice(group, p=n_frames / n_frames.sum()))
            first = int(self.generator.integers(0, self.corpus.clips[clip, 2] - self.needed + 1))
            around = np.arange(first, first + self.needed)
            inner = around[side : side + length]
            mel, starts = self.corpus.segment(clip, inner)
            measures, visemes = self.corpus.mouths(clip, around)
            seen = slice(side, side + length)
            parts.append(
                (
                    self._changed(mel),
                    starts,
                    neighbours(measures),
                    measures[seen],
                    visemes[seen].astype(np.int64),
                )
            )
        longest = max(part[0].shape[1] for part in parts)  # frames fall on columns in one of two ways
        padded = [np.pad(part[0], ((0, 0), (0, longest - part[0].shape[1])), mode="edge") for part in parts]
        columns = [padded, *list(zip(*parts, strict=True))[1:]]
        return _Batch(*(torch.from_numpy(np.stack(column)) for column in columns))

    def _changed(self, mel: Float) -> Float:
        """A segment [80, T] through another microphone: tilt, level, noise, some bands missing."""
        draw = self.generator
        n_mels = len(mel)
        slope = np.linspace(-1, 1, n_mels) * draw.uniform(-_TILT, _TILT) + draw.uniform(-_LEVEL, _LEVEL)
        changed = mel + slope[:, None].astype(np.float32)
        changed += _NOISE * draw.random() * draw.standard_normal(mel.shape, np.float32)
        if draw.random() < 0.3:
            first = int(draw.integers(0, n_mels))
            changed[first : first + int(draw.integers(1, _MASKED_BANDS))] = mel.mean()
        return np.asarray(changed.clip(-4, 4), np.float32)

    def _losses(self, batch: _Batch) -> dict[str, Tensor]:
        n, length = batch.starts.shape
        embedding = self.model.audio.along(batch.mel[:, None], batch.starts)
        heard = self.model.heard(embedding).view(n, length, -1)
        seen = self.model.mouth(batch.mouths.flatten(0, 1)).view(n, length + 2 * REACH, -1)
        scale = self.model.log_scale.clamp(max=4.0).exp()
        shifts = seen.unfold(1, 2 * REACH + 1, 1)  # [n, length, common, shifts]
        similarity = scale * torch.einsum("nlc,nlcs->nls", heard, shifts)
        losses = {
            "frames": nn.functional.cross_entropy(similarity.flatten(0, 1), _near_truth(n * length)),
            "segment": nn.functional.cross_entropy(similarity.mean(dim=1) * 4, _near_truth(n)),
            "measures": nn.functional.smooth_l1_loss(
                self.model.measures(embedding), batch.measures.flatten(0, 1)
            ),
            "sound": nn.functional.mse_loss(self.model.sound(embedding), batch.pooled_sound()),
        }
        visemes = batch.visemes.flatten()
        if bool((visemes >= 0).any()):
            guessed = self.model.viseme(embedding)
            losses["viseme"] = nn.functional.cross_entropy(guessed, visemes, ignore_index=-1)
        return losses

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures on the held-out clips: correlation of the opening, and how often 2 s of sound find their place."""
        self.model.eval()
        figures: dict[str, float] = {}
        for kind, name in ((1, "real"), (0, "synthetic")):
            held = np.flatnonzero((self.corpus.clips[:, 3] == kind) & (self.corpus.clips[:, 4] == 1))
            if not len(held):
                continue
            guessed, truth, found = [], [], []
            for clip in held:
                frames = np.arange(self.corpus.clips[clip, 2])
                measures, _ = self.corpus.mouths(int(clip), frames)
                embedding = self.model.audio(torch.from_numpy(self.corpus.windows(int(clip), frames)))
                guessed.append(self.model.measures(embedding)[:, 0].numpy())
                truth.append(measures[:, 0])
                heard = self.model.heard(embedding).numpy()
                seen = self.model.mouth(torch.from_numpy(neighbours(measures, padded=True))).numpy()
                found += [abs(s.argmax() - REACH) <= 1 for s in offset_scores(heard, seen)]
            figures[f"{name}_r"] = pearson(np.concatenate(guessed), np.concatenate(truth))
            figures[f"{name}_in_step"] = float(np.mean(found)) if found else float("nan")
        return figures

    def save(self) -> None:
        """Write everything needed to go on exactly, or to export."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
        write_tensors(self.out / "checkpoint.safetensors", tensors)
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "settings": dataclasses.asdict(self.settings),
            "generator": self.generator.bit_generator.state,
        }
        write_json(self.out / "checkpoint.json", progress)

    def resume(self) -> None:
        """Go on from the checkpoint in ``out``. Raises: TrainingError: none there, or made with other settings."""
        progress = read_json(self.out / "checkpoint.json", "nothing to resume: train without --resume")
        kept = dict(progress["settings"]) | {"minutes": self.settings.minutes, "steps": self.settings.steps}
        if kept != dataclasses.asdict(self.settings):
            raise TrainingError(
                f"{self.out} was trained with other settings ({progress['settings']}): give the same, or another -o"
            )
        tensors = load_file(self.out / "checkpoint.safetensors")

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        state = self.optimiser.state_dict()
        for i in range(len(state["param_groups"][0]["params"])):
            if moments := part(f"optimiser.{i}."):
                state["state"][i] = moments
        self.optimiser.load_state_dict(state)
        self.generator.bit_generator.state = progress["generator"]
        self.step, self.seconds = int(progress["step"]), float(progress["seconds"])

    def _log(self, figures: dict[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1)} | {
            k: round(v, 5) for k, v in figures.items()
        }
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def neighbours(measures: Float, padded: bool = False) -> Float:
    """Each frame with those around it, [n - 4, MOUTH_FRAMES, measures]; ``padded``: [n, ...], ends repeated."""
    side = MOUTH_FRAMES // 2
    if padded:
        measures = np.pad(measures, ((side, side), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(measures, MOUTH_FRAMES, axis=0)  # [n - 4, measures, 5]
    return np.ascontiguousarray(windows.swapaxes(1, 2), np.float32)


def offset_scores(heard: Float, seen: Float, length: int = 50, hop: int = 10) -> Float:
    """Mean similarity of windows of sound with the mouths ``-REACH .. REACH`` frames later, [windows, 2 REACH + 1].

    heard, seen: [n, common], unit length, frame by frame; every window competes on the same sound.
    """
    similarity = heard @ seen.T
    shifts = np.arange(-REACH, REACH + 1)
    scores = []
    for first in range(REACH, len(heard) - REACH - length + 1, hop):
        frames = np.arange(first, first + length)
        scores.append(similarity[frames[:, None], frames[:, None] + shifts].mean(axis=0))
    return np.asarray(scores, np.float32).reshape(-1, 2 * REACH + 1)


def _near_truth(n: int) -> Tensor:
    """Targets over the shifts: most of it at none, the rest one frame beside, [n, 2 REACH + 1]."""
    target = torch.zeros(2 * REACH + 1)
    target[REACH - 1 : REACH + 2] = torch.tensor([0.15, 0.7, 0.15])
    return target.expand(n, -1)

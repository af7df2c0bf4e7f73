"""The training loop: one file, top to bottom.

Audio first (``conditions``), then the field with rays drawn toward face, mouth and eyes; from half of the way on, every
third step renders patches for the structural loss. Progress is a fraction of the steps or of the minutes asked
for, and drives every schedule.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.errors import TrainingError
from synctalk.spec import Spec
from torch import Tensor

from .attention import mask_gates
from .audio_branch import Hearing
from .audio_visual.encoder import generic_model
from .conditions import Conditions, FittedConditions, LearnedConditions, condition_tensors
from .losses import patch_loss, thickness
from .lower_face import beyond_sound
from .modules import Avatar
from .occupancy import Occupancy, visual_hull
from .perceptual import Perceptual, load_perceptual
from .rendering import Rendered, render_rays
from .run import Settings, hearing_of, keep_hearing, read_json, write_json, write_settings, write_tensors
from .scene import Batch, Scene
from .split import split

__all__ = ["Progress", "Trainer"]

_PATCH = 32
_PATCHES_FROM = 0.5
"""Share of the way from which patches are rendered."""
_WARM_UP = 0.03
_MAX_RAYS = 2048
"""Rays of a frame in one step, at most."""
_REFRESH_EVERY = 16
_SURFACE = 4e-3
_RARE = 5.0
"""How much more often a frame in the middle of a blink, or with the mouth wide open, is drawn."""
_BLINKS = 0.12
"""Share of the draws that go to frames with falling lids at least, however few they are."""
_LPIPS = 0.02
_HEAD_LABEL = 2
_SAVE_PAUSE = 5
"""Checkpoints and previews take so much less time than what is between them (all frames are heard for each)."""


class Progress(Protocol):
    """What the loop tells its caller."""

    def step(self, step: int, fraction: float, loss: float, psnr: float, samples: int) -> None: ...


@dataclass
class _Clock:
    """Where the run stands. ``seconds`` counts training time over all sessions of the run."""

    settings: Settings
    step: int = 0
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        assert self.settings.minutes is not None
        return min(1.0, self.seconds / (60 * self.settings.minutes))


class Trainer:
    """Trains one subject.

    Raises: TrainingError: nothing to train on, or a loss that is not finite (the culprit is named).
    """

    def __init__(self, scene: Scene, spec: Spec, settings: Settings, out: Path, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.scene, self.spec, self.settings, self.out = scene, spec, settings, out
        data = scene.dataset
        self.train_frames, self.held_out = split(data.takes, data.n_frames, settings.holdout, data.valid)
        if len(self.train_frames) < 25:
            raise TrainingError(
                f"only {len(self.train_frames)} frames can be trained on; at least 25 (one second) are needed: "
                "see the dataset's report for the frames without a face"
            )
        self._frame_share = self._shares()
        self.generator = np.random.default_rng(settings.seed)
        torch.manual_seed(settings.seed)
        hearing = hearing_of(out)
        self.model = Avatar(spec, len(data.takes), settings.seed, hearing)
        self.ema = Avatar(spec, len(data.takes), settings.seed, hearing)
        self.ema.requires_grad_(False)
        self.perceptual: Perceptual | None = None
        if settings.lpips is not None:
            self.perceptual = load_perceptual(settings.lpips, self.device)
        self.clock = _Clock(settings)
        self.occupancy = self._hull()
        self.conditions: Conditions = self._conditions()
        self.scene.expression = torch.from_numpy(
            beyond_sound(
                data.expression,
                spec.field.expression_names,
                lambda: self.conditions.predict(self.model).numpy(),
                self.train_frames,
            )
        )
        for avatar in (self.model, self.ema):
            avatar.to(self.device)
            if spec.field.gate == "sigmoid":
                mask_gates(avatar.field, data.points_m)
        self.optimiser = self._optimiser()
        self._samples_per_ray = 8.0
        self._recent: deque[float] = deque(maxlen=50)

    def _shares(self) -> NDArray[np.float64]:
        """How often each training frame is drawn, [n]; sums to 1."""
        wanted = 1.0 + _RARE * self.scene.rarity[self.train_frames].astype(np.float64) ** 2
        shares: NDArray[np.float64] = wanted / wanted.sum()
        shut = self.scene.shutness[self.train_frames].astype(np.float64) ** 2
        lacking = max(0.0, _BLINKS - float((shares * shut).sum()))
        if shut.any():
            shares = (1 - lacking) * shares + lacking * shut / shut.sum()
        return shares

    def _conditions(self) -> Conditions:
        if self.spec.audio.encoder == "ave":
            return LearnedConditions(self.model, self.scene)
        if self.spec.audio.encoder == "generic":
            return FittedConditions(self.model, self.scene, self.train_frames, self.generator)
        raise TrainingError(
            f"{self.out} was begun by an older version, whose audio branch knew one voice: train it again into a new folder"
        )

    def _hull(self) -> Occupancy:
        data = self.scene.dataset
        views = self.train_frames[np.linspace(0, len(self.train_frames) - 1, 24).astype(int)]
        masks = np.stack([data.masks[i] == _HEAD_LABEL for i in views])
        hull = visual_hull(
            self.spec.field,
            data.camera,
            data.rotation[views],
            data.translation[views],
            masks,
            data.points_m,
        )
        if not hull.any():
            raise TrainingError(
                "no part of the box lies inside the head masks: the poses and the masks do not agree; "
                "look at the dataset's report and run `synctalk prepare` again"
            )
        return Occupancy(hull)

    def _optimiser(self) -> torch.optim.Optimizer:
        field = self.model.field
        mlps = [*field.attention, *field.density, *field.colour]
        groups = [
            {"params": [field.tables], "lr": 1e-2},
            {"params": mlps, "lr": 2e-3},
            {"params": [self.model.appearance], "lr": 2e-3},
        ]
        if learned := list(self.model.audio.parameters()):
            groups.append({"params": learned, "lr": 5e-4})
        for group in groups:
            group["base"] = group["lr"]
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self, progress: Progress, save_every_s: float = 120.0) -> None:
        """Train until the steps or minutes are used up; saves on the way, at the end, and on Ctrl-C."""
        last_save, pause = time.monotonic(), save_every_s
        try:
            while self.clock.fraction < 1.0:
                started = time.monotonic()
                loss, psnr, samples = self._step()
                self.clock.step += 1
                self.clock.seconds += time.monotonic() - started
                self._recent.append(psnr)
                mean_psnr = float(np.mean(self._recent))
                progress.step(self.clock.step, self.clock.fraction, loss, mean_psnr, samples)
                if time.monotonic() - last_save > pause:
                    started = time.monotonic()
                    self.save()
                    self.preview()
                    last_save = time.monotonic()
                    pause = max(save_every_s, _SAVE_PAUSE * (last_save - started))
        except KeyboardInterrupt:
            self.save()
            raise
        self.save()
        self.preview()

    def _step(self) -> tuple[float, float, int]:
        fraction, step = self.clock.fraction, self.clock.step
        is_patch_step = fraction >= _PATCHES_FROM and step % 3 == 0
        n_frames = self.settings.frames_per_step // (2 if is_patch_step else 1)
        frames = np.sort(
            self.generator.choice(self.train_frames, n_frames, replace=False, p=self._frame_share)
        )
        batch = self.scene.batch(frames, self._pixels(frames, is_patch_step)).to(self.device)
        self.model.train()
        rendered = self._render(frames, batch, fraction)
        losses = self._losses(frames, batch, rendered, is_patch_step)
        total = torch.stack(list(losses.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        # The kernels' ReLU turns NaN into 0, so that the loss alone would hide a broken weight.
        if not math.isfinite(float(total.detach() + sum(p.detach().sum() for p in self.model.parameters()))):
            raise TrainingError(self._culprit(losses))
        self._update(fraction)
        self.occupancy.observe(rendered.positions, rendered.weights)
        if step % _REFRESH_EVERY == _REFRESH_EVERY - 1 and fraction > _WARM_UP and step > 150:
            self.occupancy.refresh()
        self._samples_per_ray += 0.1 * (len(rendered.positions) / len(batch.truth) - self._samples_per_ray)
        squared = ((rendered.over(batch.plate) - batch.truth).detach() ** 2).mean()
        return float(total.detach()), float(-10 * torch.log10(squared + 1e-10)), len(rendered.positions)

    def _pixels(self, frames: NDArray[np.int64], is_patch_step: bool) -> list[NDArray[np.int64]]:
        if is_patch_step:
            return [self.scene.patch(int(f), _PATCH, self.generator) for f in frames]
        n = int(self.settings.samples_per_step / len(frames) / max(1.0, self._samples_per_ray))
        return [self.scene.pixels(int(f), min(n, _MAX_RAYS), self.generator) for f in frames]

    def _render(self, frames: NDArray[np.int64], batch: Batch, fraction: float) -> Rendered:
        coarse = max(1.0, 2.5 - 1.5 * fraction / (2 * _WARM_UP))
        jitter = self.generator.random(len(batch.truth), np.float32)
        return render_rays(
            self.model.field,
            self.occupancy,
            batch.rays,
            jitter,
            self.conditions.draw(frames, fraction, self.generator).to(self.device),
            self.scene.expression[frames].to(self.device),
            self.model.appearance[self.scene.take[frames]],
            self.spec.field.step_m * coarse,
        )

    def _losses(
        self,
        frames: NDArray[np.int64],
        batch: Batch,
        rendered: Rendered,
        is_patch_step: bool,
    ) -> dict[str, Tensor]:
        image = rendered.over(batch.plate)
        appearance = self.model.appearance[self.scene.take[frames]]
        losses = {
            "colour": (image - batch.truth).abs().mean(),
            "alpha": 0.05 * (rendered.alpha - batch.opacity).abs().mean(),
            "appearance": 1e-3 * (appearance**2).mean(),
            "surface": self._surface_weight() * thickness(rendered.weights, rendered.rays, batch.opacity),
        }
        if is_patch_step:
            side = (len(frames), _PATCH, _PATCH, 3)
            shown, truth = image.view(side).permute(0, 3, 1, 2), batch.truth.view(side).permute(0, 3, 1, 2)
            losses["patch"] = 0.1 * patch_loss(shown, truth)
            if self.perceptual is not None:
                losses["lpips"] = _LPIPS * self.perceptual(shown, truth)
        return losses

    def _surface_weight(self) -> float:
        """Samples that carry either all of a ray or nothing of it make a thin surface, which few samples can render."""
        return _SURFACE * min(1.0, max(0.0, (self.clock.fraction - _WARM_UP) / 0.3))

    def _update(self, fraction: float) -> None:
        scale = min(1.0, (self.clock.step + 1) / 200) * 10 ** (-1.7 * fraction)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * scale
        self.optimiser.step()
        decay = min(0.998, (1 + self.clock.step) / (10 + self.clock.step))
        with torch.no_grad():
            for kept, now in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
            for kept_buffer, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
                kept_buffer.copy_(buffer)

    def _culprit(self, losses: dict[str, Tensor]) -> str:
        """Name what is not finite first: a parameter, a gradient, or a loss."""
        named: list[tuple[str, Tensor]] = [(f"weights {n}", p) for n, p in self.model.named_parameters()]
        named += [
            (f"gradient of {n}", p.grad) for n, p in self.model.named_parameters() if p.grad is not None
        ]
        named += [(f"loss {n}", v) for n, v in losses.items()]
        bad = [name for name, value in named if not bool(torch.isfinite(value).all())]
        return (
            f"step {self.clock.step}: not finite: {', '.join(bad) or 'the sum of losses'}. The last checkpoint is "
            f"kept; look at the dataset's report for damaged frames, then go on with --resume"
        )

    # --- what is kept ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write everything needed to go on exactly, or to evaluate and export."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
        tensors |= self.occupancy.state()
        tensors |= {
            f"condition.{k}": v
            for k, v in condition_tensors(self.conditions, self.ema, self.scene, self.train_frames).items()
        }
        tensors["expression.all"] = self.scene.expression
        tensors["rng.torch"] = torch.get_rng_state()
        write_tensors(self.out / "checkpoint.safetensors", tensors)
        values = {
            "step": self.clock.step,
            "seconds": self.clock.seconds,
            "fraction": self.clock.fraction,
            "condition_gain": self.conditions.gain,
            "audio": self.conditions.figures,
            "samples_per_ray": self._samples_per_ray,
            "generator": self.generator.bit_generator.state,
        }
        write_json(self.out / "checkpoint.json", values)

    def resume(self) -> None:
        """Go on from the checkpoint in ``out``, exactly.

        Raises: TrainingError: there is none, or it is damaged.
        """
        from safetensors.torch import load_file

        values = read_json(self.out / "checkpoint.json", "nothing to resume: train without --resume")
        tensors = load_file(self.out / "checkpoint.safetensors")

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.ema.load_state_dict(part("ema."))
        self.conditions.load(part("condition."))
        self.scene.expression = tensors.get("expression.all", self.scene.expression)
        state = self.optimiser.state_dict()
        for i in range(sum(len(g["params"]) for g in state["param_groups"])):
            if kept := part(f"optimiser.{i}."):
                state["state"][i] = kept
        self.optimiser.load_state_dict(state)
        self.occupancy = Occupancy.from_state(tensors, self.spec.field.occupancy_resolution)
        torch.set_rng_state(tensors["rng.torch"])
        self.generator.bit_generator.state = values["generator"]
        self._samples_per_ray = float(values["samples_per_ray"])
        self.clock.step, self.clock.seconds = int(values["step"]), float(values["seconds"])

    def preview(self) -> None:
        """A picture of truth and render for some frames, trained and held out."""
        from .preview import write_preview
        from .run import load_run

        run = load_run(self.out, self.scene.dataset.path)
        frames = [*_spread(self.train_frames, 3), *_spread(self.held_out, 3)]
        write_preview(run, frames, self.out / "preview" / f"{self.clock.step:06d}.png")

    def _log(self, values: dict[str, float]) -> None:
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values | {"step": self.clock.step, "seconds": self.clock.seconds}) + "\n")


def _spread(frames: NDArray[np.int64], n: int) -> Iterator[int]:
    if len(frames):
        for i in np.linspace(0, len(frames) - 1, n + 2).astype(int)[1:-1]:
            yield int(frames[i])


def start(
    scene: Scene,
    spec: Spec,
    settings: Settings,
    out: Path,
    device: str = "cpu",
    hearing: Hearing | None = None,
) -> Trainer:
    """Make the run's folder and a trainer for it. hearing: the models that the audio branch hears with; the packaged
    generic one by default.

    Raises: TrainingError: the spec's audio branch has no place for such models.
    """
    hears = spec.audio.encoder == "generic"
    hearing = hearing or Hearing(generic_model() if hears else None)
    if hearing != Hearing() and not hears:
        raise TrainingError(
            f"preset {spec.name} learns its own audio network: leave --encoder and --speech-to-mouth away, or choose "
            "--preset default"
        )
    (out / "preview").mkdir(parents=True, exist_ok=True)
    keep_hearing(out, hearing)
    write_settings(out, settings, spec)
    return Trainer(scene, spec, settings, out, device)

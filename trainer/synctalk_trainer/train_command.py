"""What `synctalk train` does around the loop: settings, progress bar, Ctrl-C, resume."""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from synctalk import _native
from synctalk.errors import TrainingError
from synctalk.spec import Spec, expression_region, preset

from .audio_branch import Hearing
from .dataset import Dataset
from .run import Settings, read_json, settings_of
from .scene import Scene
from .train import Trainer, start

__all__ = ["train_run"]

_LOG = logging.getLogger(__name__)
_PLAIN_EVERY_S = 30.0


class _Bar:
    """Progress on a terminal; a line every half minute elsewhere."""

    def __init__(self, bar: Progress, task: TaskID, is_terminal: bool, console: Console) -> None:
        self.bar, self.task, self.is_terminal, self.console = bar, task, is_terminal, console
        self.started = self.said = time.monotonic()
        self.first_fraction: float | None = None

    def step(self, step: int, fraction: float, loss: float, psnr: float, samples: int) -> None:
        if self.first_fraction is None:
            self.first_fraction, self.started = fraction, time.monotonic()
        gone, done = time.monotonic() - self.started, fraction - self.first_fraction
        left = gone / done * (1 - fraction) if done > 1e-6 else float("nan")
        text = f"step {step}  loss {loss:.4f}  {psnr:.1f} dB  {samples} samples  {left / 60:.1f} min left"
        self._say(fraction, text)

    def _say(self, fraction: float, text: str) -> None:
        if self.is_terminal:
            self.bar.update(self.task, completed=fraction, text=text)
        elif time.monotonic() - self.said > _PLAIN_EVERY_S:
            self.said = time.monotonic()
            self.console.print(f"{100 * fraction:5.1f} %  {text}", highlight=False)


def train_run(
    dataset: Path,
    out: Path,
    settings: Settings,
    resume: bool,
    device: str,
    threads: int | None,
    console: Console,
    hearing: Hearing | None = None,
    expression: tuple[str, ...] = (),
) -> Trainer:
    """Train, or go on training, with a progress bar. expression: coefficients to learn beside the preset's.

    Raises: TrainingError: the folder holds another run, or there is nothing to resume; an unknown device.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        _native.set_threads(threads)
    device = _device(device)
    console.print(
        "preparing: reading the clip, and learning which mouth its sound makes (not part of --minutes)"
    )
    spec = _with_expression(preset(settings.preset), expression)
    if resume:
        settings = settings_of(out)
        spec = Spec.from_dict(read_json(out / "run.json", "is this a run?")["spec"])
        data = Dataset.open(dataset, spec.field.expression_names)
        trainer = Trainer(Scene(data, spec), spec, settings, out, device)
        trainer.resume()
    elif (out / "checkpoint.json").exists():
        raise TrainingError(
            f"{out} holds a run already: add --resume to go on with it, or choose another folder"
        )
    else:
        data = Dataset.open(dataset, spec.field.expression_names)
        trainer = start(Scene(data, spec), spec, settings, out, device, hearing)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended saves, too
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[text]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("train", total=1.0, text="starting")
        try:
            trainer.run(_Bar(bar, task, console.is_terminal, console))
        except KeyboardInterrupt:
            raise TrainingError(
                f"stopped at step {trainer.clock.step}, saved: `synctalk train {dataset} -o {out} --resume` goes on"
            ) from None
    return trainer


def _with_expression(spec: Spec, names: tuple[str, ...]) -> Spec:
    """Raises: TrainingError: coefficients of the lower face for a design that cannot tell them from sound."""
    more = tuple(name for name in dict.fromkeys(names) if name not in spec.field.expression_names)
    if {expression_region(name) for name in more} - {"upper"} and (
        spec.field.gate == "none" or spec.audio.encoder == "ave"
    ):
        raise TrainingError(
            f"--expression: preset {spec.name} cannot tell {', '.join(more)} from what the sound moves: choose --preset "
            "default"
        )
    field = dataclasses.replace(spec.field, expression_names=spec.field.expression_names + more)
    return dataclasses.replace(spec, field=field)


def _device(device: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes the GPU where PyTorch and the native module both can.

    Raises: TrainingError: the device cannot be used.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"unknown device {device!r}: choose auto, cpu or cuda")
    can_cuda = torch.cuda.is_available() and _native.cuda_devices() > 0
    if device == "cuda" and not can_cuda:
        raise TrainingError(
            "--device cuda: PyTorch or the native module sees no GPU here; build with SYNCTALK_CUDA=ON, use --device "
            "cpu, or run `synctalk doctor`"
        )
    return "cuda" if device != "cpu" and can_cuda else "cpu"

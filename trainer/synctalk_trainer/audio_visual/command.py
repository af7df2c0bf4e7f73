"""``synctalk train-audio``: from films and recorded voices to the generic speech-to-mouth model."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from .training import NetworkTrainer

__all__ = ["train_audio"]

_PLAIN_EVERY_S = 30.0


def train_audio(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER...", help="Folders of videos of one talking person each, or of prepared datasets."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The model.")] = Path(
        "speech_to_mouth.onnx"
    ),
    voices: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Recorded speech without film; the teacher says what its mouths do."
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Whisper (base), converted for CTranslate2: model.bin and its config."
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.05, help="Train for so long (25 if neither this nor --steps is given)."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train for so many steps instead.")] = None,
    utterances: Annotated[
        int, typer.Option(min=0, help="Synthetic utterances of about 11 s from espeak-ng; 0 for none.")
    ] = 150,
    variations: Annotated[
        int, typer.Option(min=0, help="Other voices, rooms and codecs made of every sound.")
    ] = 2,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all that there are by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    landmarker: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another copy of face_landmarker.task than the packaged one."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the training stopped, exactly.")
    ] = False,
) -> None:
    """Train the generic speech-to-mouth model: from anybody's sound to what the mouth does.

    Every 11th take of the films and every 11th recording is kept for validation. The corpus and checkpoints go into
    FILE.train/, so that Ctrl-C loses nothing and --resume goes on. Synthetic speech needs espeak-ng.

    Examples:

      synctalk train-audio films/ --voices voices/ --teacher whisper-base/ -o speech_to_mouth.onnx

      synctalk train-audio data/may data/lee -o speech_to_mouth.onnx --minutes 60 --utterances 0

      synctalk train data/may -o runs/may --speech-to-mouth speech_to_mouth.onnx
    """
    import torch
    from rich.console import Console
    from synctalk.errors import TrainingError

    from .export import draw_curves, write_model
    from .gather import Request, gather
    from .training import NetworkSettings, NetworkTrainer

    if minutes is not None and steps is not None:
        raise TrainingError("both --minutes and --steps are given: choose one")
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(highlight=False, soft_wrap=True)
    folder = out.with_name(out.name + ".train")
    if not resume and (folder / "checkpoint.json").exists():
        raise TrainingError(f"{folder} holds a training already: add --resume, or choose another -o")
    settings = NetworkSettings(minutes=None if steps is not None else minutes or 25.0, steps=steps, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    request = Request(
        _resolved(folders),
        _resolved(voices),
        None if teacher is None else str(teacher.resolve()),
        utterances,
        variations,
        seed,
    )
    trainer = NetworkTrainer(gather(request, folder, landmarker, console), settings, folder)
    if resume:
        trainer.resume()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended saves, too
    try:
        _follow(trainer.run(), trainer, console)
    except KeyboardInterrupt:
        raise TrainingError(
            f"stopped at step {trainer.step}, saved: the same command with --resume goes on"
        ) from None
    write_model(trainer.average, *trainer.usual(), out)
    draw_curves(folder / "log.jsonl", folder / "curves.png")
    console.print(f"trained {trainer.step} steps in {trainer.seconds / 60:.1f} min: {out}")
    console.print(
        f"look at {folder / 'curves.png'}, then: synctalk train DATASET -o RUN --speech-to-mouth {out}"
    )


def _resolved(folders: list[Path] | None) -> tuple[str, ...]:
    return tuple(sorted(str(path.resolve()) for path in folders or []))


def _follow(figures: Iterator[dict[str, float]], trainer: NetworkTrainer, console: Console) -> None:
    """Progress on a terminal; a line every half minute elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[text]}"))
    said, validated = time.monotonic(), ""
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("train", total=1.0, text="starting")
        for step in figures:
            if names := [name for name in step if name.endswith(("_r", "_shut", "_speaking"))]:
                validated = "  ".join(f"{name} {step[name]:.2f}" for name in names)
            text = f"step {trainer.step}  loss {step['loss']:.3f}  {validated}"
            bar.update(task, completed=trainer.fraction, text=text)
            if not console.is_terminal and time.monotonic() - said > _PLAIN_EVERY_S:
                said = time.monotonic()
                console.print(f"{100 * trainer.fraction:5.1f} %  {text}")

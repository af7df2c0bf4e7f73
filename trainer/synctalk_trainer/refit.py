"""Fits the audio branch of a trained run again, with another generic model or a newer version; the field stays as it is.

The field's condition is the shape of the filmed mouth, whatever listens. So a run of an older version, whose audio
branch knew one voice, follows any voice after a minute or two, without training its field again.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from synctalk.errors import TrainingError
from synctalk.spec import preset

from .audio_branch import Hearing
from .audio_visual.encoder import generic_model
from .conditions import FittedConditions, condition_tensors
from .modules import Avatar
from .run import keep_hearing, load_run, read_json, write_json, write_settings, write_tensors
from .scene import Scene
from .split import split

__all__ = ["refit"]

_LEFT_BEHIND = ("evaluation*", "preview", "log.jsonl")


def refit(
    path: Path, out: Path, dataset: Path | None = None, hearing: Hearing | None = None
) -> dict[str, float]:
    """Copy a run into the new folder ``out`` with an audio branch fitted by this version; return the fit's figures.

    dataset: where the dataset is now, if it moved. hearing: the models to hear with; the packaged generic one by default.

    Raises: TrainingError: ``out`` exists, no checkpoint, or a preset that learns its own audio network. DatasetError: the
    dataset is gone.
    """
    if out.exists():
        raise TrainingError(f"{out} exists already: choose a new folder")
    old = load_run(path, dataset)
    spec = dataclasses.replace(old.spec, audio=preset(old.settings.preset).audio)
    if spec.audio.encoder != "generic":
        raise TrainingError(
            f"{path}: preset {spec.name} learns its audio network with the field: train it again"
        )
    hearing = hearing or Hearing(generic_model())
    data, scene = old.dataset, Scene(old.dataset, spec)
    frames, _ = split(data.takes, data.n_frames, old.settings.holdout, data.valid)
    model = Avatar(spec, len(data.takes), old.settings.seed, hearing)
    conditions = FittedConditions(model, scene, frames, np.random.default_rng(old.settings.seed))
    tensors = load_file(path / "checkpoint.safetensors")
    kept = {
        k: v for k, v in tensors.items() if not k.startswith(("model.audio.", "ema.audio.", "condition."))
    }
    heard = {f"{name}.audio.{k}": v for name in ("model", "ema") for k, v in model.audio.state_dict().items()}
    tensors_of = condition_tensors(conditions, model, scene, frames)
    progress = read_json(path / "checkpoint.json", "is this a run?")
    progress |= {"condition_gain": conditions.gain, "audio": conditions.figures}
    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(path, temporary, ignore=shutil.ignore_patterns(*_LEFT_BEHIND))
    keep_hearing(temporary, hearing)
    settings = (
        old.settings if dataset is None else dataclasses.replace(old.settings, dataset=str(dataset.resolve()))
    )
    write_settings(temporary, settings, spec)
    write_tensors(
        temporary / "checkpoint.safetensors",
        kept | heard | {f"condition.{k}": v for k, v in tensors_of.items()},
    )
    write_json(temporary / "checkpoint.json", progress)
    temporary.rename(out)
    return conditions.figures

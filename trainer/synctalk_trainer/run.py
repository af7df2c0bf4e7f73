"""A training run on disk: settings, checkpoints, and the model as evaluation and export read it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from synctalk.backends import HeadRequest
from synctalk.backends.native_renderer import render_head
from synctalk.errors import TrainingError
from synctalk.geometry import Camera
from synctalk.spec import Spec
from torch import Tensor

from .audio_branch import Hearing, KernelEncoder
from .audio_visual.encoder import SpeechEncoder, read_generic
from .dataset import Dataset
from .modules import Avatar
from .occupancy import Occupancy, lower_face
from .rendering import native_renderer

__all__ = [
    "Run",
    "Settings",
    "hearing_of",
    "keep_hearing",
    "load_run",
    "read_json",
    "settings_of",
    "without_nan",
    "write_json",
    "write_tensors",
]

_VERSION = 1
_GENERIC, _EXTRA = "speech_to_mouth.onnx", "encoder.onnx"
_RETIRED = {"attention_weight"}
"""Settings of older versions: gates are masked now."""


@dataclass(frozen=True)
class Settings:
    """What a run was asked to do; fixed for the life of the run."""

    dataset: str
    preset: str = "default"
    minutes: float | None = 30.0
    """Of training steps alone: preparation, checkpoints and previews do not count."""
    steps: int | None = None
    """Steps or minutes: exactly one is given."""
    holdout: str = "last"
    seed: int = 0
    lpips: str | None = None
    """A perceptual distance of the user's, see ``perceptual``."""
    frames_per_step: int = 8
    samples_per_step: int = 40_000
    """Rays are drawn until they make about so many samples."""


@dataclass(frozen=True)
class Run:
    """A trained subject (EMA weights), with the dataset it was trained on."""

    path: Path
    settings: Settings
    spec: Spec
    model: Avatar
    occupancy_grid: Occupancy
    dataset: Dataset
    condition_rest: NDArray[np.float32]
    """[C]: the closed, silent mouth"""
    condition_mean: NDArray[np.float32]
    """[C]: the mean over the training frames"""
    condition_gain: float
    seconds_trained: float
    step: int
    expression: NDArray[np.float32]
    """[N, E]: what the field was driven with (``lower_face.beyond_sound``)"""
    conditions: NDArray[np.float32]
    """[N, C]: what the audio branch says for every frame of the dataset"""
    conditions_unseen: NDArray[np.float32]
    """[N, C]: the same of a branch that was fitted without the frame, where there is one: as wrong as in new speech"""

    @property
    def camera(self) -> Camera:
        return self.dataset.camera

    @property
    def occupancy(self) -> NDArray[np.bool_]:
        """Visited cells [G, G, G], index [z, y, x]."""
        return self.occupancy_grid.cells

    @property
    def poses(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rotation [N, 3, 3] and translation [N, 3] of every frame."""
        return self.dataset.rotation, self.dataset.translation

    @property
    def appearance_mean(self) -> NDArray[np.float32]:
        """[A]: the code that new speech is rendered with."""
        mean: NDArray[np.float32] = self.model.appearance.detach().mean(dim=0).numpy()
        return mean

    def appearance_of(self, frame: int) -> NDArray[np.float32]:
        """[A]: the code of a frame's take, or of the nearest takes that were trained on, if it was held out."""
        codes = self.model.appearance.detach().numpy()
        take = self.dataset.take_of(frame)
        trained = np.flatnonzero(np.abs(codes).sum(axis=1) > 0)
        if not len(trained) or take in trained:
            return np.asarray(codes[take], np.float32)
        distance = np.abs(trained - take)
        nearest = trained[distance == distance.min()]
        return np.asarray(codes[nearest].mean(axis=0), np.float32)

    def render(self, frame: int, condition: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The head of a frame, driven by its audio, pose and expression: premultiplied RGBA [S, S, 4].

        condition: [C] instead of what the frame's audio says.
        """
        return self.draw(self.request_of(frame, condition))

    def request_of(self, frame: int, condition: NDArray[np.float32] | None = None) -> HeadRequest:
        """The head of a frame; condition as for ``render``."""
        return HeadRequest(
            self.camera,
            self.dataset.rotation[frame],
            self.dataset.translation[frame],
            self.condition_of(frame) if condition is None else condition,
            self.expression[frame],
            self.appearance_of(frame),
        )

    def draw(self, request: HeadRequest) -> NDArray[np.float32]:
        """The head alone: premultiplied RGBA [H, W, 4] in 0..1."""
        return render_head(self._renderer, request)

    @cached_property
    def _renderer(self) -> Any:
        return native_renderer(self.model.field, self.occupancy_grid)

    def condition_of(self, frame: int) -> NDArray[np.float32]:
        """[C]: the condition as the run time uses it, widened by the gain."""
        return np.asarray(self.conditions_rendered[frame], np.float32)

    @cached_property
    def conditions_rendered(self) -> NDArray[np.float32]:
        """[N, C]: the conditions of all frames as the run time uses them."""
        return self.widened(self.conditions)

    @cached_property
    def mouths(self) -> NDArray[np.float32]:
        """[N, C]: the shapes of the filmed mouths, which the kernel encoder was fitted to, or what a learned encoder says."""
        if not isinstance(self.model.audio, KernelEncoder):
            return self.conditions
        return self.dataset.mouth_shape(self.spec.field.condition)

    def widened(self, conditions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Conditions [..., C] as the run time uses them: spread around their mean by the gain."""
        spread = conditions - self.condition_mean
        return np.asarray(self.condition_mean + self.condition_gain * spread, np.float32)


def without_nan(value: Any) -> Any:
    """JSON has no NaN: None instead, in dictionaries of any depth."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path, what: str) -> Any:
    """Read JSON.

    Raises: TrainingError: missing or damaged; ``what`` names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"{path} is missing: {what}") from None
    except ValueError as error:
        raise TrainingError(f"{path} is damaged ({error}): {what}") from None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors under a temporary name and rename."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, temporary)
    temporary.replace(path)


def settings_of(path: Path) -> Settings:
    """The settings of a run.

    Raises: TrainingError: not a run, or one of a newer version.
    """
    values = read_json(path / "run.json", "is this the folder that `synctalk train -o` wrote?")
    if values.get("format") != "synctalk-run" or values.get("version", 0) > _VERSION:
        raise TrainingError(f"{path}/run.json is not a run that this version reads: update synctalk")
    settings = {name: value for name, value in values["settings"].items() if name not in _RETIRED}
    return Settings(**settings)


def hearing_of(path: Path) -> Hearing:
    """The models that lie in a run's folder, those that it was trained with.

    Raises: ModelError: one is damaged.
    """
    generic, extra = path / _GENERIC, path / _EXTRA
    return Hearing(
        read_generic(generic) if generic.exists() else None,
        SpeechEncoder.read(extra) if extra.exists() else None,
    )


def keep_hearing(path: Path, hearing: Hearing) -> None:
    """Copy the models into a run's folder."""
    for name, model in ((_GENERIC, hearing.generic), (_EXTRA, hearing.extra)):
        (path / name).unlink(missing_ok=True)
        if model is not None:
            (path / name).write_bytes(model.model)


def write_settings(path: Path, settings: Settings, spec: Spec) -> None:
    """Write ``run.json``."""
    values = {
        "format": "synctalk-run",
        "version": _VERSION,
        "settings": dataclasses.asdict(settings),
        "spec": spec.to_dict(),
    }
    write_json(path / "run.json", values)


def load_run(path: str | Path, dataset: str | Path | None = None) -> Run:
    """Open a run with its EMA weights. ``dataset`` overrides the folder it was trained on (if that moved).

    Raises: TrainingError: no checkpoint yet, or a damaged one. DatasetError: the dataset is gone.
    """
    path = Path(path)
    settings = settings_of(path)
    spec = Spec.from_dict(read_json(path / "run.json", "run `synctalk train` again")["spec"])
    progress = read_json(
        path / "checkpoint.json", "the run has no checkpoint yet: let `synctalk train` go on"
    )
    tensors = load_file(path / "checkpoint.safetensors")
    data = Dataset.open(dataset if dataset is not None else settings.dataset, spec.field.expression_names)
    model = Avatar(spec, len(data.takes), settings.seed, hearing_of(path))
    weights = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{path}: the checkpoint does not fit the spec or the dataset: {error}") from None
    model.eval()
    occupancy = Occupancy.from_state(tensors, spec.field.occupancy_resolution)
    occupancy.tighten(lower_face(spec.field, data.points_m))
    return Run(
        path=path,
        settings=settings,
        spec=spec,
        model=model,
        occupancy_grid=occupancy,
        dataset=data,
        condition_rest=tensors["condition.rest"].numpy(),
        condition_mean=tensors["condition.mean"].numpy(),
        condition_gain=float(progress["condition_gain"]),
        seconds_trained=float(progress["seconds"]),
        step=int(progress["step"]),
        expression=tensors["expression.all"].numpy() if "expression.all" in tensors else data.expression,
        conditions=tensors["condition.all"].numpy(),
        conditions_unseen=tensors.get("condition.unseen", tensors["condition.all"]).numpy(),
    )

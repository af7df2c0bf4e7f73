"""A speech encoder in ONNX, ours or the user's: mel window in, embedding out.

The contract: one input, float32 [N, 1, 80, 16] (80 mel bins, 16 columns, as ``synctalk.audio`` makes them), one output,
float32 [N, D] with D of at most 1024, or the same with further axes of size 1 (the published lip-sync encoders end in
[N, 512, 1, 1]). N is free, rows do not depend on each other, and the weights are inside the file.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from synctalk.errors import ModelError
from synctalk.spec import preset

from .networks import COLUMNS, MELS

__all__ = ["MAX_EMBEDDING", "SpeechEncoder", "chosen_encoder", "default_encoder", "usual_encoder"]

Float = NDArray[np.float32]

MAX_EMBEDDING = 1024
_MAX_BYTES = 64 << 20
_CONTRACT = "expected float32 [N, 1, 80, 16] -> float32 [N, D] with N free (docs/audio_encoder.md)"
_AT_ONCE = 512


class SpeechEncoder:
    """Runs an encoder on the CPU.

    Raises: ModelError: the file is missing, damaged, or breaks the contract.
    """

    def __init__(self, model: bytes, name: str = "encoder.onnx") -> None:
        self.model, self.name = model, name
        if len(model) > _MAX_BYTES:
            raise ModelError(f"{name} has {len(model) >> 20} MiB, at most {_MAX_BYTES >> 20} are read")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise ModelError(
                f"{name} is not a model that ONNX Runtime loads ({error}): {_CONTRACT}"
            ) from None
        self._check_declared()
        self.n_embedding = self._tried()

    @staticmethod
    def read(path: Path) -> SpeechEncoder:
        """Raises: ModelError: no such file, or not an encoder."""
        try:
            return SpeechEncoder(path.read_bytes(), str(path))
        except OSError as error:
            raise ModelError(
                f"{path} cannot be read ({error.strerror}): give an .onnx file, {_CONTRACT}"
            ) from None

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.model).hexdigest()

    def __call__(self, windows: Float) -> Float:
        """Mel windows [N, 1, 80, 16] to embeddings [N, D]."""
        parts = [self._run(windows[i : i + _AT_ONCE]) for i in range(0, len(windows), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.n_embedding), np.float32)

    def _run(self, windows: Float) -> Float:
        (values,) = self._session.run(None, {self._input: np.ascontiguousarray(windows, np.float32)})
        return np.asarray(values.reshape(len(windows), -1))

    def _check_declared(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        declared = f"{_signature(inputs)} -> {_signature(outputs)}"
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"{self.name} computes {declared}: {_CONTRACT}")
        shape = inputs[0].shape
        fits = len(shape) == 4 and all(
            not isinstance(got, int) or got == want
            for got, want in zip(shape[1:], (1, MELS, COLUMNS), strict=True)
        )
        is_float = inputs[0].type == outputs[0].type == "tensor(float)"
        if not fits or not is_float or isinstance(shape[0], int):
            raise ModelError(f"{self.name} computes {declared}: {_CONTRACT}")
        self._input = str(inputs[0].name)

    def _tried(self) -> int:
        """Width of the embedding, found by running the model."""
        windows = np.random.default_rng(0).uniform(-4, 4, (3, 1, MELS, COLUMNS)).astype(np.float32)
        try:
            together = self._session.run(None, {self._input: windows})[0]
            alone = self._session.run(None, {self._input: windows[1:2]})[0]
        except Exception as error:  # as above
            raise ModelError(f"{self.name} does not run ({error}): {_CONTRACT}") from None
        if together.shape[0] != 3 or alone.shape[0] != 1 or together.size != 3 * together.shape[1]:
            raise ModelError(f"{self.name} gives {together.shape} for 3 windows: {_CONTRACT}")
        if not np.isfinite(together).all():
            raise ModelError(f"{self.name} gives NaN or infinity: train it again, or choose another encoder")
        scale = max(float(np.abs(together).max()), 1e-6)
        if float(np.abs(together[1:2] - alone).max()) > 1e-3 * scale:
            raise ModelError(
                f"{self.name} gives a window another embedding in other company: export it in evaluation mode"
            )
        if together.shape[1] > MAX_EMBEDDING:
            raise ModelError(
                f"{self.name} gives {together.shape[1]} values a window, at most {MAX_EMBEDDING} are taken"
            )
        return int(together.shape[1])


def _signature(values: Any) -> str:
    return ", ".join(f"{value.type}{value.shape}" for value in values)


def chosen_encoder(name: str) -> SpeechEncoder | None:
    """``none``, ``default`` or the path of an .onnx file. Raises: ModelError: not an encoder."""
    if name == "none":
        return None
    return default_encoder() if name == "default" else SpeechEncoder.read(Path(name))


def usual_encoder(preset_name: str) -> str:
    """The name that ``chosen_encoder`` gets unless people choose. Raises: ValueError: no such preset."""
    return "default" if preset(preset_name).audio.encoder == "kernel" else "none"


def default_encoder() -> SpeechEncoder:
    """The encoder that comes with the package.

    Raises: ModelError: the installation lacks it.
    """
    file = files("synctalk_trainer.audio_visual") / "encoder.onnx"
    if not file.is_file():
        raise ModelError("the package's encoder.onnx is missing: install synctalk again")
    return SpeechEncoder(file.read_bytes(), "the packaged encoder")

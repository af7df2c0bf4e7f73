"""Models in ONNX that an audio branch hears with: the generic speech-to-mouth model, and a speech encoder of the user's.

The contract of the user's: one input, float32 [N, 1, 80, 16] (80 mel bins, 16 columns, as ``synctalk.audio`` makes them,
-4..4), one output, float32 [N, D] with D of at most 1024, or the same with further axes of size 1 (the published lip-sync
encoders end in [N, 512, 1, 1]). N is free, rows do not depend on each other, and the weights are inside the file. The
generic model keeps the same contract with 65 columns, the last of them the voice, and gives ``networks.OUTPUTS`` first.
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

from .networks import COLUMNS, MELS

__all__ = ["MAX_EMBEDDING", "WINDOW", "SpeechEncoder", "chosen_encoder", "generic_model", "read_generic"]

Float = NDArray[np.float32]

MAX_EMBEDDING = 1024
_MAX_BYTES = 64 << 20
WINDOW = 16
"""Mel columns that a user's encoder hears."""
_AT_ONCE = 512


class SpeechEncoder:
    """Runs a model on the CPU.

    Raises: ModelError: the file is missing, damaged, or breaks the contract.
    """

    def __init__(self, model: bytes, name: str = "encoder.onnx", columns: int = WINDOW) -> None:
        """columns: of the windows that it hears."""
        self.model, self.name, self.columns = model, name, columns
        self._contract = f"expected float32 [N, 1, {MELS}, {columns}] -> float32 [N, D] with N free (docs/audio_encoder.md)"
        if len(model) > _MAX_BYTES:
            raise ModelError(f"{name} has {len(model) >> 20} MiB, at most {_MAX_BYTES >> 20} are read")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise ModelError(
                f"{name} is not a model that ONNX Runtime loads ({error}): {self._contract}"
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
                f"{path} cannot be read ({error.strerror}): give an .onnx file (docs/audio_encoder.md)"
            ) from None

    @property
    def node(self) -> str:
        """What its node is called in the graph of an audio branch."""
        return "SpeechEncoder" if self.columns == WINDOW else "SpeechToMouth"

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.model).hexdigest()

    def __call__(self, windows: Float) -> Float:
        """Mel windows [N, 1, 80, columns] to embeddings [N, D]."""
        parts = [self._run(windows[i : i + _AT_ONCE]) for i in range(0, len(windows), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.n_embedding), np.float32)

    def _run(self, windows: Float) -> Float:
        (values,) = self._session.run(None, {self._input: np.ascontiguousarray(windows, np.float32)})
        return np.asarray(values.reshape(len(windows), -1))

    def _check_declared(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        declared = f"{_signature(inputs)} -> {_signature(outputs)}"
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"{self.name} computes {declared}: {self._contract}")
        shape = inputs[0].shape
        fits = len(shape) == 4 and all(
            not isinstance(got, int) or got == want
            for got, want in zip(shape[1:], (1, MELS, self.columns), strict=True)
        )
        is_float = inputs[0].type == outputs[0].type == "tensor(float)"
        if not fits or not is_float or isinstance(shape[0], int):
            raise ModelError(f"{self.name} computes {declared}: {self._contract}")
        self._input = str(inputs[0].name)

    def _tried(self) -> int:
        """Width of the embedding, found by running the model."""
        windows = np.random.default_rng(0).uniform(-4, 4, (3, 1, MELS, self.columns)).astype(np.float32)
        try:
            together = self._session.run(None, {self._input: windows})[0]
            alone = self._session.run(None, {self._input: windows[1:2]})[0]
        except Exception as error:  # as above
            raise ModelError(f"{self.name} does not run ({error}): {self._contract}") from None
        if together.shape[0] != 3 or alone.shape[0] != 1 or together.size != 3 * together.shape[1]:
            raise ModelError(f"{self.name} gives {together.shape} for 3 windows: {self._contract}")
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


def chosen_encoder(name: str | None) -> SpeechEncoder | None:
    """The user's encoder, an .onnx file; None for none. Raises: ModelError: not an encoder."""
    return None if name in (None, "none") else SpeechEncoder.read(Path(str(name)))


def generic_model() -> SpeechEncoder:
    """The generic speech-to-mouth model that comes with the SDK.

    Raises: ModelError: the installation lacks it.
    """
    file = files("synctalk") / "speech_to_mouth.onnx"
    if not file.is_file():
        raise ModelError("the package's speech_to_mouth.onnx is missing: install synctalk again")
    return _generic(file.read_bytes(), "the packaged speech-to-mouth model")


def read_generic(path: Path) -> SpeechEncoder:
    """A generic model that ``synctalk train-audio`` wrote. Raises: ModelError: no such file, or not such a model."""
    try:
        return _generic(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): give what `synctalk train-audio -o` wrote"
        ) from None


def _generic(model: bytes, name: str) -> SpeechEncoder:
    return SpeechEncoder(model, name, COLUMNS + 1)

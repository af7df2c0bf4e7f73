"""ONNX Runtime sessions over a bundle's members."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.bundle import TENSORS, Bundle
from synctalk.errors import BackendError, BundleError

__all__ = [
    "AudioNetwork",
    "Providers",
    "cuda_graphs",
    "open_model",
    "open_session",
    "usable_cpus",
    "why_no_onnxruntime",
]

Float = NDArray[np.float32]

Providers = Sequence[str | tuple[str, dict[str, str]]]
"""ONNX Runtime's execution providers, the first choice first, with their options."""

_ERRORS_ONLY = 3
_GRAPHS = "SYNCTALK_CUDA_GRAPHS"


def why_no_onnxruntime() -> str | None:
    """Why ONNX Runtime cannot be used in this environment, or None."""
    wheels = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(wheels) > 1:
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall both, then install one"
        )
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed: pip install onnxruntime"
    return None


def _is_installed(wheel: str) -> bool:
    try:
        importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def open_session(bundle: Bundle, member: str, providers: Providers) -> Any:
    """An inference session of an ``.onnx`` member.

    Raises: BackendError: ONNX Runtime is missing or broken. BundleError: the member is not a usable model.
    """
    return open_model(bundle.read(member), bundle.read(TENSORS), providers, member)


def open_model(model: bytes, packed: bytes, providers: Providers, name: str) -> Any:
    """An inference session of an ONNX file; tensors that it keeps outside come from ``packed``, the bytes of
    ``tensors.safetensors``. ``name`` is for messages.

    A session computes on its caller's thread alone (``run`` may be called from many): ONNX Runtime's own threads gain
    nothing on look-ups, and slow each other down on busy cores.

    Raises: BackendError: ONNX Runtime is missing or broken. BundleError: not a usable model.
    """
    if reason := why_no_onnxruntime():
        raise BackendError(reason)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = np.frombuffer(packed, np.uint8)
    options.add_external_initializers_from_files_in_memory([TENSORS], [values], [values.nbytes])
    try:
        return onnxruntime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own exceptions share no narrower base
        raise BundleError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it ({error}): export the run again"
        ) from error


class AudioNetwork:
    """``audio.onnx`` on one CPU thread (it takes about a millisecond): mel windows -> condition."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises: BackendError, BundleError: see ``open_session``."""
        audio = bundle.manifest.spec.audio
        self._shape = (audio.n_taps, audio.n_mels, audio.window_values)
        self._session = open_session(bundle, "audio.onnx", ["CPUExecutionProvider"])

    def __call__(self, windows: Float) -> Float:
        """windows: float32 [N, taps, mels, columns]; returns [N, C]."""
        if windows.ndim != 4 or windows.shape[1:] != self._shape:
            raise ValueError(f"windows: expected [N, {self._shape}], got {list(windows.shape)}")
        feed = {"mel_windows": np.ascontiguousarray(windows, np.float32)}
        condition: Float = self._session.run(["condition"], feed)[0]
        return condition


def cuda_graphs(default: bool) -> bool:
    """Whether to launch work on a GPU as CUDA graphs: ``$SYNCTALK_CUDA_GRAPHS`` (0 or 1), else the default.

    Raises: BackendError: the variable is neither.
    """
    value = os.environ.get(_GRAPHS, str(int(default)))
    if value not in ("0", "1"):
        raise BackendError(f"{_GRAPHS}: expected 0 or 1, got {value!r}")
    return value == "1"


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

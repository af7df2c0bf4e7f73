"""Would int8 pay for the audio network? audio_int8.py AVATAR SPEECH.

Quantises `audio.onnx` (Q/DQ, per channel, calibrated on the first half of the speech) and compares it with float32 on
the second half: error relative to the signal, and the best time of one window on one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from synctalk.audio import mel_spectrogram, resample, tap_windows, to_mono
from synctalk.bundle import open_bundle
from synctalk.media import read_audio


class Windows(CalibrationDataReader):  # type: ignore[misc]
    """Mel windows, 16 at a time."""

    def __init__(self, windows: np.ndarray) -> None:
        self._parts = iter([windows[i : i + 16] for i in range(0, len(windows), 16)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self._parts, None)
        return None if part is None else {"mel_windows": part}


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def best_ms(model: Any, window: np.ndarray) -> float:
    times = []
    for _ in range(300):
        started = time.perf_counter()
        model.run(None, {"mel_windows": window})
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def main() -> None:
    bundle = open_bundle(sys.argv[1])
    samples, rate = read_audio(sys.argv[2])
    speech = resample(to_mono(samples), rate)
    frames = np.arange(2, len(speech) // 640 - 4)
    mel = mel_spectrogram(speech, bundle.manifest.spec.audio)
    windows = tap_windows(mel, frames, bundle.manifest.spec).astype(np.float32)
    calibration, test = np.array_split(windows, 2)
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "audio.onnx", Path(folder) / "int8.onnx"
        path.write_bytes(bundle.read("audio.onnx"))
        layers = [node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
        exact = session(path)
        expected = exact.run(None, {"mel_windows": test})[0]
        print(f"float32: {best_ms(exact, test[:1]):.3f} ms a window")
        for label, nodes in [("all layers", layers), *((f"only {name}", [name]) for name in layers)]:
            quantize_static(
                path,
                small,
                Windows(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                nodes_to_quantize=nodes,
                weight_type=QuantType.QInt8,
            )
            model = session(small)
            got = model.run(None, {"mel_windows": test})[0]
            error = float(np.sqrt(np.square(got - expected).mean()) / expected.std())
            print(
                f"int8, {label}: {best_ms(model, test[:1]):.3f} ms a window, error {error:.0%} of the signal"
            )


if __name__ == "__main__":
    main()

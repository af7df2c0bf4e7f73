"""Would int8 pay for the audio network? audio_int8.py AVATAR SPEECH.

Quantises `audio.onnx` (Q/DQ, per channel, calibrated on the first half of the speech) and compares it with float32 on
the second half: error relative to the signal, and the best time of one window on one core (processor time).
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from quantised import best_ms, layers_of, quantise, session
from synctalk.audio import mel_spectrogram, resample, tap_windows, to_mono
from synctalk.bundle import open_bundle
from synctalk.media import read_audio

REPEATS = 300


def main() -> None:
    bundle = open_bundle(sys.argv[1])
    samples, rate = read_audio(sys.argv[2])
    speech = resample(to_mono(samples), rate)
    frames = np.arange(2, len(speech) // 640 - 4)
    mel = mel_spectrogram(speech, bundle.manifest.spec.audio)
    windows = tap_windows(mel, frames, bundle.manifest.spec).astype(np.float32)
    calibration, test = np.array_split(windows, 2)
    one = {"mel_windows": test[:1]}
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "audio.onnx", Path(folder) / "int8.onnx"
        path.write_bytes(bundle.read("audio.onnx"))
        layers = layers_of(path, "MatMul")
        exact = session(path)
        expected = exact.run(None, {"mel_windows": test})[0]
        print(f"float32: {best_ms(partial(exact.run, None, one), REPEATS):.3f} ms a window")
        for label, nodes in [("all layers", layers), *((f"only {name}", [name]) for name in layers)]:
            parts = (calibration[i : i + 16] for i in range(0, len(calibration), 16))
            quantise(path, small, ({"mel_windows": part} for part in parts), nodes)
            model = session(small)
            got = model.run(None, {"mel_windows": test})[0]
            error = float(np.sqrt(np.square(got - expected).mean()) / expected.std())
            milliseconds = best_ms(partial(model.run, None, one), REPEATS)
            print(f"int8, {label}: {milliseconds:.3f} ms a window, error {error:.0%} of the signal")


if __name__ == "__main__":
    main()

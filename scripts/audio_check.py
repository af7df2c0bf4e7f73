"""How well sound alone predicts the mouth: fit the audio branch to a dataset and judge it on held-out frames.

    python scripts/audio_check.py data/may --holdout last --encoder default

Prints the cross-validated fit, and r and gain of the lip aperture on the held-out frames, without any rendering.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from synctalk.spec import preset
from synctalk_trainer.audio_fit import fit_kernel
from synctalk_trainer.audio_visual.encoder import chosen_encoder
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.metrics import gain, pearson
from synctalk_trainer.modules import KernelEncoder
from synctalk_trainer.mouth import aperture, mouth_shape
from synctalk_trainer.scene import AudioWindows
from synctalk_trainer.split import split


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--holdout", default="last")
    parser.add_argument("--encoder", default="none", help="none, default, or an .onnx file")
    arguments = parser.parse_args()
    data, spec = Dataset.open(arguments.dataset), preset("default")
    train, held = split(data.takes, data.n_frames, arguments.holdout, data.valid)
    take = np.array([data.take_of(i) for i in range(data.n_frames)])
    windows = AudioWindows(data, spec).of(np.arange(data.n_frames))
    pose = (data.rotation, data.translation, data.points_m, data.valid)
    shape = mouth_shape(data.landmarks, data.camera, *pose, spec.field.condition)
    encoder = KernelEncoder(spec.audio, spec.field.condition, chosen_encoder(arguments.encoder))
    fit = fit_kernel(encoder, windows, torch.from_numpy(shape), train, take, np.random.default_rng(0))
    print(f"cross-validated: r {fit.correlation:.3f} (first component), reach {fit.reach}, width {fit.width}")
    opening = aperture(data.landmarks)
    ones = np.ones((data.n_frames, 1))
    readout = np.linalg.lstsq(np.hstack([shape, ones])[train], opening[train], rcond=None)[0]
    predicted = np.hstack([encoder(windows[held]).numpy(), ones[held]]) @ readout
    print(
        f"held out: aperture r {pearson(predicted, opening[held]):.3f}, gain {gain(predicted, opening[held]):.2f}"
    )


if __name__ == "__main__":
    main()

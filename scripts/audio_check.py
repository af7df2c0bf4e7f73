"""How well sound alone predicts the mouth: the audio branch fitted to parts of datasets, judged on the rest, not rendered.

    python scripts/audio_check.py data/may data/french --shift french=-3 --encoder none default
    python scripts/audio_check.py data/may --folds 0 --holdout takes:11

Prints r of the lip aperture with its prediction, for each encoder: the mean over stretches of a clip, each predicted
by a fit to the others (a second beside it left out), and the difference of the encoders with its standard error over
the stretches. ``--folds 0`` judges the frames that training would hold out. Besides, the same with every held-out
window heard as another voice. ``--shift NAME=-3`` says that a clip's mouths belong so many frames from where they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.spec import Spec, preset
from synctalk_trainer.audio_fit import as_another_voice, fit_kernel
from synctalk_trainer.audio_visual.encoder import chosen_encoder
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.metrics import pearson
from synctalk_trainer.modules import KernelEncoder
from synctalk_trainer.mouth import aperture
from synctalk_trainer.scene import AudioWindows
from synctalk_trainer.split import split

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
_GAP = 25


class Clip:
    """Sound and mouths of a dataset; ``shift``: the mouths belong so many frames from where they are."""

    def __init__(self, path: Path, spec: Spec, shift: int) -> None:
        data = Dataset.open(path)
        self.takes, self.n_frames, self.valid = data.takes, data.n_frames, data.valid.copy()
        self.take = np.array([data.take_of(i) for i in range(data.n_frames)])
        self.windows = AudioWindows(data, spec).of(np.arange(data.n_frames))
        self.shape = np.roll(data.mouth_shape(spec.field.condition), -shift, axis=0)
        self.opening = np.roll(aperture(data.landmarks), -shift)
        if shift:
            self.valid[-abs(shift) :] = self.valid[: abs(shift)] = False

    def splits(self, n_folds: int, holdout: str) -> list[tuple[Ints, Ints]]:
        """Frames to fit and frames to judge."""
        if n_folds == 0:
            return [split(self.takes, self.n_frames, holdout, self.valid)]
        edges = np.linspace(0, self.n_frames, n_folds + 1).astype(int)
        parts = []
        for first, end in itertools.pairwise(edges):
            train = self.valid.copy()
            train[max(0, first - _GAP) : end + _GAP] = False
            parts.append((np.flatnonzero(train), first + np.flatnonzero(self.valid[first:end])))
        return parts


def correlations(clip: Clip, spec: Spec, name: str, splits: list[tuple[Ints, Ints]]) -> Floats:
    """r of the aperture, [splits, 2]: in the clip's own voice and in another."""
    found = []
    for train, held in splits:
        encoder = KernelEncoder(spec.audio, spec.field.condition, chosen_encoder(name))
        shape, generator = torch.from_numpy(clip.shape), np.random.default_rng(0)
        fit_kernel(encoder, clip.windows, shape, train, clip.take, generator)
        known = np.hstack([clip.shape, np.ones((clip.n_frames, 1))])
        readout = np.linalg.lstsq(known[train], clip.opening[train], rcond=None)[0]
        own = clip.windows[held]
        for windows in (own, as_another_voice(own, np.random.default_rng(1))):
            predicted = encoder(windows).numpy() @ readout[:-1] + readout[-1]
            found.append(pearson(predicted, clip.opening[held]))
    return np.array(found).reshape(-1, 2)


def told(difference: Floats) -> str:
    """Mean and standard error over the splits."""
    if len(difference) == 1:
        return f"{difference[0]:+.3f}"
    return f"{difference.mean():+.3f} ± {difference.std(ddof=1) / len(difference) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--folds", type=int, default=8, help="stretches; 0: what --holdout says")
    parser.add_argument("--holdout", default="last")
    parser.add_argument(
        "--encoder", nargs="+", default=["none", "default"], help="none, default, .onnx files"
    )
    parser.add_argument("--cosines", type=int, default=preset("default").audio.cosines)
    parser.add_argument("--shift", action="append", default=[], metavar="NAME=FRAMES")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = preset("default")
    spec = dataclasses.replace(spec, audio=dataclasses.replace(spec.audio, cosines=arguments.cosines))
    shifts = {name: int(frames) for name, _, frames in (text.partition("=") for text in arguments.shift)}
    print("| clip | encoder | r | over the first | r, another voice | over the first |")
    print("|---|---|---|---|---|---|")
    for path in arguments.datasets:
        shift = shifts.get(path.name, 0)
        clip = Clip(path, spec, shift)
        splits = clip.splits(arguments.folds, arguments.holdout)
        first = None
        for name in arguments.encoder:
            r = correlations(clip, spec, name, splits)
            first = r if first is None else first
            over = [told(r[:, k] - first[:, k]) if r is not first else "" for k in (0, 1)]
            mean = r.mean(axis=0)
            title = f"{path.name}{f', shifted by {shift}' if shift else ''}"
            print(
                f"| {title} | {Path(name).name} | {mean[0]:.3f} | {over[0]} | {mean[1]:.3f} | {over[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What a speech encoder knows of mouths it never saw: two tables, over prepared datasets.

    python scripts/encoder_check.py data/grid_s31 data/address data/french --encoder default

Ridge: correlation of the lip aperture with its prediction by ridge regression, in eight stretches each predicted from
the others (12 frames beside it left out), from log-mel windows, from a network of random weights, from the encoder.
Offset: share of 2-second windows whose best shift of +-10 frames is the true one within a frame: by the loudness and
the opening, by the detector that never met the person, by one fitted to the first 10/11 of the clip. ``--shift NAME=-3``
says that a clip's mouths belong so many frames from where they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.audio import loudness
from synctalk_trainer.audio_visual.corpus import TalkingClip, read_clip
from synctalk_trainer.audio_visual.encoder import SpeechEncoder, chosen_encoder
from synctalk_trainer.audio_visual.mouths import standardised
from synctalk_trainer.audio_visual.networks import AudioNetwork
from synctalk_trainer.audio_visual.offset import SyncDetector, correlation_scores, fitted_scores, mel_windows
from synctalk_trainer.audio_visual.training import REACH
from synctalk_trainer.metrics import pearson

Float = NDArray[np.float32]
_FOLDS, _GAP = 8, 12
_RIDGES = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 1e4)


def ridge_r(features: Float, wanted: Float, usable: NDArray[np.bool_]) -> float:
    """The best correlation over the ridges, every frame predicted by weights that did not see its stretch."""
    inputs = features - features[usable].mean(axis=0)
    inputs = inputs / max(float(inputs[usable].std(axis=0).mean()), 1e-9)
    n = len(wanted)
    fold = np.arange(n) * _FOLDS // n
    best = -1.0
    for ridge in _RIDGES:
        predicted = np.zeros(n)
        for k in range(_FOLDS):
            inside = np.flatnonzero(fold == k)
            train = usable.copy()
            train[max(0, inside[0] - _GAP) : inside[-1] + _GAP + 1] = False
            x, mean = inputs[train].astype(np.float64), wanted[train].mean()
            kernel = x @ x.T + ridge * np.eye(len(x)) if len(x) < x.shape[1] else None
            if kernel is not None:
                weights = x.T @ np.linalg.solve(kernel, wanted[train] - mean)
            else:
                weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (wanted[train] - mean))
            predicted[inside] = inputs[inside] @ weights + mean
        best = max(best, pearson(predicted[usable], wanted[usable]))
    return best


def random_features(windows: Float, n_embedding: int) -> Float:
    """Of our network with weights that nobody trained."""
    torch.manual_seed(0)
    network = AudioNetwork(n_embedding).eval()
    with torch.no_grad():
        parts = [network(part) for part in torch.split(torch.from_numpy(windows), 512)]
    return torch.cat(parts).numpy()


def found(scores: Float, true_shift: int) -> float:
    """Share of the windows within a frame of the truth."""
    return (
        float(np.mean(np.abs(scores.argmax(axis=1) - REACH - true_shift) <= 1))
        if len(scores)
        else float("nan")
    )


def by_loudness(clip: TalkingClip, windows: Float) -> Float:
    """Scores of the baseline: correlation of the loudness at a frame's time with the opening."""
    level = loudness(windows[:, 0, :, 8])[:, None]
    parts = [correlation_scores(level[a:b], clip.measures[a:b, :1]) for a, b in clip.takes]
    return np.concatenate(parts)


def held_out(clip: TalkingClip) -> tuple[NDArray[np.int64], list[slice]]:
    """Training frames and held-out stretches: every 11th take, or the last 1/5 where takes are few."""
    n = len(clip.valid)
    held = np.zeros(n, bool)
    takes = clip.takes[10::11] if len(clip.takes) >= 11 else ()
    stretches = [slice(a, b) for a, b in takes] or [slice(n - n // 5, n)]
    if len(clip.takes) in range(2, 11):
        stretches = [slice(*clip.takes[-1])]
    for part in stretches:
        held[part] = True
    return np.flatnonzero(clip.valid & ~held), stretches


def row(path: Path, encoder: SpeechEncoder, detector: SyncDetector, shift: int) -> str:
    """One line of the table."""
    clip = read_clip(path)
    windows = mel_windows(clip.audio, clip.takes)
    learned = encoder(windows)
    opening, usable = np.roll(clip.measures[:, 0], -shift), clip.valid.copy()
    if shift:
        usable[-abs(shift) :] = usable[: abs(shift)] = False
    r = [
        ridge_r(features, opening, usable)
        for features in (
            windows.reshape(len(windows), -1),
            random_features(windows, encoder.n_embedding),
            learned,
        )
    ]
    train, stretches = held_out(clip)
    fitted = fitted_scores(learned, standardised(clip.measures, clip.valid), train, stretches)
    ours, loud = detector.scores(clip), by_loudness(clip, windows)
    own_shift = 0  # a fitted detector learns a clip's offset with the clip
    figures = [*(f"{value:.3f}" for value in r), f"{found(loud, shift):.0%}", f"{found(ours, shift):.0%}"]
    told = detector.offset(clip)
    figures += [
        f"{told.ms:+.0f} ms ({told.agreement:.0%})",
        f"{found(fitted, own_shift):.0%} of {len(fitted)}",
    ]
    return f"| {path.name}{f', shifted by {shift}' if shift else ''} | " + " | ".join(figures) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--encoder", default="default")
    parser.add_argument("--shift", action="append", default=[], metavar="NAME=FRAMES")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = chosen_encoder(arguments.encoder)
    if encoder is None:
        parser.error("--encoder none: name an encoder to check")
    sync = None
    if arguments.encoder != "default":
        sync = Path(arguments.encoder).with_suffix(".sync.onnx").read_bytes()
    detector = SyncDetector(encoder, sync)
    shifts = {name: int(frames) for name, _, frames in (text.partition("=") for text in arguments.shift)}
    print(
        "| clip | r log-mel | r random | r encoder | in step: loudness | detector | it says | fitted, held out |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for path in arguments.datasets:
        print(row(path, encoder, detector, shifts.get(path.name, 0)), flush=True)


if __name__ == "__main__":
    main()

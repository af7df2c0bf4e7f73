"""Lips by sound alone, not rendered: the audio branch fitted to a subject, driven by its own voice and by other people's.

    python scripts/audio_check.py data/may --voices data/lee data/kim speech/*.wav
    python scripts/audio_check.py data/may --seconds 20

For each subject: r, gain and closure on the frames that training would hold out. For each film of another person
(`synctalk prepare --steps sound,landmarks` is enough): r with that person's filmed lips at the best lag within five
frames, amplitude and mean opening over the subject's own, precision and recall of shut lips. For sounds: r with the
loudness, and how far the mouth is open in silence. Apertures are read from conditions by a linear map that is fitted to
the subject's filmed frames. ``--seconds`` trains on the first seconds of the film only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.audio import resample
from synctalk.condition import ConditionStream, Shaping
from synctalk.media import read_audio
from synctalk.spec import preset
from synctalk_trainer import metrics
from synctalk_trainer.audio_branch import GenericEncoder
from synctalk_trainer.audio_visual.corpus import speaking
from synctalk_trainer.audio_visual.encoder import generic_model, read_generic
from synctalk_trainer.audio_visual.films import read_clip
from synctalk_trainer.audio_visual.mouths import SHUT_APERTURE
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.drive import frame_loudness, quiet_frames
from synctalk_trainer.generic_fit import FilmedMouth, fit_generic
from synctalk_trainer.mouth import aperture
from synctalk_trainer.split import split
from synctalk_trainer.windows import AudioWindows

Floats = NDArray[np.floating]
_REACH = 5


class Subject:
    """An audio branch fitted to a dataset, as an avatar has it."""

    def __init__(self, path: Path, model: Path | None, seconds: float | None, holdout: str) -> None:
        self.name, self.spec = path.name, preset("default")
        data = Dataset.open(path)
        frames, self.held = split(data.takes, data.n_frames, holdout, data.valid)
        if seconds is not None:
            frames = frames[: round(25 * seconds)]
        generic = generic_model() if model is None else read_generic(model)
        self.encoder = GenericEncoder(self.spec.audio, self.spec.field.condition, generic)
        take = np.array([data.take_of(i) for i in range(data.n_frames)])
        windows = AudioWindows(data.audio, data.takes, data.n_frames, self.spec)
        film = FilmedMouth.of(data, self.spec.field.condition, frames)
        self.fit = fit_generic(self.encoder, windows.of(frames), film, frames, take, np.random.default_rng(0))
        self.opening = aperture(data.landmarks)
        known = np.hstack([film.target.numpy(), np.ones((data.n_frames, 1))])
        self._readout = np.linalg.lstsq(known[frames], self.opening[frames], rcond=None)[0]
        spoken = self.opening[frames][film.speaks[frames]]
        self.mean, self.spread = float(spoken.mean()), float(spoken.std())
        self.own = self.apertures(self.encoder(windows.of(self.held)).numpy())

    def apertures(self, conditions: Floats) -> Floats:
        """Opening of the inner lips over the eye distance, [N]."""
        opening: Floats = np.maximum(conditions @ self._readout[:-1] + self._readout[-1], 0.0)
        return opening

    def speak(self, sound: Floats) -> Floats:
        """The apertures of a sound, mono at 16 kHz, as it streams."""

        def encode(windows: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad():
                return np.asarray(self.encoder(torch.from_numpy(windows)).numpy())

        rest = self.encoder.rest.numpy()
        stream = ConditionStream(self.spec, 16_000, encode, Shaping(rest, rest))
        spoken = [*stream.push(sound), *stream.flush()]
        return self.apertures(np.stack([one.condition for one in spoken]))


def closure(said: Floats, seen: Floats) -> tuple[float, float]:
    """Precision and recall of shut lips, a frame of tolerance."""

    def near(shut: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.convolve(shut, np.ones(3), "same") > 0

    ours, theirs = said < SHUT_APERTURE, seen < SHUT_APERTURE
    precision = (ours & near(theirs)).sum() / max(1, ours.sum())
    recall = (theirs & near(ours)).sum() / max(1, theirs.sum())
    return float(precision), float(recall)


def of_film(subject: Subject, path: Path) -> str:
    """A row of the table: another person's film."""
    clip = read_clip(path)
    said, seen = subject.speak(clip.audio), clip.measures[:, 0]
    n = min(len(said), len(seen))
    said, seen, valid = said[:n], seen[:n], clip.valid[:n]
    filled = np.interp(np.arange(n), np.flatnonzero(valid), seen[valid])
    lag, r = metrics.best_lag(said, filled, [slice(0, n)], _REACH)
    speaks = speaking(clip.audio, n) > 0.5
    precision, recall = closure(said[valid], seen[valid])
    amplitude, opening = said[speaks].std() / subject.spread, said[speaks].mean() / subject.mean
    return (
        f"| {subject.name} | {path.name} | {r:.2f} | {40 * lag:+d} | {amplitude:.2f} | {opening:.2f} | "
        f"{precision:.2f}, {recall:.2f} | |"
    )


def of_sound(subject: Subject, path: Path) -> str:
    """A row of the table: a sound without film."""
    samples, rate = read_audio(path)
    sound = np.concatenate([resample(samples, rate), np.zeros(16_000, np.float32)])
    said = subject.speak(sound)
    loudness = frame_loudness(sound, len(said))
    floor = max(float(np.percentile(loudness, 95)) - 30, -60.0)
    lag, r = metrics.best_lag(said, np.maximum(loudness, floor), [slice(0, len(said))], _REACH)
    quiet, speaks = quiet_frames(loudness), loudness > floor
    share = said[quiet].mean() / max(float(said[speaks].mean()), 1e-6)
    amplitude, opening = said[speaks].std() / subject.spread, said[speaks].mean() / subject.mean
    return (
        f"| {subject.name} | {path.name} | {r:.2f} (loudness) | {40 * lag:+d} | {amplitude:.2f} | {opening:.2f} | | "
        f"{share:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--voices", type=Path, nargs="+", default=[])
    parser.add_argument("--speech-to-mouth", type=Path, help="another generic model than the packaged one")
    parser.add_argument("--seconds", type=float, help="train on so much of the film only")
    parser.add_argument("--holdout", default="last")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| avatar | voice | r | lag ms | amplitude | opening | shut: precision, recall | in silence |")
    print("|---" * 8 + "|")
    for path in arguments.datasets:
        subject = Subject(path, arguments.speech_to_mouth, arguments.seconds, arguments.holdout)
        seen = subject.opening[subject.held]
        gain = subject.own.std() / seen.std()
        precision, recall = closure(subject.own, seen)
        print(
            f"| {subject.name} | its own, held out | {metrics.pearson(subject.own, seen):.2f} (generic alone, trained frames "
            f"{subject.fit.generic_correlation:.2f}) | | {gain:.2f} (gain) | {subject.own.mean() / seen.mean():.2f} | "
            f"{precision:.2f}, {recall:.2f} | |",
            flush=True,
        )
        for voice in arguments.voices:
            print((of_film if voice.is_dir() else of_sound)(subject, voice), flush=True)


if __name__ == "__main__":
    main()

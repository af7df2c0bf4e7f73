"""Is a clip in step? Two seconds of sound look for their mouths among those up to 0.4 s earlier or later.

``SyncDetector`` asks the networks of ``training``; it has never met the person. ``fitted_scores`` first learns one
subject's mouth from the encoder's features, in closed form, and is asked about other frames of the same subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from synctalk.audio import SILENCE, mel_spectrogram
from synctalk.errors import ModelError

from .corpus import AUDIO, FPS, TalkingClip
from .encoder import SpeechEncoder, default_encoder
from .mouths import standardised
from .training import REACH, neighbours, offset_scores

__all__ = ["SYNC_FILE", "Offset", "SyncDetector", "fitted_scores", "mel_windows"]

Float = NDArray[np.float32]

SYNC_FILE = "sync.onnx"
_SURE = 0.6
"""Share of the windows that must agree within a frame before anything is said."""
_FEWEST = 4


@dataclass(frozen=True)
class Offset:
    """What the windows of a clip say."""

    frames: int
    """By how many frames the mouth belongs later than where it is: below 0 the sound is late, above 0 the lips are."""
    agreement: float
    """Share of the windows whose own best shift is within a frame of it"""
    n_windows: int

    @property
    def is_sure(self) -> bool:
        return self.n_windows >= _FEWEST and self.agreement >= _SURE

    @property
    def ms(self) -> float:
        """Milliseconds by which the lips are late; below 0 the sound is."""
        return 1000.0 * self.frames / FPS

    @staticmethod
    def of(scores: Float) -> Offset:
        """From ``training.offset_scores``, [windows, shifts]."""
        if not len(scores):
            return Offset(0, 0.0, 0)
        best = int(scores.mean(axis=0).argmax())
        agreement = float(np.mean(np.abs(scores.argmax(axis=1) - best) <= 1))
        return Offset(best - REACH, agreement, len(scores))

    def sentence(self) -> str | None:
        """What to tell people, if the clip is surely out of step by more than a frame."""
        if not self.is_sure or abs(self.frames) < 2:
            return None
        late = "the lips lag behind the sound" if self.frames > 0 else "the sound lags behind the lips"
        return (
            f"{late} by {abs(self.ms):.0f} ms ({self.agreement:.0%} of {self.n_windows} "
            f"windows agree): look at the clip; if it is so, prepare it again with --sound-shift {self.ms:.0f}"
        )


def mel_windows(audio: Float, takes: Sequence[Sequence[int]]) -> Float:
    """What the encoder hears for every frame of a clip, [N, 1, 80, 16]; takes do not hear each other.

    Frames outside the takes hear silence.
    """
    n_frames = max(end for _, end in takes)
    windows = np.full((n_frames, 1, AUDIO.n_mels, AUDIO.window_columns), SILENCE, np.float32)
    samples = AUDIO.sample_rate // FPS
    for first, end in takes:
        mel = mel_spectrogram(audio[first * samples : end * samples], AUDIO)
        padded = np.pad(
            mel, ((AUDIO.window_columns, 2 * AUDIO.window_columns), (0, 0)), constant_values=SILENCE
        )
        base = np.arange(end - first) * AUDIO.sample_rate // (FPS * AUDIO.hop_samples)
        columns = base[:, None] + AUDIO.window_future_columns + np.arange(AUDIO.window_columns)
        windows[first:end] = padded[columns].swapaxes(1, 2)[:, None]
    return windows


class SyncDetector:
    """The packaged encoder with the network that sees mouths.

    Raises: ModelError: the installation lacks its files.
    """

    def __init__(self, encoder: SpeechEncoder | None = None, sync: bytes | None = None) -> None:
        """encoder and sync: what `synctalk train-audio` wrote; the packaged pair by default."""
        self._encoder = encoder or default_encoder()
        if sync is None:
            file = files("synctalk_trainer.audio_visual") / SYNC_FILE
            if not file.is_file():
                raise ModelError(f"the package's {SYNC_FILE} is missing: install synctalk again")
            sync = file.read_bytes()
        self._session = onnxruntime.InferenceSession(sync, providers=["CPUExecutionProvider"])

    def scores(self, clip: TalkingClip) -> Float:
        """Similarity of every window of 2 s with the mouths at each shift, [windows, 2 REACH + 1]; takes apart."""
        windows = mel_windows(clip.audio, clip.takes)
        motion = standardised(clip.measures, clip.valid)
        parts = []
        for first, end in clip.takes:
            if not clip.valid[first:end].any():
                continue
            inputs = {
                "embedding": self._encoder(windows[first:end]),
                "mouths": neighbours(motion[first:end], padded=True),
            }
            heard, seen = self._session.run(["heard", "seen"], inputs)
            parts.append(offset_scores(heard, seen))
        return np.concatenate(parts) if parts else np.zeros((0, 2 * REACH + 1), np.float32)

    def offset(self, clip: TalkingClip) -> Offset:
        """What the whole clip says."""
        return Offset.of(self.scores(clip))


def fitted_scores(
    features: Float, motion: Float, train: NDArray[np.int64], held: Sequence[slice], ridge: float = 30.0
) -> Float:
    """``offset_scores`` of a subject's held-out stretches, by ridge regression on the training frames.

    features: [N, D], motion: [N, measures] standardised; held: stretches of frames, none of them in train. The score of
    a shift is the correlation, over two seconds, of what was predicted with what is seen.
    """
    centre, scale = features[train].mean(axis=0), features[train].std(axis=0) + 1e-6
    inputs = np.hstack([(features - centre) / scale, np.ones((len(features), 1))])
    inside = inputs[train]
    product = inside.T @ inside + ridge * np.eye(inputs.shape[1])
    predicted = inputs @ np.linalg.solve(product, inside.T @ motion[train])
    scores = []
    for part in held:
        scores.append(correlation_scores(predicted[part], motion[part]))
    return np.concatenate(scores) if scores else np.zeros((0, 2 * REACH + 1), np.float32)


def correlation_scores(predicted: Float, seen: Float, length: int = 50, hop: int = 10) -> Float:
    """Correlation of curves [n, K] over windows of 2 s at each shift of the second, summed over K by its strength."""
    scores = []
    for first in range(REACH, len(predicted) - REACH - length + 1, hop):
        said = predicted[first : first + length]
        said = said - said.mean(axis=0)
        row = []
        for shift in range(-REACH, REACH + 1):
            shown = seen[first + shift : first + shift + length]
            shown = shown - shown.mean(axis=0)
            norm = np.sqrt(float((said**2).sum()) * float((shown**2).sum()))
            row.append(float((said * shown).sum()) / max(norm, 1e-9))
        scores.append(row)
    return np.asarray(scores, np.float32).reshape(-1, 2 * REACH + 1)

"""What the audio branch hears at every frame of a clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.audio import last_column, mel_spectrogram, tap_windows
from synctalk.spec import Spec
from synctalk.voice import VoiceStream, with_voice
from torch import Tensor

__all__ = ["AudioWindows"]

Float = NDArray[np.float32]
Ints = NDArray[np.int64]


class AudioWindows:
    """Mel windows of all frames. Takes are independent: a window never sees another take's sound."""

    def __init__(self, sound: Float, takes: Sequence[tuple[int, int]], n_frames: int, spec: Spec) -> None:
        """sound: [n] mono at the spec's rate, sample 0 at the start of frame 0."""
        audio, frame_samples = spec.audio, spec.audio.sample_rate // spec.fps
        one_tap = dataclasses.replace(spec, audio=dataclasses.replace(audio, taps_past=0, taps_future=0))
        single = []
        index = np.zeros((n_frames, audio.n_taps), np.int64)
        offset = 0
        voice = VoiceStream(audio.n_mels) if audio.hears_voice else None
        for first, end in takes:
            mel = mel_spectrogram(sound[first * frame_samples : end * frame_samples], audio)
            n = end - first
            frames = np.arange(-audio.taps_past, n + audio.taps_future)
            windows = tap_windows(mel, frames, one_tap)[:, 0]  # [n + taps - 1, 80, columns]
            if voice is not None:  # takes are one person's: what is known of the voice is kept
                newest = [min(last_column(int(i), one_tap.audio, spec.fps), len(mel) - 1) for i in frames]
                windows = with_voice(windows, voice.push(mel)[newest])
            single.append(windows)
            index[first:end] = offset + np.arange(n)[:, None] + np.arange(audio.n_taps)
            offset += len(frames)
        self.windows = torch.from_numpy(np.concatenate(single))
        self.index = torch.from_numpy(index)

    def of(self, frames: Ints) -> Tensor:
        """Windows of the taps of frames: [n, taps, 80, ``AudioSpec.window_values``]."""
        return self.windows[self.index[frames]]

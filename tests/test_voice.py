"""The voice at hand: level and long-term spectrum, as they become known while sound streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synctalk.audio import mel_spectrogram
from synctalk.spec import preset
from synctalk.voice import VoiceStream, at_usual_level, average_voice, shape_basis, with_voice

AUDIO = preset("default").audio
RATE = AUDIO.sample_rate


def _speech(seconds: float, seed: int = 0, tilt: float = 0.0) -> np.ndarray:
    """Syllables: bursts of coloured noise, four a second, with pauses; tilt: of the spectrum."""
    generator = np.random.default_rng(seed)
    n = round(seconds * RATE)
    spectrum = np.fft.rfft(generator.standard_normal(n))
    spectrum *= np.maximum(np.arange(len(spectrum)), 50.0) ** (-0.5 + tilt)
    noise = np.fft.irfft(spectrum, n)
    time = np.arange(n) / RATE
    loud = np.maximum(0.0, np.sin(2 * np.pi * 2 * time)) ** 2
    return (0.1 * loud * noise / noise.std()).astype(np.float32)


def _known(sound: np.ndarray) -> np.ndarray:
    return VoiceStream(AUDIO.n_mels).push(mel_spectrogram(sound, AUDIO))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_chunks_do_not_matter(cuts: list[int]) -> None:
    mel = mel_spectrogram(_speech(2.0), AUDIO)
    stream = VoiceStream(AUDIO.n_mels)
    pieces = [stream.push(part) for part in np.split(mel, np.minimum(np.cumsum(cuts), len(mel)))]
    np.testing.assert_array_equal(np.concatenate(pieces), VoiceStream(AUDIO.n_mels).push(mel))


def test_silence_tells_nothing_of_a_voice() -> None:
    known = _known(np.zeros(RATE, np.float32))
    np.testing.assert_allclose(known, np.tile(average_voice(AUDIO.n_mels), (len(known), 1)), atol=1e-5)


@pytest.mark.parametrize("gain_db", [-20.0, -10.0, 0.0, 10.0])
def test_a_quiet_voice_is_heard_like_a_loud_one_within_two_seconds(gain_db: float) -> None:
    sound = _speech(4.0)
    loud, quiet = (mel_spectrogram(values, AUDIO) for values in (sound, sound * 10 ** (gain_db / 20)))
    ours = [at_usual_level(mel, VoiceStream(AUDIO.n_mels).push(mel)) for mel in (loud, quiet)]
    settled = slice(2 * 80, None)
    speaks = loud[settled].mean(axis=1) > loud.mean() - 0.5
    assert np.abs(ours[0][settled][speaks] - ours[1][settled][speaks]).mean() < 0.15  # 2 dB


def test_the_estimate_does_not_jump() -> None:
    known = _known(_speech(6.0) * 0.03)
    assert np.abs(np.diff(known, axis=0)).max() < 0.5
    late = known[3 * 80 :]
    assert np.abs(np.diff(late, axis=0)).max() < 0.05


def test_the_shape_tells_voices_apart_and_the_level_does_not() -> None:
    basis = shape_basis(AUDIO.n_mels)
    dark, bright, quiet = (
        _known(sound)[-1] @ basis.T
        for sound in (_speech(6.0, 1), _speech(6.0, 2, tilt=0.6), 0.1 * _speech(6.0, 3))
    )
    assert np.linalg.norm(dark - bright) > 3 * np.linalg.norm(dark - quiet)


def test_the_voice_is_one_more_column() -> None:
    windows = np.random.default_rng(0).standard_normal((3, 1, 80, 64)).astype(np.float32)
    known = np.random.default_rng(1).standard_normal((3, 1, 80)).astype(np.float32)
    joined = with_voice(windows, known)
    assert joined.shape == (3, 1, 80, AUDIO.window_values)
    np.testing.assert_array_equal(joined[..., -1], known)
    np.testing.assert_array_equal(joined[..., :-1], windows)

"""Mel features, windows, resampling and the speech gate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synctalk.audio import (
    MelStream,
    Resampler,
    SpeechGate,
    frame_count,
    last_column,
    loudness,
    mel_filters,
    mel_spectrogram,
    resample,
    speech_activity,
    tap_windows,
    to_mono,
    window_starts,
)
from synctalk.errors import MediaError
from synctalk.spec import AudioSpec, Spec, preset

AUDIO = AudioSpec()
CUTS = st.lists(st.integers(1, 2000), min_size=1, max_size=40)


def _noise(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n) * 0.1).astype(np.float32)


def _chunks(samples: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    ends = np.minimum(np.cumsum(cuts), len(samples))
    return np.split(samples, ends)


def _naive_mel(samples: np.ndarray, spec: AudioSpec) -> np.ndarray:
    """The definition, column by column, with a written-out Fourier sum."""
    emphasised = np.array(
        [v - 0.97 * (samples[i - 1] if i else 0.0) for i, v in enumerate(samples.astype(float))]
    )
    bins = np.arange(spec.n_fft // 2 + 1)
    fourier = np.exp(-2j * np.pi * np.outer(bins, np.arange(spec.n_fft)) / spec.n_fft)
    window = np.sin(np.pi * np.arange(spec.n_fft) / spec.n_fft) ** 2
    columns = []
    for centre in range(0, len(samples) + 1, spec.hop_samples):
        at = np.arange(centre - spec.n_fft // 2, centre + spec.n_fft // 2)
        inside = (at >= 0) & (at < len(samples))
        frame = np.where(inside, emphasised[np.clip(at, 0, len(samples) - 1)], 0.0)
        mel = mel_filters(spec) @ np.abs(fourier @ (frame * window))
        decibel = 20.0 * np.log10(np.maximum(1e-5, mel)) - 20.0
        columns.append(np.clip(8.0 * (decibel + 100.0) / 100.0 - 4.0, -4.0, 4.0))
    return np.array(columns)


def test_mel_equals_its_naive_twin() -> None:
    samples = _noise(3333)
    np.testing.assert_allclose(mel_spectrogram(samples, AUDIO), _naive_mel(samples, AUDIO), atol=1e-5)


def test_filters_have_unit_area_and_slaney_centres() -> None:
    filters = mel_filters(AUDIO)
    assert filters.shape == (80, 401)
    wide = filters[60:]  # narrow triangles are sampled too coarsely for their area
    np.testing.assert_allclose(wide.sum(axis=1) * 20.0, 1.0, atol=0.02)
    # 1 kHz is 15 mel, 6.4 kHz is 42 mel: corners are equally spaced between 55 Hz and 7600 Hz on that scale.
    spacing = (15.0 + 27.0 * np.log(7.6) / np.log(6.4) - 55.0 * 3.0 / 200.0) / 81.0
    centre_mel = 55.0 * 3.0 / 200.0 + spacing * 41  # centre of filter 40
    centre_hz = 1000.0 * 6.4 ** ((centre_mel - 15.0) / 27.0)
    assert abs(filters[40].argmax() * 20.0 - centre_hz) <= 10.0


def test_silence_is_the_lowest_value() -> None:
    mel = mel_spectrogram(np.zeros(1000, np.float32), AUDIO)
    assert mel.shape == (6, 80)
    assert (mel == AUDIO.silence).all()
    assert mel_spectrogram(np.zeros(0, np.float32), AUDIO).shape == (0, 80)


@settings(max_examples=40, deadline=None)
@given(CUTS, st.integers(0, 6000))
def test_mel_stream_does_not_depend_on_chunks(cuts: list[int], n: int) -> None:
    samples = _noise(n)
    stream = MelStream(AUDIO)
    columns = [stream.push(chunk) for chunk in _chunks(samples, cuts)]
    np.testing.assert_array_equal(np.concatenate([*columns, stream.flush()]), mel_spectrogram(samples, AUDIO))


def test_mel_stream_gives_a_column_as_soon_as_its_window_is_there() -> None:
    stream = MelStream(AUDIO)
    assert len(stream.push(_noise(399))) == 0
    assert len(stream.push(_noise(1))) == 1
    assert len(stream.push(_noise(200))) == 1


@settings(max_examples=25, deadline=None)
@given(CUTS, st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]))
def test_resampler_does_not_depend_on_chunks(cuts: list[int], rate: int) -> None:
    samples = _noise(9_000)
    resampler = Resampler(rate)
    pieces = [resampler.push(chunk) for chunk in _chunks(samples, cuts)]
    whole = resample(samples, rate)
    np.testing.assert_array_equal(np.concatenate([*pieces, resampler.flush()]), whole)
    assert abs(len(whole) - len(samples) * 16_000 / rate) <= 1


def test_resampler_keeps_a_tone_in_place() -> None:
    t = np.arange(48_000) / 48_000
    tone = resample(np.sin(2 * np.pi * 440 * t), 48_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(tone[500:-500], expected[500:-500], atol=1e-3)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32, np.float64])
def test_every_dtype_and_channel_count_means_the_same_sound(dtype: type) -> None:
    wave = np.sin(np.arange(500) / 20.0) * 0.5
    scale, zero = {np.int16: (2**15, 0), np.int32: (2**31, 0), np.uint8: (128, 128)}.get(dtype, (1, 0))
    coded = (wave * scale + zero).round(0 if scale > 1 else 9).astype(dtype)
    np.testing.assert_allclose(to_mono(coded), wave, atol=1.0 / scale if scale > 1 else 1e-6)
    np.testing.assert_array_equal(to_mono(np.stack([coded] * 3, axis=1)), to_mono(coded))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan]), "NaN"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.zeros(3, np.complex64), "dtype"),
    ],
)
def test_bad_samples_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        to_mono(samples)


def test_odd_rates_are_refused() -> None:
    with pytest.raises(MediaError, match="sample rate"):
        Resampler(16)


@pytest.mark.parametrize(
    ("n", "rate", "frames"), [(0, 16_000, 0), (1, 16_000, 1), (640, 16_000, 1), (44_100, 44_100, 25)]
)
def test_frame_count_rounds_up(n: int, rate: int, frames: int) -> None:
    assert frame_count(n, rate, 25) == frames


def test_windows_follow_the_frame_clock() -> None:
    # 3.2 columns a frame: frame 5 is at column 16, its window ends 5 columns later.
    spec = AudioSpec(window_columns=16, window_future_columns=5)
    starts = window_starts(6, spec, 25)
    assert starts.tolist() == [-11, -8, -5, -2, 1, 5]


@pytest.mark.parametrize("name", ["default", "paper"])
def test_tap_windows_are_slices_with_silence_outside(name: str) -> None:
    spec = preset(name)
    mel = mel_spectrogram(_noise(16_000), spec.audio)
    windows = tap_windows(mel, range(25), spec)
    width = spec.audio.window_columns
    assert windows.shape == (25, spec.audio.n_taps, 80, width)
    assert windows.dtype == np.float32
    start = window_starts(25, spec.audio, 25)
    np.testing.assert_array_equal(windows[20, spec.audio.taps_past], mel[start[20] : start[20] + width].T)
    for tap in range(spec.audio.n_taps):
        np.testing.assert_array_equal(
            windows[12, tap], windows[12 - spec.audio.taps_past + tap, spec.audio.taps_past]
        )
    assert (windows[0, 0, :, : -start[0]] == spec.audio.silence).all()
    part = tap_windows(mel[5:], [20], spec, first_column=5)
    np.testing.assert_array_equal(part[:, -1], windows[20:21, -1])


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_frame_sees_no_further_than_the_lookahead(name: str) -> None:
    spec = preset(name)
    for frame in range(50):
        newest = last_column(frame, spec.audio, 25) * spec.audio.hop_samples + spec.audio.n_fft // 2
        assert newest <= frame * 640 + spec.audio.lookahead_samples


def _words(spec: Spec) -> np.ndarray:
    """Half a second of silence with room noise, one second of loud noise, a second of room noise."""
    samples = _noise(40_000) * 0.002
    samples[8_000:24_000] += _noise(16_000, 1)
    return mel_spectrogram(samples, spec.audio)


def test_gate_opens_at_speech_and_closes_in_silence() -> None:
    spec = Spec()
    gate = speech_activity(_words(spec), 63, spec)
    assert gate.shape == (63,)
    assert gate[:9].max() == 0.0
    assert gate[13:37].min() == 1.0
    assert gate[44:].max() == 0.0


def test_gate_survives_a_short_closure() -> None:
    spec = Spec()
    samples = _noise(32_000)
    samples[16_000:17_600] = 0.0  # 100 ms, as before a plosive
    gate = speech_activity(mel_spectrogram(samples, spec.audio), 50, spec)
    assert gate[3:48].min() > 0.9


def test_gate_does_not_depend_on_chunks() -> None:
    spec = Spec()
    mel = _words(spec)
    gate = SpeechGate(spec)
    pieces = [gate.push(part) for part in np.array_split(mel, 23)]
    np.testing.assert_array_equal(np.concatenate(pieces), SpeechGate(spec).push(mel))


def test_loudness_is_in_decibel() -> None:
    one, tenth = (
        loudness(mel_spectrogram(_noise(8_000) * scale, AUDIO))[10:30].mean() for scale in (1.0, 0.1)
    )
    assert one - tenth == pytest.approx(20.0, abs=0.5)

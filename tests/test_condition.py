"""Conditions as the sound arrives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synctalk.audio import frame_count, last_column, mel_spectrogram, resample, speech_activity, tap_windows
from synctalk.condition import ConditionStream, Shaping, Spoken, calmed, shape_condition
from synctalk.spec import Spec, preset
from synctalk.voice import VoiceStream, at_usual_level, with_voice

SHAPING = Shaping(np.full(4, -1.0, np.float32), np.full(4, 0.5, np.float32), 2.0)


def _encode(windows: np.ndarray) -> np.ndarray:
    return windows.mean(axis=(1, 3))[:, :4]


def _sound(n: int) -> np.ndarray:
    samples = (np.random.default_rng(3).standard_normal(n) * 0.1).astype(np.float32)
    samples[n // 3 : n // 2] *= 1e-4
    return samples


def _stream(spec: Spec, rate: int, chunks: list[np.ndarray]) -> list[Spoken]:
    stream = ConditionStream(spec, rate, _encode, SHAPING)
    spoken = [one for chunk in chunks for one in stream.push(chunk)]
    return spoken + list(stream.flush())


def test_shaping_rests_in_silence_and_gains_about_the_mean() -> None:
    raw = np.array([[1.0, 0.5, 0.0, 2.0]], np.float32)
    np.testing.assert_allclose(shape_condition(raw, [0.0], SHAPING), [[-1.0] * 4])
    np.testing.assert_allclose(shape_condition(raw, [1.0], SHAPING), [[1.5, 0.5, -0.5, 3.5]])
    np.testing.assert_allclose(shape_condition(raw, [0.5], SHAPING), [[0.25, -0.25, -0.75, 1.25]])


def test_no_shaping_keeps_speech_as_it_is() -> None:
    raw = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(shape_condition(raw, [1.0, 0.0], Shaping.none(4)), [[1] * 4, [0] * 4])


@pytest.mark.parametrize("name", ["default", "paper"])
def test_stream_equals_the_whole_file(name: str) -> None:
    spec = preset(name)
    samples = _sound(30_000)
    spoken = _stream(spec, 16_000, [samples])
    mel = mel_spectrogram(samples, spec.audio)
    n = frame_count(len(samples), 16_000, 25)
    windows = tap_windows(mel, range(n), spec)
    if spec.audio.hears_voice:
        newest = [last_column(i, spec.audio, spec.fps) for i in range(n)]
        silence = np.full((newest[-1] + 1 - len(mel), spec.audio.n_mels), spec.audio.silence, np.float32)
        mel = np.concatenate([mel, silence])
        known = VoiceStream(spec.audio.n_mels).push(mel)
        windows = with_voice(windows, known[newest][:, None])
        mel = at_usual_level(mel, known)
    raw = _encode(windows)
    raw = calmed(raw, np.concatenate([raw[:1], raw[:-1]]), spec.audio.calm)
    expected = shape_condition(raw, speech_activity(mel, n, spec), SHAPING)
    np.testing.assert_allclose(np.stack([one.condition for one in spoken]), expected, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([one.audio for one in spoken]), samples)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 12_000),
    st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    st.sampled_from([16_000, 24_000, 44_100]),
)
def test_chunks_do_not_matter(n: int, cuts: list[int], rate: int) -> None:
    spec, samples = preset("default"), _sound(n)
    whole = _stream(spec, rate, [samples])
    parts = _stream(spec, rate, np.split(samples, np.minimum(np.cumsum(cuts), n)))
    assert [one.index for one in parts] == list(range(frame_count(n, rate, 25)))
    assert [one.is_last for one in parts] == [False] * (len(parts) - 1) + [True]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a.condition, b.condition)
        np.testing.assert_array_equal(a.audio, b.audio)
        assert a.is_speaking == b.is_speaking
    sound = resample(samples, rate)
    np.testing.assert_array_equal(np.concatenate([one.audio for one in parts]), sound)


def test_a_frame_comes_within_its_lookahead() -> None:
    spec = Spec()
    stream = ConditionStream(spec, 16_000, _encode, SHAPING)
    sound, n_given = _sound(16_000), 0
    for at in range(0, 16_000, 40):
        n_given += len(list(stream.push(sound[at : at + 40])))
        n_due = max(0, (at + 40 - spec.audio.lookahead_samples) // 640)
        assert n_given >= n_due


def test_an_empty_sound_has_no_frames() -> None:
    assert _stream(Spec(), 16_000, []) == []


def test_memory_stays_bounded() -> None:
    stream = ConditionStream(preset("default"), 16_000, _encode, SHAPING)
    for _ in range(20):
        for _spoken in stream.push(_sound(16_000)):
            pass
    assert len(stream._mel) == len(stream._known) < 160
    assert len(stream._audio) < 17_000


def test_conditions_are_calmed_by_the_frame_before() -> None:
    spec, restless = (
        preset("default"),
        dataclasses.replace(preset("default"), audio=dataclasses.replace(preset("default").audio, calm=0.0)),
    )
    samples = _sound(16_000)
    calm, raw = (
        np.stack([one.condition for one in _stream(one_spec, 16_000, [samples])])
        for one_spec in (spec, restless)
    )
    share = spec.audio.calm
    assert 0 < share < 0.5
    open_ = slice(8, 12)  # the gate is open in these frames
    expected = (1 - share) * raw[open_] + share * raw[7:11]
    np.testing.assert_allclose(calm[open_], expected, atol=1e-4)
    assert np.abs(np.diff(calm[open_], 2, axis=0)).mean() < np.abs(np.diff(raw[open_], 2, axis=0)).mean()

"""The generic speech-to-mouth model: sound and mouth stay together through every variation, and are learned to belong together."""

from __future__ import annotations

import ctypes.util
import dataclasses
import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import signal
from synctalk.errors import DatasetError, ModelError, TrainingError
from synctalk.spec import preset
from synctalk_trainer.audio_visual import augment, gather, teacher
from synctalk_trainer.audio_visual.command import train_audio
from synctalk_trainer.audio_visual.corpus import AUDIO, KINDS, Corpus, CorpusBuilder, film_labels, speaking
from synctalk_trainer.audio_visual.encoder import generic_model, read_generic
from synctalk_trainer.audio_visual.export import write_model
from synctalk_trainer.audio_visual.films import TalkingClip, find_clips, read_clip
from synctalk_trainer.audio_visual.mouths import MEASURES, landmark_measures, posed_measures, standardised
from synctalk_trainer.audio_visual.networks import HINTS, N_MEASURES, OUTPUTS, SpeechToMouth
from synctalk_trainer.audio_visual.offset import REACH, Offset, SyncDetector
from synctalk_trainer.audio_visual.training import NetworkSettings, NetworkTrainer
from synctalk_trainer.audio_visual.voices import IPA_SHAPES, VISEME_NAMES, ipa_shapes
from synctalk_trainer.mouth import aperture
from synctalk_trainer.synthetic.plain_head import plain_head
from synctalk_trainer.windows import AudioWindows
from tiny_dataset import write_tiny_dataset

RATE = 16_000
needs_espeak = pytest.mark.skipif(
    ctypes.util.find_library("espeak-ng") is None, reason="the library espeak-ng is not installed"
)


def _talk(seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A hum whose loudness and brightness follow an opening, and the opening at 25 frames a second."""
    generator = np.random.default_rng(seed)
    n = round(seconds * 25)
    opening = np.interp(np.arange(n) / 3, np.arange(n), generator.random(n)).astype(np.float32)
    time = np.arange(n * 640) / RATE
    loud = np.interp(time, np.arange(n) / 25, opening)
    pitch = 120 + 40 * generator.random()
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k ** (2 - loud) for k in range(1, 20))
    return (0.1 * loud * tone).astype(np.float32), opening


def _clip(seconds: float, seed: int, late_frames: int = 0) -> TalkingClip:
    audio, opening = _talk(seconds, seed)
    curves = [np.roll(np.roll(opening, late_frames) * (1 - 0.1 * k), 0) for k in range(len(MEASURES))]
    n = len(opening)
    return TalkingClip(f"clip{seed}", audio, np.stack(curves, axis=1), np.ones(n, bool), ((0, n),))


def _corpus(seed: int = 0) -> Corpus:
    builder = CorpusBuilder(np.random.default_rng(seed))
    for k in range(3):
        builder.add_film(_clip(26.0, seed + k), 1)
    return builder.build()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> NetworkTrainer:
    torch.set_num_threads(1)
    settings = NetworkSettings(steps=60, segments=6)
    trainer = NetworkTrainer(_corpus(), settings, tmp_path_factory.mktemp("network"))
    trainer.losses = [figures["measures"] for figures in trainer.run()]  # type: ignore[attr-defined]
    return trainer


def _lag(late: np.ndarray, sound: np.ndarray) -> float:
    """By how many milliseconds the loudness of one sound follows the other's."""
    n = min(len(late), len(sound))
    curves = []
    for values in (late[:n], sound[:n]):
        power = np.convolve(values.astype(np.float64) ** 2, np.hanning(320), "same")[::4]
        level = np.sqrt(np.maximum(power, 0))
        curves.append(level - level.mean())
    match = np.correlate(curves[0], curves[1], "full")
    return 4000.0 * (int(match.argmax()) - (len(curves[1]) - 1)) / RATE


@pytest.mark.parametrize("factor", [0.84, 1.0, 1.16])
def test_other_formants_keep_pitch_and_time(factor: float) -> None:
    hum, _ = _talk(4.0, 1)
    sound = signal.lfilter(*signal.iirpeak(1500, 3, RATE), hum).astype(np.float32)
    moved = augment.with_formants(sound, factor)
    assert len(moved) == len(sound)
    assert abs(_lag(moved, sound)) < 10

    def spectrum(values: np.ndarray) -> np.ndarray:
        return np.abs(np.fft.rfft(values))[: 4 * 4_000]  # to 4 kHz

    before, after = spectrum(sound), spectrum(moved)
    centre = [float((s**2 * np.arange(len(s))).sum() / (s**2).sum()) for s in (before, after)]
    assert np.sign(round(centre[1] / centre[0], 2) - 1) == np.sign(factor - 1)
    peaks = np.argsort(before)[-20:]
    assert np.mean(after[peaks]) > 5 * np.median(after)  # its harmonics are where they were


@pytest.mark.parametrize(("name", "container", "bits"), augment._CODECS)
def test_codecs_change_the_sound_and_keep_time(name: str, container: str, bits: int) -> None:
    sound, _ = _talk(3.0, 2)
    coded = augment.through_codec(sound, name, container, bits)
    assert len(coded) == len(sound)
    assert abs(_lag(coded, sound)) < 3
    assert 1e-4 < np.abs(coded - sound).mean() < 0.5 * np.abs(sound).mean()


def test_rooms_and_noise_keep_time() -> None:
    sound, _ = _talk(4.0, 3)
    generator = np.random.default_rng(0)
    assert abs(_lag(augment.in_room(sound, generator), sound)) < 10
    noisy = augment.in_noise(sound, 10.0, generator)
    ratio = 10 * np.log10(np.mean(sound**2) / np.mean((noisy - sound) ** 2))
    assert ratio == pytest.approx(10.0, abs=0.1)


def test_a_variation_tells_its_speed() -> None:
    sound, _ = _talk(4.0, 4)
    other, speed = augment.varied(sound, np.random.default_rng(5), augment.Variation(speed=(1.1, 1.2)))
    assert len(other) == pytest.approx(len(sound) / speed, abs=2)
    assert abs(_lag(augment.at_speed(other, 1 / speed), sound)) < 15


def test_telephones_and_clipping_keep_time() -> None:
    sound, _ = _talk(4.0, 3)
    generator = np.random.default_rng(0)
    assert abs(_lag(augment.through_telephone(sound, generator), sound)) < 3
    loud = augment.clipped(sound, 12.0)
    assert np.abs(loud).max() == pytest.approx(np.abs(sound).max())
    assert np.mean(np.abs(loud) > 0.99 * np.abs(loud).max()) > 0.01


@pytest.mark.parametrize("make", [augment.noises, augment.music, augment.breaths])
def test_sounds_that_nobody_speaks_fit_and_differ(make: Any) -> None:
    one, other = (make(32_000, np.random.default_rng(seed)) for seed in (0, 1))
    assert one.shape == (32_000,) and one.dtype == np.float32
    assert np.abs(one).max() == pytest.approx(1.0, abs=1e-3)
    assert not np.allclose(one, other)


def test_a_corpus_keeps_sound_and_mouth_together_at_every_speed() -> None:
    corpus = _corpus()
    n_frames, kinds, is_held = corpus.sounds[:, 2:].T
    assert (kinds == KINDS.index("film")).all()
    assert 0 < is_held.sum() < len(is_held)
    varied = np.flatnonzero((n_frames != n_frames.max()) & (is_held == 0))
    assert len(varied) >= 2
    for sound in varied:
        frames = np.arange(n_frames[sound])
        mel, _, starts = corpus.segment(int(sound), frames)
        loud = np.array([mel[:40, at + 56].mean() for at in starts])
        opening = corpus.said(int(sound), frames)[:, 0]
        r = [np.corrcoef(loud[5:-5], np.roll(opening, -k)[5:-5])[0, 1] for k in range(-5, 6)]
        assert abs(int(np.argmax(r)) - 5) <= 1


def test_a_segment_hears_what_the_run_time_hears() -> None:
    audio, _ = _talk(4.0, 6)
    measures = np.random.default_rng(1).random((100, len(MEASURES))).astype(np.float32)
    builder = CorpusBuilder(np.random.default_rng(0))
    builder.add_film(TalkingClip("a", audio, measures, np.ones(100, bool), ((0, 100),)), 0)
    corpus = builder.build()
    n = int(corpus.sounds[0, 2])
    heard = AudioWindows(audio[: n * 640], ((0, n),), n, preset("default")).of(np.arange(n))
    network = SpeechToMouth().eval()
    with torch.no_grad():
        expected = network(heard)[0].numpy()
        for frame in (0, 17, n - 1):  # the voice is that of a segment's last frame
            mel, known, starts = (torch.from_numpy(v)[None] for v in corpus.segment(0, np.array([frame])))
            got = network.along(mel, known, starts)[0, 0, : len(OUTPUTS)].numpy()
            np.testing.assert_allclose(got, expected[frame], atol=5e-3)  # half precision of values up to 5.6


def test_films_say_what_is_known_of_their_frames() -> None:
    audio, _ = _talk(4.0, 6)
    measures = np.full((100, len(MEASURES)), 0.1, np.float32) + 0.01 * np.arange(100)[:, None] / 100
    measures[40:50, 0] = 0.004
    valid = np.ones(100, bool)
    valid[70:72] = False
    labels = film_labels(TalkingClip("a", audio, measures, valid, ((0, 100),)))
    assert np.isnan(labels[70:72, : N_MEASURES + 1]).all()
    assert (labels[40:50, N_MEASURES] == 1).all() and labels[:40, N_MEASURES].max() == 0
    assert labels.shape == (100, len(OUTPUTS))


def test_short_pauses_are_speech_and_long_ones_are_not() -> None:
    sound = np.random.default_rng(0).standard_normal(64_000).astype(np.float32) * 0.1
    sound[16_000:17_600] = 0  # 100 ms
    sound[32_000:40_000] = 0  # half a second
    speaks = speaking(sound, 100)
    assert speaks[24:28].min() == 1
    assert speaks[51:62].max() == 0


def test_mouths_mean_the_same_seen_and_posed(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    head = plain_head(generator)
    coefficients = np.linspace(0, 0.6, 20)[:, None]
    opening = posed_measures(head, ("jawOpen",), coefficients)
    assert (np.diff(opening[:, MEASURES.index("opening")]) > 0).all()
    assert (np.diff(opening[:, MEASURES.index("jaw")]) > 0).all()
    pucker = posed_measures(head, ("mouthPucker",), coefficients)
    assert (np.diff(pucker[:, MEASURES.index("outer_width")]) < 0).all()
    points = np.load(write_tiny_dataset(tmp_path / "data") / "landmarks.npz")["points"]
    seen = landmark_measures(points)
    np.testing.assert_allclose(seen[:, 0], aperture(points), rtol=1e-5)
    motion = standardised(seen, np.ones(len(seen), bool))
    assert abs(float(motion[:, 0].mean())) < 1e-3
    assert float(motion[:, 0].std()) == pytest.approx(1.0, abs=0.05)


def test_training_finds_the_mouth_of_a_sound(trained: NetworkTrainer) -> None:
    losses = trained.losses  # type: ignore[attr-defined]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert len(losses) == 60
    assert trained.validate()["film_r"] > 0.8
    lines = (trained.out / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 60


def test_the_written_model_says_measures_in_units_of_their_spread(
    trained: NetworkTrainer, tmp_path: Path
) -> None:
    mean, spread = trained.usual()
    write_model(trained.average, mean, spread, tmp_path / "model.onnx")
    model = read_generic(tmp_path / "model.onnx")
    windows = np.random.default_rng(0).uniform(-4, 4, (5, 1, 80, 65)).astype(np.float32)
    with torch.no_grad():
        said, embedding = (v.numpy() for v in trained.average(torch.from_numpy(windows)))
    said[:, :N_MEASURES] = (said[:, :N_MEASURES] - mean) / spread
    np.testing.assert_allclose(model(windows), np.hstack([said, embedding]), atol=1e-3)


def test_the_detector_names_the_offset_of_a_clip_it_never_heard(
    trained: NetworkTrainer, tmp_path: Path
) -> None:
    write_model(trained.average, *trained.usual(), tmp_path / "model.onnx")
    detector = SyncDetector(read_generic(tmp_path / "model.onnx"))
    late = detector.offset(_clip(20.0, 60, late_frames=4))
    assert late.frames == pytest.approx(4, abs=1)
    assert late.is_sure
    assert "the lips lag behind the sound by" in str(late.sentence())
    assert detector.offset(_clip(20.0, 61)).sentence() is None


def test_what_nobody_knows_costs_nothing() -> None:
    from synctalk_trainer.audio_visual.training import _losses

    said = torch.zeros(1, 4, len(OUTPUTS) + HINTS, requires_grad=True)
    labels = torch.full(said.shape, float("nan"))
    labels[0, :, len(OUTPUTS) - 1] = 1.0
    total = torch.stack(list(_losses(said, labels).values())).sum()
    total.backward()
    assert said.grad is not None
    told = said.grad[..., len(OUTPUTS) - 1].clone()
    said.grad[..., len(OUTPUTS) - 1] = 0
    assert float(said.grad.abs().max()) == 0
    assert float(told.max()) < 0


class _Echo:
    """Stands in for Whisper: hears the level of the sound in each step, and noise."""

    def hear(self, audio: np.ndarray) -> np.ndarray:
        steps = -(-len(audio) // 320)
        padded = np.pad(audio, (0, steps * 320 - len(audio))).reshape(steps, 320)
        level = np.sqrt(np.mean(padded**2, axis=1))[:, None]
        return np.hstack([level, np.random.default_rng(0).standard_normal((steps, 7))]).astype(np.float16)


def test_a_teacher_says_what_unfilmed_mouths_do() -> None:
    echo: Any = _Echo()
    taught = teacher.fit_teacher([gather.hear_film(_clip(20.0, k), echo) for k in range(3)], ridge=10.0)
    audio, opening = _talk(12.0, 77)
    said = taught.says(echo.hear(audio), len(opening))
    assert said.shape == (len(opening), N_MEASURES + 1)
    assert np.corrcoef(said[:, 0], opening)[0, 1] > 0.8
    builder = CorpusBuilder(np.random.default_rng(0))
    gather.add_voice(builder, audio, echo.hear(audio), taught, False, 1)
    gather.add_nobody(builder, 3)
    corpus = builder.build()
    assert sorted(set(corpus.sounds[:, 3])) == [KINDS.index("voice"), KINDS.index("nobody")]
    assert np.isnan(corpus.labels[-250:, 0]).all() and (corpus.labels[-250:, len(OUTPUTS) - 1] == 0).all()
    assert np.isfinite(corpus.labels[: len(opening)]).all()


def test_a_missing_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"CTranslate2|holds no model.bin"):
        teacher.Whisper(tmp_path)


def test_an_offset_that_windows_disagree_on_is_not_told() -> None:
    scores = np.zeros((8, 21), np.float32)
    scores[np.arange(8), [3, 3, 17, 9, 1, 20, 3, 12]] = 1.0
    offset = Offset.of(scores)
    assert (offset.frames, offset.is_sure, offset.sentence()) == (3 - REACH, False, None)
    late = np.zeros((8, 21), np.float32)
    late[:, REACH - 3] = 1.0
    assert "the sound lag behind" not in str(Offset.of(late).sentence())
    assert "the sound lags behind the lips by 120 ms" in str(Offset.of(late).sentence())


def test_resume_is_exact(tmp_path: Path) -> None:
    corpus, settings = _corpus(), NetworkSettings(steps=6, segments=2)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    list(NetworkTrainer(corpus, settings, tmp_path / "whole").run())
    stopped = NetworkTrainer(corpus, settings, tmp_path / "parts")
    for figures in stopped.run():
        assert np.isfinite(figures["loss"])
        if stopped.step == 3:
            break
    stopped.save()
    again = NetworkTrainer(corpus, settings, tmp_path / "parts")
    again.resume()
    assert again.step == 3
    list(again.run())
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    parts = load_file(tmp_path / "parts" / "checkpoint.safetensors")
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)
    other = NetworkTrainer(corpus, dataclasses.replace(settings, seed=1), tmp_path / "parts")
    with pytest.raises(TrainingError, match="other settings"):
        other.resume()


def _write_clip(folder: Path, seed: int, n: int = 150) -> None:
    folder.mkdir(parents=True)
    audio, opening = _talk(n / 25, seed)
    points = np.load(write_tiny_dataset(folder / "tiny", n_frames=n, seed=seed) / "landmarks.npz")["points"]
    points[:, 14, 1] = points[:, 13, 1] + 1 + 4 * opening
    with wave.open(str(folder / "audio.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((audio * 32767).astype("<i2").tobytes())
    np.savez(folder / "landmarks.npz", points=points, valid=np.ones(n, bool))
    (folder / "dataset.json").write_text(json.dumps({"takes": [[0, n]]}), encoding="utf-8")


def test_the_command_trains_from_folders_and_goes_on(tmp_path: Path) -> None:
    for k in range(2):
        _write_clip(tmp_path / "clips" / str(k), k)
    out = tmp_path / "model.onnx"
    given: dict[str, Any] = {"utterances": 0, "variations": 1, "threads": 1}
    train_audio([tmp_path / "clips"], out, steps=2, **given)
    assert read_generic(out).n_embedding == len(OUTPUTS) + 128
    assert (tmp_path / "model.onnx.train" / "curves.png").exists()
    with pytest.raises(TrainingError, match="--resume"):
        train_audio([tmp_path / "clips"], out, steps=2, **given)
    before = out.read_bytes()
    train_audio([tmp_path / "clips"], out, steps=4, resume=True, **given)
    assert out.read_bytes() != before
    assert not list(tmp_path.glob("**/*.tmp"))
    with pytest.raises(DatasetError, match="--teacher"):
        train_audio([tmp_path / "clips"], tmp_path / "b.onnx", voices=[tmp_path], steps=1, **given)


def test_folders_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no talking clips"):
        find_clips([tmp_path], tmp_path / "cache", lambda video, dataset: None)
    (tmp_path / "dataset.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DatasetError, match="not a dataset with landmarks"):
        read_clip(tmp_path)
    with pytest.raises(DatasetError, match="nothing to learn mouths from"):
        train_audio([], tmp_path / "e.onnx", steps=1, utterances=0)


def test_videos_are_prepared_once_each(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "talk.mp4").write_bytes(b"")
    asked: list[tuple[Path, Path]] = []
    found = find_clips([tmp_path], tmp_path / "cache", lambda video, dataset: asked.append((video, dataset)))
    assert [video.name for video, _ in asked] == ["talk.mp4", "talk.mp4"]
    assert len(set(found)) == 2


_SAY = """
import sys, numpy as np
from synctalk_trainer.audio_visual.voices import Voices
voices = Voices(np.random.default_rng(3))
spoken = [voices.say() for _ in range(4)]
assert all(len(u.measures) == len(u.viseme) == len(u.audio) // 640 for u in spoken)
columns = [np.concatenate([u.measures[:, 0] for u in spoken]), np.concatenate([u.viseme for u in spoken])]
np.save(sys.argv[1], np.stack(columns))
"""


@needs_espeak
def test_voices_say_what_their_mouths_show(tmp_path: Path) -> None:
    # In a process of its own: espeak-ng keeps its state, and what it says later in this one would be another.
    subprocess.run([sys.executable, "-c", _SAY, str(tmp_path / "said.npy")], check=True)
    opening, viseme = np.load(tmp_path / "said.npy")
    mean = {name: opening[viseme == k].mean() for k, name in enumerate(VISEME_NAMES) if (viseme == k).any()}
    assert mean["a"] > mean["i"] > mean["p"]
    assert mean["rest"] < 0.5 * mean["a"]


def test_every_sound_has_a_mouth_shape() -> None:
    assert set(IPA_SHAPES.values()) < set(VISEME_NAMES)
    assert ipa_shapes("tʃ") == ("t", "sh")
    assert ipa_shapes("aɪ") == ("a", "i")
    assert ipa_shapes("ˈ") == ("rest",)


def test_the_packaged_model_keeps_its_contract() -> None:
    model = generic_model()
    assert model.n_embedding == len(OUTPUTS) + 128
    assert len(model.model) < 2 << 20
    assert AUDIO.lookahead_ms <= 120

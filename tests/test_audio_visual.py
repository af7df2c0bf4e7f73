"""The audio-visual encoder: sound and mouth stay together through every variation, and are learned to belong together."""

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
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from scipy import signal
from synctalk.audio import mel_spectrogram, tap_windows
from synctalk.errors import DatasetError, ModelError, TrainingError
from synctalk.spec import AudioSpec, Spec, preset
from synctalk_export.onnx_models import audio_model
from synctalk_trainer.audio_fit import fit_kernel
from synctalk_trainer.audio_visual import augment
from synctalk_trainer.audio_visual.command import train_audio
from synctalk_trainer.audio_visual.corpus import Corpus, CorpusBuilder, TalkingClip, find_clips, read_clip
from synctalk_trainer.audio_visual.encoder import (
    SpeechEncoder,
    chosen_encoder,
    default_encoder,
    usual_encoder,
)
from synctalk_trainer.audio_visual.export import write_models
from synctalk_trainer.audio_visual.mouths import MEASURES, landmark_measures, posed_measures, standardised
from synctalk_trainer.audio_visual.networks import AudioNetwork
from synctalk_trainer.audio_visual.offset import Offset, SyncDetector, fitted_scores, mel_windows
from synctalk_trainer.audio_visual.training import REACH, EncoderSettings, EncoderTrainer, offset_scores
from synctalk_trainer.audio_visual.voices import IPA_SHAPES, VISEME_NAMES, ipa_shapes
from synctalk_trainer.modules import KernelEncoder
from synctalk_trainer.mouth import aperture
from synctalk_trainer.synthetic.plain_head import plain_head
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
        builder.add_real(_clip(26.0, seed + k), 1, True)
    return builder.build()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> EncoderTrainer:
    torch.set_num_threads(1)
    settings = EncoderSettings(steps=60, segments=6, embedding=32)
    trainer = EncoderTrainer(_corpus(), settings, tmp_path_factory.mktemp("encoder"))
    trainer.losses = [figures["segment"] for figures in trainer.run()]  # type: ignore[attr-defined]
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


def test_a_corpus_keeps_sound_and_mouth_together_at_every_speed() -> None:
    corpus = _corpus()
    assert (corpus.clips[:, 3] == 1).all()
    assert 0 < corpus.clips[:, 4].sum() < len(corpus.clips)
    plain_length = corpus.clips[:, 2].max()
    varied = np.flatnonzero((corpus.clips[:, 2] != plain_length) & (corpus.clips[:, 4] == 0))
    assert len(varied) >= 2
    for clip in varied:
        frames = np.arange(corpus.clips[clip, 2])
        loud = corpus.windows(int(clip), frames)[:, 0, :40, 7:9].mean(axis=(1, 2))
        measures, visemes = corpus.mouths(int(clip), frames)
        r = [np.corrcoef(loud[5:-5], np.roll(measures[:, 0], -k)[5:-5])[0, 1] for k in range(-5, 6)]
        assert abs(int(np.argmax(r)) - 5) <= 1
        assert (visemes == -1).all()


def test_windows_are_those_of_the_run_time() -> None:
    audio, _ = _talk(4.0, 6)
    spec = Spec(audio=AudioSpec(window_columns=16))
    expected = tap_windows(mel_spectrogram(audio, spec.audio), np.arange(100), spec)
    np.testing.assert_array_equal(mel_windows(audio, ((0, 100),)), expected)
    builder = CorpusBuilder(np.random.default_rng(0))
    measures = np.random.default_rng(1).random((100, len(MEASURES))).astype(np.float32)
    builder.add_real(TalkingClip("a", audio, measures, np.ones(100, bool), ((0, 100),)), 0, False)
    got = builder.build().windows(0, np.arange(100))
    np.testing.assert_allclose(got, expected, atol=2e-3)  # half precision of values up to 4
    segment = AudioNetwork(16).eval()
    mel, starts = builder.build().segment(0, np.arange(20, 50))
    with torch.no_grad():
        along = segment.along(torch.from_numpy(mel.copy())[None, None], torch.from_numpy(starts)[None])
        one_by_one = segment(torch.from_numpy(got[20:50]))
    torch.testing.assert_close(along, one_by_one, atol=1e-5, rtol=1e-5)


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


def test_training_finds_the_sound_of_a_mouth(trained: EncoderTrainer) -> None:
    losses = trained.losses  # type: ignore[attr-defined]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert len(losses) == 60
    figures = trained.validate()
    assert figures["real_r"] > 0.8
    lines = (trained.out / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 60


def test_the_detector_names_the_offset_of_a_clip_it_never_heard(
    trained: EncoderTrainer, tmp_path: Path
) -> None:
    write_models(trained.model, tmp_path / "encoder.onnx", tmp_path / "sync.onnx")
    encoder = SpeechEncoder.read(tmp_path / "encoder.onnx")
    assert encoder.n_embedding == 32
    windows = np.random.default_rng(0).uniform(-4, 4, (5, 1, 80, 16)).astype(np.float32)
    with torch.no_grad():
        expected = trained.model.audio.eval()(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(encoder(windows), expected, atol=1e-4)
    detector = SyncDetector(encoder, (tmp_path / "sync.onnx").read_bytes())
    right = sum(
        np.count_nonzero(np.abs(detector.scores(_clip(12.0, 50 + k)).argmax(axis=1) - REACH) <= 1)
        for k in range(3)
    )
    n_windows = sum(len(detector.scores(_clip(12.0, 50 + k))) for k in range(3))
    assert right / n_windows > 0.5  # chance is 0.14
    late = detector.offset(_clip(20.0, 60, late_frames=4))
    assert late.frames == pytest.approx(4, abs=1)
    assert late.is_sure
    assert "the lips lag behind the sound by" in str(late.sentence())
    assert detector.offset(_clip(20.0, 61)).sentence() is None


def test_an_offset_that_windows_disagree_on_is_not_told() -> None:
    scores = np.zeros((8, 21), np.float32)
    scores[np.arange(8), [3, 3, 17, 9, 1, 20, 3, 12]] = 1.0
    offset = Offset.of(scores)
    assert (offset.frames, offset.is_sure, offset.sentence()) == (3 - REACH, False, None)
    late = np.zeros((8, 21), np.float32)
    late[:, REACH - 3] = 1.0
    assert "the sound lag behind" not in str(Offset.of(late).sentence())
    assert "the sound lags behind the lips by 120 ms" in str(Offset.of(late).sentence())


def test_a_detector_fitted_to_a_subject_finds_its_shift() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((600, 12)).astype(np.float32)
    motion = features @ generator.standard_normal((12, len(MEASURES))).astype(np.float32)
    shifted = np.roll(motion, 3, axis=0)
    train, held = np.arange(400), [slice(420, 590)]
    assert (fitted_scores(features, motion, train, held).argmax(axis=1) == REACH).all()
    seen = np.concatenate([motion[:400], shifted[400:]])
    assert (fitted_scores(features, seen, train, held).argmax(axis=1) == REACH + 3).all()


def test_scores_compare_shifts_on_the_same_sound() -> None:
    places = np.eye(90, dtype=np.float32)
    scores = offset_scores(places, np.roll(places, -2, axis=0))
    assert scores.shape == (3, 2 * REACH + 1)
    assert (scores.argmax(axis=1) == REACH - 2).all()


def test_resume_is_exact(tmp_path: Path) -> None:
    corpus, settings = _corpus(), EncoderSettings(steps=6, segments=2, embedding=16)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    list(EncoderTrainer(corpus, settings, tmp_path / "whole").run())
    stopped = EncoderTrainer(corpus, settings, tmp_path / "parts")
    for figures in stopped.run():
        assert np.isfinite(figures["loss"])
        if stopped.step == 3:
            break
    stopped.save()
    again = EncoderTrainer(corpus, settings, tmp_path / "parts")
    again.resume()
    assert again.step == 3
    list(again.run())
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    parts = load_file(tmp_path / "parts" / "checkpoint.safetensors")
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)
    other = EncoderTrainer(corpus, dataclasses.replace(settings, seed=1), tmp_path / "parts")
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
    out = tmp_path / "encoder.onnx"
    given: dict[str, Any] = {"utterances": 0, "variations": 1, "segments": 2, "embedding": 16, "threads": 1}
    train_audio([tmp_path / "clips"], out, steps=2, **given)
    assert SpeechEncoder.read(out).n_embedding == 16
    assert (tmp_path / "encoder.sync.onnx").exists()
    assert (tmp_path / "encoder.onnx.train" / "curves.png").exists()
    with pytest.raises(TrainingError, match="--resume"):
        train_audio([tmp_path / "clips"], out, steps=2, **given)
    before = out.read_bytes()
    train_audio([tmp_path / "clips"], out, steps=4, resume=True, **given)
    assert out.read_bytes() != before
    assert not list(tmp_path.glob("**/*.tmp"))


def test_folders_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no talking clips"):
        find_clips([tmp_path], tmp_path / "cache", lambda video, dataset: None)
    (tmp_path / "dataset.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DatasetError, match="not a dataset with landmarks"):
        read_clip(tmp_path)
    with pytest.raises(DatasetError, match="nothing to train on"):
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


def _onnx(tmp_path: Path, module: torch.nn.Module, shape: tuple[int, ...], free: bool = True) -> Path:
    path = tmp_path / "other.onnx"
    axes = {"x": {0: "N"}, "y": {0: "N"}} if free else {}
    torch.onnx.export(
        module.eval(),
        (torch.zeros(shape),),
        path,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes=axes,
        opset_version=17,
    )
    return path


class _Published(torch.nn.Module):
    """The outer shape of the published encoders: 512 channels and two axes of size 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, (5, 4), 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 512, (16, 4))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


class _Neighbourly(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :9] - x.flatten(1)[:, :9].mean(dim=0, keepdim=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_encoders_of_users_must_keep_the_contract(tmp_path: Path) -> None:
    published = SpeechEncoder.read(_onnx(tmp_path, _Published(), (3, 1, 80, 16)))
    assert published.n_embedding == 512
    assert published(np.zeros((2, 1, 80, 16), np.float32)).shape == (2, 512)
    assert published(np.zeros((0, 1, 80, 16), np.float32)).shape == (0, 512)
    flat = torch.nn.Flatten()
    for module, shape, free, said in (
        (flat, (3, 1, 40, 16), True, r"computes .*40.*expected float32 \[N, 1, 80, 16\]"),
        (flat, (3, 1, 80, 16), False, "with N free"),
        (flat, (3, 1, 80, 16), True, "1280 values a window, at most 1024"),
        (_Neighbourly(), (3, 1, 80, 16), True, "in other company"),
    ):
        with pytest.raises(ModelError, match=said):
            SpeechEncoder.read(_onnx(tmp_path, module, shape, free))
    with pytest.raises(ModelError, match="cannot be read"):
        SpeechEncoder.read(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a model that ONNX Runtime loads"):
        SpeechEncoder.read(tmp_path / "broken.onnx")


def _fitted(tmp_path: Path, speech: SpeechEncoder | None) -> tuple[KernelEncoder, torch.Tensor]:
    """A kernel encoder fitted to a target that one embedding tells and the mel bands' mean does not."""
    spec = preset("tiny")
    generator = np.random.default_rng(0)
    windows = torch.from_numpy(generator.uniform(-4, 4, (400, 1, 80, 24)).astype(np.float32))
    target = torch.from_numpy(generator.standard_normal((400, 8)).astype(np.float32))
    encoder = KernelEncoder(spec.audio, 8, speech)
    fit = fit_kernel(encoder, windows, target, np.arange(400), np.zeros(400, np.int64), generator)
    assert np.isfinite(fit.error)
    return encoder, windows


def test_the_packaged_encoder_is_heard_unless_a_preset_learns_its_own() -> None:
    for name in ("default", "tiny"):
        heard = chosen_encoder(usual_encoder(name))
        assert heard is not None and heard.model == default_encoder().model
    assert chosen_encoder(usual_encoder("paper")) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_speech_encoder_travels_inside_the_bundles_audio_network(tmp_path: Path) -> None:
    speech = SpeechEncoder.read(_onnx(tmp_path, _Published(), (3, 1, 80, 16)))
    encoder, windows = _fitted(tmp_path, speech)
    session = onnxruntime.InferenceSession(audio_model(encoder, preset("tiny")))
    for n in (1, 7):
        (got,) = session.run(None, {"mel_windows": windows[:n].numpy()})
        np.testing.assert_allclose(got, encoder(windows[:n]).numpy(), atol=1e-4)
    inputs = encoder.inputs(windows[:2])
    assert inputs.shape == (2, 40 * 24 + 512)
    last = speech(windows[:2, :, :, 8:].numpy())
    np.testing.assert_allclose(inputs[:, -512:].numpy(), last, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_kernel_hears_beside_the_bands_counts(tmp_path: Path) -> None:
    encoder, windows = _fitted(tmp_path, SpeechEncoder.read(_onnx(tmp_path, _Published(), (3, 1, 80, 16))))
    before = encoder(windows[:4])
    encoder.components[encoder.n_pooled :] = 0
    assert float((encoder(windows[:4]) - before).abs().max()) > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fit_leans_on_the_speech_encoder_that_knows_the_mouth(tmp_path: Path) -> None:
    speech = SpeechEncoder.read(_onnx(tmp_path, _Published(), (3, 1, 80, 16)))
    generator = np.random.default_rng(0)
    level = generator.uniform(-4, 4, (600, 1, 10, 24)).repeat(8, axis=2).astype(np.float32)
    windows = torch.from_numpy(level)
    known = speech(level[:, :, :, 8:])
    _, _, axes = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    mouth = torch.from_numpy((known - known.mean(axis=0)) @ axes[:2].T)
    fits = {}
    for hears in (None, speech):
        encoder = KernelEncoder(preset("tiny").audio, 2, hears)
        rng = np.random.default_rng(1)
        fits[hears] = fit_kernel(encoder, windows, mouth, np.arange(600), np.zeros(600, np.int64), rng)
    assert fits[None].speech_weight == 0.0
    assert fits[speech].speech_weight == 1.0
    assert fits[speech].error < 0.9 * fits[None].error

"""The audio branch: any voice moves the subject's mouth, the subject's own moves it best, and all of it fits in one ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from synctalk.errors import ModelError, TrainingError
from synctalk.spec import AudioSpec, Spec, preset
from synctalk.voice import average_voice, shape_basis
from synctalk_export.onnx_models import audio_model
from synctalk_trainer.audio_branch import GenericEncoder, Hearing, KernelEncoder, audio_encoder
from synctalk_trainer.audio_fit import fit_kernel
from synctalk_trainer.audio_visual.encoder import SpeechEncoder, generic_model, read_generic
from synctalk_trainer.audio_visual.export import write_model
from synctalk_trainer.audio_visual.networks import N_MEASURES, OUTPUTS, SpeechToMouth
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.generic_fit import FilmedMouth, fit_generic
from synctalk_trainer.run import Settings
from synctalk_trainer.scene import Scene
from synctalk_trainer.train import start
from tiny_dataset import write_tiny_dataset

N_CONDITION = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechEncoder:
    """A network of random weights as the generic model: what it says follows what it hears."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("generic") / "model.onnx"
    write_model(
        SpeechToMouth(), np.zeros(N_MEASURES, np.float32), np.full(N_MEASURES, 0.05, np.float32), file
    )
    return read_generic(file)


def _windows(n: int, seed: int = 0) -> torch.Tensor:
    """Windows of the default spec: mel columns about an average voice, and the voice."""
    generator = np.random.default_rng(seed)
    known = np.tile(average_voice(80), (n, 1)) + 0.1 * generator.standard_normal((n, 1))
    mel = known[..., None] + generator.standard_normal((n, 80, 64))
    return torch.from_numpy(np.concatenate([mel, known[..., None]], axis=2)[:, None].astype(np.float32))


def _film(encoder: GenericEncoder, windows: torch.Tensor, rest_of: slice) -> FilmedMouth:
    """A film whose mouth does what the generic model says; in ``rest_of`` nobody speaks, and the lips are shut."""
    said = encoder.inputs(windows)[:, encoder.n_pooled :][:, :N_MEASURES]
    measures = (said - said.mean(dim=0)) / said.std(dim=0)
    mixing = torch.from_numpy(np.random.default_rng(7).standard_normal((N_MEASURES, N_CONDITION))).float()
    is_shut = np.zeros(len(windows), bool)
    is_shut[rest_of] = True
    measures[is_shut] = -2.0
    return FilmedMouth(measures @ mixing, measures, is_shut, ~is_shut)


def _fitted(model: SpeechEncoder, n: int = 400) -> tuple[GenericEncoder, FilmedMouth, torch.Tensor]:
    spec = preset("tiny").audio
    encoder = GenericEncoder(spec, N_CONDITION, model)
    windows = _windows(n)
    film = _film(encoder, windows, slice(0, 40))
    frames = np.arange(n)
    fit_generic(encoder, windows, film, frames, np.zeros(n, np.int64), np.random.default_rng(0))
    return encoder, film, windows


def test_the_map_is_the_films_geometry(model: SpeechEncoder) -> None:
    encoder, film, _ = _fitted(model)
    said = torch.cat([film.measures, torch.zeros(len(film.measures), len(OUTPUTS) - N_MEASURES)], dim=1)
    got = encoder.generic_condition(said)[40:]
    assert float((got - film.target[40:]).std() / film.target[40:].std()) < 0.1


def test_lips_shut_and_rest_where_the_model_says_so(model: SpeechEncoder) -> None:
    encoder, film, _ = _fitted(model)
    open_ = torch.full((1, N_CONDITION), 3.0)
    said = torch.zeros(1, len(OUTPUTS))
    said[0, N_MEASURES:] = torch.tensor([10.0, 10.0])  # shut, speaking
    torch.testing.assert_close(encoder.finished(open_, said), encoder.shut[None], atol=1e-3, rtol=1e-3)
    said[0, N_MEASURES:] = torch.tensor([-10.0, -10.0])  # open, nobody speaks
    torch.testing.assert_close(encoder.finished(open_, said), encoder.rest[None], atol=1e-3, rtol=1e-3)
    said[0, N_MEASURES:] = torch.tensor([-10.0, 10.0])
    torch.testing.assert_close(encoder.finished(open_, said), open_, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(encoder.rest, film.target[:40].mean(dim=0), atol=1e-4, rtol=1e-4)


def test_the_correction_acts_in_the_subjects_own_voice_only(model: SpeechEncoder) -> None:
    encoder, _, windows = _fitted(model)
    own = windows[:20, 0, :, -1]
    other = own + 5.0 * torch.from_numpy(shape_basis(80)[0]).float()
    assert float(encoder.is_own_voice(own).min()) > 0.9
    assert float(encoder.is_own_voice(other).max()) < 0.1
    louder = own + 0.7  # nothing but the level
    torch.testing.assert_close(encoder.is_own_voice(louder), encoder.is_own_voice(own), atol=1e-4, rtol=1e-4)
    before = encoder(windows[:20])
    encoder.bias += 1.0
    moved = (encoder(windows[:20]) - before).abs().max()
    elsewhere = torch.cat([windows[:20, :, :, :-1], other[:, None, :, None]], dim=3)
    there = encoder(elsewhere)
    encoder.bias -= 1.0
    assert float(moved) > 0.01
    assert float((encoder(elsewhere) - there).abs().max()) < 0.1 * float(moved)


def test_a_branch_hears_with_the_packaged_model_unless_told_otherwise(model: SpeechEncoder) -> None:
    spec = preset("tiny").audio
    packaged, own = (audio_encoder(spec, 12, hearing) for hearing in (Hearing(), Hearing(model)))
    assert isinstance(packaged, GenericEncoder) and packaged.generic.digest == generic_model().digest
    assert isinstance(own, GenericEncoder) and own.generic is model
    older = audio_encoder(AudioSpec(cosines=8), 12, Hearing())
    assert isinstance(older, KernelEncoder) and not isinstance(older, GenericEncoder)


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
    with pytest.raises(ModelError, match="80, 65"):
        read_generic(_onnx(tmp_path, _Published(), (3, 1, 80, 16)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("with_own", [False, True])
def test_all_models_travel_inside_the_bundles_audio_network(
    tmp_path: Path, model: SpeechEncoder, with_own: bool
) -> None:
    own = SpeechEncoder.read(_onnx(tmp_path, _Published(), (3, 1, 80, 16))) if with_own else None
    encoder = GenericEncoder(preset("tiny").audio, N_CONDITION, model, own)
    windows, frames = _windows(300), np.arange(300)
    film = _film(encoder, windows, slice(0, 40))
    fit_generic(encoder, windows, film, frames, np.zeros(300, np.int64), np.random.default_rng(0))
    session = onnxruntime.InferenceSession(audio_model(encoder, preset("tiny")))
    for n in (1, 7):
        (got,) = session.run(None, {"mel_windows": windows[:n].numpy()})
        np.testing.assert_allclose(got, encoder(windows[:n]).numpy(), atol=1e-3)
    inputs = encoder.inputs(windows[:2])
    assert inputs.shape[1] == 40 * 24 + model.n_embedding + (512 if with_own else 0)
    if own is not None:
        last = own(windows[:2, :, :, 48:64].clamp(min=-4).numpy())
        np.testing.assert_allclose(inputs[:, -512:].numpy(), last, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fit_leans_on_the_model_that_knows_the_mouth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    speech = SpeechEncoder.read(_onnx(tmp_path, _Published(), (3, 1, 80, 16)))
    generator = np.random.default_rng(0)
    level = generator.uniform(-4, 4, (1200, 1, 10, 24)).repeat(8, axis=2).astype(np.float32)
    known = speech(level[:, :, :, 8:])
    _, _, axes = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    mouth = torch.from_numpy((known - known.mean(axis=0)) @ axes[:2].T)
    fits = {}
    for hears in (None, speech):
        encoder = KernelEncoder(AudioSpec(components=32, cosines=256), 2, hears)
        inputs, rng = encoder.inputs(torch.from_numpy(level)), np.random.default_rng(1)
        fits[hears] = fit_kernel(encoder, inputs, mouth, np.arange(1200), np.zeros(1200, np.int64), rng)
    assert fits[None].speech_weight == 0.0
    assert fits[speech].speech_weight == 1.0
    assert fits[speech].error < 0.97 * fits[None].error


def test_runs_keep_the_model_that_they_hear_with(tmp_path: Path, model: SpeechEncoder) -> None:
    data = Dataset.open(write_tiny_dataset(tmp_path / "data"))
    for name, spec, hearing, kept in (
        ("default", preset("tiny"), None, generic_model().model),
        ("own", preset("tiny"), Hearing(model), model.model),
    ):
        start(
            Scene(data, spec),
            spec,
            Settings(str(tmp_path / "data"), "tiny", steps=1),
            tmp_path / name,
            "cpu",
            hearing,
        )
        assert (tmp_path / name / "speech_to_mouth.onnx").read_bytes() == kept
    paper = preset("paper")
    with pytest.raises(TrainingError, match="learns its own audio network"):
        settings = Settings(str(tmp_path / "data"), "paper", steps=1)
        start(Scene(data, paper), paper, settings, tmp_path / "paper", "cpu", Hearing(model))


def test_runs_of_older_versions_are_not_gone_on_with(tmp_path: Path) -> None:
    data = Dataset.open(write_tiny_dataset(tmp_path / "data"))
    spec = Spec(field=preset("tiny").field, audio=AudioSpec(components=8, cosines=16))
    with pytest.raises(TrainingError, match="older version"):
        start(
            Scene(data, spec),
            spec,
            Settings(str(tmp_path / "data"), "tiny", steps=1),
            tmp_path / "run",
            "cpu",
        )

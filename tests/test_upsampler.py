"""Heads at half the size: the native upsampler, its PyTorch twin, the backend that uses it, and its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from numpy.typing import NDArray
from synctalk import _native
from synctalk.avatar import Avatar
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.half_size import HalfSize, half_sized
from synctalk.bundle import open_bundle
from synctalk.errors import BackendError, BundleError
from synctalk.manifest import Manifest
from synctalk.spec import Spec, UpsamplerSpec, preset
from synctalk_export.export import export_bundle
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.run import Settings, load_run
from synctalk_trainer.scene import Scene
from synctalk_trainer.train import start
from synctalk_trainer.upsampler import Upsampler, load_upsampler, train_upsampler
from tiny_dataset import write_tiny_dataset
from tiny_subject import tiny_subject
from tolerances import UPSAMPLER

Float = NDArray[np.float32]
SPECS = {"default": UpsamplerSpec(), "wide": UpsamplerSpec(32, 3), "one layer": UpsamplerSpec(16, 1)}
GOOD = {"full": {"psnr_full": 30.0, "psnr_head": 28.0}, "half": {"psnr_full": 30.1, "psnr_head": 27.8}}


def weights_of(spec: UpsamplerSpec, seed: int = 0) -> list[Float]:
    generator = np.random.default_rng(seed)
    return [
        np.asarray(generator.normal(size=shape) * np.sqrt(2 / (9 * shape[1])), np.float32)
        for shape in spec.shapes
    ]


def picture(height: int, width: int, seed: int = 0) -> Float:
    """A ragged shape with holes, and rows without anything."""
    generator = np.random.default_rng(seed)
    small = generator.random((height, width, 4), np.float32)
    small[generator.random((height, width)) < 0.6] = 0.0
    small[: height // 3] = 0.0
    return small


def applied(weights: list[Float], small: Float) -> Float:
    out = np.full((2 * small.shape[0], 2 * small.shape[1], 4), np.nan, np.float32)
    _native.Upsampler(weights).apply(small, out)
    return out


@pytest.fixture(params=_native.simd_paths())
def _path(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _native.simd()
    _native.set_simd(request.param)
    yield
    _native.set_simd(before)


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (13, 7)])
def test_every_path_agrees_with_the_float64_twin(name: str, size: tuple[int, int]) -> None:
    weights, small = weights_of(SPECS[name]), picture(*size)
    assert np.abs(applied(weights, small) - reference.upsampled(small, weights)).max() < UPSAMPLER


@pytest.mark.usefixtures("_path")
def test_nothing_comes_of_nothing_whatever_was_there_before() -> None:
    weights = weights_of(UpsamplerSpec())
    applied(weights, np.ones((24, 24, 4), np.float32))  # leaves its traces in the kept memory
    assert not applied(weights, np.zeros((16, 20, 4), np.float32)).any()
    dot = np.zeros((24, 24, 4), np.float32)
    dot[9, 20] = 0.7
    assert np.abs(applied(weights, dot) - reference.upsampled(dot, weights)).max() < UPSAMPLER


def test_results_do_not_depend_on_threads() -> None:
    weights, small = weights_of(UpsamplerSpec()), picture(40, 33)
    before = _native.threads()
    try:
        found = []
        for n in (1, 2, 5):
            _native.set_threads(n)
            found.append(applied(weights, small))
    finally:
        _native.set_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_torch_and_native_are_the_same_function() -> None:
    torch.manual_seed(1)
    network = Upsampler(UpsamplerSpec(32, 3))
    torch.nn.init.normal_(network.weights[-1], std=0.05)
    small = picture(21, 18)
    with torch.no_grad():
        exact = network(torch.from_numpy(small).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(exact - applied([w.detach().numpy() for w in network.weights], small)).max() < UPSAMPLER


def test_wrong_weights_and_pictures_are_refused() -> None:
    weights = weights_of(UpsamplerSpec())
    with pytest.raises(ValueError, match="1 to"):
        _native.Upsampler([])
    with pytest.raises(ValueError, match="multiple of 16"):
        _native.Upsampler([weights[0][:8].copy(), weights[3][:, :8].copy()])
    with pytest.raises(ValueError, match=r"\[16, 16, 3, 3\]"):
        _native.Upsampler([weights[0], weights[0]])
    with pytest.raises(ValueError, match=r"\[8, 8, 4\]"):
        _native.Upsampler(weights).apply(np.zeros((4, 4, 4), np.float32), np.zeros((8, 9, 4), np.float32))


def test_a_spec_with_an_upsampler_survives_json_and_one_without_reads_as_before() -> None:
    plain = preset("tiny")
    assert "upsampler" not in plain.to_dict() and Spec.from_dict(plain.to_dict()) == plain
    spec = dataclasses.replace(plain, upsampler=UpsamplerSpec(32, 3))
    assert Spec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="upsampler"):
        Spec.from_dict(plain.to_dict() | {"upsampler": {"width": 16}})


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an upsampler."""
    subject = tiny_subject()
    network = Upsampler(UpsamplerSpec()).requires_grad_(False)
    torch.nn.init.normal_(network.weights[-1], std=0.02)
    subject = dataclasses.replace(
        subject,
        spec=dataclasses.replace(subject.spec, upsampler=network.spec),
        upsampler=network,
        upsampler_figures=GOOD,
    )
    path = tmp_path_factory.mktemp("half") / "tiny.avatar"
    export_bundle(subject, path)
    return path


def _request(path: Path) -> HeadRequest:
    bundle = open_bundle(path)
    tensors = bundle.tensors
    return HeadRequest(
        bundle.manifest.camera,
        tensors["track.rotation"][0],
        tensors["track.translation"][0],
        tensors["condition.mean"],
        tensors["track.expression"][0],
        tensors["field.appearance"],
    )


def test_half_detail_is_the_small_head_upsampled(bundle_path: Path) -> None:
    bundle, request = open_bundle(bundle_path), _request(bundle_path)
    full = create_backend("native-cpu", bundle)
    half = create_backend("native-cpu", bundle, detail="half")
    assert isinstance(half, HalfSize) and not isinstance(full, HalfSize)
    small = full.render_head(half_sized(request))
    weights = [np.asarray(bundle.tensors[f"upsampler.{i}"]) for i in range(4)]
    assert small.any()
    assert np.abs(half.render_head(request) - reference.upsampled(small, weights)).max() < UPSAMPLER


def test_auto_takes_half_where_it_can(bundle_path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.avatar"
    export_bundle(tiny_subject(), plain)
    assert isinstance(create_backend("auto", open_bundle(bundle_path), detail="auto"), HalfSize)
    assert not isinstance(create_backend("auto", open_bundle(plain), detail="auto"), HalfSize)
    with pytest.raises(BackendError, match="train-upsampler"):
        create_backend("native-cpu", open_bundle(plain), detail="half")
    with pytest.raises(BackendError, match="auto, full, half"):
        create_backend("native-cpu", open_bundle(plain), detail="quarter")
    sound = np.zeros(3200, np.float32)
    shapes = [next(Avatar.from_bundle(p).speak(sound, 16_000)).image.shape for p in (plain, bundle_path)]
    assert shapes[0] == shapes[1]


def test_an_upsampler_that_costs_too_much_stays_out(tmp_path: Path) -> None:
    subject = tiny_subject()
    network = Upsampler(UpsamplerSpec()).requires_grad_(False)
    bad = {"full": GOOD["full"], "half": {"psnr_full": 30.0, "psnr_head": 27.5}}
    subject = dataclasses.replace(
        subject,
        spec=dataclasses.replace(subject.spec, upsampler=network.spec),
        upsampler=network,
        upsampler_figures=bad,
    )
    done = export_bundle(subject, tmp_path / "tiny.avatar")
    assert done.manifest.spec.upsampler is None
    assert [check.what for check in done.checks if not check.passed] == [
        "held-out frames: dB lost at half size"
    ]


def test_a_manifest_with_an_impossible_upsampler_is_refused(bundle_path: Path) -> None:
    values = open_bundle(bundle_path).manifest.to_dict()
    values["spec"]["upsampler"]["width"] = 24
    with pytest.raises(BundleError, match="upsampler"):
        Manifest.from_dict(values)


def test_training_beats_bilinear_enlargement_on_held_out_frames(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    settings = Settings(str(data), "tiny", None, 150, frames_per_step=4, samples_per_step=6_000)
    spec = preset("tiny")
    trainer = start(Scene(Dataset.open(data), spec), spec, settings, tmp_path / "run")
    trainer.run(_Silent())
    run = load_run(tmp_path / "run")
    seen: list[tuple[str, float]] = []
    figures = train_upsampler(run, 0.05, UpsamplerSpec(), lambda what, share: seen.append((what, share)))
    assert figures["half"]["psnr_head"] > figures["bilinear"]["psnr_head"] + 0.1
    assert {what for what, _ in seen} == {"half-size pictures", "upsampler", "judging"}
    loaded = load_upsampler(run)
    assert loaded is not None and loaded[1] == figures


class _Silent:
    def step(self, step: int, fraction: float, loss: float, psnr: float, samples: int) -> None:
        pass

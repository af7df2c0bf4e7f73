"""Heads at half the size: the upsampler in PyTorch and its training, the backend that uses it, its way into a bundle."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from synctalk.avatar import Avatar
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.half_size import HalfSize, Modulation, drive_of, half_sized
from synctalk.backends.onnx_runtime import onnx_upsampler
from synctalk.backends.sessions import open_session
from synctalk.bundle import Bundle, open_bundle, upsampler_design
from synctalk.errors import BackendError, BundleError, TrainingError
from synctalk.manifest import Manifest
from synctalk.spec import Spec, UpsamplerSpec, preset
from synctalk_export.export import export_bundle
from synctalk_export.parity import Check
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.run import Settings, load_run
from synctalk_trainer.scene import Scene
from synctalk_trainer.train import start
from synctalk_trainer.upsampler import Upsampler, load_upsampler, train_upsampler
from test_upsampler import Float, applied, picture
from tiny_dataset import write_tiny_dataset
from tiny_subject import UPSAMPLER_FIGURES, tiny_subject, upsampled_subject
from tolerances import UPSAMPLER


def test_torch_and_native_are_the_same_function() -> None:
    torch.manual_seed(1)
    network = Upsampler(UpsamplerSpec(32, 3)).requires_grad_(False)
    torch.nn.init.normal_(network.weights[-1], std=0.05)
    torch.nn.init.normal_(network.modulate.weight, std=0.05)
    drives = np.random.default_rng(0).normal(3.0, 0.1, (10, network.spec.drive)).astype(np.float32)
    drives[:, 0] = 1.0  # does not vary
    network.see(drives)
    small = picture(20, 16)
    exact = network(torch.from_numpy(small).permute(2, 0, 1)[None], torch.from_numpy(drives[:1]))
    modulation = Modulation(network.tensors())(drives[0])
    assert np.abs(modulation - np.repeat([1.0, 0.0], len(modulation) // 2)).max() > 0.05
    most = Modulation(network.tensors())(drives.max(axis=0))
    np.testing.assert_array_equal(Modulation(network.tensors())(drives.max(axis=0) + 9), most)
    found = applied([weight.numpy() for weight in network.weights], small, modulation)
    assert np.abs(exact[0].permute(1, 2, 0).numpy() - found).max() < UPSAMPLER


def test_a_spec_with_an_upsampler_survives_json_and_one_without_reads_as_before() -> None:
    plain = preset("tiny")
    assert "upsampler" not in plain.to_dict() and Spec.from_dict(plain.to_dict()) == plain
    spec = dataclasses.replace(plain, upsampler=UpsamplerSpec(32, 3))
    assert Spec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="upsampler"):
        Spec.from_dict(plain.to_dict() | {"upsampler": {"height": 16}})


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an upsampler."""
    path = tmp_path_factory.mktemp("half") / "tiny.avatar"
    export_bundle(upsampled_subject(), path)
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


def _network(bundle: Bundle) -> tuple[list[Float], Modulation]:
    """Weights and modulation of a bundle's upsampler."""
    n_layers = len(upsampler_design(bundle).shapes)
    weights = [np.asarray(bundle.tensors[f"upsampler.{i}"]) for i in range(n_layers)]
    return weights, Modulation(bundle.tensors)


def test_half_detail_is_the_small_head_upsampled(bundle_path: Path) -> None:
    bundle, request = open_bundle(bundle_path), _request(bundle_path)
    full = create_backend("native-cpu", bundle, detail="full")
    half = create_backend("native-cpu", bundle, precision="float32", detail="half")
    assert isinstance(half, HalfSize) and not isinstance(full, HalfSize)
    small = create_backend("native-cpu", bundle, precision="float32", detail="full").render_head(
        half_sized(request)
    )
    weights, modulation = _network(bundle)
    assert small.any()
    expected = reference.upsampled(small, weights, modulation(drive_of(request)))
    assert np.abs(half.render_head(request) - expected).max() < UPSAMPLER


def test_upsampler_onnx_is_the_same_function_for_pictures_of_any_number_and_size(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    session = open_session(bundle, "upsampler.onnx", ["CPUExecutionProvider"])
    design = bundle.manifest.spec.upsampler
    assert design is not None
    assert {one.name: tuple(one.shape) for one in session.get_inputs()} == design.inputs
    assert {one.name: tuple(one.shape) for one in session.get_outputs()} == design.outputs
    weights, modulation = _network(bundle)
    for size in ((20, 16), (8, 40), (4, 4)):
        small = np.stack([picture(*size), picture(*size)[::-1]])
        drive = np.random.default_rng(2).normal(size=(2, design.drive)).astype(np.float32)
        (head,) = session.run(["head"], {"small": small, "drive": drive})
        for i in range(2):
            found = applied(weights, np.ascontiguousarray(small[i]), modulation(drive[i]))
            assert np.abs(head[i] - found).max() < UPSAMPLER
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["synctalk.spec"] == bundle.manifest.spec.digest


def test_onnxruntime_enlarges_with_upsampler_onnx(bundle_path: Path) -> None:
    bundle, request = open_bundle(bundle_path), _request(bundle_path)
    half = create_backend("onnxruntime", bundle, detail="half").render_head(request)
    small = create_backend("onnxruntime", bundle, detail="full").render_head(half_sized(request))
    np.testing.assert_array_equal(half, onnx_upsampler(bundle)(small, drive_of(request)))
    without = copy.copy(bundle)  # as bundles were before
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != "upsampler.onnx"}
    without.manifest = dataclasses.replace(bundle.manifest, files=files)
    native = create_backend("onnxruntime", without, precision="float32", detail="half").render_head(request)
    assert 0 < np.abs(native - half).max() < UPSAMPLER


def test_bytes_upsample_where_they_are_good_enough(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, request = open_bundle(bundle_path), _request(bundle_path)
    assert (bundle.tensors["upsampler.ranges"] > 0).all()
    assert bundle.manifest.training["parity"]["heads: upsampler float32 - int8"]["psnr_db"] >= 48
    exact, fast = (
        create_backend("native-cpu", bundle, precision=precision, detail="half").render_head(request)
        for precision in ("float32", "auto")
    )
    assert 0 < np.abs(exact - fast).max() < 0.05

    failed = Check("heads: upsampler float32 - int8", 0.5, 48.0, 20.0)
    monkeypatch.setattr("synctalk_export.export.upsampler_int8_check", lambda *_: failed)
    export_bundle(upsampled_subject(), tmp_path / "coarse.avatar")
    assert not open_bundle(tmp_path / "coarse.avatar").tensors["upsampler.ranges"].any()


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


@pytest.mark.parametrize("region", ["psnr_full", "psnr_head", "psnr_mouth"])
def test_an_upsampler_that_costs_too_much_stays_out(region: str, tmp_path: Path) -> None:
    bad = copy.deepcopy(UPSAMPLER_FIGURES)
    bad["half"][region] = bad["full"][region] - 0.4
    subject = dataclasses.replace(upsampled_subject(), upsampler_figures=bad)
    done = export_bundle(subject, tmp_path / "tiny.avatar")
    assert done.manifest.spec.upsampler is None
    assert [check.what for check in done.checks if not check.passed] == [
        "held-out frames: dB lost at half size"
    ]


def test_a_manifest_with_an_impossible_upsampler_is_refused(bundle_path: Path) -> None:
    values = open_bundle(bundle_path).manifest.to_dict()
    for key, wrong, said in (
        ("width", 24, "16, 32"),
        ("levels", 5, "4 levels"),
        ("expression", 3, "the field's 7"),
    ):
        before = values["spec"]["upsampler"][key]
        values["spec"]["upsampler"][key] = wrong
        with pytest.raises(BundleError, match=f"spec.upsampler: .*{said}"):
            Manifest.from_dict(values)
        values["spec"]["upsampler"][key] = before
    values["frame"]["width"] = 60
    with pytest.raises(BundleError, match="multiples of 8"):
        Manifest.from_dict(values)


def test_training_beats_bilinear_enlargement_on_held_out_frames(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    settings = Settings(str(data), "tiny", None, 150, frames_per_step=4, samples_per_step=6_000)
    spec = preset("tiny")
    trainer = start(Scene(Dataset.open(data), spec), spec, settings, tmp_path / "run")
    trainer.run(_Silent())
    run = load_run(tmp_path / "run")
    with pytest.raises(TrainingError, match="--size that 32 divides"):
        train_upsampler(run, 0.05, UpsamplerSpec(16, 5), lambda *_: None)
    seen: list[tuple[str, float]] = []
    figures = train_upsampler(run, 0.05, UpsamplerSpec(), lambda what, share: seen.append((what, share)))
    assert figures["half"]["psnr_head"] > figures["bilinear"]["psnr_head"] + 0.1
    assert {what for what, _ in seen} == {"half-size pictures", "upsampler", "judging"}
    told, heard = figures["told"]["full"], figures["full"]
    assert told["psnr_mouth"] != heard["psnr_mouth"] and told["psnr_hair"] == pytest.approx(
        heard["psnr_hair"], abs=1
    )
    loaded = load_upsampler(run)
    assert loaded is not None and loaded[1] == figures
    (run.path / "upsampler.json").write_text('{"width": 16, "layers": 4}')
    with pytest.raises(TrainingError, match="train-upsampler"):
        load_upsampler(run)


class _Silent:
    def step(self, step: int, fraction: float, loss: float, psnr: float, samples: int) -> None:
        pass

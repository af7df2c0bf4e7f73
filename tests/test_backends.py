"""The seam: backends agree, an asked one works or says why not, ``auto`` says what it chose."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from synctalk.backends import BACKENDS, Backend, BackendEntry, HeadRequest, create_backend
from synctalk.backends.field_march import FieldMarcher
from synctalk.backends.onnx_runtime import why_not
from synctalk.backends.sessions import why_no_onnxruntime
from synctalk.bundle import Bundle, open_bundle
from synctalk.errors import BackendError
from synctalk.spec import Spec
from synctalk_export.export import export_bundle
from tiny_subject import tiny_spec, tiny_subject

NAMES = [entry.name for entry in BACKENDS if entry.why_not("auto") is None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny avatar, as one file."""
    path = tmp_path_factory.mktemp("backends") / "tiny.avatar"
    export_bundle(tiny_subject(), path)
    return open_bundle(path)


def _request(bundle: Bundle, frame: int = 0, **changes: object) -> HeadRequest:
    tensors = bundle.tensors
    request = HeadRequest(
        camera=bundle.manifest.camera,
        rotation=tensors["track.rotation"][frame],
        translation=tensors["track.translation"][frame],
        condition=tensors["condition.mean"],
        expression=tensors["track.expression"][frame],
        appearance=tensors["field.appearance"],
    )
    return dataclasses.replace(request, **changes)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    shown = (a[..., 3] > 0) | (b[..., 3] > 0)
    return float(-10 * np.log10(np.square(a[shown] - b[shown]).mean() + 1e-20))


@pytest.mark.parametrize("name", NAMES)
def test_head_is_premultiplied_rgba(bundle: Bundle, name: str) -> None:
    head = create_backend(name, bundle).render_head(_request(bundle))
    assert head.shape == (64, 64, 4) and head.dtype == np.float32
    assert (head[..., 3] >= 0).all() and (head[..., 3] <= 1 + 1e-6).all()
    assert (head[..., :3] <= head[..., 3:] + 1e-5).all() and (head[..., :3] >= 0).all()
    assert 0.1 < (head[..., 3] > 0.5).mean() < 0.9
    assert not head[0].any() and not head[-1].any()


@pytest.mark.parametrize(
    "spec",
    [
        tiny_spec(),
        tiny_spec(deferred=False, gate="none"),
        tiny_spec(density_layers=2, feature=31, condition=12, step_m=0.003),
    ],
    ids=["tiny", "colour at every sample", "deeper"],
)
def test_backends_agree(spec: Spec, tmp_path: Path) -> None:
    export_bundle(tiny_subject(spec), tmp_path / "x")
    bundle = open_bundle(tmp_path / "x")
    backends = [create_backend(name, bundle, threads=1, precision="float32") for name in NAMES]
    camera = bundle.manifest.camera
    near = np.array([0.02, 0.01, 0.3], np.float32)
    for request in (
        _request(bundle),
        _request(bundle, 9, camera=camera.resized(97, 97), condition=bundle.tensors["condition.rest"]),
        _request(bundle, translation=near),
    ):
        first, *others = [backend.render_head(request) for backend in backends]
        for other in others:
            assert _psnr(first, other) >= 60.0


@pytest.mark.parametrize("name", NAMES)
def test_conditions_agree_and_do_not_depend_on_the_batch(bundle: Bundle, name: str) -> None:
    audio = bundle.manifest.spec.audio
    shape = (5, audio.n_taps, audio.n_mels, audio.window_values)
    windows = np.random.default_rng(0).uniform(-4, 4, shape).astype(np.float32)
    backend = create_backend(name, bundle)
    together = backend.condition(windows)
    assert together.shape == (5, bundle.manifest.spec.field.condition) and together.dtype == np.float32
    alone = np.concatenate([backend.condition(windows[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="windows"):
        backend.condition(windows[0])


@pytest.mark.parametrize("name", NAMES)
def test_head_out_of_sight_is_clear(bundle: Bundle, name: str) -> None:
    backend = create_backend(name, bundle)
    for translation in ([0, 0, -1.0], [5.0, 0, 0.7]):
        head = backend.render_head(_request(bundle, translation=np.array(translation, np.float32)))
        assert not head.any()


@pytest.mark.parametrize("name", NAMES)
def test_threads_may_share_a_backend(bundle: Bundle, name: str) -> None:
    backend = create_backend(name, bundle)
    expected = [backend.render_head(_request(bundle, frame)) for frame in range(4)]
    got: dict[int, np.ndarray] = {}

    def work(frame: int) -> None:
        got[frame] = backend.render_head(_request(bundle, frame))

    workers = [threading.Thread(target=work, args=(frame,)) for frame in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for frame in range(4):
        np.testing.assert_array_equal(got[frame], expected[frame])


def test_marcher_matches_a_pixel_by_pixel_twin(bundle: Bundle) -> None:
    """A field of constant density and feature over all of the box: alpha follows from the length of the ray in it."""
    spec = tiny_spec(deferred=True, feature=3, step_m=0.002, max_samples=300).field
    occupancy = np.full((spec.occupancy_resolution**3 + 7) // 8, 255, np.uint8)

    def head(
        positions: np.ndarray, condition: np.ndarray, expression: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        n = len(positions)
        return np.full(n, np.log(5.0 / spec.density_scale_per_m), np.float32), np.ones((n, 3), np.float32)

    def colour(feature: np.ndarray, direction: np.ndarray, appearance: np.ndarray) -> np.ndarray:
        return np.full((len(feature), 3), 0.25, np.float32)

    translation = np.array([0, 0, 0.7], np.float32)
    request = _request(bundle, rotation=np.diag([1, -1, -1]).astype(np.float32), translation=translation)
    picture = FieldMarcher(spec, occupancy, head, colour).render(request)
    depth = spec.box_max_m[2] - spec.box_min_m[2]  # of the ray through the middle
    middle = picture[round(request.camera.centre_y), round(request.camera.centre_x)]
    assert middle[3] == pytest.approx(1 - np.exp(-5.0 * depth), abs=2e-3)
    np.testing.assert_allclose(middle[:3], 0.25 * middle[3], atol=1e-6)


class _Fake:
    name = "fake"

    def condition(self, windows: np.ndarray) -> np.ndarray:
        return windows

    def render_head(self, request: HeadRequest) -> np.ndarray:
        return np.zeros((1, 1, 4), np.float32)


def _entry(name: str, reason: str | None, broken: str | None = None) -> BackendEntry:
    def create(bundle: Bundle, device: str, threads: int | None, precision: str) -> Backend:
        if broken:
            raise BackendError(broken)
        fake = _Fake()
        fake.name = name
        return fake

    return BackendEntry(name, create, lambda device: reason)


def test_auto_takes_the_first_that_works_and_says_why(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    table = (
        _entry("a", "no driver"),
        _entry("b", None, broken="no memory"),
        _entry("c", None),
        _entry("d", None),
    )
    with caplog.at_level(logging.INFO, "synctalk.backends"):
        backend = create_backend("auto", bundle, table=table)
    assert backend.name == "c"
    for words in ("backend c", "a: no driver", "b: no memory", "d: comes after c"):
        assert words in caplog.text


def test_auto_without_any_backend_names_all_reasons(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="a: no driver; b: no memory"):
        create_backend(
            "auto", bundle, table=(_entry("a", "no driver"), _entry("b", None, broken="no memory"))
        )


def test_asked_backend_works_or_raises(bundle: Bundle) -> None:
    assert create_backend("auto", bundle).name == "native-cpu"
    for name in NAMES:
        assert create_backend(name, bundle).name == name
    with pytest.raises(BackendError, match="native-cpu, onnxruntime"):
        create_backend("tensorflow", bundle)
    with pytest.raises(BackendError, match="auto, cpu, cuda"):
        create_backend("auto", bundle, device="tpu")
    with pytest.raises(ValueError, match="threads"):
        create_backend("auto", bundle, threads=0)
    with pytest.raises(BackendError, match="runs on the CPU"):
        create_backend("native-cpu", bundle, device="cuda")


def test_cuda_without_a_gpu_wheel_is_refused(bundle: Bundle) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime offers CUDA")
    with pytest.raises(BackendError, match="onnxruntime-gpu"):
        create_backend("onnxruntime", bundle, device="cuda")


def test_missing_or_doubled_onnxruntime_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_onnxruntime() is None
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "distribution", lambda name: name)
        assert "both installed" in str(why_no_onnxruntime())
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "pip install onnxruntime" in str(why_not("cpu"))

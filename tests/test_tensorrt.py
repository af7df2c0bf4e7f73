"""Engines: the cache never trusts what it finds, and the backend is the same function whoever evaluates it.

TensorRT itself is not here: its place is taken by a builder that keeps the protocol and runs ONNX Runtime.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice
from host_engine import CopyingRunner, HostEngine, host_runner
from synctalk import _native
from synctalk.backends import create_backend
from synctalk.backends.field_march import march_rays
from synctalk.backends.native_cpu import NativeCpu
from synctalk.backends.native_cuda import why_not as why_no_kernels
from synctalk.backends.sessions import open_session
from synctalk.backends.tensor_rt import TensorRT, why_not
from synctalk.bundle import Bundle, open_bundle
from synctalk.cli import DEMO
from synctalk.errors import BackendError
from synctalk.geometry import pixel_rays
from synctalk.render import compose
from synctalk.tensorrt.builder import Model, Say, engine_key, engine_precision, engines_of, models_of
from synctalk.tensorrt.cache import EngineCache, EngineKey, EngineOptions
from synctalk.tensorrt.device import why_not as why_no_device
from synctalk.tensorrt.progress import shown_progress
from synctalk.tensorrt.runner import EngineRunner
from synctalk_export.export import export_bundle
from test_gpu_emulation import psnr
from test_native_cuda import EmulatedFrames, request_of
from tiny_subject import tiny_spec, tiny_subject, upsampled_subject
from tolerances import CUDA_FLOAT_DB, CUDA_HALF_DB

KEY = EngineKey("ab", "10.16.1.11", "RTX 4090", "8.9", "fp16", "1:8:8", "")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("engines") / "tiny.avatar"
    export_bundle(tiny_subject(), path)
    return open_bundle(path)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


class FakeBuilder:
    """Engines are the names of their models; versions other than its own are rejected when loaded."""

    version, gpu, compute_capability, plugin = "10.16.1.11", "RTX 4090", "8.9", ""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.timings: list[bytes] = []

    def build(
        self, bundle: Bundle, model: Model, options: EngineOptions, timing: bytes, say: Say
    ) -> tuple[bytes, bytes]:
        say("Tactics", 0.5)
        self.built.append(model.member)
        self.timings.append(timing)
        return f"{self.version} {model.member}".encode(), timing + b"+"

    def load(self, engine: bytes) -> str | None:
        version, _, member = engine.decode().partition(" ")
        return member if version == self.version else None


def _load(content: bytes) -> bytes | None:
    return None if content == b"foreign" else content


def test_engine_is_built_once_and_read_afterwards(cache: EngineCache) -> None:
    assert cache.load_or_build(KEY, _load, lambda: b"engine") == b"engine"
    again = EngineCache(cache.folder)
    assert again.load_or_build(KEY, _load, lambda: pytest.fail("built again")) == b"engine"
    assert not [path for path in cache.folder.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(EngineKey)])
def test_every_part_of_the_key_asks_for_another_engine(cache: EngineCache, name: str) -> None:
    cache.load_or_build(KEY, _load, lambda: b"first")
    other = dataclasses.replace(KEY, **{name: "other"})
    assert cache.load_or_build(other, _load, lambda: b"second") == b"second"
    assert cache.load_or_build(KEY, _load, lambda: b"third") == b"first"


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: b"{}\nengine",
        lambda content: b"[1]\nengine",
        lambda content: b"\xff" * 100,
        lambda content: content.replace(b"8.9", b"9.0"),
    ],
    ids=["flipped bit", "cut", "empty", "no header", "another header", "noise", "of another GPU"],
)
def test_damaged_engine_is_built_again(cache: EngineCache, damage: object) -> None:
    cache.load_or_build(KEY, _load, lambda: b"engine")
    (path,) = cache.folder.glob("*.engine")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert cache.load_or_build(KEY, _load, lambda: b"fresh") == b"fresh"
    assert cache.load_or_build(KEY, _load, lambda: pytest.fail("built again")) == b"fresh"


def test_engine_that_tensorrt_rejects_is_built_again_once(cache: EngineCache) -> None:
    cache.load_or_build(KEY, lambda content: content, lambda: b"foreign")
    assert cache.load_or_build(KEY, _load, lambda: b"fresh") == b"fresh"
    with pytest.raises(BackendError, match="just built"):
        cache.load_or_build(dataclasses.replace(KEY, gpu="other"), _load, lambda: b"foreign")


def test_failed_build_leaves_nothing(cache: EngineCache) -> None:
    def fail() -> bytes:
        raise BackendError("no memory")

    with pytest.raises(BackendError, match="no memory"):
        cache.load_or_build(KEY, _load, fail)
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]
    assert cache.load_or_build(KEY, _load, lambda: b"engine") == b"engine"


def test_one_builds_while_others_wait(cache: EngineCache) -> None:
    built, got = [], []
    may_end = threading.Event()

    def build() -> bytes:
        built.append(1)
        may_end.wait(5)
        return b"engine"

    workers = [
        threading.Thread(
            target=lambda: got.append(EngineCache(cache.folder).load_or_build(KEY, _load, build))
        )
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    may_end.set()
    for worker in workers:
        worker.join()
    assert got == [b"engine"] * 4 and len(built) == 1


def test_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(BackendError, match="chmod 700"):
        EngineCache(shared)
    with pytest.raises(BackendError, match="SYNCTALK_ENGINES"):
        EngineCache(Path("/proc/none"))


HALF = EngineOptions("fp16")


def _silent(phase: str, done: float) -> None:
    pass


def test_engines_are_named_by_model_machine_and_sizes(bundle: Bundle, cache: EngineCache) -> None:
    builder, said = FakeBuilder(), []
    assert engines_of(bundle, HALF, builder, cache, lambda *x: said.append(x)) == (
        "head.fp16.onnx",
        "colour.onnx",
    )
    assert said == [("Tactics", 0.5)] * 2 and builder.timings == [b"", b"+"]
    engines_of(bundle, HALF, builder, cache, _silent)
    assert len(builder.built) == 2
    engines_of(bundle, EngineOptions("fp16", 4), builder, cache, _silent)
    engines_of(bundle, EngineOptions("fp32"), builder, cache, _silent)
    assert builder.built[2:] == ["head.fp16.onnx", "colour.onnx", "head.onnx", "colour.onnx"]
    builder.version = "11.1.0.106"
    engines_of(bundle, HALF, builder, cache, _silent)
    assert len(builder.built) == 8 and builder.timings[-2:] == [b"", b"+"]


def test_compatible_engines_are_kept_apart_and_used_longer(bundle: Bundle, cache: EngineCache) -> None:
    def n_built(options: EngineOptions, **changes: str) -> int:
        builder = FakeBuilder()
        builder.load = lambda engine: engine  # type: ignore[method-assign]
        for name, value in changes.items():
            setattr(builder, name, value)
        engines_of(bundle, options, builder, cache, _silent)
        return len(builder.built)

    any_version, any_gpu = EngineOptions(version_compatible=True), EngineOptions(hardware_compatible=True)
    assert [n_built(options) for options in (EngineOptions(), any_version, any_gpu)] == [2, 2, 2]
    newer, other = {"version": "10.17.0.1"}, {"gpu": "RTX 5090", "compute_capability": "12.0"}
    assert [n_built(options, **newer) for options in (EngineOptions(), any_version, any_gpu)] == [2, 0, 2]
    assert [n_built(options, **other) for options in (EngineOptions(), any_version, any_gpu)] == [2, 2, 0]
    assert n_built(any_version, version="11.1.0.106") == 2
    with pytest.raises(BackendError, match="begin at compute capability"):
        n_built(any_gpu, compute_capability="7.5")


def test_backend_builds_as_the_user_last_did(bundle: Bundle, cache: EngineCache) -> None:
    builder, seen = FakeBuilder(), []

    def runner(engine: object, model: Model, stream: int) -> object:
        seen.append(model.max_batch)
        return None

    given = {"builder": builder, "cache": cache, "runner": runner, "make_stages": EmulatedStages}
    TensorRT(bundle, precision="float32", **given, say=_silent)
    options = EngineOptions("fp16", 8, version_compatible=True)
    cache.keep_options(bundle.manifest.id, options)
    assert cache.options(bundle.manifest.id) == options and cache.options("another") is None
    TensorRT(bundle, precision="float32", **given, say=_silent)
    assert seen == 4 * [1] + 4 * [8] and builder.built == 2 * ["head.onnx", "colour.onnx"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_building_shows_a_bar_on_a_terminal_only(caplog: pytest.LogCaptureFixture) -> None:
    terminal, pipe = _Terminal(), io.StringIO()
    with shown_progress(terminal):
        pass
    assert terminal.getvalue() == ""  # nothing was built
    with shown_progress(terminal) as say:
        say("Tactics", 0.5)
    assert "Tactics" in terminal.getvalue()
    with caplog.at_level(logging.DEBUG, "synctalk.tensorrt"), shown_progress(pipe) as say:
        say("Tactics", 0.5)
    assert pipe.getvalue() == "" and "Tactics 50 %" in caplog.text


def test_key_follows_the_bundle(bundle: Bundle) -> None:
    head, colour = models_of(bundle, "fp32", 4)
    keys = {engine_key(bundle, model, EngineOptions(), FakeBuilder()).onnx_sha256 for model in (head, colour)}
    assert len(keys) == 2
    assert len(head.profiles) == 2 and head.profiles[1][2] == 4 * head.profiles[0][2]


@pytest.mark.parametrize(
    ("asked", "taken"),
    [("auto", "fp16"), ("float16", "fp16"), ("fp16", "fp16"), ("float32", "fp32"), ("fp32", "fp32")],
)
def test_precisions_have_the_names_that_all_backends_know(bundle: Bundle, asked: str, taken: str) -> None:
    assert engine_precision(bundle, asked) == taken


@pytest.mark.parametrize(
    ("asked", "word"), [("int8", "gains nothing"), ("int16", "float16 or float32"), ("x", "auto")]
)
def test_other_precisions_are_refused(bundle: Bundle, asked: str, word: str) -> None:
    with pytest.raises(BackendError, match=word):
        engine_precision(bundle, asked)


def test_models_name_the_inputs_of_the_onnx_files(bundle: Bundle) -> None:
    for precision in ("fp32", "fp16"):
        for model in models_of(bundle, precision):
            session = open_session(bundle, model.member, ["CPUExecutionProvider"])
            assert [(x.name, tuple(x.shape[1:])) for x in session.get_inputs()] == list(model.inputs)
            assert [(x.name, tuple(x.shape[1:])) for x in session.get_outputs()] == list(model.outputs)
            assert {x.type for x in session.get_inputs()} == {"tensor(float)"}


class EmulatedStages(_native.StagesEmulation):  # type: ignore[misc]
    """``CudaStages`` without a GPU."""

    stream = 7

    def begin(
        self, batch: _native.GpuBatch, width: int, height: int, plates: Any, stream: int | None, into: Any
    ) -> tuple[int, int]:
        counts: tuple[int, int] = super().begin(batch, width, height, plates, into)
        return counts

    def over(self, heads: Any, plates: Any, stream: int | None) -> None:
        super().over(heads, plates)

    def finish(self) -> EmulatedFrames:
        return EmulatedFrames(super().finish())


def _backend(
    bundle: Bundle, cache: EngineCache, precision: str = "auto", rows: int = 0, is_half: bool = False
) -> TensorRT:
    """The backend on emulated kernels and engines; rows: of one call at most, unless as many as there are."""
    device = HostDevice()

    def runner(engine: str, model: Model, stream: int) -> EngineRunner:
        model = dataclasses.replace(model, rows=min(rows or model.rows, model.rows))
        return host_runner(HostEngine(bundle, device, engine), model, stream)

    return TensorRT(
        bundle,
        precision=precision,
        builder=FakeBuilder(),
        cache=cache,
        runner=runner,
        make_stages=EmulatedStages,
        say=_silent,
        is_half=is_half,
    )


LEAST_DB = {"float32": CUDA_FLOAT_DB, "float16": CUDA_HALF_DB, "auto": CUDA_HALF_DB}


@pytest.mark.parametrize("precision", LEAST_DB)
def test_backend_draws_what_native_cpu_does(bundle: Bundle, cache: EngineCache, precision: str) -> None:
    backend, cpu = _backend(bundle, cache, precision), NativeCpu(bundle, precision="float32")
    camera = bundle.manifest.camera
    for request in (request_of(bundle), request_of(bundle, 9, camera=camera.resized(97, 55))):
        head = backend.render_head(request)
        assert head.dtype == np.float32 and head.shape == (request.camera.height, request.camera.width, 4)
        assert psnr(head, cpu.render_head(request)) >= LEAST_DB[precision]


def test_colours_of_samples_are_drawn_like_those_of_rays(tmp_path: Path, cache: EngineCache) -> None:
    spec = tiny_spec(deferred=False)
    export_bundle(tiny_subject(spec), tmp_path / "x")
    bundle = open_bundle(tmp_path / "x")
    head = _backend(bundle, cache, "float32", rows=2048).render_head(request_of(bundle))
    assert psnr(head, NativeCpu(bundle, precision="float32").render_head(request_of(bundle))) >= CUDA_FLOAT_DB


def test_frames_of_many_sessions_are_drawn_over_their_plates_together(
    bundle: Bundle, cache: EngineCache
) -> None:
    backend = _backend(bundle, cache, "float32", rows=2048)  # rays go on from one call to the next
    generator = np.random.default_rng(0)
    frames = (0, 7, 20, 33)
    conditions = generator.standard_normal((4, bundle.manifest.spec.field.condition), np.float32)
    asked = [
        request_of(bundle, frame, condition=values) for frame, values in zip(frames, conditions, strict=True)
    ]
    plates = generator.integers(0, 256, (4, 64, 64, 3), np.uint8)
    pictures, heads = backend.draw(asked, plates).numpy(), backend.draw(asked).numpy()
    cpu = NativeCpu(bundle, precision="float32")
    for i, request in enumerate(asked):
        assert psnr(heads[i], cpu.render_head(request)) >= CUDA_FLOAT_DB
        np.testing.assert_allclose(heads[i], backend.render_head(request), atol=1e-5)
        difference = np.abs(compose(heads[i], plates[i]).astype(int) - pictures[i])
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    assert np.abs(heads[0] - heads[1]).max() > 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("detail", ["full", "half"])
def test_gpu_stages_draw_what_native_cpu_does(tmp_path: Path, cache: EngineCache, detail: str) -> None:
    """The real kernels; engines are computed on the host."""
    if reason := why_no_kernels("cuda") or why_no_device():
        pytest.skip(f"no GPU to run on: {reason}")
    export_bundle(upsampled_subject(), tmp_path / "x")
    bundle = open_bundle(tmp_path / "x")

    def runner(engine: str, model: Model, stream: int) -> CopyingRunner:
        return CopyingRunner(bundle, engine, model, stream)

    given = {"builder": FakeBuilder(), "cache": cache, "runner": runner, "say": _silent}
    backend = TensorRT(bundle, precision="float32", is_half=detail == "half", **given)
    cpu = create_backend("native-cpu", bundle, precision="float32", detail=detail)
    asked = [request_of(bundle, frame) for frame in (0, 7, 20)]
    plates = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    for _ in range(2):
        pictures, heads = backend.draw(asked, plates).numpy(), backend.draw(asked).numpy()
        for i, request in enumerate(asked):
            assert psnr(heads[i], cpu.render_head(request)) >= CUDA_FLOAT_DB
            assert np.abs(compose(heads[i], plates[i]).astype(int) - pictures[i]).max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_gpu_engines_draw_what_native_cpu_does(bundle: Bundle, cache: EngineCache, precision: str) -> None:
    if reason := why_not("cuda"):
        pytest.skip(f"no TensorRT: {reason}")
    backend = TensorRT(bundle, precision=precision, cache=cache, say=_silent)
    cpu = NativeCpu(bundle, precision="float32")
    asked = [request_of(bundle, frame) for frame in (0, 7, 20)]
    for _ in range(2):
        for head, request in zip(backend.draw(asked).numpy(), asked, strict=True):
            assert psnr(head, cpu.render_head(request)) >= LEAST_DB[precision]


def test_engines_are_called_in_few_sizes_and_see_each_sample_once(bundle: Bundle, cache: EngineCache) -> None:
    engines: dict[str, list[int]] = {}

    def runner(engine: str, model: Model, stream: int) -> EngineRunner:
        runner = host_runner(HostEngine(bundle, HostDevice(), engine), model, stream)
        counted = engines.setdefault(engine, [])
        call = runner.__call__

        class Counted:
            most_rows, array = runner.most_rows, runner.array

            def __call__(self, n_rows: int) -> None:
                counted.append(n_rows)
                call(n_rows)

        return Counted()  # type: ignore[return-value]

    backend = TensorRT(
        bundle,
        precision="float32",
        builder=FakeBuilder(),
        cache=cache,
        runner=runner,
        make_stages=EmulatedStages,
        say=_silent,
    )
    request, spec = request_of(bundle), bundle.manifest.spec.field
    backend.draw([request, request])
    camera = request.camera
    rows, columns = np.mgrid[: camera.height, : camera.width]
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=-1).astype(np.float32)
    rays = pixel_rays(camera, request.rotation, request.translation, pixels)
    jitter = np.full(len(pixels), 0.5, np.float32)
    _, of_rays, _ = march_rays(spec, bundle.tensors["occupancy"], *rays, jitter)
    assert engines == {"head.onnx": [2 * len(of_rays)], "colour.onnx": [2 * len(np.unique(of_rays))]}


def test_half_size_heads_are_enlarged_before_they_are_put_over_the_plates(
    cache: EngineCache, tmp_path: Path
) -> None:
    export_bundle(upsampled_subject(), tmp_path / "x")
    bundle = open_bundle(tmp_path / "x")
    backend = _backend(bundle, cache, "float32", is_half=True)
    asked = [request_of(bundle, frame) for frame in (0, 7, 20)]
    plates = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    pictures, heads = backend.draw(asked, plates).numpy(), backend.draw(asked).numpy()
    cpu = create_backend("native-cpu", bundle, precision="float32", detail="half")
    for i, request in enumerate(asked):
        assert psnr(heads[i], cpu.render_head(request)) >= CUDA_FLOAT_DB
        np.testing.assert_array_equal(backend.render_head(request), heads[i])
        difference = np.abs(compose(heads[i], plates[i]).astype(int) - pictures[i])
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    with pytest.raises(ValueError, match="at most 16 pictures"):
        backend.draw(17 * asked[:1])
    with pytest.raises(ValueError, match=r"\(64, 64\) at once"):
        backend.render_head(request_of(bundle, camera=bundle.manifest.camera.resized(32, 32)))
    with pytest.raises(BackendError, match="train-upsampler"):
        models_of(open_bundle(Path(DEMO) / "demo.avatar"), "fp32", is_half=True)


def test_avatars_too_wide_are_refused_before_anything_is_built(bundle: Bundle, cache: EngineCache) -> None:
    def too_wide(**_: Any) -> None:
        raise ValueError("the kernels for GPUs have room for 128 density outputs, got 129")

    builder = FakeBuilder()
    with pytest.raises(BackendError, match=r"cannot take this avatar.*128"):
        TensorRT(bundle, builder=builder, cache=cache, make_stages=too_wide, say=_silent)
    assert not builder.built


def test_camera_that_misses_sees_the_plate(bundle: Bundle, cache: EngineCache) -> None:
    plates = np.random.default_rng(5).integers(0, 256, (1, 64, 64, 3), np.uint8)
    beside = request_of(bundle, translation=np.array([3.0, 0.0, 0.7], np.float32))
    np.testing.assert_array_equal(_backend(bundle, cache).draw([beside], plates).numpy(), plates)


def test_requests_that_do_not_fit_are_refused(bundle: Bundle, cache: EngineCache) -> None:
    backend = _backend(bundle, cache)
    other = request_of(bundle, camera=bundle.manifest.camera.resized(32, 32))
    for asked, plates, word in (
        ([request_of(bundle), other], None, "one size"),
        ([], None, "one size"),
        ([request_of(bundle)], np.zeros((2, 64, 64, 3), np.uint8), "plates"),
    ):
        with pytest.raises(ValueError, match=word):
            backend.draw(asked, plates)
    assert backend.render_head(request_of(bundle)).max() > 0.5  # a lane that was refused draws on


def test_float16_needs_a_bundle_that_has_it(bundle: Bundle, cache: EngineCache) -> None:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != "head.fp16.onnx"}
    without = copy.copy(bundle)
    without.manifest = dataclasses.replace(bundle.manifest, files=files)
    with pytest.raises(BackendError, match=r"has no head\.fp16\.onnx.*--precision float32"):
        _backend(without, cache, "float16")
    assert _backend(without, cache, "auto").render_head(request_of(bundle)).max() > 0.5


def test_backend_says_what_is_missing(bundle: Bundle) -> None:
    assert "choose device auto or cuda" in str(why_not("cpu"))
    if why_not("cuda") is None:
        pytest.skip("TensorRT and a GPU are here")
    with pytest.raises(BackendError, match="backend tensorrt cannot work"):
        create_backend("tensorrt", bundle)
    with pytest.raises(BackendError, match="do not compute in int16"):
        TensorRT(bundle, precision="int16", builder=FakeBuilder())


def test_bundles_never_bring_engines(bundle: Bundle) -> None:
    """Engines are code: no member of a bundle can be one."""
    assert all(
        Path(name).suffix in {".safetensors", ".onnx", ".mp4", ".png"} for name in bundle.manifest.files
    )


def test_header_is_readable_by_people(cache: EngineCache) -> None:
    cache.load_or_build(KEY, _load, lambda: b"engine")
    (path,) = cache.folder.glob("*.engine")
    header = json.loads(path.read_bytes().split(b"\n")[0])
    assert header["for"] == dataclasses.asdict(KEY)

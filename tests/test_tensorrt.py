"""Engines: the cache never trusts what it finds, and the backend is the same function whoever evaluates it.

TensorRT itself is not here: its place is taken by a builder that keeps the protocol and runs ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.sessions import open_session
from synctalk.backends.tensor_rt import TensorRT, why_not
from synctalk.bundle import Bundle, open_bundle
from synctalk.errors import BackendError
from synctalk.tensorrt.builder import Model, Say, engine_key, engines_of, models_of
from synctalk.tensorrt.cache import EngineCache, EngineKey, EngineOptions
from synctalk.tensorrt.progress import shown_progress
from synctalk_export.export import export_bundle
from tiny_subject import tiny_subject

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

    def runner(engine: object, model: Model) -> object:
        seen.append(model.max_batch)
        return None

    TensorRT(bundle, precision="float32", builder=builder, cache=cache, runner=runner, say=_silent)
    options = EngineOptions("fp16", 8, version_compatible=True)
    cache.keep_options(bundle.manifest.id, options)
    assert cache.options(bundle.manifest.id) == options and cache.options("another") is None
    TensorRT(bundle, precision="float32", builder=builder, cache=cache, runner=runner, say=_silent)
    assert seen == [1, 1, 8, 8] and builder.built == 2 * ["head.onnx", "colour.onnx"]


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
    with pytest.raises(BackendError, match="int8"):
        models_of(bundle, "int8")


def test_models_name_the_inputs_of_the_onnx_files(bundle: Bundle) -> None:
    for precision in ("fp32", "fp16"):
        for model in models_of(bundle, precision):
            session = open_session(bundle, model.member, ["CPUExecutionProvider"])
            assert [(x.name, x.shape[1]) for x in session.get_inputs()] == list(model.inputs)
            assert {x.type for x in session.get_inputs()} == {"tensor(float)"}


def _request(bundle: Bundle) -> HeadRequest:
    tensors = bundle.tensors
    return HeadRequest(
        camera=bundle.manifest.camera,
        rotation=tensors["track.rotation"][0],
        translation=tensors["track.translation"][0],
        condition=tensors["condition.mean"],
        expression=tensors["track.expression"][0],
        appearance=tensors["field.appearance"],
    )


@pytest.mark.parametrize(("precision", "least_db"), [("float32", 60.0), ("auto", 50.0)])
def test_backend_draws_what_native_cpu_does(
    bundle: Bundle, cache: EngineCache, precision: str, least_db: float
) -> None:
    def runner(engine: object, model: Model) -> object:
        session = open_session(bundle, str(engine), ["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            feed = {name: np.ascontiguousarray(values) for name, values in feed.items()}
            return dict(zip(names, session.run(names, feed), strict=True))

        return run

    builder = FakeBuilder()
    backend = TensorRT(bundle, precision=precision, builder=builder, cache=cache, runner=runner)
    assert builder.built[0] == ("head.onnx" if precision == "float32" else "head.fp16.onnx")
    got = backend.render_head(_request(bundle))
    expected = create_backend("native-cpu", bundle, precision="float32").render_head(_request(bundle))
    shown = expected[..., 3] > 0
    assert -10 * np.log10(np.square(got - expected)[shown].mean() + 1e-20) >= least_db


def test_backend_says_what_is_missing(bundle: Bundle) -> None:
    assert "choose device auto or cuda" in str(why_not("cpu"))
    if why_not("cuda") is None:
        pytest.skip("TensorRT and a GPU are here")
    with pytest.raises(BackendError, match="backend tensorrt cannot work"):
        create_backend("tensorrt", bundle)
    with pytest.raises(BackendError, match="float32"):
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

"""The SDK as apps see it: types, defaults, errors that programs can read, and names that go."""

from __future__ import annotations

import ast
import asyncio
import inspect
import warnings
from fractions import Fraction
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import synctalk
from fake_avatar import fake_avatar
from synctalk import Avatar, BackendError, CapacityError, Executor
from synctalk.avatar import DEMO
from synctalk.backends import BACKENDS, BackendEntry, BackendName, Detail, Device, Precision, create_backend
from synctalk.bundle import open_bundle
from synctalk.deprecation import deprecated

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SOUND = np.full(3200, 0.1, np.float32)


@pytest.fixture(autouse=True)
def _warned_of_nothing() -> None:
    deprecated.cache_clear()


def test_choices_are_types() -> None:
    hints = get_type_hints(Avatar.from_bundle)
    expected = {"device": Device, "backend": BackendName, "precision": Precision, "detail": Detail}
    for name, choice in expected.items():
        assert hints[name] == choice
    assert set(get_args(BackendName)) == {"auto", *(entry.name for entry in BACKENDS)}


def test_defaults_are_the_same_everywhere() -> None:
    """device, backend, precision, detail: ``auto``, wherever they are asked for."""
    from synctalk.bench.command import bench
    from synctalk.serve.command import serve
    from synctalk.speak import speak

    for function in (Avatar.from_bundle, Avatar.demo, create_backend, speak, bench, serve):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in ("device", "backend", "precision", "detail"):
                assert parameter.default == "auto", (function, name)


def test_an_avatar_closes_with_its_sessions() -> None:
    with fake_avatar()[0] as avatar:
        session = avatar.sync_session(pace="fast", idle=False).__enter__()
        session.push_audio(SOUND, 16_000)
        assert next(iter(session.run())).index == 0
        before = avatar.executor
    assert list(session.run()) == []
    assert before.n_sessions == 0
    avatar.close()  # once more
    assert len(list(avatar.speak(SOUND, 16_000))) == 5


def test_demo_is_the_person_that_comes_with_it() -> None:
    if not (DEMO / "demo.avatar").exists():
        pytest.skip("this installation has no demo avatar")
    with Avatar.demo(threads=1) as avatar:
        assert avatar.info().format == "synctalk-avatar"


def test_frames_know_their_time_and_become_pyavs() -> None:
    avatar = fake_avatar()[0]
    for rgba, name in ((False, "rgb24"), (True, "rgba")):
        frame = list(avatar.speak(SOUND, 16_000, rgba=rgba))[3]
        assert frame.pts_s == 0.12 and frame.sample_rate == avatar.sample_rate
        picture = frame.to_av()
        assert (picture.format.name, picture.pts, picture.time_base) == (name, 1920, Fraction(1, 16_000))
        np.testing.assert_array_equal(picture.to_ndarray(), frame.image)


def test_run_says_when_it_ends() -> None:
    avatar = fake_avatar()[0]
    with avatar.sync_session(pace="fast", idle=False) as session:
        session.push_audio(SOUND, 16_000)
        session.flush()
        assert len(list(session.run(until="drained"))) == 5
        with pytest.raises(ValueError, match="'closed' or 'drained', got 'empty'"):
            session.run(until="empty")  # type: ignore[arg-type]
        session.close()
        assert list(session.run(until="closed")) == []


def test_capacity_errors_say_limit_and_load() -> None:
    avatar = Avatar.mock()
    executor = Executor(max_sessions=1)
    with (
        avatar.sync_session(executor=executor),
        pytest.raises(CapacityError) as caught,
        avatar.sync_session(executor=executor),
    ):
        pass
    assert (caught.value.limit, caught.value.load) == (1, 2)
    executor = Executor(load_limit=0.0)
    with (
        avatar.sync_session(executor=executor),
        pytest.raises(CapacityError) as caught,
        avatar.sync_session(executor=executor),
    ):
        pass
    assert caught.value.limit == 0.0 and caught.value.load is not None and caught.value.load > 0.0


def test_backend_errors_say_each_reason() -> None:
    def never(*_: object) -> None:
        raise AssertionError("it cannot work")

    table = tuple(
        BackendEntry(name, never, lambda device, name=name: f"{name} is out") for name in ("a", "b")
    )  # type: ignore[arg-type, misc]
    bundle = open_bundle(sorted((ROOT / "tests" / "golden").glob("*.avatar"))[-1])
    with pytest.raises(BackendError, match="a: a is out; b: b is out") as caught:
        create_backend("auto", bundle, table=table)
    assert caught.value.reasons == {"a": "a is out", "b": "b is out"}


def test_names_that_go_work_and_warn_once() -> None:
    avatar = fake_avatar()[0]

    async def drained() -> None:
        async with avatar.session(pace="fast", idle=False) as session:
            assert [frame async for frame in session.frames()] == []

    def old() -> None:
        assert avatar.info()["fps"] == 25
        with avatar.sync_session(pace="fast", idle=False) as session:
            assert list(session.frames()) == []
        asyncio.run(drained())

    with pytest.warns(DeprecationWarning) as caught:
        old()
        old()
    assert len(caught) == 2
    page = (ROOT / "docs" / "deprecations.md").read_text(encoding="utf-8")
    for one in caught:
        assert Path(one.filename) == Path(__file__)
        assert str(one.message).split(" is deprecated")[0].removeprefix("avatar.") in page
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        old()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_use_public_names_only(path: Path) -> None:
    if path.name == "encode_on_your_stream.py":
        pytest.skip("it shows the native module itself")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("synctalk"):
            module = (
                __import__(node.module or "", fromlist=["_"])
                if "integrations" not in (node.module or "")
                else None
            )
            for alias in node.names:
                assert not alias.name.startswith("_")
                assert module is None or alias.name in module.__all__, f"{node.module}.{alias.name}"
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__"), node.attr


def test_the_packages_names_are_all_there() -> None:
    for name in synctalk.__all__:
        assert getattr(synctalk, name) is not None

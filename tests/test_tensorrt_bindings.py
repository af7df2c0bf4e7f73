"""All calls of TensorRT and cuda-python against the real bindings of TensorRT 10 and 11, on a machine without a GPU.

``make tensorrt`` brings the bindings; libraries of our own, with nothing in them, let them be imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorrt_calls import CHECKS
from tensorrt_double import signatures

TESTS = Path(__file__).parent
WHEELS = Path(os.environ.get("SYNCTALK_TENSORRT_WHEELS", Path(sys.prefix) / "tensorrt"))
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


@pytest.fixture(scope="module", params=[10, 11])
def failures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of one version: what each check said."""
    major, compiler = request.param, shutil.which("cc")
    if not (WHEELS / str(major) / "tensorrt_bindings").is_dir():
        pytest.skip(f"no bindings of TensorRT {major} in {WHEELS}: make tensorrt")
    if compiler is None:
        pytest.skip("no C compiler for the libraries' stand-ins")
    stubs = tmp_path_factory.mktemp("stubs")
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(stubs / name)]
        subprocess.run([*command, str(TESTS / "tensorrt_stub.c")], check=True)
    script = [sys.executable, str(TESTS / "tensorrt_calls.py"), str(WHEELS / str(major)), str(stubs)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert found["version"].split(".")[0] == str(major)
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_real_bindings_take_every_call(failures: dict[str, str], name: str) -> None:
    if failures[name].startswith("skip: "):
        pytest.skip(failures[name])
    assert failures[name] == "", failures[name]


def test_stand_in_reads_the_bindings_signatures() -> None:
    doc = """f(*args, **kwargs)
Overloaded function.

1. f(self: a.b.C, name: str, shape: tuple) -> bool

2. f(self: a.b.C, strategy: a.b.S = <S.STATIC: 0>, flags: dict[str, int] = {}) -> a.b.D
"""
    (first, kind), (second, result) = signatures(doc)
    assert [(p.name, p.kind, p.has_default) for p in first[1:]] == [
        ("name", "str", False),
        ("shape", "tuple", False),
    ]
    assert [p.has_default for p in second] == [False, True, True] and (kind, result) == ("bool", "a.b.D")

"""Which module may import which: downwards only; and what ``import synctalk`` pulls in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import synctalk

ROOT = Path(__file__).resolve().parents[1]
SDK = ROOT / "sdk" / "synctalk"

LAYERS = (
    {"errors", "forks", "rows", "spec_versions", "deprecation", "_version", "_native"},
    {"keys", "outputs", "spec"},
    {"geometry", "pictures", "prosody"},
    {"audio", "control", "frame", "manifest", "render", "watermark"},
    {"sound_file", "voice"},
    {"sound"},
    {"bundle", "consent", "media", "condition", "track"},
    {"credentials", "signing", "tensorrt"},
    {"backends", "expression", "gpu", "idle"},
    {"mock", "stage"},
    {"info"},
    {"paste", "timeline"},
    {"executor"},
    {"session"},
    {"avatar", "doctor"},
    {"batch", "integrations"},
    {"bench", "provenance", "serve", "speak"},
    {"cli"},
    {"__main__"},
)
"""Lowest first. A module imports from lower layers, and from itself where it is a package."""

PACKAGES = {
    "synctalk": (ROOT / "sdk", set()),
    "synctalk_trainer": (ROOT / "trainer", {"synctalk"}),
    "synctalk_export": (ROOT / "export", {"synctalk", "synctalk_trainer"}),
}


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions, by its absolute name."""
    package = path.relative_to(next(r for r, _ in PACKAGES.values() if path.is_relative_to(r))).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _sources(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def _layer_of(module: str) -> int | None:
    return next((i for i, names in enumerate(LAYERS) if module in names), None)


@pytest.mark.parametrize("path", _sources(SDK), ids=lambda path: path.relative_to(SDK).as_posix())
def test_sdk_modules_import_downwards(path: Path) -> None:
    own = path.relative_to(SDK).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    layer = _layer_of(own)
    assert layer is not None, f"{own} has no place in LAYERS: give it one"
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "synctalk" or len(parts) < 2 or parts[1] == own:
            continue
        target = _layer_of(parts[1])
        if target is not None:
            assert target < layer, f"{own} (layer {layer}) imports {name} (layer {target})"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package: str) -> None:
    root, allowed = PACKAGES[package]
    forbidden = set(PACKAGES) - allowed - {package}
    for path in _sources(root / package):
        used = {name.split(".")[0] for name in _imports(path)}
        assert not used & forbidden, f"{path.relative_to(ROOT)} imports {sorted(used & forbidden)}"


def test_the_sdk_never_imports_torch() -> None:
    for path in _sources(SDK):
        assert not {name.split(".")[0] for name in _imports(path)} & {"torch", "mediapipe", "onnx", "pickle"}


def _python(code: str) -> str:
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


HEAVY = "{'torch', 'onnxruntime', 'av', 'soundfile', 'soxr', 'numpy', 'typer', 'rich'}"


def test_import_is_light() -> None:
    assert _python(f"import sys, synctalk; print(sorted({HEAVY} & set(sys.modules)))") == "[]"


def test_avatar_needs_no_heavy_import() -> None:
    code = f"import sys; from synctalk import Avatar; print(sorted(({HEAVY} - {{'numpy', 'soxr'}}) & set(sys.modules)))"
    assert _python(code) == "[]"


def test_import_takes_less_than_300_ms() -> None:
    code = "import time; t = time.perf_counter(); import synctalk; print(time.perf_counter() - t)"
    assert min(float(_python(code)) for _ in range(3)) < 0.3


def test_public_names_are_sorted_and_there() -> None:
    assert synctalk.__all__ == sorted(synctalk.__all__)
    for name in synctalk.__all__:
        assert getattr(synctalk, name) is not None
    assert set(dir(synctalk)) == set(synctalk.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        synctalk.nonsense  # noqa: B018

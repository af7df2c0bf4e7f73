"""Avatars outlive versions: those that released versions wrote load, and look as they always did."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_bundle import FOLDER, picture
from numpy.typing import NDArray
from synctalk._version import __version__
from synctalk.bundle import open_bundle, packed_zip, read_members, verify_bundle
from synctalk.errors import BundleError
from synctalk.media import read_video
from synctalk.spec import AudioSpec, FieldSpec, GridSpec, Spec, UpsamplerSpec
from synctalk.spec_versions import MISSING

GOLDEN = sorted(FOLDER.glob("*.avatar"))
PARTS: dict[str, type] = {
    "spec": Spec,
    "field": FieldSpec,
    "grid": GridSpec,
    "audio": AudioSpec,
    "upsampler": UpsamplerSpec,
}
KEYS = [(part, key) for part, values in MISSING.items() for key in values]


def _changed(source: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle with another manifest."""
    members = read_members(source)
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    target.write_bytes(packed_zip({**members, "manifest.json": json.dumps(manifest).encode()}))
    return target


def _part(manifest: dict[str, Any], part: str) -> dict[str, Any]:
    spec = manifest["spec"]
    found: dict[str, Any] = {"spec": spec, "grid": spec["field"]["grid"]}.get(part) or spec[part]
    return found


@pytest.fixture(scope="module")
def expected() -> NDArray[np.uint8]:
    """What the newest golden bundle shows here."""
    return picture(GOLDEN[-1])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_bundle_renders_the_same_picture_for_ever(path: Path) -> None:
    assert verify_bundle(path) == []
    shown = picture(path).astype(int)
    kept = read_video(path.with_suffix(".png").read_bytes())[0]
    assert shown.shape == kept.shape and kept.std() > 20
    assert np.abs(shown - kept).max() <= 2  # instruction sets add in other orders
    assert (shown != kept).mean() < 0.01


def test_this_version_has_a_golden_bundle() -> None:
    """`python tests/golden_bundle.py` writes it."""
    assert __version__ in [path.stem for path in GOLDEN]


@pytest.mark.parametrize("part", PARTS)
def test_every_key_says_what_its_absence_means(part: str) -> None:
    """A new field needs an entry in ``spec_versions.MISSING``: what older avatars have."""
    assert set(MISSING[part]) == {field.name for field in dataclasses.fields(PARTS[part])}


@pytest.mark.parametrize(("part", "key"), KEYS)
def test_avatar_without_a_key_looks_as_it_did(
    part: str, key: str, expected: NDArray[np.uint8], tmp_path: Path
) -> None:
    """As an older version would have written it; where it had another value, the bundle contradicts itself."""
    source, default = GOLDEN[-1], MISSING[part][key]
    default = list(default) if isinstance(default, tuple) else default
    with zipfile.ZipFile(source) as archive:
        had = _part(json.loads(archive.read("manifest.json")), part).get(key, default)
    path = _changed(source, tmp_path / "older.avatar", lambda v: _part(v, part).pop(key, None))
    if had == default:
        np.testing.assert_array_equal(picture(path), expected)
        return
    try:
        assert open_bundle(path).manifest.spec != open_bundle(source).manifest.spec
    except BundleError as error:
        assert error.needed_version is None


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(version=2),
        lambda v: v.update(surprise=1),
        lambda v: v["spec"].update(surprise=1),
        lambda v: v["spec"]["audio"].update(surprise=1),
        lambda v: v["spec"]["audio"].update(encoder=7),
        lambda v: v["files"].update({"voice.onnx": v["files"]["audio.onnx"]}),
    ],
)
def test_newer_bundles_are_refused_with_the_version_that_is_needed(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    def newer(values: dict[str, Any]) -> None:
        change(values)
        values["made_by"] = "synctalk 0.10.2"

    path = _changed(GOLDEN[-1], tmp_path / "newer.avatar", newer)
    with pytest.raises(BundleError, match=r"pip install --upgrade 'synctalk>=0\.10\.2'") as caught:
        open_bundle(path)
    assert caught.value.needed_version == "0.10.2"
    assert "synctalk>=0.10.2" in str(verify_bundle(path)[0]) or "voice" in str(verify_bundle(path)[0])


def test_newer_bundle_with_a_new_member_is_refused_with_the_version(tmp_path: Path) -> None:
    path = _changed(GOLDEN[-1], tmp_path / "newer.avatar", lambda v: v.update(made_by="synctalk 1.0"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("voice.onnx", b"x")
    with pytest.raises(BundleError, match=r"synctalk>=1\.0"):
        open_bundle(path)


def test_newer_bundle_that_this_version_can_read_is_read(tmp_path: Path) -> None:
    path = _changed(GOLDEN[-1], tmp_path / "newer.avatar", lambda v: v.update(made_by="synctalk 9.0"))
    assert open_bundle(path).manifest.made_by == "synctalk 9.0"


@pytest.mark.parametrize(
    "made_by", ["synctalk 0.0.9", f"synctalk {__version__}", "synctalk", "x", "synctalk ..", ""]
)
def test_unknown_key_of_no_newer_version_is_no_reason_to_update(made_by: str, tmp_path: Path) -> None:
    path = _changed(GOLDEN[-1], tmp_path / "odd.avatar", lambda v: v.update(made_by=made_by, surprise=1))
    with pytest.raises(BundleError, match=r"surprise.*again") as caught:
        open_bundle(path)
    assert caught.value.needed_version is None

"""Bundles: what is written is read back, and everything else is refused with the file's name."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synctalk.bundle import (
    MEMBERS,
    Bundle,
    open_bundle,
    pack_tensors,
    tensor_ranges,
    tensor_shapes,
    verify_bundle,
    write_bundle,
)
from synctalk.errors import BundleError
from synctalk.geometry import Camera
from synctalk.manifest import Frame, Manifest, Placement
from synctalk.spec import preset

SPEC = preset("tiny")
CONTENTS = {name: f"the content of {name}".encode() for name in MEMBERS if name != "tensors.safetensors"}


def _tensors(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    values = {}
    for name, (dtype, shape) in tensor_shapes(SPEC, 3).items():
        drawn = generator.integers(0, 255, shape) if dtype == "uint8" else generator.normal(size=shape)
        values[name] = drawn.astype(dtype)
    values["field.ranges"] = np.abs(values["field.ranges"])
    values["field.byte_reach"] = np.array([0.7], np.float32)
    return values


def _manifest() -> Manifest:
    return Manifest(
        id="0123",
        name="May",
        spec=SPEC,
        frame=Frame(64, 48, 25),
        camera=Camera(64, 48, 150.0, 31.5, 24.0),
        placement=Placement(320, 240, 10.5, 0.0, 200.0),
        made_by="a test",
        created="2026-11-23T04:00:00+00:00",
        licence="CC0-1.0",
        consent="synthetic",
        training={"steps": 3, "parity": {"frames": {"psnr_db": 80.0}}},
    )


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A sound zip."""
    path = tmp_path / "may.avatar"
    write_bundle(path, _manifest(), _tensors(), CONTENTS)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder."""
    path = tmp_path / "may"
    write_bundle(path, _manifest(), _tensors(), CONTENTS)
    return path


def _refused(path: Path, names: str) -> str:
    """Opening raises BundleError that names something, and ``verify_bundle`` finds it, too."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    assert names in str(caught.value)
    findings = verify_bundle(path)
    assert findings and names in "\n".join(map(str, findings))
    return str(caught.value)


def _change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def _rewrite_tensors(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Put other tensors in a folder, with a manifest that agrees."""
    content = pack_tensors(tensors)
    (folder / "tensors.safetensors").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    _change_manifest(folder, lambda values: values["files"].update({"tensors.safetensors": entry}))


def _assert_sound(bundle: Bundle) -> None:
    expected = _tensors()
    assert set(bundle.tensors) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(bundle.tensors[name], values)
        assert not bundle.tensors[name].flags.writeable
    for name, content in CONTENTS.items():
        assert bundle.read(name) == content


def test_zip_and_folder_round_trip(packed: Path, folder: Path) -> None:
    for path in (packed, folder):
        bundle = open_bundle(path)
        _assert_sound(bundle)
        assert bundle.path == path
        written = bundle.manifest.to_dict()
        assert written["files"].keys() == set(MEMBERS)
        assert Manifest.from_dict(json.loads(json.dumps(written))) == bundle.manifest
        assert bundle.manifest.lookahead_ms == SPEC.audio.lookahead_ms
        assert verify_bundle(path) == []


def test_unzipped_bundle_opens_as_a_folder(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "unzipped")
    _assert_sound(open_bundle(tmp_path / "unzipped"))


def test_equal_input_gives_equal_bytes(packed: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.avatar"
    write_bundle(again, _manifest(), dict(reversed(_tensors().items())), CONTENTS)
    assert again.read_bytes() == packed.read_bytes()


def test_writing_replaces_a_bundle_and_leaves_nothing_else(packed: Path, folder: Path) -> None:
    for path in (packed, folder):
        write_bundle(path, _manifest(), _tensors(1), CONTENTS)
        np.testing.assert_array_equal(open_bundle(path).tensors["occupancy"], _tensors(1)["occupancy"])
    assert sorted(entry.name for entry in packed.parent.iterdir()) == ["may", "may.avatar"]


def test_writing_spares_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"x")
    with pytest.raises(BundleError, match="is not a bundle"):
        write_bundle(tmp_path / "photos", _manifest(), _tensors(), CONTENTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]


def test_writing_checks_what_it_gets(tmp_path: Path) -> None:
    path = tmp_path / "x.avatar"
    with pytest.raises(ValueError, match=r"plate\.mp4"):
        write_bundle(path, _manifest(), _tensors(), {k: v for k, v in CONTENTS.items() if k != "plate.mp4"})
    with pytest.raises(ValueError, match=r"unknown tensors \['more'\]"):
        write_bundle(path, _manifest(), {**_tensors(), "more": np.zeros(1)}, CONTENTS)
    assert not path.exists()


def test_tensor_ranges_point_at_the_values() -> None:
    tensors = _tensors()
    content = pack_tensors(tensors)
    for name, (offset, length) in tensor_ranges(content).items():
        assert content[offset : offset + length] == tensors[name].tobytes()


def test_missing_bundle_is_named(tmp_path: Path) -> None:
    assert "check the path" in _refused(tmp_path / "none.avatar", "none.avatar")


@pytest.mark.parametrize("member", MEMBERS)
def test_changed_byte_is_found_in_every_member(folder: Path, packed: Path, member: str) -> None:
    content = bytearray((folder / member).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / member).write_bytes(content)
    _refused(folder, member)
    data = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        info = archive.getinfo(member)
    data[info.header_offset + 30 + len(member) + info.file_size // 2] ^= 1
    packed.write_bytes(data)
    _refused(packed, member)


def test_changed_manifest_is_found(folder: Path) -> None:
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:-20])
    _refused(folder, "manifest.json")


def test_change_after_opening_is_found(folder: Path, packed: Path) -> None:
    bundle = open_bundle(folder)
    (folder / "plate.mp4").write_bytes(b"another film, longer than the first")
    with pytest.raises(BundleError, match=r"plate\.mp4"):
        bundle.read("plate.mp4")
    bundle = open_bundle(packed)
    packed.unlink()
    with pytest.raises(BundleError, match=r"plate\.mp4"):
        bundle.read("plate.mp4")
    with pytest.raises(BundleError, match="no member"):
        bundle.read("../secret")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_zip_is_refused(packed: Path, share: float) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content[: int(share * len(content))])
    _refused(packed, "zip")


@pytest.mark.parametrize("member", ["manifest.json", *MEMBERS])
def test_missing_member_is_named(folder: Path, member: str) -> None:
    (folder / member).unlink()
    _refused(folder, member)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda v: v.update(version=2), "pip install --upgrade synctalk"),
        (lambda v: v.update(version="1"), "version"),
        (lambda v: v.update(format="zip"), "format"),
        (lambda v: v.update(surprise=1), "surprise"),
        (lambda v: v.pop("licence"), "licence"),
        (lambda v: v.update(name=7), "name"),
        (lambda v: v.update(lookahead_ms=1.0), "lookahead_ms"),
        (lambda v: v["frame"].update(width=0), "frame"),
        (lambda v: v["frame"].update(width=64.0), "frame.width"),
        (lambda v: v["frame"].update(fps=30), "frame.fps"),
        (
            lambda v: (v["frame"].update(fps=30), v["spec"].update(fps=30)),
            "other frame rates are not supported",
        ),
        (lambda v: v["frame"].update(depth=1), "frame.depth"),
        (lambda v: v["camera"].update(focal_px=True), "camera.focal_px"),
        (lambda v: v["camera"].update(focal_px=-1), "camera.focal_px"),
        (lambda v: v.update(camera=[1, 2, 3]), "camera"),
        (lambda v: v["placement"].pop("side"), "placement.side"),
        (lambda v: v["spec"].update(fps="25"), "fps"),
        (lambda v: v["spec"]["field"].update(expression_names=["jawOpen"] * 7), "expression_names"),
        (lambda v: v["spec"]["field"].update(expression_names=list(range(7))), "expression_names"),
        (lambda v: v["spec"]["field"].update(new=1), "new"),
        (lambda v: v["spec"]["field"].update(occupancy_resolution=100_000), "occupancy_resolution"),
        (lambda v: v["spec"]["field"]["grid"].update(base_resolution=0), "manifest.json"),
        (lambda v: v["files"]["audio.onnx"].update(sha256="0" * 64), "audio.onnx"),
        (lambda v: v["files"]["audio.onnx"].update(bytes=1), "audio.onnx"),
        (lambda v: v["files"].pop("audio.onnx"), "audio.onnx"),
        (lambda v: v["files"].update({"../x": v["files"]["audio.onnx"]}), "../x"),
        (lambda v: v["files"].update(audio=1), "files.audio"),
    ],
)
def test_manifest_is_read_strictly(
    folder: Path, change: Callable[[dict[str, Any]], object], names: str
) -> None:
    _change_manifest(folder, change)
    _refused(folder, names)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": NaN}', '{"format": 1, "format": 2}', "[" * 100_000]
)
def test_manifest_that_is_not_json_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    _refused(folder, "manifest.json")


def test_not_a_number_in_the_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"focal_px": 150.0', '"focal_px": NaN'))
    _refused(folder, "NaN")


def test_tensors_must_fit_the_spec(folder: Path) -> None:
    tensors = _tensors()
    cases = {
        "field.density.0": {**tensors, "field.density.0": tensors["field.density.0"].T.copy()},
        "field.plane.0.1": {**tensors, "field.plane.0.1": tensors["field.plane.0.1"].astype(np.float32)},
        "'extra'": {**tensors, "extra": np.zeros(1, np.float32)},
        "'occupancy'": {k: v for k, v in tensors.items() if k != "occupancy"},
        "field.appearance": {**tensors, "field.appearance": np.full(4, np.nan, np.float32)},
        "track.expression": {**tensors, "track.expression": tensors["track.expression"][:2]},
        "track.rotation": {k: v[:0] if k.startswith("track.") else v for k, v in tensors.items()},
    }
    for names, changed in cases.items():
        _rewrite_tensors(folder, changed)
        assert "tensors.safetensors" in _refused(folder, names)


def test_tensors_that_are_not_safetensors_are_refused(folder: Path) -> None:
    content = b"\xff" * 100
    (folder / "tensors.safetensors").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    _change_manifest(folder, lambda values: values["files"].update({"tensors.safetensors": entry}))
    _refused(folder, "tensors.safetensors")


def test_links_and_strangers_in_a_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(folder / "plate.mp4", outside)
    (folder / "plate.mp4").symlink_to(outside)
    _refused(folder, "plate.mp4")
    (folder / "plate.mp4").unlink()
    shutil.move(outside, folder / "plate.mp4")
    (folder / "run.py").write_text("x")
    _refused(folder, "run.py")


def _zip_with(
    path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]], method: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/b", "..\\evil", "C:\\evil", "plate.mp4/", "MANIFEST.JSON", "x\x01"]
)
def test_path_tricks_are_refused(packed: Path, name: str) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    _refused(packed, "is no member")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members_are_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("plate.mp4", b"another")
    _refused(packed, "plate.mp4: twice")


def test_compressed_members_are_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        entries: list[tuple[zipfile.ZipInfo | str, bytes]] = [
            (n, archive.read(n)) for n in archive.namelist()
        ]
    _zip_with(packed, entries, zipfile.ZIP_DEFLATED)
    assert "zip -0" in _refused(packed, "compressed")


def test_linked_members_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("plate.mp4")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    _zip_with(tmp_path / "x.avatar", [(info, b"/etc/passwd")])
    _refused(tmp_path / "x.avatar", "plate.mp4: a link")


def test_encrypted_members_are_refused(packed: Path) -> None:
    _patch_central_directory(packed, "plate.mp4", 8, struct.pack("<H", 1))
    _refused(packed, "plate.mp4: encrypted")


def test_zip_bombs_are_refused(packed: Path) -> None:
    """Sizes that the file cannot hold, as overlapping members have."""
    _patch_central_directory(packed, "plate.mp4", 20, struct.pack("<II", 1 << 29, 1 << 29))
    _refused(packed, "zip bomb")


def test_members_beyond_the_limit_are_refused(packed: Path) -> None:
    _patch_central_directory(packed, "plate.mp4", 20, struct.pack("<II", (1 << 30) + 1, (1 << 30) + 1))
    _refused(packed, "more than a bundle may hold")


def _patch_central_directory(path: Path, member: str, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    at = data.rindex(member.encode()) - 46  # the fixed part of an entry
    data[at + offset : at + offset + len(content)] = content
    path.write_bytes(data)


def test_compressed_pretence_is_refused(packed: Path) -> None:
    _patch_central_directory(packed, "plate.mp4", 10, struct.pack("<H", 99))
    _refused(packed, "plate.mp4")

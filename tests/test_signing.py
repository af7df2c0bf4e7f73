"""Signatures of bundles: made, checked, and broken by any change of any byte."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography is not installed")
from fake_avatar import write_tiny_bundle
from synctalk.bundle import SIGNATURE, open_bundle, read_members
from synctalk.cli import main
from synctalk.errors import BundleError, SyncTalkError
from synctalk.keys import config_dir
from synctalk.signing import check_signature, sign_bundle


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = write_tiny_bundle(tmp_path_factory.mktemp("signed") / "tiny.avatar")
    return path, sign_bundle(path)


def test_a_signed_bundle_loads_and_its_maker_is_known(signed: tuple[Path, str]) -> None:
    path, public = signed
    assert open_bundle(path).manifest.name == "Fake"
    assert check_signature(path) == check_signature(path, public) == public
    with pytest.raises(BundleError, match="was signed with"):
        check_signature(path, "00" * 32)
    assert sign_bundle(path) == public  # again


def test_the_key_is_private(signed: tuple[Path, str]) -> None:
    assert stat.S_IMODE((config_dir() / "signing.key").stat().st_mode) == 0o600


def _regions(path: Path) -> list[int]:
    """Places in the zip: both ends, all headers and directory entries, and inside and around each member."""
    content = path.read_bytes()
    places = set(range(40)) | set(range(len(content) - 700, len(content)))
    for name, member in read_members(path).items():
        start = content.index(member)
        places |= set(range(start - 30 - len(name), start + 4))
        places |= {start + len(member) // 2, start + len(member) - 1}
    return sorted(places)[::5]


def test_a_changed_byte_anywhere_is_found(signed: tuple[Path, str], tmp_path: Path) -> None:
    content = signed[0].read_bytes()
    changed = tmp_path / "changed.avatar"
    places = _regions(signed[0])
    assert len(places) > 200
    for place in places:
        changed.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with pytest.raises(BundleError):
            check_signature(changed)
    for other in (content + b"\0", b"\0" + content, content[:-1]):
        changed.write_bytes(other)
        with pytest.raises(BundleError):
            check_signature(changed)


def test_folders_are_signed_too(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "folder")
    public = sign_bundle(path)
    assert check_signature(path, public) == public
    for member in path.iterdir():
        whole = member.read_bytes()
        for changed in (whole + b" ", whole[: len(whole) // 2] + b"~" + whole[len(whole) // 2 + 1 :]):
            member.write_bytes(changed)
            with pytest.raises(BundleError):
                check_signature(path, public)
        member.write_bytes(whole)
    (path / SIGNATURE).unlink()
    with pytest.raises(BundleError, match="not signed"):
        check_signature(path)


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny.avatar")
    with pytest.raises(SyncTalkError, match="no key at"):
        sign_bundle(path, tmp_path / "missing.pem")
    bad = tmp_path / "bad.pem"
    bad.write_text("not a key")
    with pytest.raises(SyncTalkError, match="not a private key"):
        sign_bundle(path, bad)


def test_commands_sign_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_bundle(tmp_path / "tiny.avatar")
    for arguments, code in [
        (["verify", str(path), "--key", "00" * 32], 1),
        (["sign", str(path)], 0),
        (["verify", str(path), "--key", "00" * 32], 1),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == code
    public = capsys.readouterr().out.split("--key ")[1].split()[0]
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(path), "--key", public])
    assert stop.value.code == 0
    assert os.listdir(tmp_path) == ["tiny.avatar"]  # noqa: PTH208

"""Consent: what the text says, when it ends, and what the SDK does then."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from fake_avatar import FakeBundle, write_tiny_bundle
from synctalk import consent as module
from synctalk.avatar import Avatar
from synctalk.bundle import MEMBERS, open_bundle, read_members, write_bundle
from synctalk.cli import main
from synctalk.consent import Consent, check_consent
from synctalk.errors import BundleError
from synctalk.info import describe
from synctalk.spec import preset

UNTIL = Consent("May Lee", "product demos", date(2027, 1, 1))


@pytest.mark.parametrize(
    ("text", "consent"),
    [
        ("May Lee; product demos; until 2027-01-01", UNTIL),
        ("May Lee", Consent("May Lee")),
        ("May Lee; demos; talks", Consent("May Lee", "demos; talks")),
        ("May Lee; until 2027-01-01", Consent("May Lee", "", date(2027, 1, 1))),
        ("May Lee, 2026-11-02, product demos", Consent("May Lee, 2026-11-02, product demos")),
        ("May Lee; until further notice", Consent("May Lee", "until further notice")),
        ("not stated", Consent()),
        ("", Consent()),
    ],
)
def test_texts_are_read(text: str, consent: Consent) -> None:
    assert Consent.parse(text) == consent
    assert Consent.parse(str(consent)) == consent


@pytest.mark.parametrize("text", ["May Lee; until soon", "until 2027-01-01; demos"])
def test_export_takes_no_end_that_is_not_a_date(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Consent.parse(text, is_strict=True)


def test_the_last_day_is_included() -> None:
    assert not UNTIL.is_expired(date(2027, 1, 1))
    assert UNTIL.is_expired(date(2027, 1, 2))
    assert not Consent("May").is_expired(date(9999, 1, 1))


def test_expired_consent_refuses_unless_overridden_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    manifest = replace(FakeBundle(preset("tiny")).manifest, consent=str(UNTIL))
    check_consent(manifest, today=date(2027, 1, 1))
    assert not caplog.records
    with pytest.raises(BundleError, match="May Lee ended on 2027-01-01"):
        check_consent(manifest, today=date(2027, 1, 2))
    check_consent(manifest, allow_expired=True, today=date(2027, 1, 2))
    assert "used all the same" in caplog.text


def test_missing_consent_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    module._warn_once.cache_clear()
    manifest = replace(FakeBundle(preset("tiny")).manifest, consent="not stated")
    with caplog.at_level(logging.WARNING):
        check_consent(manifest)
        check_consent(manifest)
    assert len(caplog.records) == 1
    assert "no consent" in caplog.text


def _expired_bundle(folder: Path) -> Path:
    path = write_tiny_bundle(folder / "tiny.avatar")
    bundle = open_bundle(path)
    manifest = replace(bundle.manifest, consent="May Lee; demos; until 2020-01-01")
    members = {k: v for k, v in read_members(path).items() if k in MEMBERS and not k.startswith("tensors")}
    write_bundle(path, manifest, bundle.tensors, members)
    return path


def test_an_expired_bundle_is_refused_by_sdk_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _expired_bundle(tmp_path)
    with pytest.raises(BundleError, match="allow_expired_consent"):
        Avatar.from_bundle(path)
    assert Avatar.from_bundle(path, threads=1, allow_expired_consent=True).size == (48, 48)
    with pytest.raises(SystemExit) as stop:
        main(["info", str(path)])
    assert stop.value.code == 0
    assert "2020-01-01 (expired)" in capsys.readouterr().out
    assert describe(open_bundle(path)).consent.who == "May Lee"

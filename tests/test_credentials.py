"""Content credentials of films, and what shows them."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path

import numpy as np
import pytest
from fake_avatar import fake_avatar
from synctalk import credentials
from synctalk._version import __version__
from synctalk.cli import main
from synctalk.errors import MediaError
from synctalk.keys import config_dir
from synctalk.media import read_video

SOUND = np.zeros(6400, np.float32)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    fake_avatar()[0].save(tmp_path / "film.mp4", SOUND, 16_000)
    return tmp_path / "film.mp4"


def test_saved_films_say_that_an_ai_made_them(film: Path) -> None:
    store = credentials.read_credentials(film)
    manifest = store["manifests"][store["active_manifest"]]
    assertions = {one["label"]: one["data"] for one in manifest["assertions"]}
    action = assertions["c2pa.actions.v2"]["actions"][0]
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert assertions["org.synctalk.avatar"] == {"id": "fake", "name": "Fake"}
    assert manifest["claim_generator_info"][0]["version"] == __version__
    assert store["validation_state"] == "Valid"
    assert len(read_video(film)) == 10
    assert {path.name for path in film.parent.iterdir()} == {"film.mp4"}


def test_the_local_key_is_private_and_stays(film: Path) -> None:
    key = config_dir() / "c2pa.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    fake_avatar()[0].save(film, SOUND, 16_000)
    assert key.read_bytes() == before


def test_a_changed_film_is_not_valid(film: Path) -> None:
    content = bytearray(film.read_bytes())
    content[content.index(b"mdat") + 200] ^= 1
    film.write_bytes(content)
    assert credentials.read_credentials(film)["validation_state"] == "Invalid"


def test_a_key_that_is_none_is_refused(film: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYNCTALK_CONFIG_DIR", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "c2pa.key").write_text("nonsense")
    (tmp_path / "own" / "c2pa.pem").write_text("nonsense")
    with pytest.raises(MediaError, match=r"c2pa\.key"):
        fake_avatar()[0].save(film, SOUND, 16_000)


def test_credentials_can_be_left_out(film: Path) -> None:
    fake_avatar()[0].save(film, SOUND, 16_000, credentials=False)
    with pytest.raises(MediaError, match="no content credentials"):
        credentials.read_credentials(film)


def test_without_the_libraries_nothing_is_written_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "find_spec", lambda name: None)
    with pytest.raises(MediaError, match=r"not installed.*credentials=False"):
        fake_avatar()[0].save(tmp_path / "film.mp4", SOUND, 16_000)
    assert not any(tmp_path.iterdir())
    fake_avatar()[0].save(tmp_path / "film.mp4", SOUND, 16_000, credentials=False)


def test_the_default_install_can_sign() -> None:
    """What is the default is no extra."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[><=]", one)[0] for one in project["dependencies"]}
    assert {"c2pa-python", "cryptography"} <= names


def test_detect_and_verify_show_the_credentials(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = "content credentials: intact; made with AI, by synctalk"
    for command in ("verify", "detect"):
        with pytest.raises(SystemExit):
            main([command, str(film)])
        assert shown in capsys.readouterr().out
    content = bytearray(film.read_bytes())
    content[content.index(b"mdat") + 200] ^= 1
    film.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(film)])
    assert caught.value.code == 1 and "NOT intact" in capsys.readouterr().err
    fake_avatar()[0].save(film, SOUND, 16_000, credentials=False)
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(film)])
    assert caught.value.code == 1 and "credentials: none" in capsys.readouterr().err

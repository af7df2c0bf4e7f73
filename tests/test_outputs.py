"""Files that are written: never an input, checked before the first frame, whatever they are called."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import c2pa
import numpy as np
import pytest
import soundfile
from fake_avatar import SIZE, write_tiny_bundle
from synctalk import Avatar, Frame, MediaError, SyncTalkError, credentials
from synctalk.media import read_audio, read_video, write_mp4
from synctalk.outputs import check_output
from test_cli import _run

AVATAR = Avatar.mock()
SOUND = (0.1 * np.random.default_rng(0).standard_normal(1_600)).astype(np.float32)


def _film(path: Path) -> bytes:
    """A film with a sound, which may be spoken."""
    write_mp4(path, [np.zeros((32, 32, 3), np.uint8)] * 3, 25, SOUND, 16_000)
    return path.read_bytes()


def _no_frame(_frame: Frame) -> None:
    raise AssertionError("a frame was drawn")


@pytest.mark.parametrize(
    "how", ["itself", "spelling", "symlink", "hard link", "folder link", "from a link", "open file"]
)
def test_an_output_that_is_the_sound_is_refused(how: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mine = tmp_path / "a" / "mine.mp4"
    before = _film(mine)
    out, sound = {
        "itself": lambda: (mine, mine),
        "spelling": lambda: (tmp_path / "a" / ".." / "a" / "mine.mp4", str(mine)),
        "symlink": lambda: ((tmp_path / "link.mp4").symlink_to(mine) or tmp_path / "link.mp4", mine),
        "hard link": lambda: ((tmp_path / "hard.mp4").hardlink_to(mine) or tmp_path / "hard.mp4", mine),
        "folder link": lambda: (
            (tmp_path / "b").symlink_to(tmp_path / "a") or tmp_path / "b" / "mine.mp4",
            mine,
        ),
        "from a link": lambda: (mine, (tmp_path / "link.mp4").symlink_to(mine) or tmp_path / "link.mp4"),
        "open file": lambda: (mine, mine.open("rb")),
    }[how]()
    with pytest.raises(MediaError, match="is an input"):
        AVATAR.save(out, sound, on_frame=_no_frame)
    assert mine.read_bytes() == before
    if how == "open file":
        sound.close()


def test_the_command_line_refuses_every_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.avatar")
    film, paste = tmp_path / "film.mp4", tmp_path / "paste.mp4"
    before = [_film(film), _film(paste), bundle.read_bytes()]
    (tmp_path / "link.mp4").symlink_to(bundle)
    for out in (film, paste, tmp_path / "link.mp4"):
        code, _, err = _run(capsys, "speak", bundle, film, "-o", out, "--paste", paste)
        assert code == 1
        assert "is an input" in err
    code, _, err = _run(capsys, "demo", "--avatar", bundle, "--audio", film, "-o", film)
    assert (code, "is an input" in err) == (1, True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "film.mp4").hardlink_to(film)
    code, _, err = _run(capsys, "speak", bundle, film, paste, "-o", tmp_path / "out", "--force")
    assert (code, "is an input" in err) == (1, True)
    code, _, err = _run(capsys, "bench", bundle, "--json", tmp_path / "link.mp4")
    assert (code, "is an input" in err) == (1, True)
    assert [film.read_bytes(), paste.read_bytes(), bundle.read_bytes()] == before


def test_a_member_of_a_bundle_folder_is_an_input(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny")
    avatar = Avatar.from_bundle(folder)
    with pytest.raises(MediaError, match="is an input"):
        avatar.save(folder / "plate.mp4", SOUND, 16_000, on_frame=_no_frame)


def test_what_cannot_be_written_is_told_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in {
        "x.webm": "x.mp4",
        "x": "without a suffix",
        "x.mp3": "films are mp4",
        "folder.mp4": "it is a folder",
        "pipe.mp4": "no ordinary file",
        "none/x.mp4": "folder that exists",
        "n" * 300 + ".mp4": "cannot write",
    }.items():
        with pytest.raises(MediaError, match=words):
            AVATAR.save(tmp_path / name, SOUND, 16_000, on_frame=_no_frame)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_protected_file_stays(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").touch(mode=0o444)
    with pytest.raises(MediaError, match="write-protected"):
        AVATAR.save(tmp_path / "x.mp4", SOUND, 16_000, on_frame=_no_frame)


def test_capitals_are_a_suffix_too(tmp_path: Path) -> None:
    AVATAR.save(tmp_path / "X.MP4", SOUND, 16_000)
    assert len(read_video(tmp_path / "X.MP4")) == 3


def test_a_full_disk_is_told_before_the_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10, 10))
    with pytest.raises(MediaError, match="Make room"):
        AVATAR.save(tmp_path / "x.mp4", SOUND, 16_000, on_frame=_no_frame)


def test_a_disk_that_fills_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 255, (256, 256, 3), np.uint8) for i in range(8)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(MediaError, match="cannot write"):
            write_mp4(tmp_path / "x.mp4", noise, 25, np.zeros(5120), 16_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_keys_that_cannot_be_is_told_before_the_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SYNCTALK_CONFIG_DIR", str(tmp_path / "file" / "keys"))
    with pytest.raises(SyncTalkError, match="SYNCTALK_CONFIG_DIR"):
        AVATAR.save(tmp_path / "x.mp4", SOUND, 16_000, on_frame=_no_frame)
    AVATAR.save(tmp_path / "x.mp4", SOUND, 16_000, credentials=False)


def test_a_film_that_cannot_be_signed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise c2pa.C2paError("no luck")

    monkeypatch.setattr(c2pa.Builder, "sign", fail)
    with pytest.raises(MediaError, match=r"no luck.*without credentials is"):
        AVATAR.save(tmp_path / "x.mp4", SOUND, 16_000)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("unsigned")
    assert len(read_video(kept)) == 3


NAMES = [
    "п" * 118 + ".mp4",
    "한국어 (final) [2].mp4",
    "12:30 a%d;'\"$(x).mp4",
    "-o.mp4",
    "x\udcff.mp4",
    " .mp4",
    "n" * 251 + ".mp4",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_any_kind_are_read_and_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    AVATAR.save(name, SOUND, 16_000)
    assert len(read_video(name)) == 3
    assert len(read_audio(name)[0])
    soundfile.write(tmp_path / "s.wav", SOUND, 16_000)
    sound = Path(name).with_suffix(".wav")
    Path("s.wav").rename(sound)
    assert AVATAR.save("again.mp4", str(sound)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, sound.name, "again.mp4"])
    assert credentials.read_credentials(name)["validation_state"] == "Valid"


@pytest.mark.parametrize("name", ["größe.mp4", "x\udcff.mp4"], ids=ascii)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252"])
def test_a_terminal_that_cannot_show_the_name_is_no_failure(name: str, encoding: str, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.avatar")
    soundfile.write(tmp_path / "s.wav", SOUND, 16_000)
    out = tmp_path / name
    command = [sys.executable, "-m", "synctalk", "speak", str(bundle), str(tmp_path / "s.wav"), "-o", out]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, timeout=120
    )
    assert (done.returncode, b"rror" in done.stderr) == (0, False), done.stderr
    assert read_video(out).shape == (3, SIZE, SIZE, 3)


def test_inputs_that_are_not_there_do_not_matter(tmp_path: Path) -> None:
    check_output(tmp_path / "x.json", None, tmp_path / "none")
    with pytest.raises(MediaError, match="is an input"):
        check_output(tmp_path / "y" / ".." / "x.json", tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []

"""The command line: help, results, errors, commands of other packages."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import soundfile
from fake_avatar import SIZE, write_tiny_bundle
from synctalk import __version__
from synctalk.audio import frame_count
from synctalk.cli import DEMO, _load, app, main
from synctalk.errors import SyncTalkError
from synctalk.media import read_audio, read_video
from typer.testing import CliRunner

OWN = ("speak", "demo", "info", "bench", "verify", "doctor")


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, " ".join(err.split())


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "--help")
    assert code == 0
    assert all(f" {name} " in out for name in OWN)
    assert "Traceback" not in out


@pytest.mark.parametrize("name", OWN)
def test_every_command_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, name, "--help")
    assert code == 0
    assert f"synctalk {name}" in out.split("Examples:")[1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "--version")[:2] == (0, f"synctalk {__version__}\n")


def test_info_of_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.avatar")
    code, out, _ = _run(capsys, "info", bundle, "--json")
    assert code == 0
    assert json.loads(out)["preset"] == "tiny"
    code, out, _ = _run(capsys, "info", bundle)
    assert "computer-generated" in out
    assert re.search(r"^format +synctalk-avatar$", out, re.M) and re.search(r"^version +1$", out, re.M)


def test_verify_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.avatar")
    assert _run(capsys, "verify", bundle)[0] == 0
    content = bytearray(bundle.read_bytes())
    content[content.index(b"not used here")] ^= 1
    bundle.write_bytes(content)
    code, _, err = _run(capsys, "verify", bundle)
    assert code == 1
    assert "not sound" in err
    assert ".onnx" in err


def test_speak_writes_an_mp4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.avatar")
    sound, target = tmp_path / "short.wav", tmp_path / "new" / "demo.mp4"
    soundfile.write(sound, read_audio(DEMO / "sentence.wav")[0][:6400], 16_000)
    code, out, err = _run(capsys, "demo", "--avatar", bundle, "--audio", sound, "-o", target)
    assert code == 0, err
    assert "10 frames" in out
    assert "real time" in out
    assert "What to try next" in out
    assert read_video(target).shape == (10, SIZE, SIZE, 3)
    code, out, _ = _run(capsys, "speak", bundle, sound, "-o", target, "--backend", "native-cpu")
    assert code == 0
    assert "native-cpu" in out


def test_demo_sentence_is_short_and_small() -> None:
    samples, rate = read_audio(DEMO / "sentence.wav")
    assert rate == 16_000
    assert frame_count(len(samples), rate, 25) <= 200
    assert (DEMO / "sentence.wav").stat().st_size <= 250_000


def test_errors_are_a_message_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.avatar")
    code, out, err = _run(capsys, "speak", tmp_path / "none.avatar", "x.wav")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "none.avatar" in err
    assert "Traceback" not in err
    code, _, err = _run(capsys, "demo", "--avatar", tmp_path / "none.avatar")
    assert code == 1
    assert "make demo" in err
    code, _, err = _run(capsys, "speak", bundle, tmp_path / "none.wav")
    assert code == 1
    assert "no such file" in err
    code, _, err = _run(capsys, "speak", bundle, DEMO / "sentence.wav", "--backend", "magic")
    assert code == 1
    assert "native-cpu" in err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(SyncTalkError, match=r"none\.avatar"):
        main(["info", str(tmp_path / "none.avatar"), "--debug"])


def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "speak", "--nonsense")[0] == 2


def test_a_command_whose_imports_are_missing_names_the_extra() -> None:
    entry = EntryPoint("train", "synctalk_trainer.no_such_module:train", "synctalk.commands")
    command = _load(entry)
    assert "pip install" in (command.help or "")
    with pytest.raises(SyncTalkError, match=r"pip install 'synctalk\[train\]'"):
        command.main(["dataset", "-o", "run"], standalone_mode=False)


def test_doctor_reports_backends() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "backend native-cpu" in result.output
    assert "espeak-ng" in result.output

"""``synctalk speak`` with many sounds: one mp4 each, resume, failures at the end, stopping in the midst."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_avatar import SIZE, write_tiny_bundle
from synctalk import Avatar, Frame, MediaError
from synctalk.batch import Task, plan, render_threads, speak_all
from synctalk.media import read_video
from test_cli import _run

RATE = 16_000


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny.avatar")


def _sounds(folder: Path, lengths_s: dict[str, float]) -> list[Path]:
    chance = np.random.default_rng(0)
    for name, seconds in lengths_s.items():
        soundfile.write(folder / name, 0.1 * chance.standard_normal(round(RATE * seconds)), RATE)
    return [folder / name for name in lengths_s]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_sound_becomes_an_mp4(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sounds = _sounds(tmp_path, {"a.wav": 0.4, "b.wav": 0.2, "c.flac": 0.08})
    code, out, err = _run(capsys, "speak", bundle, *sounds, "-o", tmp_path / "out", "--jobs", 2)
    assert code == 0, err
    assert _names(tmp_path / "out") == ["a.mp4", "b.mp4", "c.mp4"]
    shapes = [read_video(tmp_path / "out" / name).shape for name in ("a.mp4", "b.mp4", "c.mp4")]
    assert shapes == [(10, SIZE, SIZE, 3), (5, SIZE, SIZE, 3), (2, SIZE, SIZE, 3)]
    assert "b.mp4: 5 frames" in out
    assert "real time" in out


def test_a_second_run_speaks_only_what_is_missing_or_old(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = _sounds(tmp_path, {"a.wav": 0.2, "b.wav": 0.2, "c.wav": 0.2})
    run = ("speak", bundle, *sounds, "-o", tmp_path / "out")
    assert _run(capsys, *run)[0] == 0
    films = [tmp_path / "out" / f"{name}.mp4" for name in "abc"]
    films[0].unlink()
    os.utime(sounds[1], (films[1].stat().st_mtime + 10.0,) * 2)  # recorded anew
    before = [film.stat().st_ino for film in films[1:]]
    code, out, _ = _run(capsys, *run)
    assert code == 0
    assert "1 of 3 finished already" in out
    assert films[0].exists()
    assert [film.stat().st_ino == old for film, old in zip(films[1:], before, strict=True)] == [False, True]
    os.utime(films[1], (sounds[1].stat().st_mtime,) * 2)
    code, out, _ = _run(capsys, *run)
    assert (code, out) == (0, "3 of 3 finished already (--force speaks them again)\n")
    _, out, _ = _run(capsys, *run, "--force")
    assert out.count("5 frames") == 3


def test_a_bad_sound_is_told_of_at_the_end(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF, but not really")
    good = _sounds(tmp_path, {"a.wav": 0.2, "b.wav": 0.2})
    missing = tmp_path / "none.wav"
    run = ("speak", bundle, tmp_path / "bad.wav", good[0], missing, good[1], "-o", tmp_path / "out")
    code, _, err = _run(capsys, *run)
    assert code == 1
    assert "2 of 4 sounds were not spoken" in err
    assert "bad.wav: cannot read" in err
    assert "none.wav: no such file" in err
    assert _names(tmp_path / "out") == ["a.mp4", "b.mp4"]
    missing.write_bytes(good[0].read_bytes())
    (tmp_path / "bad.wav").write_bytes(good[0].read_bytes())
    code, out, _ = _run(capsys, *run)
    assert (code, out.count(" frames of ")) == (0, 2)


def test_a_folder_is_needed_and_names_must_differ(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    sounds = _sounds(tmp_path, {"a.wav": 0.1, "other/a.wav": 0.1})
    code, _, err = _run(capsys, "speak", bundle, *sounds, "-o", tmp_path / "out.mp4")
    assert code == 2
    assert "-o out/" in err
    code, _, err = _run(capsys, "speak", bundle, *sounds, "-o", tmp_path / "out")
    assert code == 1
    assert "rename them" in err
    with pytest.raises(MediaError, match="is an input"):
        plan([tmp_path / "film.mp4"], tmp_path)


def test_who_leaves_early_leaves_no_half_files(tmp_path: Path) -> None:
    sounds = _sounds(tmp_path, {"short.wav": 0.2, "long.wav": 20.0, "never.wav": 20.0})
    out = tmp_path / "out"
    out.mkdir()
    started = threading.Event()

    def on_frame(task: Task, frame: Frame, n_frames: int) -> None:
        if task.audio.name == "long.wav":
            assert n_frames == 500
            started.set()

    results = speak_all(Avatar.mock(), plan(sounds, out), jobs=2, on_frame=on_frame)
    assert next(results).task.audio.name == "short.wav"
    assert started.wait(10.0)
    results.close()  # type: ignore[attr-defined]
    assert _names(out) == ["short.mp4"]
    assert not [one for one in threading.enumerate() if one.name.startswith("synctalk-speak")]


def test_jobs_share_the_cpus() -> None:
    assert [render_threads(8, jobs, "auto") for jobs in (1, 3, 8, 20)] == [8, 6, 1, 1]
    assert render_threads(8, 4, "onnxruntime") == 8


def test_a_mistake_of_the_program_stops_one_sound_only(tmp_path: Path) -> None:
    sounds = _sounds(tmp_path, {"a.wav": 0.1, "b.wav": 0.1})

    def on_frame(task: Task, frame: Frame, n_frames: int) -> None:
        if task.audio.name == "a.wav":
            raise KeyError("a")

    results = list(speak_all(Avatar.mock(), plan(sounds, tmp_path), on_frame=on_frame))
    assert [type(result.error) for result in results] == [KeyError, type(None)]

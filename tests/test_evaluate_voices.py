from __future__ import annotations

import ctypes.util
import json
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from fake_faces import FakeLandmarker, FakeSegmenter, draw_person, write_video
from mouths import bursts, opening
from rich.console import Console
from synctalk import Avatar
from synctalk.cli import DEMO, main
from synctalk.errors import MediaError, TrainingError
from tiny_dataset import write_tiny_dataset

pytest.importorskip("cv2", reason="mediapipe's OpenCV is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from synctalk_trainer.audio_visual.films import STEPS
from synctalk_trainer.cross_voice.figures import filmed_figures
from synctalk_trainer.cross_voice.judge import Options, Pair, film_path, judge_all
from synctalk_trainer.cross_voice.material import (
    Voice,
    espeak_voices,
    open_voices,
    read_film,
    sound_digest,
)
from synctalk_trainer.cross_voice.report import figure_table, matrices, write_report
from synctalk_trainer.cross_voice.subjects import Subject, open_subject
from synctalk_trainer.evaluate_command import _repeated
from synctalk_trainer.prepare import Options as PrepareOptions
from synctalk_trainer.prepare import prepare
from synctalk_trainer.prepare.pipeline import Detectors

N = 150


def _detect(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mock avatar's mouth, read off its colour."""
    points = np.zeros((len(pictures), 478, 3), np.float32)
    points[:, 263, 0] = 400
    points[:, 14, 1] = [opening(picture) for picture in pictures]
    return points, np.ones(len(pictures), bool)


class _Loader:
    """Loads mock avatars and counts."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, subject: Subject) -> Avatar:
        self.n += 1
        return Avatar.mock()


def _judge(
    folder: Path,
    voices: list[Voice],
    subject: Subject | None = None,
    options: Options | None = None,
    load: Callable[[Subject], Avatar] | None = None,
) -> list[Pair]:
    subjects = [subject or Subject("mock", Path("mock.avatar"), "mock-0")]
    judged = judge_all(
        subjects, voices, _detect, folder, options or Options(), lambda *_: None, load or _Loader()
    )
    return list(judged)


def _write_sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22_050)
        file.writeframes(bursts(22_050, 3).tobytes())
    return path


def _never(video: Path, dataset: Path) -> None:
    raise AssertionError(f"{video} was prepared")


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "lee", N, takes=2)


@pytest.fixture
def voices(talker: Path, tmp_path: Path) -> list[Voice]:
    return open_voices([talker, _write_sound(tmp_path / "noise.wav")], tmp_path, _never)


def test_an_avatar_speaks_a_film_and_a_sound(voices: list[Voice], tmp_path: Path) -> None:
    film, sound = (pair.figures for pair in _judge(tmp_path, voices))
    assert (film["avatar"], film["voice"], film["own_voice"]) == ("mock", "lee", False)
    assert film["frames"] == film["frames_expected"] == N + 25  # a second of rest after the last take
    assert film["frames_compared"] == N
    assert film["r"] > 0.5
    assert abs(film["lag_ms"]) <= 40
    assert film["silence_share"] < 0.3
    assert np.isnan(film["amplitude"])  # nobody knows the mock's own film
    assert np.isnan(sound["r"])
    assert sound["loudness_r"] > 0.8
    assert sound["frames"] == sound["frames_expected"] == 50 + 25


def test_of_its_own_voice_only_held_out_frames_are_judged(talker: Path, tmp_path: Path) -> None:
    film, audio = read_film(talker)
    own = Subject("mock", Path("m"), "x", film, filmed_figures(film), sound_digest(audio), ((130, N),))
    copy = tmp_path / "another_name"
    copy.symlink_to(talker)
    (pair,) = _judge(tmp_path, open_voices([copy], tmp_path, _never), own)
    assert pair.figures["own_voice"]
    assert pair.figures["frames_compared"] == 20
    assert pair.figures["frames"] == 45
    assert np.isfinite(pair.figures["amplitude"])
    assert "* |" in matrices([pair])


def test_a_subject_knows_which_frames_were_held_out(talker: Path, tmp_path: Path) -> None:
    demo = open_subject(DEMO / "demo.avatar", tmp_path)
    assert (demo.name, demo.filmed, demo.held) == ("demo", None, ())
    known = open_subject(DEMO / "demo.avatar", tmp_path, talker)
    assert known.held == ((N - N // 11, N),)
    assert open_subject(DEMO / "demo.avatar", tmp_path, talker, "takes:2").held == ((75, N),)
    assert known.filmed is not None
    assert known.filmed.spread > 0.01
    assert known.id == demo.id


def test_what_is_finished_is_not_spoken_again(voices: list[Voice], tmp_path: Path) -> None:
    def stopped() -> Avatar:
        raise KeyboardInterrupt

    first = _judge(tmp_path, voices[:1])
    with pytest.raises(KeyboardInterrupt):
        _judge(tmp_path, voices, load=lambda subject: stopped())
    load = _Loader()
    again = _judge(tmp_path, voices, load=load)
    assert load.n == 1
    assert json.dumps(again[0].figures) == json.dumps(first[0].figures)
    assert not list(tmp_path.rglob(".*"))
    _judge(tmp_path, voices, load=load)
    assert load.n == 1
    _judge(tmp_path, voices, Subject("mock", Path("m"), "trained on"), load=load)
    assert load.n == 2  # another avatar of the same name
    _judge(tmp_path, voices, options=Options(frames=30), load=load)
    assert load.n == 3
    _judge(tmp_path, voices, options=Options(frames=30, force=True), load=load)
    assert load.n == 4


def test_an_interrupted_pair_leaves_nothing(voices: list[Voice], tmp_path: Path) -> None:
    def progress(name: str, done: int, total: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    subject = Subject("mock", Path("m"), "x")
    with pytest.raises(KeyboardInterrupt):
        list(judge_all([subject], voices, _detect, tmp_path, Options(film=True), progress, _Loader()))
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".npz", ".mp4")] == []


def test_a_damaged_pair_is_named(voices: list[Voice], tmp_path: Path) -> None:
    _judge(tmp_path, voices[:1])
    (tmp_path / "pairs" / "mock--lee.npz").write_bytes(b"no")
    with pytest.raises(TrainingError, match=r"mock--lee.npz is damaged .* delete it"):
        _judge(tmp_path, voices[:1])


def test_films_show_speaker_and_avatar(voices: list[Voice], tmp_path: Path) -> None:
    pairs = _judge(tmp_path, voices, options=Options(film=True))
    for pair, width, n in zip(pairs, (128, 64), (N + 25, 75), strict=True):
        with av.open(str(film_path(tmp_path, pair))) as container:
            assert {stream.type for stream in container.streams} == {"video", "audio"}
            shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(shown) == n
        assert shown[0].shape == (64, width, 3)
    load = _Loader()
    film_path(tmp_path, pairs[0]).unlink()
    _judge(tmp_path, voices, options=Options(film=True), load=load)
    assert load.n == 1
    assert film_path(tmp_path, pairs[0]).exists()
    _judge(tmp_path, voices, Subject("mock", Path("m"), "trained on"))
    assert not film_path(tmp_path, pairs[0]).exists()  # it showed the avatar before


def test_the_report_holds_every_pair(voices: list[Voice], tmp_path: Path) -> None:
    pairs = _judge(tmp_path, voices) + _judge(tmp_path, voices, Subject("other", Path("o"), "y"))
    write_report(pairs, tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    figures = json.loads((tmp_path / "voices.json").read_text(), parse_constant=refuse)
    assert [(one["avatar"], one["voice"]) for one in figures["pairs"]] == [
        ("mock", "lee"),
        ("mock", "noise"),
        ("other", "lee"),
        ("other", "noise"),
    ]
    assert figures["pairs"][1]["r"] is None
    assert figures["avatars"]["mock"] == {"id": "mock-0", "own": None}
    page, matrix = (tmp_path / "report.html").read_text(), (tmp_path / "matrix.md").read_text()
    for pair in pairs:
        assert f'id="{pair.name}"' in page
        assert (tmp_path / "curves" / f"{pair.name}.png").stat().st_size > 1000
    assert "films/" not in page
    r = f"{pairs[0].figures['r']:.2f}"
    assert f"| mock | {r} | – | {r} |" in matrix
    assert (tmp_path / "matrix.png").exists()
    assert figure_table(pairs).row_count == 4


def test_a_short_video_is_prepared_with_its_sound(tmp_path: Path) -> None:
    people = [draw_person(160, 80 + 4 * np.sin(k / 9), 80, 75.0) for k in range(80)]
    video = write_video(tmp_path / "clip.mkv", people)

    def prepared(video: Path, dataset: Path, shortest_s: float = 2.0) -> None:
        detectors = Detectors(FakeLandmarker(), FakeSegmenter())
        options = PrepareOptions(shortest_s=shortest_s)
        prepare(video, dataset, options, STEPS, False, Console(quiet=True), detectors)

    (voice,) = open_voices([video], tmp_path / "cache", prepared)
    assert voice.name == "clip"
    assert voice.n_frames == 80
    with pytest.raises(MediaError, match="at least 5 s"):
        prepared(video, tmp_path / "usual", PrepareOptions().shortest_s)


def test_voices_have_names_of_their_own(talker: Path, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    sounds = [_write_sound(tmp_path / "noise.wav"), _write_sound(tmp_path / "lines" / "noise.wav")]
    voices = open_voices([talker, sounds[0], tmp_path / "lines"], tmp_path, _never)
    assert [voice.name for voice in voices] == ["lee", "noise", "noise-2"]
    with pytest.raises(MediaError, match=r"missing.txt is no voice: give a dataset, a video"):
        open_voices([tmp_path / "missing.txt"], tmp_path, _never)


def test_times_of_lip_sounds_come_from_a_sidecar(tmp_path: Path) -> None:
    sound = _write_sound(tmp_path / "noise.wav")
    sidecar = tmp_path / "noise.phonemes.json"
    sidecar.write_text("[[0.1, 0.2], [1.0, 1.08]]")
    (voice,) = open_voices([sound], tmp_path, _never)
    assert voice.contacts == (((0.1, 0.2), (1.0, 1.08)),)
    assert voice.first(10).contacts == (((0.1, 0.2),),)
    given = sidecar.rename(tmp_path / "times.json")
    assert open_voices([sound], tmp_path, _never)[0].contacts == (None,)
    assert open_voices([sound], tmp_path, _never, given)[0].contacts == voice.contacts
    with pytest.raises(MediaError, match="times of one sound, but 2 sounds"):
        open_voices([sound, sound], tmp_path, _never, given)
    for content, words in (
        ("[[1, 0.5]]", "does not lie in"),
        ('{"a": 1}', "not a list"),
        ("[[1, 9]]", "9.0"),
    ):
        given.write_text(content)
        with pytest.raises(MediaError, match=words):
            open_voices([sound], tmp_path, _never, given)


@pytest.mark.skipif(
    ctypes.util.find_library("espeak-ng") is None, reason="the library espeak-ng is not installed"
)
def test_espeak_says_when_lips_must_shut(tmp_path: Path) -> None:
    voices = espeak_voices(3)
    assert [voice.name for voice in voices] == ["espeak-en-us", "espeak-en-gb", "espeak-de"]
    for voice in voices:
        seconds = len(voice.sounds[0]) / 16_000
        assert voice.contacts[0]
        assert all(0 <= start < end <= seconds for start, end in voice.contacts[0])
    figures = _judge(tmp_path, voices[:1])[0].figures
    assert figures["contact_sounds"] == len(voices[0].contacts[0] or ())
    assert 0 <= figures["contact"] <= 1


def test_a_list_of_voices_is_one_option() -> None:
    line = ["a.avatar", "--voices", "x.wav", "y", "--film", "-o", "out", "--voices", "z"]
    expected = ["a.avatar", "--voices", "x.wav", "--voices", "y", "--film", "-o", "out", "--voices", "z"]
    assert _repeated(line) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["a", "b"], "2 runs are given"),
        (["a", "--voices", "x", "--against", "b"], "--against and --lpips"),
        (["a", "b", "--voices", "x", "--own", "d"], "--own and --dataset are of one avatar"),
        (["{demo}", "{demo}", "--espeak", "1"], "several avatars are called demo"),
    ],
)
def test_command_lines_that_make_no_sense(
    line: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--espeak" in line and ctypes.util.find_library("espeak-ng") is None:
        pytest.skip("the library espeak-ng is not installed")
    given = [part.format(demo=DEMO / "demo.avatar") for part in line]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *given, *(["-o", str(tmp_path)] if len(line) > 2 else [])])
    assert ended.value.code
    assert words in " ".join(capsys.readouterr().err.split())

"""The examples run as they are told to, as far as this machine has what they need."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from mouths import lip_correlation, opening
from synctalk import Avatar
from synctalk.cli import DEMO
from synctalk.media import read_audio, read_video

EXAMPLES = Path(__file__).parents[1] / "examples"
BUNDLE = DEMO / "demo.avatar"
SENTENCE, RATE = read_audio(DEMO / "sentence.wav")


@pytest.fixture(autouse=True)
def _examples_are_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "hello.wav", SENTENCE[: 6 * RATE // 10], RATE)
    return tmp_path / "hello.wav"


def _example(name: str, *needs: str) -> ModuleType:
    for package in needs:
        pytest.importorskip(package, reason=f"{package} is not installed: make integrations")
    return import_module(name)


def test_every_example_is_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(re.findall(r"\[(\w+\.py)\]\(\1\)", index))


def test_speak_to_mp4(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _example("speak_to_mp4").main(str(BUNDLE), str(sound), str(tmp_path / "out.mp4"))
    assert len(read_video(tmp_path / "out.mp4")) == 15
    assert "15 frames" in capsys.readouterr().out


def test_speak_folder_goes_on_where_it_stopped(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example, out = _example("speak_folder"), tmp_path / "out"
    (tmp_path / "broken.wav").write_bytes(b"nothing")
    assert example.main(BUNDLE, tmp_path, out) == 1
    assert [path.name for path in out.iterdir()] == ["hello.mp4"]
    capsys.readouterr()
    (tmp_path / "broken.wav").write_bytes(sound.read_bytes())
    assert example.main(BUNDLE, tmp_path, out) == 0
    assert "hello" not in capsys.readouterr().out


def test_stream_is_a_conversation(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_example("stream").main(str(BUNDLE), str(sound), str(tmp_path / "stream.mp4")))
    assert "interrupted" in capsys.readouterr().out
    assert len(read_video(tmp_path / "stream.mp4")) > 100


class _Camera:
    def __init__(self) -> None:
        self.images: list[np.ndarray] = []

    def send(self, image: np.ndarray) -> None:
        self.images.append(image)


def test_virtual_camera_shows_speech(sound: Path) -> None:
    camera = _Camera()
    _example("virtual_camera").stream(Avatar.mock(), str(sound), camera, 30)
    openings = [opening(image) for image in camera.images]
    assert {image.shape for image in camera.images} == {(64, 64, 3)}
    assert max(openings) > openings[0] and openings[-1] == openings[0]


def test_virtual_camera_says_what_is_missing(sound: Path) -> None:
    if any(Path("/dev").glob("video*")):
        pytest.skip("this machine has a camera device")
    with pytest.raises(SystemExit, match=r"pip install pyvirtualcam|v4l2loopback"):
        _example("virtual_camera").main(str(BUNDLE), str(sound))


def test_webrtc_client_records_what_a_viewer_sees(sound: Path, tmp_path: Path) -> None:
    example = _example("webrtc_client", "aiortc", "fastapi", "websockets")
    from serving import running
    from synctalk.serve.settings import ServeSettings

    out = tmp_path / "seen.mp4"
    with running(ServeSettings(port=0)) as server:
        asyncio.run(example.main(str(sound), str(out), server.url))
        server.wait_for_sessions(0)
    pictures = read_video(out)
    heard, rate = read_audio(out)
    assert pictures.shape[1:] == (64, 64, 3)
    assert len(pictures) >= 20
    assert np.abs(heard).max() > 0.1
    per_picture = rate // 25
    sounds = [heard[i * per_picture : (i + 1) * per_picture] for i in range(len(pictures))]
    assert lip_correlation(list(pictures), [32768 * sound for sound in sounds]) > 0.3


def test_window_shows_the_avatar(
    sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    example = _example("window", "pygame")
    import pygame

    pygame.init()
    pygame.time.set_timer(pygame.QUIT, 1500, loops=1)
    example.main(str(BUNDLE), str(sound))
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    expected = next(Avatar.from_bundle(BUNDLE).speak(SENTENCE[:RATE], RATE)).image
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 10.0
    assert pygame.mixer.get_busy() or pygame.mixer.get_init()
    pygame.quit()

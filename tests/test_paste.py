"""Frames back in the full-size video: the right stretch of it, a soft border, and errors for another video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_avatar import SIZE, TRACK, FakeBackend, FakeBundle, write_tiny_bundle
from synctalk import Avatar, MediaError
from synctalk.bundle import Placement
from synctalk.media import read_audio, read_video, write_mp4
from synctalk.paste import Paste
from synctalk.spec import preset
from test_cli import _run

RATE = 16_000
WIDTH, HEIGHT, SIDE, X, Y = 160, 120, 96, 50, 20
N, FIRST = 70, 29  # so that the motion lies on both sides of the first 32 pictures


def _scene(seed: int = 0) -> np.ndarray:
    """A coarse pattern that moves by a pixel a frame, [N, H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(40, 220, (HEIGHT // 8, (WIDTH + N) // 8 + 2, 3))
    whole = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
    return np.stack([whole[:, i : i + WIDTH] for i in range(N)])


def _film(path: Path, frames: np.ndarray) -> Path:
    write_mp4(path, frames, 25, np.zeros(len(frames) * 640, np.float32), RATE, crf=1)
    return path


def _shrunk(frames: np.ndarray) -> np.ndarray:
    """[n, 96, 96, 3] -> [n, 48, 48, 3]"""
    return frames.reshape(len(frames), SIZE, 2, SIZE, 2, 3).mean(axis=(2, 4)).astype(np.uint8)


class _CutOut(FakeBundle):
    """An avatar whose motion is pictures 29 .. 33 of the scene, the head painted out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(preset("tiny"))
        self.manifest = replace(self.manifest, placement=Placement(WIDTH, HEIGHT, X + 0.3, Y - 0.2, SIDE))
        plates = _shrunk(_scene()[FIRST : FIRST + TRACK, Y : Y + SIDE, X : X + SIDE]).copy()
        plates[:, 8:36, 14:34] = 128
        write_mp4(folder / "plate.mp4", plates, 25, crf=1)
        self._plate = (folder / "plate.mp4").read_bytes()

    def read(self, member: str) -> bytes:
        return self._plate if member == "plate.mp4" else super().read(member)


@pytest.fixture
def avatar(tmp_path: Path) -> Avatar:
    backend = FakeBackend(preset("tiny").field.condition)
    return Avatar(_CutOut(tmp_path), backend, watermark=False)  # type: ignore[arg-type]


def test_each_frame_goes_where_it_was_cut(avatar: Avatar, tmp_path: Path) -> None:
    film = _film(tmp_path / "source.mp4", _scene())
    truth = read_video(film).astype(int)
    paste = avatar.onto(film)
    image = np.full((SIZE, SIZE, 3), (250, 10, 10), np.uint8)
    for at in (0, 1, 2, 3, 4, 3, 2, 1, 0):
        got = paste(at, image).astype(int)
        outside = np.ones((HEIGHT, WIDTH), bool)
        outside[Y : Y + SIDE, X : X + SIDE] = False
        assert np.abs(got - truth[FIRST + at])[outside].max() <= 12  # colours converted another way
        assert np.abs(got - truth[FIRST + at + 1])[outside].mean() > 5
        np.testing.assert_allclose(got[Y + 4 : Y + SIDE - 4, X + 4 : X + SIDE - 4] - [250, 10, 10], 0, atol=2)
        edge = np.abs(got - truth[FIRST + at])[Y + SIDE // 2, X : X + 4].max(axis=1)
        assert edge[0] < edge[3]


def test_the_border_of_the_video_is_not_faded(tmp_path: Path) -> None:
    bundle = _CutOut(tmp_path)
    bundle.manifest = replace(bundle.manifest, placement=Placement(SIZE, SIZE, 0.0, 0.0, SIZE))
    backend = FakeBackend(preset("tiny").field.condition)
    avatar = Avatar(bundle, backend, watermark=False)  # type: ignore[arg-type]
    film = _film(tmp_path / "square.mp4", _shrunk(_scene()[:, Y : Y + SIDE, X : X + SIDE]))
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(avatar.onto(film)(0, image), image)


def test_another_video_is_refused(avatar: Avatar, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is not the video"):
        avatar.onto(_film(tmp_path / "other.mp4", _scene(seed=1)))
    with pytest.raises(MediaError, match="is 96 x 120, the avatar was cut from a video of 160 x 120"):
        avatar.onto(_film(tmp_path / "narrow.mp4", _scene()[:, :, :96]))
    with pytest.raises(MediaError, match="has 3 pictures, the avatar's motion 5"):
        avatar.onto(_film(tmp_path / "short.mp4", _scene()[:3]))
    with pytest.raises(MediaError, match="cannot read"):
        avatar.onto(tmp_path / "missing.mp4")
    soundfile.write(tmp_path / "sound.wav", np.zeros(RATE), RATE)
    with pytest.raises(MediaError, match="no video stream"):
        avatar.onto(tmp_path / "sound.wav")


def test_a_film_of_full_size_with_the_new_sound(avatar: Avatar, tmp_path: Path) -> None:
    paste = avatar.onto(_film(tmp_path / "source.mp4", _scene()))
    assert isinstance(paste, Paste) and paste.size == (WIDTH, HEIGHT)
    sound = (np.random.default_rng(0).standard_normal(8000) * 0.1).astype(np.float32)
    n = avatar.save(tmp_path / "out.mp4", sound, RATE, paste=paste, credentials=False)
    film = read_video(tmp_path / "out.mp4")
    assert (n, film.shape) == (13, (13, HEIGHT, WIDTH, 3))
    heard, rate = read_audio(tmp_path / "out.mp4")
    assert rate == RATE and float(np.sqrt(np.mean(heard[1000:7000] ** 2))) > 0.05  # the source was silent
    plain = list(avatar.speak(sound, RATE))
    at = [avatar.stage.track.index(i) for i in range(n)]
    expected = np.stack([paste(k, frame.image) for k, frame in zip(at, plain, strict=True)]).astype(int)
    assert np.abs(film - expected).mean() < 8  # encoded, twice
    assert np.abs(film - expected[::-1]).mean() > 12


def test_pasted_pictures_are_marked_where_the_avatar_marks(tmp_path: Path) -> None:
    backend = FakeBackend(preset("tiny").field.condition)
    film = _film(tmp_path / "source.mp4", _scene())
    plain, marked = (
        Avatar(_CutOut(tmp_path), backend, watermark=watermark).onto(film)  # type: ignore[arg-type]
        for watermark in (False, True)
    )
    image = np.full((SIZE, SIZE, 3), 100, np.uint8)
    change = marked(0, image).astype(int) - plain(0, image)
    assert set(np.unique(change[:Y])) <= {-2, 0, 2} and np.abs(change[:Y]).mean() > 0.5
    assert not change[Y + 4 : Y + SIDE - 4, X + 4 : X + SIDE - 4].any()  # its own mark, once


def test_the_command_line_pastes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.avatar")
    plates = [np.full((SIZE, SIZE, 3), 60 + 20 * i, np.uint8) for i in range(TRACK)]
    film = _film(tmp_path / "source.mp4", np.stack([*plates, *plates]))
    soundfile.write(tmp_path / "sound.wav", np.zeros(RATE // 5), RATE)
    command = ("speak", bundle, tmp_path / "sound.wav", "--expression", "recorded", "--paste", film)
    code, out, err = _run(capsys, *command, "-o", tmp_path / "out.mp4")
    assert code == 0, err
    assert "5 frames of 48 x 48" in out
    assert _run(capsys, *command, "-o", film)[0] == 1  # it would be replaced
    assert _run(capsys, *command[:3], "--expression", "wild")[0] == 2
    other = _film(tmp_path / "other.mp4", _scene())
    code, _, err = _run(capsys, *command[:3], "--paste", other, "-o", tmp_path / "no.mp4")
    assert (code, (tmp_path / "no.mp4").exists()) == (1, False)
    assert "is 160 x 120" in err

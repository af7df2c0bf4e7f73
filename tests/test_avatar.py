"""Speaking and saving, over a fake bundle and backend."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_avatar import SIZE, TRACK, fake_avatar
from synctalk.avatar import Frame
from synctalk.errors import BundleError, MediaError
from synctalk.media import read_audio, read_video
from synctalk.render import compose, person_alpha
from synctalk.track import Track

RATE = 16_000


def _sound(n: int = 20_000) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(n) * 0.1).astype(np.float32)


def _same(a: list[Frame], b: list[Frame]) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.audio, other.audio)
        assert (one.index, one.pts_samples, one.speaking) == (other.index, other.pts_samples, other.speaking)


def test_speak_yields_one_frame_per_40_ms() -> None:
    avatar, _ = fake_avatar()
    frames = list(avatar.speak(_sound(20_001), RATE))
    assert len(frames) == 32  # ceil(25 * 1.25006)
    assert [frame.pts_samples for frame in frames] == [640 * i for i in range(32)]
    assert sum(len(frame.audio) for frame in frames) == 20_001
    assert [frame.end_of_speech for frame in frames] == [False] * 31 + [True]
    assert {frame.image.shape for frame in frames} == {(SIZE, SIZE, 3)}
    assert all(frame.speaking and frame.render_ms > 0 and frame.generation == 0 for frame in frames)
    with pytest.raises(FrozenInstanceError):
        frames[0].index = 3  # type: ignore[misc]


def test_every_kind_of_input_gives_the_same_frames(tmp_path: Path) -> None:
    avatar, _ = fake_avatar()
    coded = (_sound() * 32_768).astype("<i2")
    path = tmp_path / "sound.wav"
    soundfile.write(path, coded, RATE, subtype="PCM_16")
    expected = list(avatar.speak(coded, RATE))
    _same(list(avatar.speak(path)), expected)
    _same(list(avatar.speak(str(path))), expected)
    _same(list(avatar.speak(path.read_bytes())), expected)
    _same(list(avatar.speak(np.array_split(coded, 17), RATE)), expected)
    _same(
        list(avatar.speak((coded[i : i + 333].tobytes() for i in range(0, len(coded), 333)), RATE)), expected
    )
    _same(list(avatar.speak(np.stack([coded, coded], axis=1), RATE)), expected)
    buffer = io.BytesIO()
    soundfile.write(buffer, coded, RATE, format="FLAC")
    _same(list(avatar.speak(buffer.getvalue())), expected)


def test_speak_is_lazy() -> None:
    avatar, backend = fake_avatar()
    n_taken = 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal n_taken
        for _ in range(1000):
            n_taken += 1
            yield _sound(320)

    first = next(iter(avatar.speak(chunks(), RATE)))
    assert first.index == 0
    assert n_taken * 320 <= avatar.stage.spec.audio.lookahead_samples + 640 + 320
    assert len(backend.requests) == 1


def test_samples_need_a_rate_and_files_must_exist() -> None:
    avatar, _ = fake_avatar()
    with pytest.raises(ValueError, match="sample_rate"):
        avatar.speak(_sound())
    with pytest.raises(ValueError, match="sample_rate"):
        avatar.speak([_sound()])
    with pytest.raises(MediaError, match="no such file"):
        avatar.speak("missing.wav")


def test_silence_closes_the_mouth() -> None:
    avatar, backend = fake_avatar()
    hum = _sound(48_000) * 1e-3
    hum[:16_000] = _sound(16_000)
    frames = list(avatar.speak(hum, RATE))
    openings = [float(request.condition[0]) for request in backend.requests]
    assert min(openings[4:24]) > 0.3
    assert max(openings[35:]) == 0.0
    assert [frame.speaking for frame in frames[35:]] == [False] * 40


def test_motion_goes_forth_and_back() -> None:
    avatar, backend = fake_avatar()
    list(avatar.speak(_sound(16_000), RATE))
    walked = [int(request.translation[0]) // 3 for request in backend.requests[:12]]
    assert walked == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3]


def test_a_track_of_one_frame_stands_still() -> None:
    track = Track(np.zeros((1, 3, 3)), np.zeros((1, 3)), np.zeros((1, 7)))  # type: ignore[arg-type]
    assert [track.index(i) for i in range(4)] == [0, 0, 0, 0]
    with pytest.raises(BundleError, match="motion track"):
        Track(np.zeros((2, 3, 3)), np.zeros((1, 3)), np.zeros((1, 7)))  # type: ignore[arg-type]


def test_head_lies_over_the_plate() -> None:
    head = np.zeros((4, 4, 4), np.float32)
    head[1, 2] = (0.25, 0.0, 0.0, 0.5)
    head[2, 2] = (0.0, 1.0, 0.0, 1.0)
    plate = np.full((4, 4, 3), 100, np.uint8)
    image = compose(head, plate)
    assert image[1, 2].tolist() == [114, 50, 50]
    assert image[2, 2].tolist() == [0, 255, 0]
    image[1:3, 2] = 100
    assert (image == plate).all()
    with pytest.raises(ValueError, match="agree"):
        compose(head, plate[:3])


def test_rgba_shows_head_and_torso_only() -> None:
    avatar, _ = fake_avatar()
    frame = next(iter(avatar.speak(_sound(), RATE, rgba=True)))
    assert frame.image.shape == (SIZE, SIZE, 4)
    alpha = frame.image[..., 3]
    assert alpha[0, 0] == 0  # background
    assert alpha[0, -1] == 255  # torso
    assert 120 < alpha[11, 20] < 135  # head, half clear
    assert (
        person_alpha(np.zeros((1, 1, 4), np.float32), np.uint8([[[9] * 3]]), np.uint8([[[0] * 3]])).item()
        == 0
    )


def test_save_writes_picture_and_sound(tmp_path: Path) -> None:
    avatar, _ = fake_avatar()
    seen: list[int] = []
    sound = _sound(44_100)
    path = tmp_path / "out.mp4"
    n = avatar.save(path, sound, 44_100, on_frame=lambda frame: seen.append(frame.index))
    assert n == 25
    assert seen == list(range(25))
    assert read_video(path).shape == (25, SIZE, SIZE, 3)
    assert read_audio(path)[1] == 44_100  # its own rate, not the avatar's
    assert avatar.save(path, np.array_split(sound, 9), 44_100) == 25
    assert read_audio(path)[1] == 44_100  # by chunks as by array


def test_threads_share_an_avatar() -> None:
    avatar, _ = fake_avatar()
    expected = list(avatar.speak(_sound(), RATE))
    results: list[list[Frame]] = []
    threads = [
        threading.Thread(target=lambda: results.append(list(avatar.speak(_sound(), RATE)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for frames in results:
        _same(frames, expected)


def test_a_plate_that_is_too_short_is_named() -> None:
    avatar, _ = fake_avatar()
    long = np.zeros((TRACK + 1, 3), np.float32)
    avatar.stage.track = Track(
        np.zeros((TRACK + 1, 3, 3), np.float32), long, np.zeros((TRACK + 1, 7), np.float32)
    )
    with pytest.raises(BundleError, match=r"plate\.mp4"):
        list(itertools.islice(avatar.speak(_sound(), RATE), TRACK + 1))


def test_info_says_what_it_is() -> None:
    info = fake_avatar()[0].info()
    assert info.name == "Fake"
    assert (info.width, info.fps, info.backend, info.track_frames) == (SIZE, 25, "fake", TRACK)
    assert json.loads(json.dumps(info.to_dict()))["expressions"] == list(info.expressions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "other"  # type: ignore[misc]

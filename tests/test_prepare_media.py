"""Video and sound come out in step, whatever the container says about time."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from fake_faces import FakeLandmarker, FakeSegmenter, draw_person, read_code, write_video
from numpy.typing import NDArray
from rich.console import Console
from synctalk.errors import MediaError
from synctalk_trainer.prepare import Options, prepare
from synctalk_trainer.prepare.crop import crop_around
from synctalk_trainer.prepare.media import nearest_pictures
from synctalk_trainer.prepare.pipeline import Detectors
from synctalk_trainer.prepare.source import decode_frames

QUIET = Console(quiet=True)
SIZE = 160
PLAIN = Options(size=SIZE)


def people(n: int, size: int = SIZE, face: float = 75.0) -> list[np.ndarray]:
    return [draw_person(size, size / 2, size / 2, face, k % 256) for k in range(n)]


def codes_of(folder: Path) -> list[int]:
    return [read_code(frame) for frame in np.load(folder / "frames.npy")]


def media(video: Path, folder: Path, options: Options = PLAIN, step: str = "media") -> list[int]:
    detectors = Detectors(FakeLandmarker(), FakeSegmenter())
    prepare(video, folder, options, (step,), console=QUIET, detectors=detectors)
    return codes_of(folder)


def sound_of(folder: Path) -> NDArray[np.int16]:
    with wave.open(str(folder / "audio.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def shown(times: list[float], start: float, limit: float) -> list[tuple[int, float]]:
    tiny = np.zeros((1, 1, 3), np.uint8)
    return [(k, time) for k, time, _ in nearest_pictures(((t, tiny) for t in times), start, limit)]


def test_each_frame_shows_the_nearest_picture() -> None:
    times = [k / 30 for k in range(60)]
    found = shown(times, 0.0, 2.0)
    assert [k for k, _ in found] == list(range(50))
    for k, time in found:
        assert abs(time - k / 25) <= min(abs(t - k / 25) for t in times) + 1e-9


def test_frames_before_the_first_picture_are_left_out() -> None:
    assert shown([0.08 + k / 25 for k in range(10)], 0.0, 9.0)[0] == (2, 0.08)


def test_pictures_before_the_sound_are_left_out() -> None:
    assert shown([k / 25 for k in range(20)], 0.2, 9.0)[0] == (0, pytest.approx(0.2))


def test_a_held_picture_is_repeated() -> None:
    found = shown([0.0, 0.04, 0.4, 0.44], 0.0, 9.0)
    assert [k for k, _ in found] == list(range(12))
    assert [time for _, time in found][:6] == [0.0, 0.04, 0.04, 0.04, 0.04, 0.04]


def test_constant_rate_at_25_keeps_every_frame(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(130))
    assert media(video, tmp_path / "d") == list(range(130))


def test_30_fps_pairs_frames_by_time(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(165), fps=30)
    codes = media(video, tmp_path / "d")
    assert len(codes) == 138
    assert all(abs(code / 30 - k / 25) <= 0.5 / 30 + 0.001 for k, code in enumerate(codes))


def test_variable_rate_pairs_frames_by_time(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).uniform(0.02, 0.06, 150)
    times = [round(float(t), 3) for t in np.concatenate([[0], np.cumsum(steps)])]
    video = write_video(tmp_path / "a.mkv", people(len(times)), times)
    codes = media(video, tmp_path / "d")
    for k, code in enumerate(codes):
        assert abs(times[code] - k / 25) <= min(abs(t - k / 25) for t in times) + 0.002


@pytest.mark.parametrize(("shift_ms", "moved"), [(0.0, 0), (-120.0, -1920), (40.5, 648)])
def test_late_video_starts_the_dataset_later_and_sound_can_be_moved(
    tmp_path: Path, shift_ms: float, moved: int
) -> None:
    times = [0.08 + k / 25 for k in range(140)]
    video = write_video(tmp_path / "a.mkv", people(140), times, sound_s=5.68)
    options = Options(size=SIZE, sound_shift_ms=shift_ms)
    assert media(video, tmp_path / "d", options, "sound")[:3] == [0, 1, 2]
    samples = sound_of(tmp_path / "d")
    assert len(samples) == 140 * 640
    click = int(np.abs(samples[8000:24_000].astype(int)).argmax()) + 8000
    assert abs(click - (16_000 - 2 * 640 + moved)) <= 2


def test_sound_that_is_moved_leaves_silence_and_the_pictures_as_they_are(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(130))
    media(video, tmp_path / "d", step="sound")
    plain, written = sound_of(tmp_path / "d"), (tmp_path / "d/frames.npy").stat().st_mtime_ns
    media(video, tmp_path / "d", Options(size=SIZE, sound_shift_ms=-1000), "sound")
    earlier = sound_of(tmp_path / "d")
    assert (tmp_path / "d/frames.npy").stat().st_mtime_ns == written
    np.testing.assert_array_equal(earlier[:-16_000], plain[16_000:])
    assert not earlier[-16_000:].any()
    media(video, tmp_path / "d", Options(size=SIZE, sound_shift_ms=1000), "sound")
    np.testing.assert_array_equal(sound_of(tmp_path / "d")[16_000:], plain[:-16_000])
    with pytest.raises(MediaError, match=r"-9000 leaves no sound in a clip of 5\.2 s"):
        media(video, tmp_path / "d", Options(size=SIZE, sound_shift_ms=-9000), "sound")


def test_late_sound_drops_the_pictures_before_it(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(150), sound_at_s=0.4)
    assert media(video, tmp_path / "d")[:3] == [10, 11, 12]


def test_display_matrix_turns_the_pictures(tmp_path: Path) -> None:
    lying = [np.ascontiguousarray(np.rot90(picture)) for picture in people(3)]
    video = write_video(tmp_path / "a.mp4", lying, sound_s=0)
    upright, quarter = ([1, 0, 0, 0, 1, 0, 0, 0, 0x4000], [0, 1, 0, -1, 0, 0, SIZE, 0, 0x4000])
    before, after = (struct.pack(">9i", *(v << 16 for v in matrix)) for matrix in (upright, quarter))
    content = video.read_bytes()
    at = content.index(before, content.index(b"tkhd"))
    video.write_bytes(content[:at] + after + content[at + 36 :])
    assert [read_code(picture) for _, picture in decode_frames(video)] == [0, 1, 2]


def test_silent_video_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(130), sound_s=0)
    with pytest.raises(MediaError, match="no audio stream"):
        media(video, tmp_path / "d")


def test_short_video_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(60))
    with pytest.raises(MediaError, match=r"2\.4 s .* at least 5 s"):
        media(video, tmp_path / "d")


def test_short_sound_is_warned_of(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(190), sound_s=5.5)
    detectors = Detectors(FakeLandmarker(), FakeSegmenter())
    done = prepare(video, tmp_path / "d", PLAIN, ("media",), console=QUIET, detectors=detectors)
    assert done.n_frames == 138
    audio, clip = done.warnings
    assert (audio["code"], clip["code"]) == ("short_audio", "short_clip")
    assert clip["message"].startswith("the clip has 6 s, 114 s below the two minutes")


def test_no_face_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", [np.full((SIZE, SIZE, 3), 90, np.uint8)] * 130)
    with pytest.raises(MediaError, match="no face was found anywhere"):
        media(video, tmp_path / "d")


def test_small_face_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", people(130, face=40))
    with pytest.raises(MediaError, match="pixels high"):
        media(video, tmp_path / "d")


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(MediaError, match="intact"):
        media(tmp_path / "a.mp4", tmp_path / "d")
    with pytest.raises(MediaError, match="no such file"):
        media(tmp_path / "missing.mp4", tmp_path / "d")


def test_square_head_shot_is_kept_whole_and_a_wide_picture_is_cropped() -> None:
    boxes = np.tile(np.array([90, 80, 190, 214], np.float32), (5, 1))
    assert crop_around(boxes, 280, 280).side == 280
    wide = crop_around(boxes + 400, 1920, 1080)
    assert 250 < wide.side < 330
    assert wide.x < 490 < 590 < wide.x + wide.side
    assert wide.y < 480 < 614 < wide.y + wide.side

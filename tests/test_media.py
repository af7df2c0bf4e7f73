"""Reading sound and video, writing mp4."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from synctalk.errors import MediaError
from synctalk.media import VideoFrames, atomic_path, open_mp4, read_audio, read_video, write_mp4

RATE = 16_000


def _tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def _frames(n: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """A soft ramp in strong colours that changes from frame to frame."""
    column = np.linspace(0, 1, width)[None, :, None]
    colour = np.array([220, 60, 30])
    return [np.broadcast_to(column * colour + 3 * i, (height, width, 3)).astype(np.uint8) for i in range(n)]


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", None), ("ogg", None)]
)
def test_reads_sound_files(tmp_path: Path, suffix: str, subtype: str | None) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([_tone(0.5, 22_050)] * 2, axis=1), 22_050, subtype=subtype)
    samples, rate = read_audio(path)
    assert (rate, samples.dtype, samples.shape) == (22_050, np.float32, (11_025,))
    np.testing.assert_allclose(samples[500:-500], _tone(0.5, 22_050)[500:-500], atol=0.05)


def test_reads_bytes_as_files() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, _tone(0.2), RATE, format="WAV")
    assert read_audio(buffer.getvalue())[0].shape == (3200,)


def test_mp4_round_trip_keeps_pictures_and_sound(tmp_path: Path) -> None:
    path, frames = tmp_path / "out.mp4", _frames(25)
    assert write_mp4(path, frames, 25, _tone(1.0), RATE) == 25
    seen = read_video(path)
    assert seen.shape == (25, 64, 96, 3)
    assert np.abs(seen.astype(int) - np.stack(frames)).mean() < 2.0
    samples, rate = read_audio(path)
    assert rate == RATE
    expected = _tone(1.0)[2000:14_000]
    assert np.corrcoef(samples[2000:14_000], expected)[0, 1] > 0.99  # also: in step


def test_mp4_has_the_streams_that_players_want(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_mp4(path, _frames(10), 25, _tone(0.4, 11_025), 11_025)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, video.average_rate) == ("h264", "yuv420p", 25)
        assert (audio.codec_context.name, audio.rate) == ("aac", 48_000)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_silent_video_and_odd_sizes(tmp_path: Path) -> None:
    path = tmp_path / "plate.mp4"
    write_mp4(path, _frames(3, 33, 35), 25)
    assert read_video(path).shape == (3, 32, 34, 3)
    with pytest.raises(MediaError, match="no sound"):
        read_audio(path)


def test_video_frames_are_decoded_on_demand(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v.mp4", _frames(5), 25)
    frames = VideoFrames((tmp_path / "v.mp4").read_bytes())
    assert frames[3].shape == (64, 96, 3)
    assert np.array_equal(frames[0], frames[0]) and not frames[0].flags.writeable
    with pytest.raises(IndexError):
        frames[5]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="stop"), open_mp4(target, 25, RATE) as writer:
        writer.write(_frames(1)[0], _tone(0.04))
        raise RuntimeError("stop")
    with pytest.raises(MediaError, match="no frames"):
        write_mp4(target, [], 25)
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_atomic_path_replaces_the_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "x.txt").exists()
    assert (tmp_path / "x.txt").read_text() == "new"


def test_unreadable_media_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "noise.mp4"
    bad.write_bytes(b"\x00\x01\x02 not a video" * 50)
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0, np.float32), RATE)
    with pytest.raises(MediaError, match="no such file"):
        read_audio(tmp_path / "missing.wav")
    with pytest.raises(MediaError, match=r"noise\.mp4"):
        read_audio(bad)
    with pytest.raises(MediaError, match=r"noise\.mp4"):
        read_video(bad)
    with pytest.raises(MediaError, match="no samples"):
        read_audio(empty)
    with pytest.raises(MediaError, match="bytes of media"):
        read_audio(b"RIFF nonsense")
    with pytest.raises(MediaError, match="folder"):
        write_mp4(tmp_path / "nowhere" / "out.mp4", _frames(1), 25)


def test_a_length_that_a_header_claims_is_not_believed() -> None:
    """The head of this mp3 tells of two thousand million frames; room is made for what is read."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(3200) / 9).astype(np.float32), 16_000, format="MP3")
    content = bytearray(buffer.getvalue())
    (at,) = (content.find(name) for name in (b"Xing", b"Info") if name in content)
    content[at + 8 : at + 12] = (2**31 - 1).to_bytes(4, "big")
    tracemalloc.start()
    try:
        samples, rate = read_audio(bytes(content))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rate == 16_000
    assert len(samples) < 10_000
    assert peak < 20e6

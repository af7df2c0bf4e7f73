"""The watermark is invisible, is found after what happens to films, and is not found where it is not."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from fake_avatar import FakeBackend, FakeBundle
from synctalk.avatar import Avatar
from synctalk.media import read_video, write_mp4
from synctalk.spec import preset
from synctalk.watermark import SPAN_FRAMES, TILE, Watermark, detect, detect_spans, pattern

SIDE = 256


def _film(n_frames: int = SPAN_FRAMES, seed: int = 0) -> np.ndarray:
    """Smooth shapes with some grain, of which one half drifts."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    frames = []
    for i in range(n_frames):
        wave = 90 * np.sin(rows / 23 + 0.02 * i) * np.cos((columns + i * (rows > 128)) / 31)
        grain = generator.normal(0.0, 2.0, (SIDE, SIDE))
        frames.append(np.repeat(np.clip(128 + wave + grain, 0, 255)[..., None], 3, axis=2).astype(np.uint8))
    return np.stack(frames)


def _marked(film: np.ndarray) -> np.ndarray:
    film, mark = film.copy(), Watermark(film.shape[2], film.shape[1])
    for frame in film:
        mark.apply(frame)
    return film


def _half(film: np.ndarray) -> np.ndarray:
    n, height, width, _ = film.shape
    return film.reshape(n, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)


def _mp4(film: np.ndarray, tmp_path: object, crf: int = 28) -> np.ndarray:
    path = f"{tmp_path}/film.mp4"
    write_mp4(path, list(film), 25, crf=crf)
    return read_video(path)


def _jpeg(film: np.ndarray) -> np.ndarray:
    """Motion JPEG with the quantiser that belongs to quality 70 or worse."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = film.shape[2], film.shape[1], "yuvj420p"
        stream.options = {"qmin": "5", "qmax": "5"}
        for frame in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return read_video(buffer.getvalue())


@pytest.mark.parametrize("size", [(64, 64), (280, 280), (513, 511)])
def test_marking_keeps_45_db_at_any_size(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(3, 253, (size[1], size[0], 3), dtype=np.uint8)
    marked = image.copy()
    Watermark(*size).apply(marked)
    error = np.mean((marked.astype(float) - image) ** 2)
    assert 10 * np.log10(255**2 / error) >= 45.0
    assert set(np.unique(marked.astype(int) - image)) == {-2, 0, 2}


def test_black_and_white_do_not_wrap_around() -> None:
    for value in (0, 1, 254, 255):
        image = np.full((TILE, TILE, 3), value, np.uint8)
        Watermark(TILE, TILE).apply(image)
        assert np.abs(image.astype(int) - value).max() <= 2


def test_detected_after_coding_halving_and_jpeg(tmp_path: object) -> None:
    marked = _marked(_film())
    for film, scale in [
        (marked, 1.0),
        (_mp4(marked, tmp_path), 1.0),
        (_half(marked), 0.5),
        (_jpeg(marked), 1.0),
    ]:
        found = detect(film)
        assert found.is_marked
        assert found.scale == scale


def test_not_detected_in_unmarked_films_or_with_another_pattern(tmp_path: object) -> None:
    film = _film()
    assert not detect(film).is_marked
    assert not detect(_mp4(film, tmp_path)).is_marked
    other = np.tile(pattern(7), (2, 2))[..., None]
    assert not detect(np.clip(film.astype(int) + other, 0, 255).astype(np.uint8)).is_marked


def test_detected_where_the_film_was_cut() -> None:
    assert detect(_marked(_film())[:, 11:, 29:]).is_marked


def test_thorough_search_finds_unusual_sizes() -> None:
    film = _marked(_film())
    n = 180
    at = np.arange(n) * SIDE // n
    small = film[:, at][:, :, at]
    found = detect(small, is_thorough=True)
    assert found.is_marked
    assert found.scale == pytest.approx(n / SIDE, rel=0.01)


def test_spans_are_two_seconds_and_a_short_film_is_one() -> None:
    film = _marked(_film(n_frames=55))
    assert [span.n_frames for span in detect_spans(film)] == [50]
    assert [span.n_frames for span in detect_spans(film[:3])] == [3]
    with pytest.raises(ValueError, match="no frames"):
        detect([])


@pytest.mark.parametrize("rgba", [False, True])
def test_frames_are_marked_unless_the_app_says_no(rgba: bool) -> None:
    spec = preset("tiny")
    sound = np.zeros(1280, np.float32)
    pictures = []
    for watermark in (True, False):
        avatar = Avatar(FakeBundle(spec), FakeBackend(spec.field.condition), watermark=watermark)  # type: ignore[arg-type]
        pictures.append(next(avatar.speak(sound, 16_000, rgba=rgba)).image.astype(int))
    marked, plain = pictures
    height, width = plain.shape[:2]
    np.testing.assert_array_equal((marked - plain)[..., 0], pattern()[:height, :width])
    np.testing.assert_array_equal(marked[..., 3:], plain[..., 3:])

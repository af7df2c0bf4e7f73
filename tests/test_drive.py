from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2", reason="mediapipe's OpenCV is not installed")


from synctalk_trainer.drive import Drive, drive, frame_loudness, quiet_frames, watch

RATE, SIZE = 16_000, 48
REST, OPEN = 0.2, 6.0


def _sound(seconds: float = 8.0) -> np.ndarray:
    """Syllables of noise for the first part, silence for the last 1.6 s."""
    rng = np.random.default_rng(0)
    n = int(seconds * RATE)
    loud = 0.03 + 0.3 * np.repeat(rng.random(n // 2560 + 1), 2560)[:n]
    samples = loud * rng.normal(size=n) * 0.3
    samples[-int(1.6 * RATE) :] = 0
    return samples.astype(np.float32)


def _openings(samples: np.ndarray, late: int = 0) -> np.ndarray:
    n = -(-len(samples) * 25 // RATE)
    level = np.clip((frame_loudness(samples, n) + 50) / 40, 0, 1)
    return np.concatenate([np.zeros(late), level])[:n] * OPEN + REST


def _frames(openings: np.ndarray) -> Iterator[np.ndarray]:
    for opening in openings:
        picture = np.full((SIZE, SIZE, 3), 180, np.uint8)
        picture[30, 10, 0] = round(opening * 20)  # what the fake detector reads
        yield picture


def _detect(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    points = np.zeros((len(pictures), 478, 3), np.float32)
    points[:, 263, 0] = 20
    points[:, 14, 1] = [picture[30, 10, 0] / 20 for picture in pictures]
    return points, np.ones(len(pictures), bool)


def _driven(*arguments: Any) -> Drive:
    return drive([watch(*arguments)])


def test_a_mouth_that_follows_the_sound_passes() -> None:
    result = _driven(lambda s: _frames(_openings(s)), _sound(), _detect)
    assert result.failures == []
    assert result.frames == result.frames_expected == 200
    assert result.mouth.loudness_lag_ms == 0
    assert result.mouth.loudness_r > 0.95
    assert result.mouth.silence_share < 0.1
    assert result.mouth.silent_frames >= 30
    assert result.flicker < 0.1


def test_a_late_mouth_shows_its_lag() -> None:
    result = _driven(lambda s: _frames(_openings(s, late=3)), _sound(), _detect)
    assert result.mouth.loudness_lag_ms == 120


def test_a_mouth_that_stays_open_fails() -> None:
    result = _driven(lambda s: _frames(_openings(s) + 3), _sound(), _detect)
    assert "stays open in silence" in result.failures[0]


def test_a_missing_frame_and_a_flash_fail() -> None:
    def speak(samples: np.ndarray) -> Iterator[np.ndarray]:
        for i, picture in enumerate(_frames(_openings(samples)[:-1])):
            yield picture // 3 if i == 50 else picture

    failures = _driven(speak, _sound(), _detect).failures
    assert failures[0] == "199 frames instead of 200"
    assert "jumps" in failures[1]


def test_no_frames_and_no_face_do_not_break() -> None:
    nothing = _driven(lambda s: iter(()), _sound(), _detect)
    assert nothing.frames == 0
    blind = _driven(
        lambda s: _frames(_openings(s)), _sound(), lambda p: (_detect(p)[0], np.zeros(len(p), bool))
    )
    assert blind.frames_without_face == 200
    json.dumps([nothing.to_dict(), blind.to_dict()], allow_nan=False)


def test_a_wrong_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="frame 0 is float64"):
        _driven(lambda s: iter([np.zeros((4, 4, 3))]), _sound(), _detect)


def test_quiet_frames_keep_away_from_speech() -> None:
    loudness = np.full(40, -20.0, np.float32)
    loudness[10:22] = -80
    loudness[36:] = -80
    assert np.flatnonzero(quiet_frames(loudness)).tolist() == [14, 15, 16, 17]
    loudness[30:] = -80
    assert np.flatnonzero(quiet_frames(loudness)).tolist() == [14, 15, 16, 17, *range(34, 40)]


def test_sounds_of_one_voice_are_judged_together() -> None:
    parts = [_sound(4.0), _sound(8.0)]
    result = drive([watch(lambda s: _frames(_openings(s, late=2)), part, _detect) for part in parts])
    assert result.frames == result.frames_expected == 300
    assert result.mouth.loudness_lag_ms == 80
    assert result.mouth.loudness_r > 0.95
    assert result.mouth.silent_frames >= 60
    assert result.fps > 0


def test_frames_without_a_face_are_counted_without_a_warning() -> None:
    def blind(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(pictures), 478, 3), np.float32), np.zeros(len(pictures), bool)

    assert _driven(lambda s: _frames(_openings(s)), _sound(), blind).frames_without_face == 200

"""Painting the head out: the neck goes on upwards under it, without gaps, whatever hides or interrupts it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.dataset import HEAD, TORSO
from synctalk_trainer.prepare.plate import neck_colour, paint_out

Picture = NDArray[np.uint8]

_SIZE, _FACE = 128, 60.0
_SKY, _SKIN, _FACE_SKIN, _COLLAR, _HAIR = (
    (40, 90, 200),
    (180, 120, 100),
    (210, 150, 130),
    (240, 240, 240),
    (60, 30, 20),
)


def _clip(chin: int, collar: int = 100) -> tuple[Picture, Picture, Picture]:
    """A head down to row ``chin``, a neck from there down to the collar; picture, mask, background."""
    background = np.full((_SIZE, _SIZE, 3), _SKY, np.uint8)
    frame, mask = background.copy(), np.zeros((_SIZE, _SIZE), np.uint8)
    frame[60:collar, 46:82], mask[60:collar, 46:82] = _SKIN, TORSO
    frame[collar:, 30:98], mask[collar:, 30:98] = _COLLAR, TORSO
    frame[20:chin, 40:88], mask[20:chin, 40:88] = _FACE_SKIN, HEAD
    return frame, mask, background


def _far(picture: Picture, colour: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.abs(picture.astype(int) - colour).max(axis=-1)


def test_neck_goes_on_under_the_head_as_the_clip_shows_it() -> None:
    frame, mask, background = _clip(chin=80)
    plate = paint_out(frame, mask, background, np.array(_SKIN, np.float32), _FACE)
    assert (_far(plate[64:100, 48:80], _SKIN) < 4).all()
    assert (_far(plate[20:50], _SKY) < 4).all()
    np.testing.assert_array_equal(plate[100:], frame[100:])


def test_a_strand_before_the_neck_leaves_no_stripe_of_background() -> None:
    frame, mask, background = _clip(chin=80)
    frame[78:96, 60:63] = _HAIR
    plate = paint_out(frame, mask, background, np.array(_SKIN, np.float32), _FACE)
    assert (_far(plate[66:78, 50:78], _SKIN) < 12).all()


def test_a_neck_that_the_chin_hides_has_the_clips_colour() -> None:
    seen, hidden = _clip(chin=80), _clip(chin=101)
    frames, masks = (np.stack([seen[i], seen[i], hidden[i]]) for i in range(2))
    neck = neck_colour(frames, masks, _FACE)
    np.testing.assert_allclose(neck, _SKIN, atol=2)
    plate = paint_out(*hidden, neck, _FACE)
    assert (_far(plate[90:101, 54:74], _SKIN) < 12).all()
    np.testing.assert_array_equal(plate[104:], hidden[0][104:])


def test_a_head_alone_uncovers_the_background() -> None:
    frame, mask, background = _clip(chin=80)
    frame[80:], mask[80:] = background[80:], 0
    assert not neck_colour(frame[None], mask[None], _FACE).any()
    plate = paint_out(frame, mask, background, np.zeros(3, np.float32), _FACE)
    np.testing.assert_array_equal(plate, background)

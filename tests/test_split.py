from __future__ import annotations

import numpy as np
import pytest
from synctalk.errors import DatasetError, TrainingError
from synctalk_trainer.split import segments, split

TAKES = [(i * 10, i * 10 + 10) for i in range(22)]


def test_last_holds_out_the_last_eleventh() -> None:
    train, held = split(TAKES, 220, "last")
    assert held.tolist() == list(range(200, 220))
    assert train.tolist() == list(range(200))


def test_takes_hold_out_every_kth_take_whole() -> None:
    train, held = split(TAKES, 220, "takes:11")
    assert held.tolist() == [*range(100, 110), *range(210, 220)]
    assert not np.intersect1d(train, held).size
    assert len(train) + len(held) == 220


@pytest.mark.parametrize("holdout", ["last", "takes:2", "takes:7"])
def test_frames_without_a_face_are_in_neither_part(holdout: str) -> None:
    valid = np.random.default_rng(0).random(220) > 0.2
    train, held = split(TAKES, 220, holdout, valid)
    assert np.union1d(train, held).tolist() == np.flatnonzero(valid).tolist()
    assert not np.intersect1d(train, held).size


@pytest.mark.parametrize("holdout", ["", "first", "takes", "takes:1", "takes:x", "takes:-3"])
def test_unknown_holdout_is_refused(holdout: str) -> None:
    with pytest.raises(TrainingError, match="choose 'last'"):
        split(TAKES, 220, holdout)


def test_a_split_without_held_out_frames_is_refused() -> None:
    with pytest.raises(DatasetError, match="1 takes"):
        split([(0, 100)], 100, "takes:11")
    with pytest.raises(DatasetError, match="longer clip"):
        split([(0, 5)], 5, "last")


def test_segments_break_at_gaps_and_at_takes() -> None:
    frames = np.array([8, 9, 10, 11, 14, 15, 30])
    parts = [frames[s].tolist() for s in segments(frames, TAKES)]
    assert parts == [[8, 9], [10, 11], [14, 15], [30]]
    assert segments(np.array([], np.int64), TAKES) == []

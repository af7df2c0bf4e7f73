"""Sway and the mouth's way to rest and back."""

from __future__ import annotations

import numpy as np
import pytest
from synctalk.idle import Mouth, Sway


def test_sway_is_slight_slow_and_faded_in() -> None:
    sway = Sway(25, seed=4)
    path = np.array([sway(i, 1.0) for i in range(5000)])
    assert 0.2 < np.abs(path).max() < 0.6
    assert np.abs(np.diff(path, axis=0)).max() < 0.03
    assert sway(100, 0.0) == (0.0, 0.0, 0.0)
    assert not np.allclose(path[:100], [Sway(25, seed=5)(i, 1.0) for i in range(100)])


def test_the_mouth_goes_to_rest_and_back() -> None:
    rest, wide = np.float32([1.0, 0.0]), np.float32([0.0, 1.0])
    mouth = Mouth.at_rest(rest)
    path, calm = [mouth.condition], [mouth.idle_share]
    for i in range(40):
        mouth = mouth.speak(wide, True) if i < 20 else mouth.be_quiet()
        path.append(mouth.condition)
        calm.append(mouth.idle_share)
    opening = np.array(path)[:, 1]
    np.testing.assert_array_equal(path[3], wide)  # exactly what is said, from the third frame on
    assert np.abs(np.diff(opening)).max() < 0.5
    assert opening[26] < 0.05  # at rest within 240 ms
    assert (calm[0], calm[15], calm[-1]) == pytest.approx((1.0, 0.0, 1.0))
    assert np.abs(np.diff(calm)).max() < 0.12

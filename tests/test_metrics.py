from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2", reason="mediapipe's OpenCV is not installed")


from synctalk_trainer import metrics
from synctalk_trainer.mouth import LIPS

ONE = [slice(0, 100)]


def _picture(seed: int, height: int = 24, width: int = 31) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _naive_ssim(picture: np.ndarray, truth: np.ndarray, row: int, column: int) -> float:
    """One window of eq. 13 of Wang et al. 2004, written as its sums."""
    weights = np.array(
        [[np.exp(-(y * y + x * x) / (2 * 1.5**2)) for x in range(-5, 6)] for y in range(-5, 6)]
    )
    weights /= weights.sum()
    rgb = np.array([0.299, 0.587, 0.114])
    window = slice(row - 5, row + 6), slice(column - 5, column + 6)
    a, b = picture[window].astype(float) @ rgb, truth[window].astype(float) @ rgb
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    cov = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 2.55**2, 7.65**2
    return float(
        (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    )


def test_psnr_counts_only_the_mask() -> None:
    truth = _picture(0)
    picture = truth.astype(np.float32)
    picture[:4] += 10
    mask = np.zeros(truth.shape[:2], bool)
    mask[:4] = True
    assert metrics.psnr(picture, truth, mask) == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert metrics.psnr(picture, truth) == pytest.approx(
        20 * np.log10(255 / 10) + 10 * np.log10(24 / 4), abs=1e-4
    )
    assert metrics.psnr(picture, truth, ~mask) == float("inf")
    assert np.isnan(metrics.psnr(picture, truth, np.zeros_like(mask)))


def test_ssim_equals_its_naive_twin() -> None:
    a, b = _picture(1), _picture(2)
    b = (0.7 * a + 0.3 * b).astype(np.uint8)
    fast = metrics.ssim_map(a, b)
    for row, column in ((5, 5), (10, 17), (18, 25)):
        assert fast[row, column] == pytest.approx(_naive_ssim(a, b, row, column), abs=1e-5)
    assert np.allclose(metrics.ssim_map(a, a), 1, atol=1e-6)


def test_landmark_distance_with_and_without_head_motion() -> None:
    truth = np.random.default_rng(3).random((4, 478, 3)) * 100
    moved = truth + np.array([3.0, 4.0, 9.0])
    assert metrics.landmark_distance(moved, truth) == pytest.approx(np.zeros(4), abs=1e-4)
    assert metrics.landmark_distance(moved, truth, centred=False) == pytest.approx(np.full(4, 5.0), abs=1e-4)
    shaped = truth.copy()
    shaped[:, LIPS[0], 0] += 40
    assert metrics.landmark_distance(shaped, truth, centred=False) == pytest.approx(np.ones(4), abs=1e-4)


@pytest.mark.parametrize("lag", [-3, 0, 2])
def test_lag_is_positive_when_the_render_is_late(lag: int) -> None:
    rng = np.random.default_rng(4)
    truth = np.convolve(rng.normal(size=100), np.ones(3), mode="same")
    assert metrics.best_lag(np.roll(truth, lag), truth, ONE)[0] == lag


def test_lag_does_not_look_across_a_cut() -> None:
    rng = np.random.default_rng(5)
    parts = [slice(i, i + 20) for i in range(0, 100, 20)]
    truth = rng.normal(size=100)
    late = np.concatenate([np.concatenate([rng.normal(size=2), truth[p][:-2]]) for p in parts])
    lag, r = metrics.best_lag(late, truth, parts)
    assert lag == 2
    assert r == pytest.approx(1)


def test_what_cannot_be_measured_is_nan() -> None:
    flat, curve = np.ones(50), np.arange(50.0)
    assert np.isnan(metrics.pearson(flat, curve))
    assert np.isnan(metrics.gain(curve, flat))
    assert np.isnan(metrics.best_lag(flat, curve, ONE[:0])[1])
    assert np.isnan(metrics.jitter(curve, []))
    assert np.isnan(metrics.blink_f1(flat, flat, [slice(0, 50)]))
    assert np.isnan(metrics.FlickerMeter().value)


def test_gain_is_the_ratio_of_deviations() -> None:
    curve = np.sin(np.arange(50.0))
    assert metrics.gain(0.2 * curve + 5, curve) == pytest.approx(0.2)


def test_jitter_ignores_even_motion() -> None:
    assert metrics.jitter(np.arange(100.0), ONE) == 0
    assert metrics.jitter(np.arange(100) % 2 * 1.0, ONE) == pytest.approx(2)
    assert metrics.jitter(np.stack([np.arange(100) % 2 * 3.0, np.arange(100) % 2 * 4.0], axis=-1), ONE) == 10


def test_blinks_are_matched_once() -> None:
    truth, render = np.full(100, 0.3), np.full(100, 0.4)
    for middle in (20, 50, 80):
        truth[middle - 2 : middle + 2] = 0.05
    render[20:24] = 0.1  # two frames late
    render[60:64] = 0.1  # no such blink
    truth[95:100] = 0.29  # eyes a little lower: no blink
    assert metrics.blink_events(truth, ONE) == [(18, 22), (48, 52), (78, 82)]
    assert metrics.blink_f1(render, truth, ONE) == pytest.approx(2 / 5)
    assert metrics.blink_f1(truth, truth, ONE) == 1


def test_long_closed_eyes_are_no_blink() -> None:
    openness = np.full(100, 0.3)
    openness[10:40] = 0.05
    assert metrics.blink_events(openness, ONE) == []


def test_flicker_sees_alternation_and_not_a_cut() -> None:
    dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 10, np.uint8)
    meter = metrics.FlickerMeter()
    for picture in (dark, dark, dark):
        meter.push(picture)
    meter.restart()
    for picture in (light, light, light):
        meter.push(picture)
    assert meter.value == pytest.approx(0, abs=1e-4)
    meter.restart()
    for picture in (dark, light, dark, light):
        meter.push(picture)
    assert meter.value == pytest.approx(20 * 2 / 4, abs=1e-4)


def test_landmark_box_is_clipped_and_never_empty() -> None:
    box = metrics.landmark_box(np.array([[10.2, 20.7], [30.1, 25.0]]), 8, 32)
    assert (box.x0, box.y0, box.x1, box.y1) == (2, 12, 32, 32)
    outside = metrics.landmark_box(np.array([[-90.0, -90.0]]), 2, 32)
    assert outside.x1 > outside.x0 and outside.y1 > outside.y0

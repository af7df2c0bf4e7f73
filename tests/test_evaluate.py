from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from synctalk.errors import TrainingError

pytest.importorskip("cv2", reason="mediapipe's OpenCV is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from synctalk_trainer import baselines, measure
from synctalk_trainer.detect import largest_faces
from synctalk_trainer.evaluate import Options, judge
from synctalk_trainer.evaluation_report import figure_table, verdicts, write_report
from synctalk_trainer.prepare.landmarks import Face
from synctalk_trainer.run import Settings
from synctalk_trainer.split import split
from test_perceptual import write_contrast

SIZE, N = 64, 88
TAKES = ((0, 44), (44, 88))


@dataclass(frozen=True)
class FakeClip:
    """A disc with a dark mouth that opens and closes, on a torso, in front of a gradient."""

    frames: np.ndarray
    plates: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    takes: tuple[tuple[int, int], ...] = TAKES

    @property
    def valid(self) -> np.ndarray:
        return np.ones(N, bool)

    @property
    def audio(self) -> np.ndarray:
        return np.zeros(N * 640 - 100, np.float32)


def _opening(frame: int) -> float:
    return 3 + 2.5 * float(np.sin(frame * 0.9) * np.cos(frame * 0.23))


def _head(opening: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Colour [S, S, 3] and mask [S, S] of a head."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    x = x - 32 - shift
    mask = x**2 + (y - 28) ** 2 < 18**2
    colour = np.broadcast_to([200.0, 160.0, 140.0], (SIZE, SIZE, 3)).copy()
    colour[(np.abs(x) < 6) & (np.abs(y - 36) < opening)] = 20
    return colour, mask


def _landmarks(opening: float, shift: float) -> np.ndarray:
    points = np.zeros((478, 3), np.float32)
    points[:, 0], points[:, 1] = 32 + shift, np.linspace(15, 45, 478)
    for index, x, y in (
        (33, -8, 22),
        (263, 8, 22),
        (78, -6, 36),
        (308, 6, 36),
        (13, 0, 36 - opening),
        (14, 0, 36 + opening),
    ):
        points[index, :2] = 32 + shift + x, y
    for up, down, a, b in ((159, 145, 33, 133), (386, 374, 362, 263)):
        points[[up, down], 0] = points[[a, b], 0]
        points[up, 1], points[down, 1] = 20, 24
    points[[133, 362], :2] = [[32 + shift - 3, 22], [32 + shift + 3, 22]]
    return points


@pytest.fixture(scope="module")
def clip() -> FakeClip:
    plate = np.zeros((SIZE, SIZE, 3), np.uint8)
    plate[..., 2] = np.linspace(80, 200, SIZE)[:, None]
    plate[46:, 12:52] = (30, 90, 40)
    frames, masks, points = [], [], []
    for i in range(N):
        shift = 1.5 * np.sin(i * 0.1)
        colour, mask = _head(_opening(i), shift)
        frames.append(np.where(mask[..., None], colour, plate).astype(np.uint8))
        masks.append(np.where(mask, 2, 0).astype(np.uint8))
        points.append(_landmarks(_opening(i), shift))
    translation = np.array([[0.001 * np.sin(i * 0.1), 0, 0.5] for i in range(N)], np.float32)
    rotation = np.tile(np.eye(3, dtype=np.float32), (N, 1, 1))
    plates = np.tile(plate, (N, 1, 1, 1))
    return FakeClip(np.stack(frames), plates, np.stack(masks), np.stack(points), rotation, translation)


@dataclass(frozen=True)
class FakeHead:
    """The true head, or one with a mouth that is ``late`` frames late and opens ``gain`` times as far."""

    late: int = 0
    gain: float = 1.0
    broken: bool = False

    def render(self, frame_index: int, /) -> np.ndarray:
        opening = 3 + self.gain * (_opening(frame_index - self.late) - 3)
        colour, mask = _head(opening, 1.5 * np.sin(frame_index * 0.1))
        rgba = np.concatenate([colour / 255, np.ones((SIZE, SIZE, 1))], axis=-1) * mask[..., None]
        return (rgba * np.nan if self.broken else rgba).astype(np.float32)


def _detect(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Read the mouth's height off the picture: the fake twin of the landmark step."""
    points = []
    for picture in pictures:
        dark = picture.max(axis=-1) < 60
        rows = dark.sum(axis=1) > 4
        points.append(_landmarks(rows.sum() / 2, 0))
    return np.stack(points), np.ones(len(points), bool)


def _measure(clip: FakeClip, head: FakeHead, folder: Path, holdout: str = "takes:2") -> measure.Evaluated:
    train, held = split(clip.takes, N, holdout)
    return measure.measure(clip, head, train, held, _detect, folder)


def test_the_true_head_has_a_perfect_score(clip: FakeClip, tmp_path: Path) -> None:
    figures = _measure(clip, FakeHead(), tmp_path).figures
    assert figures["frames"] == 44
    assert figures["psnr_full"] > 90
    assert figures["ssim_full"] == pytest.approx(1, abs=1e-4)
    assert figures["lip_r"] == pytest.approx(1)
    assert figures["lip_gain"] == pytest.approx(1)
    assert figures["lip_lag_ms"] == 0
    assert figures["lmd_px"] == 0
    assert figures["flicker"] == pytest.approx(figures["flicker_truth"], rel=1e-3)


def test_a_late_mouth_shows_as_lag_and_costs_only_the_mouth(clip: FakeClip, tmp_path: Path) -> None:
    figures = _measure(clip, FakeHead(late=2), tmp_path).figures
    assert figures["lip_lag_ms"] == 80
    assert figures["lip_r"] < 0.5 < figures["lip_r_at_lag"]
    assert figures["psnr_mouth"] < figures["psnr_face"] < figures["psnr_full"]
    assert any("lag behind the truth by 80 ms" in sentence for sentence in verdicts(figures))


def test_a_small_mouth_shows_as_gain(clip: FakeClip, tmp_path: Path) -> None:
    figures = _measure(clip, FakeHead(gain=0.4), tmp_path).figures
    assert figures["lip_gain"] == pytest.approx(0.4, abs=0.15)
    assert any("as far as in the truth" in sentence for sentence in verdicts(figures))


def test_the_own_protocol_takes_only_the_outside_from_the_truth(clip: FakeClip) -> None:
    marked = replace(clip, plates=np.full_like(clip.plates, 7))
    regions = measure.Regions.of(marked, 5)
    behind = measure.own_background(marked, 5, regions)
    assert (behind[regions.head] == 7).all()
    assert (behind[~regions.head_grown] == clip.frames[5][~regions.head_grown]).all()
    assert (regions.head_grown & ~regions.head).any()


def test_the_model_protocol_never_sees_the_held_out_frame(clip: FakeClip, tmp_path: Path) -> None:
    plates = clip.plates.copy()
    plates[44:] = 255  # what only a held-out frame could bring
    spoilt = _measure(replace(clip, plates=plates), FakeHead(), tmp_path).figures
    clean = _measure(clip, FakeHead(), tmp_path).figures
    assert spoilt["model_background"] == clean["model_background"]


def test_nan_in_a_render_is_refused(clip: FakeClip, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NaN"):
        _measure(clip, FakeHead(broken=True), tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        measure.compose(np.zeros((4, 4, 4), np.float32), np.zeros((5, 5, 3), np.uint8))


def test_baselines_look_only_at_training_frames(clip: FakeClip) -> None:
    train, held = split(clip.takes, N, "last")
    scores = measure.baseline_scores(clip, train, held)
    assert scores["oracle"]["psnr_mouth"] > scores["mean"]["psnr_mouth"]
    assert scores["oracle"]["psnr_full_own"] >= scores["oracle"]["psnr_full"]
    nearest = baselines.nearest_landmarks(clip.landmarks, train, held)
    assert np.isin(nearest, train).all()
    naive = [
        min(train, key=lambda t: np.square(clip.landmarks[t, :, :2] - clip.landmarks[h, :, :2]).sum())
        for h in held
    ]
    assert nearest.tolist() == naive


def test_nearest_pose_weighs_turn_and_shift() -> None:
    angle = np.array([0.0, 0.2, 0.0])
    c, s, o = np.cos(angle), np.sin(angle), np.zeros(3)
    rotation = np.stack([c, o, s, o, o + 1, o, -s, o, c], axis=-1).reshape(3, 3, 3).astype(np.float32)
    translation = np.array([[0, 0, 0.5], [0, 0, 0.5], [0.03, 0, 0.5]], np.float32)
    ask = np.array([0]), np.array([1, 2])
    assert baselines.nearest_pose(rotation, translation, ask[1], ask[0]).tolist() == [
        1
    ]  # 20 mm against 30 mm


def test_frames_without_a_face_are_left_out_of_curves(clip: FakeClip, tmp_path: Path) -> None:
    def half_blind(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        points, found = _detect(pictures)
        found[:3] = False
        return points, found

    train, held = split(clip.takes, N, "takes:2")
    result = measure.measure(clip, FakeHead(), train, held, half_blind, tmp_path)
    assert result.figures["frames_without_face"] == 3
    assert len(result.curves.lips) == 41
    assert result.figures["frames"] == 44


def test_report_has_pictures_video_with_sound_and_page(clip: FakeClip, tmp_path: Path) -> None:
    result = _measure(clip, FakeHead(late=2), tmp_path)
    train, held = split(clip.takes, N, "takes:2")
    table = {
        **result.figures,
        "baselines": measure.baseline_scores(clip, train, held),
        "against": {"run": "<b>other</b>"},
    }
    write_report(clip, clip.audio, result, table, tmp_path, "Evaluation of x")
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {
        "frames.npy",
        "frames.png",
        "worst.png",
        "mouths.png",
        "curves.png",
        "side_by_side.mp4",
        "report.html",
    }
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "oracle" in page and "&lt;b&gt;other" in page and "80 ms" in page
    with av.open(str(tmp_path / "side_by_side.mp4")) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height) == (3 * SIZE, SIZE)
        assert sum(1 for _ in container.decode(video)) == 44


def test_verdicts_say_nothing_bad_about_good_figures_and_survive_missing_ones() -> None:
    assert "No fault" in verdicts({"frames": 500, "lip_r": 0.9, "lip_gain": 1.0, "lip_lag_ms": 0.0})[0]
    assert verdicts({"lip_r": None})
    poor = {"psnr_mouth": 20.0, "baselines": {"oracle": {"psnr_mouth": 24.0}}}
    assert "nearest training frame" in verdicts(poor)[0]


@dataclass(frozen=True)
class FakeRun(FakeHead):
    path: Path = Path()
    dataset: Any = None
    settings: Settings = field(default_factory=lambda: Settings(dataset="", holdout="takes:2"))
    seconds_trained: float = 12.5
    step: int = 3


def test_judge_writes_figures_and_pictures_and_compares_two_runs(clip: FakeClip, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    judge(FakeRun(late=1, path=first, dataset=clip), _detect, Options())
    figures = judge(FakeRun(path=second, dataset=clip), _detect, Options(against=first, limit=20))
    assert figures == json.loads((second / "evaluation.json").read_text(encoding="utf-8"))
    wanted = "psnr_full psnr_head psnr_mouth psnr_face ssim_full lmd_px lip_r lip_gain lip_lag_ms blink_f1 frames seconds_trained protocol"
    assert set(wanted.split()) <= set(figures)
    assert (figures["frames"], figures["seconds_trained"], figures["holdout"]) == (20, 12.5, "takes:2")
    assert figures["baselines"]["oracle"]["psnr_full"] > figures["baselines"]["mean"]["psnr_full"]
    assert "against first" in (second / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert not (second / "evaluation" / "frames.npy").exists()
    assert figure_table(figures).row_count > 15


def test_a_perceptual_distance_is_measured_where_one_is_given(clip: FakeClip, tmp_path: Path) -> None:
    weights = write_contrast(tmp_path / "contrast.pt")
    true, late = tmp_path / "true", tmp_path / "late"
    options = Options(limit=20, lpips=weights)
    exact = judge(FakeRun(path=true, dataset=clip), _detect, options)
    wrong = judge(FakeRun(late=1, path=late, dataset=clip), _detect, options)
    assert exact["lpips"] < 0.2 * wrong["lpips"]


def test_an_against_that_was_not_evaluated_is_refused(clip: FakeClip, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="synctalk evaluate"):
        judge(FakeRun(path=tmp_path, dataset=clip), _detect, Options(against=tmp_path / "nothing"))


def test_frames_that_were_trained_on_are_never_judged(clip: FakeClip, tmp_path: Path) -> None:
    settings = Settings(dataset="", holdout="last")
    with pytest.raises(TrainingError, match="36 of the 44 frames"):
        judge(FakeRun(path=tmp_path, dataset=clip, settings=settings), _detect, Options(holdout="takes:2"))
    figures = judge(FakeRun(path=tmp_path, dataset=clip), _detect, Options(holdout="last"))
    assert (figures["frames"], figures["holdout"]) == (8, "last")


def test_the_largest_face_of_a_picture_counts() -> None:
    class TwoFaces:
        def detect(self, picture: np.ndarray) -> list[Face]:
            sizes = (20.0, 50.0) if picture.any() else ()
            return [
                Face(_landmarks(3, 0) * size, np.zeros(52, np.float32), np.eye(4, dtype=np.float32))
                for size in sizes
            ]

    points, found = largest_faces(TwoFaces(), [np.ones((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)])
    assert found.tolist() == [True, False]
    assert np.array_equal(points[0], _landmarks(3, 0) * 50)

"""Masks, plates, checks, and the pipeline that runs only what has changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_faces import HAIR, FakeLandmarker, FakeSegmenter, draw_person, write_video
from rich.console import Console
from synctalk.errors import DatasetError, MediaError
from synctalk_trainer.dataset import BACKGROUND, HEAD, TORSO, Dataset
from synctalk_trainer.prepare import Options, Summary, prepare
from synctalk_trainer.prepare.checks import read_takes, spans_of
from synctalk_trainer.prepare.pipeline import STEPS, Detectors

ALL = tuple(step.name for step in STEPS)
SIZE, FACE = 160, 75.0


def swaying(n: int) -> list[np.ndarray]:
    return [draw_person(SIZE, SIZE / 2 + 4 * np.sin(k / 9), SIZE / 2, FACE) for k in range(n)]


def run(
    video: Path, folder: Path, *steps: str, force: bool = False, options: Options | None = None
) -> Summary:
    detectors = Detectors(FakeLandmarker(), FakeSegmenter())
    return prepare(video, folder, options, steps, force, Console(quiet=True), detectors)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Summary]:
    folder = tmp_path_factory.mktemp("prepared")
    video = write_video(folder / "a.mkv", swaying(130))
    return video, folder / "d", run(video, folder / "d")


def test_prepare_writes_a_whole_dataset(prepared: tuple[Path, Path, Summary]) -> None:
    _, folder, summary = prepared
    data = Dataset.open(folder)
    assert summary.done == ALL
    assert data.n_frames == 130
    assert data.valid.all()
    assert data.takes == ((0, 130),)
    assert len(data.audio) == 130 * 640
    assert "What to look at" in (folder / "report.html").read_text()
    assert len(list((folder / "report").glob("*.png"))) == 6
    assert not list(folder.glob(".*"))


def test_neck_is_torso_and_hair_is_head(prepared: tuple[Path, Path, Summary]) -> None:
    mask = np.asarray(Dataset.open(prepared[1]).masks[0])
    x, y = SIZE // 2, SIZE // 2
    assert mask[y, x] == HEAD
    assert mask[round(y - 0.6 * FACE), x] == HEAD
    assert mask[round(y + 0.68 * FACE), x] == TORSO
    assert mask[-3, x] == TORSO
    assert mask[y, 5] == BACKGROUND


@pytest.mark.parametrize(("every", "label"), [(1, HEAD), (3, TORSO)])
def test_what_falls_below_the_jaw_is_hair_if_most_frames_show_it(
    tmp_path: Path, every: int, label: int
) -> None:
    """A dark strand beside the neck: long hair in all frames, a collar's shadow where it comes and goes."""
    pictures = swaying(130)
    centre, chin = SIZE // 2, round(SIZE / 2 + 0.5 * FACE)
    for picture in pictures[::every]:
        for side in (-1, 1):
            inner, outer = centre + side * round(0.3 * FACE), centre + side * round(0.55 * FACE)
            picture[round(SIZE / 2) : chin + 22, min(inner, outer) : max(inner, outer)] = HAIR
    run(write_video(tmp_path / "a.mkv", pictures), tmp_path / "d", "masks")
    mask = np.load(tmp_path / "d/masks.npy")[0]
    assert mask[chin + 12, centre + round(0.42 * FACE)] == label


def test_plate_shows_neck_below_and_wall_above(prepared: tuple[Path, Path, Summary]) -> None:
    data = Dataset.open(prepared[1])
    plate = np.asarray(data.plates[0]).astype(int)
    x, y = SIZE // 2, SIZE // 2
    assert np.abs(plate[round(y + 0.4 * FACE), x] - (220, 170, 140)).max() < 25
    assert np.abs(plate[round(y - 0.5 * FACE), x] - (150, 200, 150)).max() < 40  # the written number is near
    assert np.abs(plate[-3, x] - np.asarray(data.frames[0, -3, x]).astype(int)).max() == 0


def test_second_run_does_nothing(prepared: tuple[Path, Path, Summary]) -> None:
    video, folder, _ = prepared
    again = run(video, folder)
    assert again.done == ()
    assert again.kept == ALL


def test_missing_file_is_made_again_and_force_repeats_a_step(prepared: tuple[Path, Path, Summary]) -> None:
    video, folder, _ = prepared
    (folder / "expression.npz").unlink()
    assert run(video, folder).done == ("expression",)
    assert run(video, folder, "pose", force=True).done == ("pose",)


def test_new_option_repeats_what_depends_on_it(prepared: tuple[Path, Path, Summary], tmp_path: Path) -> None:
    video, folder, _ = prepared
    takes = tmp_path / "takes.json"
    takes.write_text(json.dumps({"frames_per_take": 65}))
    again = run(video, folder, "expression", options=Options(takes=takes))
    assert again.done == ("landmarks", "expression")
    assert Dataset.open(folder).takes == ((0, 65), (65, 130))


def test_moved_sound_repeats_only_what_hears_it(prepared: tuple[Path, Path, Summary]) -> None:
    video, folder, _ = prepared
    run(video, folder)
    assert run(video, folder, options=Options(sound_shift_ms=-40)).done == ("sound", "sync")
    assert run(video, folder).done == ("sound", "sync")


def test_unknown_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="choose from media, sound"):
        run(tmp_path / "a.mkv", tmp_path / "d", "poses")


def test_lost_face_keeps_its_frames_and_is_warned_of(tmp_path: Path) -> None:
    pictures = swaying(130)
    for k in range(50, 60):
        pictures[k] = np.full((SIZE, SIZE, 3), (150, 200, 150), np.uint8)
    done = run(write_video(tmp_path / "a.mkv", pictures), tmp_path / "d", "expression")
    valid = np.load(tmp_path / "d/landmarks.npz")["valid"]
    assert np.flatnonzero(~valid).tolist() == list(range(50, 60))
    assert [w["at_s"] for w in done.warnings if w["code"] == "no_face"] == [[[2.0, 2.4]]]


def test_two_people_are_refused(tmp_path: Path) -> None:
    pictures = []
    for k in range(130):
        picture = draw_person(SIZE, 44 + k % 3, SIZE / 2, 70.0)
        picture[:, 80:] = draw_person(SIZE, 116, SIZE / 2, 70.0)[:, 80:]
        pictures.append(picture)
    with pytest.raises(MediaError, match="two faces"):
        run(write_video(tmp_path / "a.mkv", pictures), tmp_path / "d", "landmarks")


def test_cut_splits_takes_or_is_refused(tmp_path: Path) -> None:
    moved = [draw_person(SIZE, SIZE / 2 + 14, SIZE / 2 + 4, FACE) for _ in range(130)]
    pictures = swaying(130)
    done = run(write_video(tmp_path / "a.mkv", pictures[:70] + moved[:70]), tmp_path / "d", "landmarks")
    (cut,) = (w for w in done.warnings if w["step"] == "landmarks")
    assert cut["code"] == "cut" and "cuts at 2.8 s" in cut["message"]
    assert cut["message"].endswith("the longest is 0.0-2.8 s")
    info = json.loads((tmp_path / "d/dataset.json").read_text())
    assert info["takes"] == [[0, 70], [70, 140]]
    with pytest.raises(MediaError, match="cuts at"):
        run(write_video(tmp_path / "b.mkv", pictures[:110] + moved[:25]), tmp_path / "e", "landmarks")


def test_takes_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "takes.json"
    for content in ("{", "[]", '{"takes": [[5, 2]]}'):
        file.write_text(content)
        with pytest.raises(MediaError, match="takes"):
            read_takes(file, 100)


def test_spans_are_runs_in_seconds() -> None:
    assert spans_of(np.array([1, 0, 1, 1, 0], bool)) == [(0.0, 0.04), (0.08, 0.16)]

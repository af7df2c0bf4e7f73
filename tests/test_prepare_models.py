"""MediaPipe's model files: packaged, pinned, asked for at the start, and loaded without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_faces import draw_person, write_video
from rich.console import Console
from synctalk.errors import ModelError
from synctalk_trainer.prepare import Options, prepare
from synctalk_trainer.prepare.models import (
    FACE_LANDMARKER,
    SELFIE_SEGMENTER,
    ModelFile,
    find_model,
    native_log_held_back,
)

LOAD_AND_LOOK = """
import numpy as np
from synctalk_trainer.prepare.landmarks import MediaPipeLandmarker
from synctalk_trainer.prepare.segmenter import MediaPipeSegmenter
picture = np.full((96, 128, 3), 120, np.uint8)
landmarker, segmenter = MediaPipeLandmarker(), MediaPipeSegmenter()
for _ in range(2):
    assert landmarker.detect(picture) == [] and segmenter.person(picture).shape == (96, 128)
landmarker.close()
segmenter.close()
"""


@pytest.mark.parametrize("model", [FACE_LANDMARKER, SELFIE_SEGMENTER])
def test_the_package_brings_the_pinned_file(model: ModelFile) -> None:
    assert find_model(model).name == model.name


def test_wrong_model_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        find_model(FACE_LANDMARKER, tmp_path / "none.task")
    (tmp_path / "wrong.task").write_bytes(b"wrong")
    with pytest.raises(ModelError, match="not the pinned"):
        find_model(FACE_LANDMARKER, tmp_path / "wrong.task")


def test_prepare_asks_for_its_model_files_before_the_first_step(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", [draw_person(96, 48, 48, 45)] * 130)
    with pytest.raises(ModelError, match="give --segmenter"):
        prepare(video, tmp_path / "d", Options(segmenter=tmp_path / "none"), console=Console(quiet=True))
    assert not (tmp_path / "d" / "frames.npy").exists()


def test_mediapipe_writes_nothing_for_the_user_to_read() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD_AND_LOOK], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_other_lines_than_log_lines_follow(capfd: pytest.CaptureFixture[str]) -> None:
    with native_log_held_back():
        os.write(2, b"W0000 00:00:1795.6 4682 some_graph.cc:174] Sets it to xnnpack by default.\n")
        os.write(2, b"of another thread\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "of another thread\n"


def test_a_failure_shows_the_whole_log(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="damaged"), native_log_held_back():
        os.write(2, b"E0000 00:00:1795.6 4682 some_graph.cc:174] no such tensor\n")
        raise ValueError("damaged")
    assert "no such tensor" in capfd.readouterr().err

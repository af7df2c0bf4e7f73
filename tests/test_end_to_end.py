"""The main job through every stage, small: synthetic video -> dataset -> run -> bundle -> mp4."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from synctalk.cli import main
from synctalk_trainer.synthetic import synthesize


def _run(*arguments: object) -> None:
    """A command line, as a user types it."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code, f"synctalk {arguments[0]} ended with {ended.value.code}"


def test_a_video_becomes_an_avatar_that_speaks(tmp_path: Path) -> None:
    clip, data, run, bundle = (tmp_path / name for name in ("clip", "data", "run", "small.avatar"))
    synthesize(clip, seconds=8.0, size=160, seed=3, head=None, voice="babble")
    _run("prepare", clip / "video.mp4", "-o", data, "--size", 96)
    truth, pose = np.load(clip / "truth.npz"), np.load(data / "pose.npz")
    assert len(pose["rotation"]) == len(truth["rotation"]) == 200
    _run("train", data, "-o", run, "--preset", "tiny", "--steps", 200, "--threads", 2)
    assert (run / "speech_to_mouth.onnx").is_file()  # heard unless one asks for none
    _run("evaluate", run, "--frames", 12, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["psnr_full"] > 19
    assert figures["psnr_head"] > 12
    assert {
        "psnr_head",
        "psnr_mouth",
        "ssim_full",
        "lmd_px",
        "lip_r",
        "lip_gain",
        "lip_lag_ms",
    } <= figures.keys()
    _run("export", run, "-o", bundle, "--plate-seconds", 2)
    _run("verify", bundle)
    _run(
        "evaluate",
        run,
        bundle,
        "--voices",
        data,
        "-o",
        tmp_path / "voices",
        "--frames",
        20,
        "--film",
    )
    pairs = json.loads((tmp_path / "voices" / "voices.json").read_text())["pairs"]
    assert [(pair["avatar"], pair["own_voice"]) for pair in pairs] == [("run", True), ("small", False)]
    assert {path.name for path in (tmp_path / "voices" / "films").iterdir()} == {
        "run--data.mp4",
        "small--data.mp4",
    }
    sound = data / "audio.wav"
    _run("speak", bundle, sound, "-o", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert {stream.codec_context.name for stream in container.streams} == {"h264", "aac"}
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 200
    assert frames[0].shape == (96, 96, 3)
    assert np.std(np.stack(frames).astype(float), axis=0).max() > 5

"""``synctalk bench``: figures, the report, the comparison, the picture, the command."""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fake_avatar import FakeBackend, FakeBundle, write_tiny_bundle
from synctalk import _native
from synctalk.avatar import Avatar
from synctalk.backends import HeadRequest
from synctalk.bench.field import BASELINES, Baseline, FieldWork, field_work, load_baselines, race
from synctalk.bench.machine import describe_machine, peak_rss_mb
from synctalk.bench.measure import Settings, benchmark, frame_figures
from synctalk.bench.plot import draw_report
from synctalk.bench.report import SCHEMA, compare, read_report, summary, verdict, write_report
from synctalk.bench.stages import StageClock, TimedBackend
from synctalk.bench.streams import steady_frames
from synctalk.bundle import open_bundle
from synctalk.cli import main
from synctalk.errors import BackendError, MediaError, SyncTalkError
from synctalk.media import read_video
from synctalk.spec import preset
from synctalk_export.export import export_bundle
from tiny_subject import tiny_subject

RATE = 16_000
KEYS = "schema backend size fps frame_ms first_frame_ms rtf real_time rss_mb vram_mb stages baselines peak_share machine"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole avatar, with ONNX files."""
    path = tmp_path_factory.mktemp("bench") / "tiny.avatar"
    export_bundle(tiny_subject(), path)
    return path


@pytest.fixture(scope="module")
def report(tiny: Path) -> dict[str, Any]:
    """A real one, of half a second."""
    return benchmark(Settings(tiny, seconds=0.5, threads=1, cold_starts=1)).report


def _sound(seconds: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * RATE)) * 0.1).astype(np.float32)


class _SlowBackend(FakeBackend):
    """Takes 2 ms for a condition and 6 ms for a head."""

    def condition(self, windows: np.ndarray) -> np.ndarray:
        time.sleep(0.002)
        return super().condition(windows)

    def render_head(self, request: HeadRequest) -> np.ndarray:
        time.sleep(0.006)
        return super().render_head(request)


def _timed() -> tuple[Avatar, StageClock, TimedBackend]:
    spec = preset("tiny")
    clock = StageClock()
    timed = TimedBackend(_SlowBackend(spec.field.condition), clock)
    return Avatar(FakeBundle(spec), timed), clock, timed  # type: ignore[arg-type]


def test_time_goes_to_the_stage_that_took_it() -> None:
    avatar, clock, timed = _timed()
    frame_s = steady_frames(avatar, clock, (_sound(), RATE), 1, 0.1, lambda share: None)
    n = len(frame_s)
    assert n >= 25
    assert sum(clock.seconds.values()) == pytest.approx(float(frame_s.sum(dtype=np.float64)), rel=1e-3)
    assert clock.seconds["condition"] >= 0.002 * n
    assert clock.seconds["head"] >= 0.006 * n
    assert clock.seconds["head"] > clock.seconds["audio"] + clock.seconds["composite"]
    assert min(clock.seconds.values()) > 0
    assert timed.requests[0].condition.shape == (preset("tiny").field.condition,)


def test_sessions_take_turns_on_one_avatar() -> None:
    avatar, clock, _ = _timed()
    heard: list[float] = []
    frame_s = steady_frames(avatar, clock, (_sound(), RATE), 3, 0.01, heard.append)
    assert len(frame_s) == 75
    assert heard[0] == pytest.approx(0.0, abs=0.5)
    assert max(heard) == 1.0


def test_figures_of_known_frame_times() -> None:
    frame_s = np.full(1000, 0.010)
    frame_s[:20] = 0.030
    figures = frame_figures(frame_s, 1, 25)
    assert figures["fps"] == pytest.approx(1000 / 10.4, abs=0.01)
    assert figures["rtf"] == pytest.approx(10.4 / 40)
    assert figures["frame_ms"] == {"p50": 10, "p95": 10, "p99": 30, "p99_9": 30, "mean": 10.4, "max": 30}
    assert figures["real_time"] == {"fps": 25, "yes": True, "headroom": 3.85}
    three = frame_figures(frame_s, 3, 25)
    assert three["rtf"] == pytest.approx(0.78)
    assert not three["real_time"]["yes"]  # on average in time, but every hundredth frame waits 90 ms
    assert not frame_figures(np.full(9, 0.05), 1, 25)["real_time"]["yes"]


def test_verdict_says_why_not(report: dict[str, Any]) -> None:
    figures = report | frame_figures(np.full(9, 0.01), 1, 25)
    assert verdict(figures) == "real time at 25 fps: yes, head-room 4.00 x"
    assert "no, head-room 0.80 x" in verdict(report | frame_figures(np.full(9, 0.05), 1, 25))
    spiky = report | frame_figures(np.array([0.01] * 90 + [0.1] * 10), 1, 25)
    assert "1 % of the frames take 100 ms" in verdict(spiky)


def test_report_has_the_documented_keys(report: dict[str, Any]) -> None:
    assert set(KEYS.split()) <= set(report)
    assert report["schema"] == SCHEMA
    assert (report["backend"], report["size"], report["threads"]) == ("native-cpu", [64, 64], 1)
    assert {"p50", "p95", "p99", "p99_9"} <= set(report["frame_ms"])
    assert report["frame_ms"]["p50"] <= report["frame_ms"]["p95"] <= report["frame_ms"]["p99"]
    assert report["first_frame_ms"]["cold"] > report["first_frame_ms"]["warm"] > 0
    assert 20 < report["rss_mb"] < 1000
    assert set(report["baselines"]) == set(BASELINES)
    assert sum(stage["share"] for stage in report["stages"].values()) == pytest.approx(1.0, abs=1e-3)
    assert 0 < report["peak_share"] < 1.2
    documented = (Path(__file__).parents[1] / "docs" / "benchmarking.md").read_text()
    assert [key for key in report if f"`{key}" not in documented] == []


def test_report_survives_a_file(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path / "a.json")
    assert read_report(tmp_path / "a.json") == report
    (tmp_path / "newer.json").write_text(json.dumps(report | {"schema": SCHEMA + 1}))
    (tmp_path / "less.json").write_text(json.dumps({k: v for k, v in report.items() if k != "rtf"}))
    (tmp_path / "no.json").write_text("[")
    for name, word in (("newer", "schema"), ("less", "rtf"), ("no", "not JSON"), ("none", "No such file")):
        with pytest.raises(MediaError, match=word):
            read_report(tmp_path / f"{name}.json")


def test_comparison_says_what_changed_and_what_differs(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["fps"] *= 2
    other["frame_ms"]["p50"] *= 2
    other["threads"] = 7
    lines = {line[:24].strip(): line for line in compare(report, other).splitlines()}
    assert lines["frames a second"].split()[-2:] == ["2.00", "better"]
    assert lines["frame p50, ms"].split()[-2:] == ["2.00", "worse"]
    assert lines["frame p99, ms"].split()[-1] == "1.00"
    assert "threads: 1 / 7" in compare(report, other)
    assert "Not measured alike" not in compare(report, report)


def test_summary_names_every_baseline(report: dict[str, Any]) -> None:
    raced = copy.deepcopy(report)
    raced["baselines"]["torch_eager"] = {"ratio": 9.5, "samples_per_s": 500_000}
    raced["notes"] = {"torch_compile": "no compiler"}
    text = summary(raced)
    assert "9.5 x PyTorch (field only: 0.50 M samples a second)" in text
    assert "torch.compile: no compiler" in text
    assert text.splitlines()[-1].startswith("real time at 25 fps")


def test_picture_is_drawn(report: dict[str, Any], tmp_path: Path) -> None:
    frame_s = np.random.default_rng(0).gamma(20, 0.0005, 500).astype(np.float32)
    draw_report(report, frame_s, tmp_path / "a.png")
    (picture,) = read_video(tmp_path / "a.png")
    assert picture.shape[0] > 500 and picture.std() > 10


def test_picture_without_matplotlib_names_the_extra(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SyncTalkError, match=r"synctalk\[bench\]"):
        draw_report(report, np.ones(3, np.float32), tmp_path / "a.png")


def test_visible_samples_are_those_a_picture_needs(tiny: Path) -> None:
    bundle = open_bundle(tiny)
    timed = TimedBackend(FakeBackend(8), StageClock())
    tensors = bundle.tensors
    request = HeadRequest(
        camera=bundle.manifest.camera,
        rotation=tensors["track.rotation"][0],
        translation=tensors["track.translation"][0],
        condition=tensors["condition.mean"],
        expression=tensors["track.expression"][0],
        appearance=tensors["field.appearance"],
    )
    work = field_work(bundle, [request])
    spec = bundle.manifest.spec.field
    assert 0 < work.n_samples <= 64 * 64 * spec.max_samples
    sample = sum(a * b for a, b in (*spec.attention_shapes, *spec.density_shapes))
    assert sample * work.n_samples < work.multiply_adds < 2 * sample * work.n_samples
    assert timed.requests == []
    nowhere = HeadRequest(**{**vars(request), "translation": np.array([9.0, 0.0, 1.0], np.float32)})
    assert field_work(bundle, [nowhere]).n_samples == 0


def test_race_counts_samples_by_time() -> None:
    camera_less: Any = None
    work = FieldWork([camera_less], [np.random.default_rng(0).random((900, 3)).astype(np.float32)], 1)
    seen: list[int] = []

    def evaluate(request: HeadRequest, positions: np.ndarray) -> None:
        seen.append(len(positions))
        time.sleep(0.004)

    class Whole(FakeBackend):
        def render_head(self, request: HeadRequest) -> np.ndarray:
            time.sleep(0.003)
            return np.zeros(0)

    whole, rates = race(work, Whole(1), {"slow": Baseline(evaluate, (300, 1000))}, rounds=2)
    assert whole == pytest.approx(900 / 0.003, rel=0.9) and whole <= 900 / 0.003
    assert rates["slow"] == pytest.approx(1000 / 0.004, rel=0.9)  # the larger block is faster
    assert set(seen) == {300, 1000}


def test_every_baseline_computes_the_field(tiny: Path) -> None:
    import torch

    bundle = open_bundle(tiny)
    found = load_baselines(bundle, threads=1)
    assert set(found) == set(BASELINES)
    positions = np.random.default_rng(0).random((64, 3)).astype(np.float32)
    request: Any = type("Head", (), {})()
    request.condition = np.linspace(-1, 1, bundle.manifest.spec.field.condition, dtype=np.float32)
    request.expression = np.full(7, 0.5, np.float32)
    values = []
    for name in ("torch_eager", "onnxruntime"):
        baseline = found[name]
        assert isinstance(baseline, Baseline)
        log_density, feature = (np.asarray(v) for v in baseline.evaluate(request, positions))  # type: ignore[attr-defined]
        values.append(np.column_stack([log_density, feature]))
    np.testing.assert_allclose(values[0], values[1], atol=1e-4)
    assert torch.get_num_threads() == 1


def test_baselines_say_what_is_missing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(tiny)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "install g++" in str(load_baselines(bundle, 1)["torch_compile_bf16"])
    monkeypatch.delitem(sys.modules, "synctalk_trainer.bundle_field")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'synctalk[train]'" in str(load_baselines(bundle, 1)["torch_eager"])


def test_machine_and_memory_are_described() -> None:
    machine = describe_machine()
    assert machine["cpu"] and machine["cpus"] >= 1
    assert machine["simd"] in machine["simd_paths"]
    assert machine["libraries"]["numpy"] == np.__version__
    assert 10 < peak_rss_mb() < 20_000


def test_peak_of_every_kind_and_path() -> None:
    before = _native.simd()
    try:
        for path in _native.simd_paths():
            _native.set_simd(path)
            assert "fp32" in _native.peak_kinds()
            for kind in _native.peak_kinds():
                assert _native.measure_peak(kind, 1, 0.01) > 1e8
        with pytest.raises(ValueError, match="peak_kinds"):
            _native.measure_peak("fp7", 1, 0.01)
        with pytest.raises(ValueError, match="threads"):
            _native.measure_peak("fp32", 0, 0.01)
        with pytest.raises(ValueError, match="seconds"):
            _native.measure_peak("fp32", 1, 0.0)
    finally:
        _native.set_simd(before)


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, " ".join(err.split())


def test_command_measures_draws_and_compares(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, sound, made = (
        write_tiny_bundle(tmp_path / "tiny.avatar"),
        tmp_path / "short.wav",
        tmp_path / "b.json",
    )
    soundfile.write(sound, _sound(1.0), RATE)
    options = ["--seconds", "0.1", "--threads", "1", "--sessions", "2"]
    files = ["--audio", sound, "--json", made, "--plot", tmp_path / "b.png"]
    code, out, err = _run(capsys, "bench", bundle, *options, *files)
    assert code == 0, err
    assert "real time at 25 fps for 2 sessions" in out
    assert "head.onnx" in out  # this bundle's is not a model, and the report says so
    assert (tmp_path / "b.png").stat().st_size > 10_000
    assert read_report(made)["baselines"] == dict.fromkeys(BASELINES)
    write_report(report, tmp_path / "a.json")
    code, out, _ = _run(capsys, "bench", "--compare", tmp_path / "a.json", made)
    assert code == 0
    assert "sessions: 1 / 2" in out


def test_command_asks_for_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "bench")[0] == 2
    code, _, err = _run(capsys, "bench", "--compare", tmp_path / "a", tmp_path / "b")
    assert (code, "make one with synctalk bench" in err) == (1, True)
    code, _, err = _run(capsys, "bench", tmp_path / "none.avatar")
    assert (code, "no such bundle" in err) == (1, True)


def test_a_fresh_process_that_fails_says_why(tmp_path: Path) -> None:
    from synctalk.bench.streams import fresh_process

    with pytest.raises(BackendError, match="fresh process"):
        fresh_process(tmp_path / "none", tmp_path / "none.wav", {}, 1, 0.0)

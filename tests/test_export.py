"""The export: planes, ONNX files and track are the trained subject, and a bundle that is not is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from synctalk.backends import create_backend
from synctalk.bundle import TENSORS, open_bundle, verify_bundle
from synctalk.errors import BackendError, ExportError, TrainingError
from synctalk.media import read_video
from synctalk.spec import Level, Spec, preset
from synctalk_export.commands import export
from synctalk_export.export import ExportOptions, export_bundle
from synctalk_export.onnx_models import Head
from synctalk_export.parity import Check, check_parity, parity_table
from synctalk_export.plane_lookup import OPSET
from synctalk_export.subject import Subject, subject_of
from synctalk_export.track import choose_span, encode_plate, encode_png
from synctalk_trainer.planes import node_planes, unroll
from synctalk_trainer.run import Run
from tiny_subject import N_FRAMES, SIZE, tiny_spec, tiny_subject


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Path]:
    """A subject and its bundle."""
    subject, path = tiny_subject(), tmp_path_factory.mktemp("export") / "tiny.avatar"
    export_bundle(subject, path, ExportOptions(licence="CC0-1.0", consent="synthetic", plate_seconds=1.2))
    return subject, path


def _node(table: np.ndarray, level: Level, u: int, v: int) -> np.ndarray:
    """The table's entry of a node, by the rule of the paper."""
    index = (u ^ (v * 2_654_435_761)) & 0xFFFFFFFF if level.is_hashed else u + v * level.resolution
    return table[level.offset + index % level.size]


@pytest.mark.parametrize("name", ["tiny", "paper"])
def test_unrolled_nodes_are_the_entries_of_the_table(name: str) -> None:
    grid = preset(name).field.grid
    table = np.random.default_rng(0).normal(size=(grid.n_entries, 2)).astype(np.float32)
    for level in (grid.levels[0], grid.levels[-1]):
        plane = unroll(table, level)
        assert plane.shape == (2, level.n_nodes, level.n_nodes)
        for u, v in [(0, 0), (1, 0), (0, 1), (3, 7), (level.n_nodes - 1, level.n_nodes - 1)]:
            np.testing.assert_array_equal(plane[:, v, u], _node(table, level, u, v))


@pytest.mark.parametrize("channels", [1, 2])
def test_planes_look_up_what_the_hash_grid_does(channels: int) -> None:
    grid = dataclasses.replace(preset("tiny").field.grid, n_channels=channels)
    field = tiny_subject(tiny_spec(grid=grid)).field
    field.tables.copy_(field.tables.half().float())
    planes = node_planes(field.tables.numpy(), grid)
    positions = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    positions[:8] = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)])
    condition, expression = torch.rand(2000, 8), torch.rand(2000, 7)
    head = Head(field, planes)
    for got, expected in zip(
        head(positions, condition, expression), field.query(positions, condition, expression), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_damaged_tables_are_refused() -> None:
    subject = tiny_subject()
    for value in (float("nan"), 1e6):
        subject.field.tables[0, 0, 0] = value
        with pytest.raises(TrainingError, match="train it again"):
            node_planes(subject.field.tables.numpy(), subject.spec.field.grid)


def test_bundle_holds_the_subject(exported: tuple[Subject, Path]) -> None:
    subject, path = exported
    assert verify_bundle(path) == []
    bundle = open_bundle(path)
    manifest, tensors = bundle.manifest, bundle.tensors
    assert (manifest.name, manifest.licence, manifest.consent) == ("tiny", "CC0-1.0", "synthetic")
    assert manifest.spec == subject.spec and manifest.camera == subject.camera
    assert (manifest.frame.width, manifest.frame.height, manifest.frame.fps) == (SIZE, SIZE, 25)
    assert manifest.training["parity"]["frames: torch - onnx"]["psnr_db"] >= 60
    cells = np.unpackbits(tensors["occupancy"], count=subject.occupancy.size, bitorder="little")
    np.testing.assert_array_equal(cells.reshape(subject.occupancy.shape), subject.occupancy)
    np.testing.assert_array_equal(tensors["field.density.0"], subject.field.density[0].numpy())
    np.testing.assert_array_equal(tensors["condition.rest"], subject.condition_rest)
    assert tensors["track.rotation"].shape == (30, 3, 3)
    trained = subject.expression[subject.usable]
    assert (tensors["expression.range"][0] <= np.quantile(trained, 0.01, axis=0)).all()
    assert (tensors["expression.range"][1] >= np.quantile(trained, 0.99, axis=0)).all()


def test_plate_and_track_are_the_same_frames(exported: tuple[Subject, Path]) -> None:
    subject, path = exported
    bundle = open_bundle(path)
    film = read_video(bundle.read("plate.mp4"))
    assert film.shape == (30, SIZE, SIZE, 3)
    assert np.abs(film.astype(int) - subject.background).mean() < 4
    np.testing.assert_array_equal(read_video(bundle.read("background.png"))[0], subject.background)


def test_onnx_files_are_portable(exported: tuple[Subject, Path]) -> None:
    """Names, free sizes, opset, provenance; planes outside, and nothing of the machine they were made on."""
    subject, path = exported
    bundle = open_bundle(path)
    names = {
        "audio.onnx": (["mel_windows"], ["condition"]),
        "head.onnx": (["positions", "condition", "expression"], ["log_density", "feature"]),
        "colour.onnx": (["feature", "direction", "appearance"], ["colour"]),
    }
    for member, (inputs, outputs) in names.items():
        model = onnx.load_from_string(bundle.read(member))
        assert [value.name for value in model.graph.input] == inputs
        assert [value.name for value in model.graph.output] == outputs
        for value in [*model.graph.input, *model.graph.output]:
            assert value.type.tensor_type.shape.dim[0].dim_param
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        assert opsets == {"": OPSET} | ({"synctalk": 1} if member == "head.onnx" else {})
        assert {entry.key: entry.value for entry in model.metadata_props}[
            "synctalk.spec"
        ] == subject.spec.digest
        assert str(Path.cwd()).encode() not in bundle.read(member)
        assert not any(node.doc_string for node in model.graph.node)
    outside = [
        t for t in onnx.load_from_string(bundle.read("head.onnx")).graph.initializer if t.external_data
    ]
    assert len(outside) == 3 * subject.spec.field.grid.n_levels
    packed = bundle.read(TENSORS)
    for tensor in outside:
        where = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(where["offset"]), int(where["length"])
        assert where["location"] == TENSORS
        assert packed[offset : offset + length] == bundle.tensors[tensor.name].tobytes()


def test_equal_subjects_give_equal_onnx_files(exported: tuple[Subject, Path], tmp_path: Path) -> None:
    again = tmp_path / "again"
    export_bundle(tiny_subject(), again, ExportOptions(plate_seconds=1.2))
    for member in ("audio.onnx", "head.onnx", "colour.onnx", TENSORS):
        assert (again / member).read_bytes() == open_bundle(exported[1]).read(member)


@pytest.mark.parametrize(
    "spec",
    [
        tiny_spec(deferred=False, gate="none"),
        tiny_spec(colour_layers=2, density_layers=2, attention_hidden=64),
        dataclasses.replace(preset("paper"), field=tiny_spec(condition=32).field),
    ],
    ids=["colour at every sample", "deeper", "published audio encoder"],
)
def test_other_designs_pass_parity(spec: Spec, tmp_path: Path) -> None:
    done = export_bundle(tiny_subject(spec), tmp_path / "x.avatar")
    assert all(check.passed for check in done.checks)


@pytest.mark.parametrize("part", ["audio", "field.density", "field.colour", "field.tables"])
def test_parity_refuses_another_model(exported: tuple[Subject, Path], part: str) -> None:
    _, path = exported
    other = tiny_subject()
    parameters = {**{f"field.{k}": v for k, v in other.field.named_parameters()}}
    parameters |= {f"audio.{k}": v for k, v in other.audio.state_dict().items()}
    for name, values in parameters.items():
        if name.startswith(part):
            values.mul_(1.05)
    with pytest.raises(ExportError, match="FAILS"):
        check_parity(other, open_bundle(path))


def test_nothing_is_written_when_the_export_fails(tmp_path: Path) -> None:
    subject = tiny_subject()
    empty = dataclasses.replace(subject, occupancy=np.zeros_like(subject.occupancy))
    with pytest.raises(ExportError, match="occupancy"):
        export_bundle(empty, tmp_path / "x.avatar")
    odd = dataclasses.replace(subject, camera=dataclasses.replace(subject.camera, width=63))
    with pytest.raises(ExportError, match="even"):
        export_bundle(odd, tmp_path / "x.avatar")
    assert list(tmp_path.iterdir()) == []


def test_int16_is_offered_where_it_is_good_enough(
    exported: tuple[Subject, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(exported[1])
    assert (bundle.tensors["field.ranges"] > 0).all()
    assert bundle.manifest.training["parity"]["frames: native-cpu float32 - int16"]["psnr_db"] >= 60
    assert getattr(create_backend("native-cpu", bundle, precision="int16"), "arithmetic", None) == "int16"

    failed = Check("frames: native-cpu float32 - int16", 0.5, 60.0, 20.0)
    monkeypatch.setattr("synctalk_export.export.int16_check", lambda bundle: failed)
    export_bundle(tiny_subject(), tmp_path / "coarse.avatar")
    coarse = open_bundle(tmp_path / "coarse.avatar")
    assert getattr(create_backend("native-cpu", coarse), "arithmetic", None) == "fp32"
    for precision in ("int16", "int8"):
        with pytest.raises(BackendError, match="no ranges for it"):
            create_backend("native-cpu", coarse, precision=precision)


def test_int8_is_offered_where_it_is_good_enough_and_chosen_where_it_is_fast(
    exported: tuple[Subject, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(exported[1])
    assert bundle.tensors["field.byte_reach"][0] in (1.0, np.float32(0.7))
    assert bundle.manifest.training["parity"]["frames: native-cpu float32 - int8"]["psnr_db"] >= 40
    assert getattr(create_backend("native-cpu", bundle, precision="int8"), "arithmetic", None) == "int8"
    for path, chosen in (
        ("portable", "int16"),
        ("avx512", "int16"),
        ("avx2", "int8"),
        ("avx512vnni", "int8"),
    ):
        monkeypatch.setattr("synctalk._native.simd", lambda path=path: path)
        assert getattr(create_backend("native-cpu", bundle), "arithmetic", None) == chosen

    failed = Check("frames: native-cpu float32 - int8", 0.5, 40.0, 20.0)
    monkeypatch.setattr("synctalk_export.export.int8_check", lambda bundle, reach: failed)
    export_bundle(tiny_subject(), tmp_path / "coarse.avatar")
    coarse = open_bundle(tmp_path / "coarse.avatar")
    assert coarse.tensors["field.byte_reach"][0] == 0
    assert getattr(create_backend("native-cpu", coarse), "arithmetic", None) == "int16"
    with pytest.raises(BackendError, match="no ranges for it"):
        create_backend("native-cpu", coarse, precision="int8")


def test_parity_table_says_what_fails() -> None:
    table = parity_table([Check("a", 1e-6, 1e-4), Check("frames", 0.1, 60.0, 20.0)])
    lines = table.splitlines()
    assert "FAILS" not in lines[1] and lines[2].endswith("FAILS") and "20.0 dB" in lines[2]


def _still(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.eye(3, dtype=np.float32), (n, 1, 1)), np.zeros((n, 3), np.float32)


def test_span_stays_in_a_take_and_in_usable_frames() -> None:
    usable = np.ones(200, bool)
    usable[150] = False
    assert choose_span([(0, 60), (60, 200)], usable, *_still(200), max_frames=300) == (60, 150)


def test_span_turns_where_the_head_rests() -> None:
    rotation, translation = _still(300)
    speed = np.full(300, 0.01, np.float32)
    speed[100], speed[199] = 0, 0  # from 100 to 101, from 199 to 200
    translation[1:, 0] = np.cumsum(speed)[:-1]
    assert choose_span([(0, 300)], np.ones(300, bool), rotation, translation, max_frames=101) == (100, 201)


def test_span_of_less_than_a_second_is_refused() -> None:
    with pytest.raises(ExportError, match="24 of at least 25"):
        choose_span([(0, 24)], np.ones(24, bool), *_still(24), max_frames=300)
    with pytest.raises(ExportError, match="0 of at least 25"):
        choose_span([(0, 30)], np.zeros(30, bool), *_still(30), max_frames=300)


def test_pictures_survive_their_files() -> None:
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (32, 48, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_video(encode_png(picture))[0], picture)
    smooth = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[:, None], (5, 32, 48, 3))
    film = read_video(encode_plate(iter(smooth), 25, crf=10))
    assert film.shape == smooth.shape
    assert np.abs(film.astype(int) - smooth).mean() < 3


def test_manifest_figures_are_json(exported: tuple[Subject, Path]) -> None:
    json.dumps(open_bundle(exported[1]).manifest.training, allow_nan=False)
    assert len(exported[0].usable) == N_FRAMES


def test_subject_of_a_run_uses_trained_frames_only() -> None:
    subject = tiny_subject()
    model = SimpleNamespace(field=subject.field, audio=subject.audio)
    info = {"source": {"width": 320, "height": 240}, "crop": {"x": 40.5, "y": 10.25, "side": 200.0}}
    takes = ((0, 50), (50, 100))
    valid = np.ones(100, bool)
    valid[3] = False
    dataset = SimpleNamespace(
        info=info,
        takes=takes,
        valid=valid,
        n_frames=100,
        plates=subject.plates,
        background=subject.background,
    )
    run = SimpleNamespace(
        path=Path("without-an-upsampler"),
        spec=subject.spec,
        model=model,
        dataset=dataset,
        settings=SimpleNamespace(holdout="last", preset="tiny"),
        occupancy=subject.occupancy,
        appearance_mean=subject.appearance,
        condition_rest=subject.condition_rest,
        condition_mean=subject.condition_mean,
        condition_gain=1.1,
        conditions_rendered=subject.conditions,
        camera=subject.camera,
        poses=(subject.rotation, subject.translation),
        expression=subject.expression,
        step=7,
        seconds_trained=12.34,
    )
    got = subject_of(cast(Run, run), "may")
    assert got.name == "may" and got.placement == subject.placement
    assert not got.usable[3] and got.usable[:3].all() and not got.usable[-9:].any()
    assert got.training == {"preset": "tiny", "steps": 7, "seconds": 12.3, "frames": int(got.usable.sum())}


def test_command_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"run\.json"):
        export(tmp_path, tmp_path / "x.avatar")

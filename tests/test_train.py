"""Training: it learns, resumes exactly, keeps what it has, and names what breaks."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from synctalk.cli import main
from synctalk.errors import DatasetError, TrainingError
from synctalk.geometry import pixel_rays
from synctalk.spec import AudioSpec, preset
from synctalk_trainer import audio_fit
from synctalk_trainer.audio_branch import KernelEncoder
from synctalk_trainer.audio_fit import AudioFit, fit_kernel
from synctalk_trainer.dataset import Dataset
from synctalk_trainer.losses import patch_loss, structural_similarity, thickness
from synctalk_trainer.lower_face import beyond_sound
from synctalk_trainer.metrics import jitter
from synctalk_trainer.modules import spherical_harmonics
from synctalk_trainer.occupancy import Occupancy, cell_centres, lower_face
from synctalk_trainer.preview import compose
from synctalk_trainer.rendering import RayBatch, render_rays
from synctalk_trainer.run import Run, Settings, load_run, settings_of, write_settings
from synctalk_trainer.scene import Scene, least_opacity
from synctalk_trainer.train import Trainer, start
from synctalk_trainer.train_command import train_run
from test_perceptual import write_contrast
from tiny_dataset import SIZE, write_tiny_dataset


class Quiet:
    """A progress that remembers the PSNR."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.psnr: list[float] = []
        self.stop_at = stop_at

    def step(self, step: int, fraction: float, loss: float, psnr: float, samples: int) -> None:
        self.psnr.append(psnr)
        if step == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("ball") / "data")


def _settings(dataset: Path, steps: int, **changes: object) -> Settings:
    return Settings(
        str(dataset),
        "tiny",
        None,
        steps,
        frames_per_step=4,
        samples_per_step=6_000,
        **changes,  # type: ignore[arg-type]
    )


def _trainer(dataset: Path, out: Path, steps: int) -> Trainer:
    spec = preset("tiny")
    return start(Scene(Dataset.open(dataset), spec), spec, _settings(dataset, steps), out)


def test_a_perceptual_distance_joins_the_loss_of_patches(dataset: Path, tmp_path: Path) -> None:
    settings = _settings(dataset, 12, lpips=str(write_contrast(tmp_path / "contrast.pt")))
    spec = preset("tiny")
    trainer = start(Scene(Dataset.open(dataset), spec), spec, settings, tmp_path / "run")
    seen: list[float] = []
    given = trainer.perceptual
    assert given is not None

    def watched(rendered: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        found = given(rendered, truth)
        seen.append(float(found.detach()))
        return found

    trainer.perceptual = watched
    trainer.run(Quiet())
    assert len(seen) == 2  # every third step of the second half
    assert min(seen) > 0


@torch.no_grad()
def _marched(run: Run, frame: int) -> np.ndarray:
    """A frame as training renders it, premultiplied RGBA [H, W, 4]."""
    camera, request = run.camera, run.request_of(frame)
    v, u = np.mgrid[: camera.height, : camera.width]
    pixels = np.stack([u.ravel(), v.ravel()], axis=-1).astype(np.float32)
    rays = RayBatch(*pixel_rays(camera, request.rotation, request.translation, pixels), 1)
    jitter = np.full(len(pixels), 0.5, np.float32)
    driven = (
        torch.tensor(values)[None] for values in (request.condition, request.expression, request.appearance)
    )
    seen = render_rays(run.model.field, run.occupancy_grid, rays, jitter, *driven, run.spec.field.step_m)
    rgba = torch.cat([seen.colour * seen.alpha[:, None], seen.alpha[:, None]], dim=-1)
    return rgba.numpy().reshape(camera.height, camera.width, 4)


def test_training_learns_the_ball(dataset: Path, tmp_path: Path) -> None:
    trainer = _trainer(dataset, tmp_path / "run", 260)
    progress = Quiet()
    trainer.run(progress)
    run = load_run(tmp_path / "run")
    frame = int(trainer.held_out[2])
    rgba = run.render(frame)
    shown = compose(rgba, run.dataset.plates[frame]).astype(float)
    truth, head = run.dataset.frames[frame].astype(float), run.dataset.masks[frame] == 2
    without = np.abs(run.dataset.plates[frame].astype(float) - truth)[head].mean()
    assert np.abs(shown - truth)[head].mean() < 0.4 * without
    assert rgba[..., 3][head].mean() > 0.85
    assert rgba[..., 3][:4].mean() < 0.1
    assert np.isfinite(rgba).all()
    assert (
        np.abs(rgba[::7, ::5] - _marched(run, frame)[::7, ::5]).max() < 0.01
    )  # grid values are rounded to halves
    assert progress.psnr[-1] > progress.psnr[10] + 1.5
    assert list((tmp_path / "run" / "preview").glob("*.png"))


def test_resume_is_exact(dataset: Path, tmp_path: Path) -> None:
    _trainer(dataset, tmp_path / "whole", 20).run(Quiet())
    stopped = _trainer(dataset, tmp_path / "parts", 20)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(Quiet(stop_at=11))
    again = Trainer(stopped.scene, stopped.spec, stopped.settings, tmp_path / "parts")
    again.resume()
    assert again.clock.step == 11
    again.run(Quiet())
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    parts = load_file(tmp_path / "parts" / "checkpoint.safetensors")
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)


def test_the_published_design_trains_its_audio_with_the_field(dataset: Path, tmp_path: Path) -> None:
    paper = preset("paper")
    spec = dataclasses.replace(paper, audio=dataclasses.replace(paper.audio, encoder_width=2, embedding=32))
    trainer = start(Scene(Dataset.open(dataset), spec), spec, _settings(dataset, 4), tmp_path / "run")
    weights = {k: v.clone() for k, v in trainer.model.audio.named_parameters()}
    trainer.run(Quiet())
    changed = [k for k, v in trainer.model.audio.named_parameters() if not torch.equal(v, weights[k])]
    assert len(changed) > len(weights) // 2
    run = load_run(tmp_path / "run")
    with torch.no_grad():
        heard = run.model.audio(trainer.scene.audio.of(np.arange(run.dataset.n_frames)))
    np.testing.assert_allclose(run.conditions, heard.numpy(), atol=1e-5)
    assert np.isfinite(run.render(3)).all()


def test_a_loss_that_is_not_finite_is_named_and_the_checkpoint_kept(dataset: Path, tmp_path: Path) -> None:
    trainer = _trainer(dataset, tmp_path / "run", 10)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(Quiet(stop_at=2))
    with torch.no_grad():
        trainer.model.field.density[0][3, 3] = float("nan")
    with pytest.raises(TrainingError, match=r"step 2.*field\.density\.0.*--resume"):
        trainer.run(Quiet())
    kept = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert all(np.isfinite(v).all() for v in kept.values() if v.dtype.kind == "f")


def test_a_folder_with_a_run_is_not_overwritten(dataset: Path, tmp_path: Path) -> None:
    console = Console(quiet=True)
    train_run(dataset, tmp_path / "run", _settings(dataset, 3), False, "cpu", 1, console)
    with pytest.raises(TrainingError, match="--resume"):
        train_run(dataset, tmp_path / "run", _settings(dataset, 3), False, "cpu", 1, console)
    with pytest.raises(TrainingError, match=r"run\.json is missing"):
        train_run(dataset, tmp_path / "none", _settings(dataset, 3), True, "cpu", 1, console)
    with pytest.raises(TrainingError, match="choose auto, cpu or cuda"):
        train_run(dataset, tmp_path / "other", _settings(dataset, 3), False, "tpu", 1, console)


def test_train_says_what_minutes_leave_out(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(dataset), "-o", str(tmp_path / "run"), "--preset", "tiny"]
    with pytest.raises(SystemExit):
        main([*command, "--steps", "3", "--device", "cpu"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("preparing: ") and "not part of --minutes" in said
    assert "trained 3 steps in 0.0 min" in said
    assert re.search(r"this call: \d+\.\d min, with preparation, checkpoints and previews", said)


def test_a_damaged_dataset_is_refused(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data", n_frames=30)
    (data / "masks.npy").write_bytes((data / "masks.npy").read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"masks\.npy.*synctalk prepare"):
        Dataset.open(data)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        Dataset.open(tmp_path)


def test_windows_of_a_take_hear_nothing_of_the_next(tmp_path: Path) -> None:
    spec = preset("tiny")
    one = Scene(Dataset.open(write_tiny_dataset(tmp_path / "one", 60, takes=1)), spec)
    two = Scene(Dataset.open(write_tiny_dataset(tmp_path / "two", 60, takes=2)), spec)
    frames = np.array([5, 29])
    same, cut = one.audio.of(frames), two.audio.of(frames)
    torch.testing.assert_close(same[0], cut[0])
    silence = spec.audio.silence
    assert (cut[1][..., -4:-1] == silence).all()  # the last column is the voice
    assert (same[1][..., -4:-1] > silence).any()


def test_kernel_encoder_predicts_unseen_frames() -> None:
    spec = AudioSpec(components=32, cosines=256)
    generator = np.random.default_rng(1)
    hidden = np.cumsum(generator.normal(size=(600, 3)), axis=0)
    hidden = (hidden - hidden.mean(axis=0)) / hidden.std(axis=0)
    mix = generator.normal(size=(3, spec.n_mels * spec.window_columns))
    windows = torch.from_numpy((hidden @ mix * 0.2).astype(np.float32)).view(600, 1, spec.n_mels, -1)
    target = torch.from_numpy(
        np.stack([hidden[:, 0], np.sin(hidden[:, 1]), hidden[:, 2]], 1).astype(np.float32)
    )
    encoder = KernelEncoder(spec, 3)
    fit = fit_kernel(
        encoder, encoder.inputs(windows), target, np.arange(600), np.zeros(600, np.int64), generator
    )
    assert fit.error < 0.35
    assert fit.correlation > 0.8
    known = encoder(windows)
    assert float(((known - target) ** 2).mean()) < fit.error


def test_kernel_encoder_is_as_calm_as_its_accuracy_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mouth that moves slowly is predicted from windows that shake: what shakes is left out, at little cost."""
    spec = AudioSpec(components=32, cosines=256)
    generator = np.random.default_rng(2)
    times = np.arange(800) / 25
    slow = np.sin(2 * np.pi * times[:, None] * np.array([0.7, 1.1]) + [0.0, 1.0])
    shaking = generator.normal(size=(800, 6))
    mix = generator.normal(size=(8, spec.n_mels * spec.window_columns))
    seen = np.concatenate([slow + generator.normal(size=slow.shape), shaking], axis=1) @ mix
    windows = torch.from_numpy((0.1 * seen).astype(np.float32)).view(800, 1, spec.n_mels, -1)
    target = torch.from_numpy(slow.astype(np.float32))

    def fitted() -> AudioFit:
        rng, encoder = np.random.default_rng(3), KernelEncoder(spec, 2)
        inputs = encoder.inputs(windows)
        return fit_kernel(encoder, inputs, target, np.arange(800), np.zeros(800, np.int64), rng)

    calm = fitted()
    monkeypatch.setattr(audio_fit, "_CALMS", (0.0,))
    restless = fitted()
    assert calm.calm > 0
    assert calm.error < 1.1 * restless.error
    whole = [slice(0, 800)]
    assert jitter(calm.unseen.numpy(), whole) < 0.8 * jitter(restless.unseen.numpy(), whole)


def test_a_shadow_is_as_opaque_as_it_is_dark() -> None:
    plate = np.array([[150, 120, 90], [150, 120, 90], [150, 120, 90], [200, 200, 200]], np.uint8)
    seen = np.array([[150, 120, 90], [120, 96, 72], [20, 10, 10], [255, 255, 255]], np.uint8)
    np.testing.assert_allclose(least_opacity(seen, plate), [0.0, 0.3, 1.0, 1.0], atol=1e-6)


def test_shadows_may_be_thick_and_skin_may_not() -> None:
    weights, rays = torch.tensor([0.5, 0.5, 1.0]), torch.tensor([0, 0, 1])
    assert float(thickness(weights, rays, torch.tensor([1.0, 1.0]))) == pytest.approx(0.25)
    assert float(thickness(weights, rays, torch.tensor([0.5, 1.0]))) == 0


def test_occupancy_keeps_what_was_seen_and_its_neighbours() -> None:
    occupancy = Occupancy(np.ones((8, 8, 8), bool))
    seen = torch.tensor([[0.5, 0.5, 0.5]])
    for _ in range(60):
        occupancy.observe(seen, torch.tensor([0.9]))
        share = occupancy.refresh()
    cells = occupancy.cells
    assert cells[4, 4, 4]
    assert cells.sum() == 7
    assert share == pytest.approx(7 / 512)
    again = Occupancy.from_state(occupancy.state(), 8)
    np.testing.assert_array_equal(again.cells, cells)


def test_tightened_occupancy_drops_faint_cells() -> None:
    occupancy = Occupancy(np.ones((8, 8, 8), bool))
    positions = torch.tensor([[0.3, 0.3, 0.3], [0.8, 0.8, 0.8]])
    for _ in range(60):
        occupancy.observe(positions, torch.tensor([0.9, 0.05]))
        occupancy.refresh()
    assert occupancy.cells[6, 6, 6] and occupancy.cells[2, 2, 2]
    occupancy.tighten(np.zeros((8, 8, 8), bool))
    assert not occupancy.cells[6, 6, 6]
    assert occupancy.cells[2, 2, 2] and occupancy.cells.sum() == 7


def test_tightened_occupancy_keeps_faint_cells_of_the_moving_face() -> None:
    occupancy = Occupancy(np.ones((8, 8, 8), bool))
    moving = np.zeros((8, 8, 8), bool)
    moving[:, :4] = True
    low, high = [0.8, 0.3, 0.8], [0.8, 0.8, 0.8]
    occupancy.seen[:] = 0
    occupancy.observe(torch.tensor([low, high]), torch.tensor([0.05, 0.05]))
    occupancy.tighten(moving)
    assert occupancy.cells[6, 2, 6] and not occupancy.cells[6, 6, 6]


def test_lower_face_ends_at_the_nose() -> None:
    spec = preset("tiny").field
    mesh = np.zeros((478, 3), np.float32)
    mesh[2, 1] = 0.02
    g = spec.occupancy_resolution
    height = cell_centres(spec, g)[0, :, 0, 1]
    lower = lower_face(spec, mesh)
    assert lower.shape == (g, g, g)
    np.testing.assert_array_equal(lower.all(axis=(0, 2)), height < 0.02)
    np.testing.assert_array_equal(lower.any(axis=(0, 2)), height < 0.02)


def test_cell_centres_are_ordered_z_y_x() -> None:
    spec = preset("tiny").field
    centres = cell_centres(spec, 4)
    assert centres.shape == (4, 4, 4, 3)
    assert centres[0, 0, 1, 0] > centres[0, 0, 0, 0]
    assert centres[1, 0, 0, 2] > centres[0, 0, 0, 2]


def test_structure_is_perfect_on_equal_patches_and_falls_with_blur() -> None:
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert float(structural_similarity(picture, picture)) == pytest.approx(1.0, abs=1e-5)
    assert float(patch_loss(picture, picture)) == pytest.approx(0.0, abs=1e-5)
    assert float(patch_loss(blurred, picture)) > 0.1


def test_spherical_harmonics_are_orthonormal() -> None:
    generator = np.random.default_rng(0)
    direction = generator.normal(size=(200_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    values = spherical_harmonics(torch.from_numpy(direction)).numpy()
    product = values.T @ values / len(values) * 4 * np.pi
    np.testing.assert_allclose(product, np.eye(16), atol=0.05)


def test_pixels_and_patches_stay_in_the_picture(dataset: Path) -> None:
    scene = Scene(Dataset.open(dataset), preset("tiny"))
    generator = np.random.default_rng(0)
    for frame in (0, 40, 74):
        for chosen in (scene.pixels(frame, 500, generator), scene.patch(frame, 32, generator)):
            assert chosen.min() >= 0
            assert chosen.max() < SIZE


def test_shut_eyes_are_drawn_often_however_rare_they_are(dataset: Path, tmp_path: Path) -> None:
    data = Dataset.open(dataset)
    data.expression[:] = 0.05
    data.expression[20, 5:7] = 0.7  # one frame of 75
    spec = preset("tiny")
    scene = Scene(data, spec)
    assert scene.shutness[20] > 0.9
    assert scene.shutness[[10, 30]].max() == 0.0
    trainer = start(scene, spec, _settings(dataset, 10), tmp_path / "run")
    share = dict(zip(trainer.train_frames.tolist(), trainer._shares().tolist(), strict=True))
    assert sum(share.values()) == pytest.approx(1.0)
    assert share[20] == pytest.approx(0.12, abs=0.02)
    assert share[20] > 5 * share[21]
    x0, y0, x1, y1 = scene.regions[20, 3]

    def in_eyes(frame: int) -> float:
        u, v = scene.pixels(frame, 4000, np.random.default_rng(0)).T
        return float(((u >= x0) & (u < x1) & (v >= y0) & (v < y1)).mean())

    assert in_eyes(20) > in_eyes(21)


def test_eyes_that_never_shut_are_not_looked_for(dataset: Path) -> None:
    data = Dataset.open(dataset)
    data.expression[:] = np.linspace(0.05, 0.15, len(data.expression), dtype=np.float32)[:, None]
    assert not Scene(data, preset("tiny")).shutness.any()


def test_sound_moves_what_is_below_the_nose(dataset: Path, tmp_path: Path) -> None:
    """Energy of the change from closed to open mouth: most of it lies below the nose base so early; a third without masks."""
    trainer = _trainer(dataset, tmp_path / "run", 150)
    trainer.run(Quiet())
    run = load_run(tmp_path / "run")
    truth = load_file(tmp_path / "run/checkpoint.safetensors")["condition.truth"]
    shut, wide = truth[:, 0].argmin(), truth[:, 0].argmax()
    below = total = 0.0
    for frame in (3, 30, 60):
        run.conditions_rendered[frame] = truth[shut]
        before = compose(run.render(frame), run.dataset.plates[frame]).astype(float)
        run.conditions_rendered[frame] = truth[wide]
        energy = (compose(run.render(frame), run.dataset.plates[frame]) - before) ** 2
        nose_row = round(float(run.dataset.landmarks[frame, 2, 1]))
        below, total = below + energy[nose_row + 1 :].sum(), total + energy.sum()
    assert total > 0
    assert below / total > 0.7


def _filmed(path: Path, **columns: np.ndarray) -> None:
    """Put coefficients in a dataset, its columns in another order."""
    stored = np.load(path / "expression.npz")
    names, values = list(stored["names"]), stored["values"].copy()
    for name, column in columns.items():
        values[:, names.index(name)] = column
    order = np.random.default_rng(0).permutation(len(names))
    np.savez(path / "expression.npz", values=values[:, order], names=np.array(names)[order])


def test_columns_of_a_dataset_are_found_by_name(tmp_path: Path) -> None:
    path = write_tiny_dataset(tmp_path / "data", 30)
    _filmed(path, browInnerUp=np.full(30, 0.25), eyeBlinkRight=np.full(30, 0.75), jawOpen=np.full(30, 0.5))
    names = ("jawOpen", "eyeBlinkRight", "browInnerUp")
    data = Dataset.open(path, names)
    assert data.expression_names == names
    np.testing.assert_array_equal(data.expression[0], np.array([0.5, 0.75, 0.25], np.float32))
    with pytest.raises(DatasetError, match=r"has no wink.*--steps expression"):
        Dataset.open(path, ("wink",))
    np.savez(path / "expression.npz", values=np.zeros((30, 2)), names=np.array(["jawOpen", "jawOpen"]))
    with pytest.raises(DatasetError, match="twice"):
        Dataset.open(path, ("jawOpen",))
    with pytest.raises(ValueError, match="was opened with"):
        Scene(Dataset.open(write_tiny_dataset(tmp_path / "other", 30), ("jawOpen",)), preset("tiny"))


def test_lower_face_learns_what_sound_leaves_open() -> None:
    generator = np.random.default_rng(0)
    conditions = generator.normal(size=(400, 4)).astype(np.float32)
    smile = np.repeat(generator.uniform(0, 0.3, 20), 20)
    filmed = np.stack([0.4 + 0.05 * conditions[:, 0] + smile, generator.random(400)], axis=1).astype(
        np.float32
    )
    names = ("mouthSmileLeft", "browInnerUp")
    shown = beyond_sound(filmed, names, lambda: conditions, np.arange(300))
    np.testing.assert_array_equal(shown[:, 1], filmed[:, 1])
    assert abs(np.corrcoef(shown[300:, 0], conditions[300:, 0])[0, 1]) < 0.1
    assert np.corrcoef(shown[300:, 0], smile[300:])[0, 1] > 0.98

    def unasked() -> np.ndarray:
        raise AssertionError("sound is asked only where the lower face is learned")

    assert beyond_sound(filmed, ("eyeLookInLeft", "browInnerUp"), unasked, np.arange(300)) is filmed


def test_smile_and_gaze_move_their_region_of_the_picture(tmp_path: Path) -> None:
    """Which region a coefficient acts in. Whether it learns what was filmed takes more training than a test has."""
    path = write_tiny_dataset(tmp_path / "data")
    smiles = (np.arange(75) // 9 % 2).astype(np.float32)
    looks = (np.arange(75) // 13 % 2).astype(np.float32)
    _filmed(path, mouthSmileLeft=smiles, eyeLookInLeft=looks)
    pose = dict(np.load(path / "pose.npz"))
    pose["points_m"][[10, 46, 276, 70, 300], 1:] = (0.06, 0.06)  # hairline and brows, which a ball lacks
    np.savez(path / "pose.npz", **pose)
    names = ("eyeLookInLeft", "mouthSmileLeft")
    settings = _settings(path, 20)
    console = Console(quiet=True)
    train_run(path, tmp_path / "run", settings, False, "cpu", 1, console, None, names)
    run = load_run(tmp_path / "run")
    assert run.spec.field.expression_names[-2:] == names
    for name in names:
        column, above, total = run.spec.field.expression_names.index(name), 0.0, 0.0
        for frame in (3, 40, 60):
            request = run.request_of(frame)
            pictures = []
            for value in (run.expression[:, column].min(), run.expression[:, column].max()):
                drive = request.expression.copy()
                drive[column] = value
                head = run.draw(dataclasses.replace(request, expression=drive))
                pictures.append(compose(head, run.dataset.plates[frame]).astype(float))
            energy = (pictures[1] - pictures[0]) ** 2
            nose_row = round(float(run.dataset.landmarks[frame, 2, 1]))
            above, total = above + energy[: nose_row + 1].sum(), total + energy.sum()
        assert total > 1e3, name
        assert (above / total > 0.7) if name.startswith("eye") else (above / total < 0.3), (
            name,
            above / total,
        )


def test_the_published_design_cannot_learn_a_smile(tmp_path: Path) -> None:
    path = write_tiny_dataset(tmp_path / "data", 30)
    settings = dataclasses.replace(_settings(path, 4), preset="paper")
    with pytest.raises(TrainingError, match=r"mouthSmileLeft.*--preset default"):
        train_run(
            path, tmp_path / "run", settings, False, "cpu", 1, Console(quiet=True), None, ("mouthSmileLeft",)
        )


def test_a_run_of_an_older_version_opens(dataset: Path, tmp_path: Path) -> None:
    """Its settings may have had names that are gone."""
    write_settings(tmp_path, _settings(dataset, 10), preset("tiny"))
    values = json.loads((tmp_path / "run.json").read_text())
    values["settings"]["attention_weight"] = 0.0
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert settings_of(tmp_path) == _settings(dataset, 10)

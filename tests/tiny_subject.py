"""A small random person for tests: untrained networks with lively weights, a ball of occupied cells, a short clip."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from synctalk.geometry import Camera
from synctalk.manifest import Placement
from synctalk.spec import Spec, UpsamplerSpec, preset
from synctalk_export.subject import Subject
from synctalk_trainer.modules import Avatar
from synctalk_trainer.upsampler import Upsampler

SIZE, N_FRAMES = 64, 60


def tiny_spec(**changes: object) -> Spec:
    """The ``tiny`` preset with changes to its field."""
    spec = preset("tiny")
    return dataclasses.replace(spec, field=dataclasses.replace(spec.field, **changes))


def _ball(spec: Spec, inner_m: float, outer_m: float) -> np.ndarray:
    """Cells of a hollow ball round the origin, bool [G, G, G], index [z, y, x]."""
    centre = (np.arange(spec.field.occupancy_resolution) + 0.5) / spec.field.occupancy_resolution
    low, high = np.array(spec.field.box_min_m), np.array(spec.field.box_max_m)
    x, y, z = (low[:, None] + centre * (high - low)[:, None]).astype(np.float32)
    radius = np.sqrt(x**2 + y[:, None] ** 2 + z[:, None, None] ** 2)
    return (radius > inner_m) & (radius < outer_m)


def tiny_subject(spec: Spec | None = None, seed: int = 0) -> Subject:
    """A subject of the ``tiny`` preset, or of a spec."""
    spec = spec or preset("tiny")
    generator = np.random.default_rng(seed)
    model = Avatar(spec, 1, seed).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        model.field.tables.normal_(0.0, 0.5)
        for name, values in model.audio.state_dict().items():
            if values.is_floating_point() and not name.endswith("running_var"):
                values.normal_(0.0, 0.05)
    turn = 0.1 * np.sin(np.arange(N_FRAMES) / 9)
    facing = np.diag([1.0, -1.0, -1.0])
    rotation = np.stack(
        [facing @ np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]) for a in turn]
    )
    translation = np.stack([np.array([0.01 * a, 0.0, 0.7]) for a in turn])
    colours = np.linspace(30, 200, SIZE).astype(np.uint8)
    background = np.stack(np.broadcast_arrays(colours[:, None], colours[None], np.uint8(90)), axis=-1)
    return Subject(
        name="tiny",
        spec=spec,
        field=model.field.requires_grad_(False),
        audio=model.audio.requires_grad_(False),
        occupancy=_ball(spec, 0.07, 0.09),
        appearance=generator.normal(size=spec.field.appearance).astype(np.float32),
        condition_rest=generator.normal(size=spec.field.condition).astype(np.float32),
        condition_mean=generator.normal(size=spec.field.condition).astype(np.float32),
        condition_gain=1.1,
        conditions=generator.normal(size=(N_FRAMES, spec.field.condition)).astype(np.float32),
        camera=Camera(SIZE, SIZE, 160.0, SIZE / 2, SIZE / 2 - 1.5),
        placement=Placement(320, 240, 40.5, 10.25, 200.0),
        rotation=rotation.astype(np.float32),
        translation=translation.astype(np.float32),
        expression=generator.uniform(size=(N_FRAMES, spec.field.expression)).astype(np.float32),
        takes=[(0, 20), (20, N_FRAMES)],
        usable=np.arange(N_FRAMES) != 55,
        plates=np.broadcast_to(background, (N_FRAMES, SIZE, SIZE, 3)),
        background=background,
        training={"preset": spec.name, "steps": 0},
    )


UPSAMPLER_FIGURES = {
    "full": {"psnr_full": 30.0, "psnr_head": 28.0, "psnr_mouth": 26.0},
    "half": {"psnr_full": 30.1, "psnr_head": 27.8, "psnr_mouth": 25.9},
}
"""Of an upsampler that is good enough."""


def upsampled_subject() -> Subject:
    """The same with an upsampler."""
    subject = tiny_subject()
    network = Upsampler(UpsamplerSpec(expression=subject.spec.field.expression)).requires_grad_(False)
    torch.nn.init.normal_(network.weights[-1], std=0.005)
    torch.nn.init.normal_(network.modulate.weight, std=0.05)
    network.see(np.random.default_rng(1).normal(size=(20, network.spec.drive)).astype(np.float32))
    return dataclasses.replace(
        subject,
        spec=dataclasses.replace(subject.spec, upsampler=network.spec),
        upsampler=network,
        upsampler_figures=UPSAMPLER_FIGURES,
    )

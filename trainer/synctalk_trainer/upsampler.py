"""The upsampler of a trained run: heads rendered at half the size become as large as the frame.

The field is left as it is. Its half-size pictures of training frames are made once; a small
U-Net (``UpsamplerSpec``) learns what bilinear enlargement lacks, judged over the frames' own backgrounds.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synctalk.backends.half_size import drive_of, half_sized
from synctalk.errors import TrainingError
from synctalk.spec import UpsamplerSpec
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import patch_loss
from .measure import Regions, compose, own_background
from .metrics import FlickerMeter
from .run import Run, read_json, write_json, write_tensors
from .split import split

__all__ = ["Upsampler", "load_upsampler", "train_upsampler"]

Float = NDArray[np.float32]

FILE, FIGURES = "upsampler.safetensors", "upsampler.json"

_FRAMES, _LEAST_FRAMES = 1000, 100
"""Half-size pictures to learn from: as many as half of the minutes asked for allow. More of them generalise better."""
_JUDGED = 60
_MADE = ("full", "bilinear", "half")
"""Heads at full size, enlarged bilinearly, and upsampled"""
_PATCH = 64
"""Side of a training patch, half-size pixels."""
_PATCHES = 6
_RATE = 2e-3
_STILL = 0.02
"""Drives that hardly vary are measured in this unit: metres, sines, shares."""


class Upsampler(nn.Module):
    """Premultiplied RGBA [B, 4, H, W] and drive [B, D] -> [B, 4, 2 H, 2 W] in 0..1; see ``UpsamplerSpec``."""

    drive_mean: Tensor
    drive_scale: Tensor
    drive_range: Tensor

    def __init__(self, spec: UpsamplerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weights = nn.ParameterList()
        for shape in spec.shapes:
            bound = math.sqrt(6.0 / (shape[1] * 9))
            self.weights.append(nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        nn.init.zeros_(self.weights[-1])
        (hidden, n), (n_out, _) = spec.modulation_shapes
        self.hidden, self.modulate = nn.Linear(n - 1, hidden), nn.Linear(hidden, n_out)
        nn.init.zeros_(self.modulate.weight)
        with torch.no_grad():
            self.modulate.bias.copy_(torch.arange(n_out) < n_out // 2)  # gains of one, shifts of zero
        self.register_buffer("drive_mean", torch.zeros(n - 1))
        self.register_buffer("drive_scale", torch.ones(n - 1))
        self.register_buffer("drive_range", torch.tensor([-torch.inf, torch.inf])[:, None].repeat(1, n - 1))

    def see(self, drives: Float) -> None:
        """Learn how drives [N, D] spread: they are measured in that unit, and cut to that range."""
        self.drive_mean.copy_(torch.from_numpy(drives.mean(axis=0)))
        self.drive_scale.copy_(torch.from_numpy(np.maximum(drives.std(axis=0), _STILL)))
        self.drive_range.copy_(torch.from_numpy(np.stack([drives.min(axis=0), drives.max(axis=0)])))

    @torch.no_grad()
    def tensors(self) -> dict[str, Float]:
        """As a bundle has them."""
        weight = self.hidden.weight / self.drive_scale
        bias = self.hidden.bias - weight @ self.drive_mean
        found = {f"upsampler.{i}": weight for i, weight in enumerate(self.weights)}
        found["upsampler.modulation.0"] = torch.cat([weight, bias[:, None]], dim=1)
        found["upsampler.modulation.1"] = torch.cat(
            [self.modulate.weight, self.modulate.bias[:, None]], dim=1
        )
        found["upsampler.drive_range"] = self.drive_range
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    def outputs(self, padded: Tensor, drive: Tensor) -> list[Tensor]:
        """What each layer makes of a picture with a pixel more on every side, in the order of the weights: behind its ReLU,
        on the way back behind the sum; the last are the details."""
        inside = torch.minimum(torch.maximum(drive, self.drive_range[0]), self.drive_range[1])
        hidden = F.relu(self.hidden((inside - self.drive_mean) / self.drive_scale))
        gains, shifts = self.modulate(hidden)[..., None, None].chunk(2, dim=1)
        weights, channels = list(self.weights), list(self.spec.channels)
        alphas, sides, found = [padded[:, 3:, 1:-1, 1:-1]], list[Tensor](), list[Tensor]()
        for level, (gain, shift) in enumerate(
            zip(gains.split(channels, dim=1), shifts.split(channels, dim=1), strict=True)
        ):
            if level:
                alphas.append(F.avg_pool2d(alphas[-1], 2))
                first = F.conv2d(F.avg_pool2d(sides[-1], 2), weights[2 * level], padding=1)
            else:
                first = F.conv2d(padded, weights[0])
            found.append(F.relu(first * gain + shift * alphas[-1]))
            found.append(F.relu(F.conv2d(found[-1], weights[2 * level + 1], padding=1)))
            sides.append(found[-1])
        for level in reversed(range(len(sides) - 1)):
            coarse = F.conv2d(found[-1], weights[len(found)], padding=1)
            found.append(
                F.relu(F.interpolate(coarse, scale_factor=2, mode="nearest") * alphas[level] + sides[level])
            )
        return [*found, F.conv2d(found[-1], weights[-1], padding=1)]

    @staticmethod
    def padded(small: Tensor) -> Tensor:
        """The picture goes on beyond its edges as it ends there."""
        return F.pad(small, (1, 1, 1, 1), mode="replicate")

    def forward(self, small: Tensor, drive: Tensor) -> Tensor:
        """Bilinear enlargement plus details."""
        padded = self.padded(small)
        details = self.outputs(padded, drive)[-1]
        n, _, height, width = details.shape
        details = details.view(n, 2, 2, 4, height, width).permute(0, 3, 4, 1, 5, 2)
        enlarged = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
        return (enlarged[..., 2:-2, 2:-2] + details.reshape(n, 4, 2 * height, 2 * width)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class _Example:
    """A training frame at half the size."""

    frame: int
    small: NDArray[np.float16]
    """[H / 2, W / 2, 4]"""
    box: tuple[int, int, int, int]
    """y0, y1, x0, x1 of the head in it"""
    drive: Float
    """[D]"""


def train_upsampler(
    run: Run, minutes: float, spec: UpsamplerSpec, on_progress: Callable[[str, float], None]
) -> dict[str, Any]:
    """Train the upsampler of a run; writes it and its figures into the run's folder and returns the figures.

    on_progress: called with what is done and the share of it. Raises: TrainingError: frames that cannot be halved, no head.
    """
    camera = run.camera
    if camera.width % spec.multiple or camera.height % spec.multiple:
        raise TrainingError(
            f"frames of {camera.width} x {camera.height} pixels cannot be halved {spec.levels} times: prepare the clip with a "
            f"--size that {spec.multiple} divides"
        )
    train, held = split(run.dataset.takes, run.dataset.n_frames, run.settings.holdout, run.dataset.valid)
    examples = _examples(run, train, 30 * minutes, on_progress)
    if not examples:
        raise TrainingError("no training frame shows a head: train the run longer")
    torch.manual_seed(run.settings.seed)
    network = Upsampler(spec)
    network.see(np.stack([example.drive for example in examples]))
    seconds = _fit(network, run, examples, 60 * minutes, on_progress)
    figures: dict[str, Any] = {"spec": dataclasses.asdict(spec), "seconds": round(seconds, 1)}
    figures |= _judge(network, run, _triples(run, held if len(held) >= 3 else train), on_progress)
    write_tensors(run.path / FILE, dict(network.state_dict()))
    write_json(run.path / FIGURES, figures)
    return figures


def load_upsampler(run: Run) -> tuple[Upsampler, dict[str, Any]] | None:
    """The upsampler of a run and its figures; None where none was trained.

    Raises: TrainingError: damaged.
    """
    from safetensors.torch import load_file

    if not (run.path / FILE).exists():
        return None
    figures = read_json(run.path / FIGURES, "run `synctalk train-upsampler` again")
    try:
        network = Upsampler(UpsamplerSpec(**figures["spec"]))
        network.load_state_dict(load_file(run.path / FILE))
    except (RuntimeError, TypeError, KeyError) as error:
        raise TrainingError(
            f"{run.path / FILE} is damaged, or of an older version ({error}): run `synctalk train-upsampler` again"
        ) from None
    return network.eval().requires_grad_(False), figures


def _spread(frames: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = frames[np.linspace(0, len(frames) - 1, min(n, len(frames))).astype(int)]
    return chosen


def _triples(run: Run, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frames from all over, each with the two behind it."""
    take = np.array([run.dataset.take_of(int(frame)) for frame in frames])
    first = frames[:-2][(frames[2:] - frames[:-2] == 2) & (take[2:] == take[:-2])]
    return (_spread(first, _JUDGED // 3)[:, None] + np.arange(3)).ravel()


def _half(run: Run, frame: int, condition: Float) -> tuple[Float, Float]:
    """The head at half the size, premultiplied RGBA; the drive. condition: [C]."""
    request = run.request_of(frame, condition)
    return run.draw(half_sized(request)), drive_of(request)


def _examples(
    run: Run, train: NDArray[np.int64], seconds: float, on_progress: Callable[[str, float], None]
) -> list[_Example]:
    """Frames from all over the clip, until the time is used up. Half of them have the filmed mouth, from which lips and teeth
    can be learned, and half one as wrong as those of new speech."""
    chosen = np.random.default_rng(run.settings.seed).permutation(_spread(train, _FRAMES))
    examples = []
    began = time.monotonic()
    for i, frame in enumerate(chosen.tolist()):
        gone = time.monotonic() - began
        if gone > seconds and i >= _LEAST_FRAMES:
            break
        on_progress("half-size pictures", max(i / len(chosen), min(1.0, gone / seconds)))
        heard = run.widened(run.conditions_unseen[frame])
        if (example := _example(run, frame, run.mouths[frame] if i % 2 else heard)) is not None:
            examples.append(example)
    return examples


def _example(run: Run, frame: int, condition: Float) -> _Example | None:
    head, drive = _half(run, frame, condition)
    small = head.astype(np.float16)
    is_seen = small[..., 3] > 0.01
    rows, columns = np.flatnonzero(is_seen.any(axis=1)), np.flatnonzero(is_seen.any(axis=0))
    if not len(rows):
        return None
    box = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    return _Example(frame, small, box, drive)


def _fit(
    network: Upsampler,
    run: Run,
    examples: list[_Example],
    seconds: float,
    on_progress: Callable[[str, float], None],
) -> float:
    """Fit the network for so long; the seconds it took."""
    generator = np.random.default_rng(run.settings.seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
    began = time.monotonic()
    step = 0
    while (gone := time.monotonic() - began) < seconds:
        fraction = gone / seconds
        on_progress("upsampler", fraction)
        optimiser.param_groups[0]["lr"] = _RATE * min(1.0, (step + 1) / 50) * 10 ** (-1.5 * fraction)
        small, drive, truth, behind = _patches(run, examples, generator, network.spec.multiple // 2)
        rgba = network(small, drive)
        shown = rgba[:, :3] + (1 - rgba[:, 3:]) * behind
        loss = ((shown - truth) ** 2 + 1e-6).sqrt().mean() + 0.05 * patch_loss(shown, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    return time.monotonic() - began


def _patches(
    run: Run, examples: list[_Example], generator: np.random.Generator, multiple: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half-size patches [B, 4, P, P], their drives [B, D], what they must show [B, 3, 2 P, 2 P], and what is behind the head
    there. Their corners and sides are multiples of a number, so that levels halve a patch as they halve the picture."""
    drives, found = [], tuple[list[Float], ...](([], [], []))
    for _ in range(_PATCHES):
        example = examples[int(generator.integers(len(examples)))]
        height, width = example.small.shape[:2]
        side = min(_PATCH, height, width) // multiple * multiple
        y0, y1, x0, x1 = example.box
        y = _corner(generator, y0, y1, side, height) // multiple * multiple
        x = _corner(generator, x0, x1, side, width) // multiple * multiple
        large = np.s_[2 * y : 2 * (y + side), 2 * x : 2 * (x + side)]
        truth, behind = _seen(run, example.frame, large)
        found[0].append(example.small[y : y + side, x : x + side].astype(np.float32))
        found[1].append(truth)
        found[2].append(behind)
        drives.append(example.drive)
    small, truths, behinds = (torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2) for part in found)
    return small, torch.from_numpy(np.stack(drives)), truths, behinds


def _corner(generator: np.random.Generator, first: int, end: int, side: int, length: int) -> int:
    """Where a patch begins that shows some of [first, end)."""
    at = generator.integers(first - side // 4, max(first - side // 4 + 1, end - 3 * side // 4))
    return int(np.clip(at, 0, length - side))


def _seen(run: Run, frame: int, part: tuple[slice, slice]) -> tuple[Float, Float]:
    """The picture, and what is behind the head."""
    truth, plate = (
        np.asarray(pictures[frame][part], np.float32) for pictures in (run.dataset.frames, run.dataset.plates)
    )
    return truth / np.float32(255), plate / np.float32(255)


def _judge(
    network: Upsampler, run: Run, frames: NDArray[np.int64], on_progress: Callable[[str, float], None]
) -> dict[str, Any]:
    """PSNR, SSIM and flicker (``measure``, own background) of heads at full size, enlarged bilinearly, and upsampled.

    frames: three in a row each. "told" has the same of heads with the filmed mouth: what is lost where sound tells all.
    """
    plain = Upsampler(network.spec)
    meters = {name: FlickerMeter() for name in (*_MADE, "truth")}
    heard, told = ({name: list[dict[str, float]]() for name in _MADE} for _ in range(2))
    for i, frame in enumerate(frames.tolist()):
        on_progress("judging", i / len(frames))
        truth, regions = np.asarray(run.dataset.frames[frame]), Regions.of(run.dataset, frame)
        behind = own_background(run.dataset, frame, regions)
        shown = _shown(network, plain, run, frame, run.condition_of(frame), behind)
        for name, picture in (shown | {"truth": truth}).items():
            if i % 3 == 0:
                meters[name].restart()
            meters[name].push(picture, regions.head)
        for rows, pictures in (
            (heard, shown),
            (told, _shown(network, plain, run, frame, run.mouths[frame], behind)),
        ):
            for name, picture in pictures.items():
                rows[name].append(regions.score(picture, truth))
    figures: dict[str, Any] = {"frames": len(frames), "flicker_truth": round(meters["truth"].value, 3)}
    for name in _MADE:
        figures[name] = _means(heard[name]) | {"flicker": round(meters[name].value, 3)}
    return figures | {"told": {name: _means(told[name]) for name in _MADE}}


def _shown(
    network: Upsampler, plain: Upsampler, run: Run, frame: int, condition: Float, behind: NDArray[np.uint8]
) -> dict[str, NDArray[np.uint8]]:
    """A frame as each of ``_MADE`` shows it, over what is behind."""
    head, drive = _half(run, frame, condition)
    given = torch.from_numpy(head).permute(2, 0, 1)[None], torch.from_numpy(drive)[None]
    with torch.no_grad():
        made = {"bilinear": plain(*given), "half": network(*given)}
    heads = {name: rgba[0].permute(1, 2, 0).numpy() for name, rgba in made.items()}
    heads["full"] = run.render(frame, condition)
    return {name: compose(heads[name], behind) for name in _MADE}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(float(np.nanmean([row[key] for row in rows])), 3) for key in rows[0]}

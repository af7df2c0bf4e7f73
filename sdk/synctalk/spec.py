"""Shapes of everything that is learned: the single source that torch, ONNX, C++ and the manifest read.

A ``Spec`` is frozen and serialisable. Nothing else in the project computes a width, a level table or a tensor shape.

The field, per sample (all linear layers without bias, ReLU between them, weights ``[out, in]``):

    x   = grid(position)                                   36 = 3 planes x 12 levels x 1 channel
    g   = gate(attention(x))                               condition + expression, C + E
    h   = density_mlp([x, g[:C] * condition, g[C:] * expression])
    log_density = h[0];  feature = h[1:]

then, with ``deferred`` colour, ``colour_mlp([sum of w * feature, sh(direction), appearance])`` once per ray on the
features accumulated along it, or, without, once per sample on ``feature``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from synctalk.spec_versions import MISSING

__all__ = [
    "EXPRESSION_NAMES",
    "FPS",
    "PLANES",
    "AudioSpec",
    "FieldSpec",
    "GridSpec",
    "Level",
    "Region",
    "Spec",
    "UpsamplerSpec",
    "expression_region",
    "preset",
]

PLANES: tuple[tuple[int, int], ...] = ((0, 1), (1, 2), (0, 2))
"""Axes (column, row) of the three planes, in the order of every table: xy, yz, xz."""

FPS = 25
"""Frames a second of datasets, avatars and films. Other rates are refused: look-ahead, windows of sound and the speech
encoder are made for this one."""

EXPRESSION_NAMES: tuple[str, ...] = (
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
)
"""ARKit names of the default expression coefficients, in order."""

Region: TypeAlias = Literal["upper", "lower", "whole"]
"""Of the face: above the nose base, below it, or both."""

_REGIONS: tuple[tuple[str, Region], ...] = (
    ("brow", "upper"),
    ("eye", "upper"),
    ("cheekSquint", "upper"),
    ("cheekPuff", "lower"),
    ("jaw", "lower"),
    ("mouth", "lower"),
)


def expression_region(name: str) -> Region:
    """Where an ARKit coefficient moves the face; ``whole`` for a name that ARKit does not have."""
    return next((region for prefix, region in _REGIONS if name.startswith(prefix)), "whole")


@dataclass(frozen=True)
class Level:
    """One resolution of a plane's grid. Source: tiny-cuda-nn HashGrid (indexing and scales)."""

    scale: float
    """A coordinate u in [0, 1] lies at ``u * scale + 0.5`` in units of nodes."""
    resolution: int
    """Nodes per axis of the dense index, ``ceil(scale) + 1``."""
    size: int
    """Entries of this level in the table."""
    offset: int
    """First entry of this level in the plane's table."""
    is_hashed: bool
    """Whether nodes are hashed (they do not fit) or indexed row by row."""

    @property
    def n_nodes(self) -> int:
        """Nodes per axis of the de-hashed plane: every node a lookup in [0, 1] can touch."""
        return math.floor(self.scale + 0.5) + 2


@dataclass(frozen=True)
class GridSpec:
    """Three 2-D multi-resolution hash grids. Source: Müller et al. 2022; Li et al. 2023 (tri-plane hash)."""

    n_levels: int = 12
    n_channels: int = 1
    base_resolution: int = 64
    finest_resolution: int = 512
    log2_table_size: int = 14

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The level table, coarse to fine; the same for the three planes."""
        growth = 0.0
        if self.n_levels > 1:
            growth = math.log2(self.finest_resolution / self.base_resolution) / (self.n_levels - 1)
        levels, offset = [], 0
        for i in range(self.n_levels):
            scale = math.exp2(i * growth) * self.base_resolution - 1.0
            if abs(scale - round(scale)) < 1e-6:
                scale = float(round(scale))
            resolution = math.ceil(scale) + 1
            dense = (resolution * resolution + 7) // 8 * 8
            size = min(dense, 1 << self.log2_table_size)
            levels.append(Level(scale, resolution, size, offset, resolution * resolution > size))
            offset += size
        return tuple(levels)

    @property
    def n_entries(self) -> int:
        """Entries of one plane's table, all levels."""
        last = self.levels[-1]
        return last.offset + last.size

    @property
    def n_outputs(self) -> int:
        """Width of the encoding: plane-major, then level, then channel."""
        return len(PLANES) * self.n_levels * self.n_channels


@dataclass(frozen=True)
class AudioSpec:
    """Audio features and the audio branch: mel windows -> embedding -> taps -> condition.

    Frame ``i`` (at ``i / fps`` seconds) sees taps ``i - taps_past ... i + taps_future``. The tap of frame ``k`` is the
    mel window of ``window_columns`` columns that ends ``window_future_columns`` columns after ``floor(k * columns per
    frame)``.
    """

    sample_rate: int = 16_000
    preemphasis: float = 0.97
    n_fft: int = 800
    hop_samples: int = 200
    n_mels: int = 80
    mel_min_hz: float = 55.0
    mel_max_hz: float = 7600.0
    window_columns: int = 24
    window_future_columns: int = 8
    taps_past: int = 0
    taps_future: int = 0
    encoder: Literal["generic", "kernel", "ave"] = "kernel"
    """``generic``: the generic speech-to-mouth model, mapped to the subject's mouth, with a correction in the subject's own
    voice; ``kernel``: that correction alone (the default of older versions): principal components of the window, random
    cosine features, a linear read-out, fitted in closed form; ``ave``: the published convolutional topology with
    attention over taps, learned with the field."""
    silence: float = -4.0
    """Value of every mel bin of digital silence; no value is lower."""
    calm: float = 0.0
    """Share of the frame before in each frame's condition: a fifth takes a fifth of the shaking, for 8 ms of lag."""
    pooled_bands: int = 40
    """``kernel``: mel bins are averaged to so many bands first."""
    components: int = 64
    """``kernel``: principal components of the pooled window."""
    cosines: int = 3072
    """``kernel``: random cosine features; the more the better, at a cost of their square when fitting."""
    encoder_width: int = 32
    embedding: int = 512
    """``ave``: width of the embedding of one window."""
    hidden: int = 256

    @property
    def n_taps(self) -> int:
        return self.taps_past + 1 + self.taps_future

    @property
    def hears_voice(self) -> bool:
        """Whether windows carry the voice's long-term spectrum (``synctalk.voice``) behind their mel columns."""
        return self.encoder == "generic"

    @property
    def window_values(self) -> int:
        """Columns of a window as the audio branch gets it: mel columns, and the voice."""
        return self.window_columns + int(self.hears_voice)

    @property
    def lookahead_samples(self) -> int:
        """Samples after a frame's own time that its condition depends on, at most (640 samples a frame)."""
        frame_samples = self.sample_rate // FPS
        columns = (self.window_future_columns - 1) * self.hop_samples
        return self.taps_future * frame_samples + columns + self.n_fft // 2

    @property
    def lookahead_ms(self) -> float:
        return 1000.0 * self.lookahead_samples / self.sample_rate


@dataclass(frozen=True)
class FieldSpec:
    """The head's radiance field (see the module docstring) and the box it lives in."""

    grid: GridSpec = dataclasses.field(default_factory=GridSpec)
    condition: int = 12
    expression_names: tuple[str, ...] = EXPRESSION_NAMES
    attention_hidden: int = 16
    gate: Literal["sigmoid", "none"] = "sigmoid"
    density_hidden: int = 48
    density_layers: int = 2
    """Hidden layers of the density network."""
    feature: int = 15
    deferred: bool = True
    colour_hidden: int = 64
    colour_layers: int = 1
    """Hidden layers of the colour network."""
    direction_degree: int = 4
    """Degree of the spherical harmonics of the view direction: degree ** 2 values."""
    appearance: int = 4
    density_scale_per_m: float = 40.0
    """density [1/m] = density_scale_per_m * exp(min(log_density, max_log_density))"""
    max_log_density: float = 10.0
    box_min_m: tuple[float, float, float] = (-0.13, -0.16, -0.13)
    box_max_m: tuple[float, float, float] = (0.13, 0.18, 0.11)
    occupancy_resolution: int = 128
    """Cells per axis of the occupancy grid over the box."""
    step_m: float = 0.006
    """Training and rendering step alike: 4 mm would take half as many samples again."""
    max_samples: int = 16
    """Samples per ray, at most."""

    @property
    def expression(self) -> int:
        return len(self.expression_names)

    @property
    def n_gates(self) -> int:
        return self.condition + self.expression

    @property
    def n_ranges(self) -> int:
        """Ranges of activations that 16-bit integers need: attended, gated, the density network's hidden layers, feature,
        appearance, the colour network's hidden layers."""
        return 4 + self.density_layers + self.colour_layers

    @property
    def attention_shapes(self) -> tuple[tuple[int, int], ...]:
        """Weight shapes [out, in], first layer first."""
        return ((self.attention_hidden, self.grid.n_outputs), (self.n_gates, self.attention_hidden))

    @property
    def density_shapes(self) -> tuple[tuple[int, int], ...]:
        widths = [
            self.grid.n_outputs + self.n_gates,
            *[self.density_hidden] * self.density_layers,
            1 + self.feature,
        ]
        return tuple(zip(widths[1:], widths[:-1], strict=True))

    @property
    def colour_shapes(self) -> tuple[tuple[int, int], ...]:
        widths = [
            self.feature + self.direction_degree**2 + self.appearance,
            *[self.colour_hidden] * self.colour_layers,
            3,
        ]
        return tuple(zip(widths[1:], widths[:-1], strict=True))


@dataclass(frozen=True)
class UpsamplerSpec:
    """The restorer: a U-Net that makes a head rendered at half the size as large as the frame: bilinear enlargement plus details.

    Each level halves the size of the one before (mean of 2 x 2) and has two 3 x 3 convolutions without bias, ReLU behind
    each; on the way back a convolution's output, each pixel twice in both directions and times the alpha there, is added
    to the level above, ReLU behind. The last convolution's channels are the details of the four pixels that a pixel
    becomes, ordered (row, column, channel). The head's pose and expression modulate each level's first convolution.
    Sources: Ronneberger et al. 2015 (U-Net), Shi et al. 2016 (sub-pixel convolution), Perez et al. 2018 (modulation).
    """

    width: int = 16
    """Channels of the first level, a multiple of 16; the second has twice, the third three times as many."""
    levels: int = 3
    hidden: int = 64
    """Units between pose and modulation"""
    expression: int = len(EXPRESSION_NAMES)
    """Coefficients of expression that modulate, beside the pose"""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each level."""
        return tuple(self.width * (level + 1) for level in range(self.levels))

    @property
    def drive(self) -> int:
        """Values that modulate: rotation [9], translation [3], expression."""
        return 12 + self.expression

    @property
    def multiple(self) -> int:
        """The sides of a frame are multiples of this."""
        return int(2**self.levels)

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Weight shapes [out, in, 3, 3]: two a level, first level first; on the way back, last level first; the details."""
        before, layers = 4, []
        for n in self.channels:
            layers += [(n, before), (n, n)]
            before = n
        layers += [(above, below) for above, below in reversed(list(itertools.pairwise(self.channels)))]
        layers.append((16, self.width))
        return tuple((n_out, n_in, 3, 3) for n_out, n_in in layers)

    @property
    def modulation_shapes(self) -> tuple[tuple[int, int], ...]:
        """Of the two layers from drive to gains and shifts, [out, in + 1], the bias last: gains of all levels'
        channels, then shifts, which act times alpha."""
        return (self.hidden, self.drive + 1), (2 * sum(self.channels), self.hidden + 1)

    @property
    def inputs(self) -> dict[str, tuple[str | int, ...]]:
        """Inputs of ``upsampler.onnx``, the picture first: float32; letters are free axes."""
        return {"small": ("N", "H", "W", 4), "drive": ("N", self.drive)}

    @property
    def outputs(self) -> dict[str, tuple[str | int, ...]]:
        """Outputs of ``upsampler.onnx``."""
        return {"head": ("N", "2H", "2W", 4)}


@dataclass(frozen=True)
class Spec:
    """A whole avatar: name of the preset, field, audio, frame rate."""

    name: str = "default"
    fps: int = FPS
    field: FieldSpec = dataclasses.field(default_factory=FieldSpec)
    audio: AudioSpec = dataclasses.field(default_factory=AudioSpec)
    upsampler: UpsamplerSpec | None = None
    """For heads rendered at half the size; None where none was trained."""

    def __post_init__(self) -> None:
        """Raises: ValueError: another frame rate."""
        if self.fps != FPS:
            raise ValueError(f"fps: got {self.fps}, expected {FPS}: other frame rates are not supported")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for manifests and run files."""
        values = dataclasses.asdict(self)
        if self.upsampler is None:
            del values["upsampler"]  # as before there were any: older versions read it
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Spec:
        """The inverse of ``to_dict``. Missing keys take the value that held before they existed (``spec_versions``).

        Raises: ValueError: an unknown key, or a value of the wrong type.
        """
        top = _checked(Spec, values, "spec")
        field_values = _checked(FieldSpec, top["field"], "field")
        field_values["grid"] = GridSpec(**_checked(GridSpec, field_values["grid"], "grid"))
        for key in ("expression_names", "box_min_m", "box_max_m"):
            field_values[key] = tuple(field_values[key])
        names = field_values["expression_names"]
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError(f"field.expression_names: expected different names, got {names!r}")
        audio = AudioSpec(**_checked(AudioSpec, top["audio"], "audio"))
        upsampler = None
        if top["upsampler"] is not None:
            upsampler = UpsamplerSpec(**_checked(UpsamplerSpec, top["upsampler"], "upsampler"))
        return Spec(top["name"], top["fps"], FieldSpec(**field_values), audio, upsampler)

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON form."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _checked(kind: type, values: Any, where: str) -> dict[str, Any]:
    """A dataclass's fields from JSON, with types that match its defaults; missing ones from ``MISSING``."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a mapping, got {type(values).__name__}")
    names = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{where}: unknown keys {unknown}")
    filled: dict[str, Any] = {**MISSING[where], **values}
    defaults = kind()
    for name, value in filled.items():
        default = getattr(defaults, name)
        if isinstance(default, bool) != isinstance(value, bool):
            raise ValueError(f"{where}.{name}: expected {type(default).__name__}, got {value!r}")
        if isinstance(default, int | float) and not isinstance(value, int | float):
            raise ValueError(f"{where}.{name}: expected a number, got {value!r}")
        if isinstance(default, str) and not isinstance(value, str):
            raise ValueError(f"{where}.{name}: expected text, got {value!r}")
        if isinstance(default, tuple) and not isinstance(value, list | tuple):
            raise ValueError(f"{where}.{name}: expected a list, got {value!r}")
    return filled


_GENERIC_AUDIO = AudioSpec(encoder="generic", window_columns=64, silence=-5.6, calm=0.2)
"""What avatars hear with by default: 0.8 s of sound, down to -120 dB, so that a quiet voice has its pauses, too."""


def preset(name: str) -> Spec:
    """A named design.

    ``default``: ours. ``paper``: the published design (attention without a sigmoid, colour at every sample, 16
    samples a ray at most, about 260 ms of audio ahead), kept as the yardstick. ``tiny``: minutes on a laptop, for tests.

    Raises: ValueError: an unknown name.
    """
    if name == "default":
        return Spec(audio=_GENERIC_AUDIO)
    if name == "paper":
        return Spec(
            name="paper",
            field=FieldSpec(
                attention_hidden=64,
                gate="none",
                condition=32,
                density_hidden=64,
                feature=64,
                deferred=False,
                step_m=math.sqrt(3.0) / 64 * 0.25,
                max_samples=16,
            ),
            audio=AudioSpec(
                window_columns=16, window_future_columns=10, taps_past=4, taps_future=3, encoder="ave"
            ),
        )
    if name == "tiny":
        return Spec(
            name="tiny",
            field=FieldSpec(
                grid=GridSpec(n_levels=6, base_resolution=16, finest_resolution=128, log2_table_size=12),
                condition=8,
                density_hidden=32,
                density_layers=1,
                feature=15,
                colour_hidden=32,
                occupancy_resolution=48,
                step_m=0.006,
            ),
            audio=dataclasses.replace(_GENERIC_AUDIO, components=32, cosines=256),
        )
    raise ValueError(f"unknown preset {name!r}: choose default, tiny or paper")

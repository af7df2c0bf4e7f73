"""The learned mathematics in PyTorch: everything that ONNX is traced from.

Two networks: the audio encoder (mel windows -> condition) and ``Field`` (head-space position, condition, expression ->
density and feature; feature, direction, appearance -> colour). Their functions are defined in words in
``synctalk.spec``; C++ repeats them (``csrc/field.h``), and nothing else does.
"""

from __future__ import annotations

from typing import Any

import torch
from synctalk.spec import PLANES, AudioSpec, FieldSpec, GridSpec, Spec
from torch import Tensor, nn

from .audio_visual.encoder import SpeechEncoder
from .audio_visual.networks import COLUMNS

__all__ = [
    "Avatar",
    "ConvolutionalEncoder",
    "Field",
    "KernelEncoder",
    "LearnedFeatures",
    "audio_encoder",
    "encode_planes",
    "mlp",
    "spherical_harmonics",
]

_HASH_PRIME = 2_654_435_761


def mlp(x: Tensor, weights: nn.ParameterList | list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Linear layers without bias, ReLU between them, in the weights' precision. x: [M, in] -> [M, out of the last]."""
    if x.dtype != weights[0].dtype:
        x = x.to(weights[0].dtype)
    for i, weight in enumerate(weights):
        x = nn.functional.linear(torch.relu(x) if i else x, weight)
    return x


def spherical_harmonics(direction: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 3 (16 values), the usual order of view-dependent fields.

    direction: [R, 3], unit. Returns [R, 16].
    """
    x, y, z = direction.unbind(-1)
    xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            -0.48860251190291987 * y,
            0.48860251190291987 * z,
            -0.48860251190291987 * x,
            1.0925484305920792 * xy,
            -1.0925484305920792 * yz,
            0.94617469575755997 * zz - 0.31539156525251999,
            -1.0925484305920792 * xz,
            0.54627421529603959 * (xx - yy),
            0.59004358992664352 * y * (-3.0 * xx + yy),
            2.8906114426405538 * xy * z,
            0.45704579946446572 * y * (1.0 - 5.0 * zz),
            0.3731763325901154 * z * (5.0 * zz - 3.0),
            0.45704579946446572 * x * (1.0 - 5.0 * zz),
            1.4453057213202769 * z * (xx - yy),
            0.59004358992664352 * x * (-xx + 3.0 * yy),
        ],
        dim=-1,
    )


def encode_planes(positions: Tensor, tables: Tensor, grid: GridSpec) -> Tensor:
    """Bilinear look-up in the three hash grids, in plain torch: the readable twin of the native kernel.

    positions: [M, 3] in 0..1; tables: [3, n_entries, C]. Returns [M, 3 * levels * C].
    """
    outputs = []
    for plane, (axis_u, axis_v) in enumerate(PLANES):
        uv = positions[:, [axis_u, axis_v]].clamp(0.0, 1.0)
        for level in grid.levels:
            at = uv * level.scale + 0.5
            node = at.floor()
            fraction = at - node
            node = node.long()
            value = torch.zeros(len(positions), grid.n_channels, dtype=tables.dtype, device=tables.device)
            for corner in range(4):
                du, dv = corner & 1, corner >> 1
                u, v = node[:, 0] + du, node[:, 1] + dv
                hashed = (u ^ (v * _HASH_PRIME)) & 0xFFFFFFFF
                index = hashed if level.is_hashed else u + v * level.resolution
                weight_u = fraction[:, 0] if du else 1.0 - fraction[:, 0]
                weight_v = fraction[:, 1] if dv else 1.0 - fraction[:, 1]
                entry = tables[plane, level.offset + index % level.size]
                value = value + (weight_u * weight_v)[:, None] * entry
            outputs.append(value)
    return torch.cat(outputs, dim=-1)


def _weights(shapes: tuple[tuple[int, int], ...], generator: torch.Generator) -> nn.ParameterList:
    """Uniform Kaiming weights for ReLU layers."""
    parameters = []
    for n_out, n_in in shapes:
        bound = (6.0 / n_in) ** 0.5 if n_out > 3 else (1.0 / n_in) ** 0.5
        parameters.append(nn.Parameter((torch.rand(n_out, n_in, generator=generator) * 2 - 1) * bound))
    return nn.ParameterList(parameters)


class Field(nn.Module):
    """The head's radiance field. Source: SyncTalk (CVPR 2024) §3.3; Müller et al. 2022 (hash grids)."""

    def __init__(self, spec: FieldSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        size = (len(PLANES), spec.grid.n_entries, spec.grid.n_channels)
        self.tables = nn.Parameter((torch.rand(size, generator=generator) * 2 - 1) * 1e-2)
        self.attention = _weights(spec.attention_shapes, generator)
        self.density = _weights(spec.density_shapes, generator)
        self.colour = _weights(spec.colour_shapes, generator)

    def gate(self, encoding: Tensor) -> Tensor:
        """Facial-aware attention: how much each channel of condition and expression acts here. [M, n_gates]"""
        gate = mlp(encoding, self.attention)
        return torch.sigmoid(gate) if self.spec.gate == "sigmoid" else gate

    def decode(self, encoding: Tensor, condition: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Encoding [M, n_outputs], condition [M, C], expression [M, E] -> log density [M], feature [M, F]."""
        acting = self.gate(encoding) * torch.cat([condition, expression], dim=-1)
        out = mlp(torch.cat([encoding, acting], dim=-1), self.density)
        return out[:, 0], out[:, 1:]

    def query(self, positions: Tensor, condition: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """positions [M, 3] in 0..1 of the box -> log density [M], feature [M, F]; plain torch."""
        return self.decode(encode_planes(positions, self.tables, self.spec.grid), condition, expression)

    def colour_of(self, feature: Tensor, direction: Tensor, appearance: Tensor) -> Tensor:
        """feature [R, F], unit direction [R, 3] (head space), appearance [R, A] -> colour [R, 3] in 0..1."""
        inputs = torch.cat([feature, spherical_harmonics(direction), appearance], dim=-1)
        return torch.sigmoid(mlp(inputs, self.colour))

    def density_of(self, log_density: Tensor) -> Tensor:
        """log density -> density [1/m], with a truncated exponential (bounded value and gradient)."""
        bounded = log_density.clamp(max=self.spec.max_log_density)
        return self.spec.density_scale_per_m * torch.exp(bounded)


class _Residual2d(nn.Module):
    """Convolution, batch norm, ReLU; the input is added before the ReLU where shapes stay."""

    def __init__(
        self, n_in: int, n_out: int, stride: int | tuple[int, int] = 1, padding: int = 1, kernel: int = 3
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding)
        self.norm = nn.BatchNorm2d(n_out)
        self.is_residual = n_in == n_out and stride == 1 and kernel == 3

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.convolution(x))
        return torch.relu(y + x) if self.is_residual else torch.relu(y)


def _ave_encoder(spec: AudioSpec) -> nn.Module:
    """The published topology over the 80 x 16 window. Source: Prajwal et al. 2020 (audio encoder)."""
    w = spec.encoder_width
    return nn.Sequential(
        nn.Unflatten(1, (1, spec.n_mels)),
        _Residual2d(1, w),
        _Residual2d(w, w),
        _Residual2d(w, w),
        _Residual2d(w, 2 * w, (3, 1)),
        _Residual2d(2 * w, 2 * w),
        _Residual2d(2 * w, 2 * w),
        _Residual2d(2 * w, 4 * w, 3),
        _Residual2d(4 * w, 4 * w),
        _Residual2d(4 * w, 4 * w),
        _Residual2d(4 * w, 8 * w, (3, 2)),
        _Residual2d(8 * w, 8 * w),
        _Residual2d(8 * w, 16 * w, padding=0),
        _Residual2d(16 * w, spec.embedding, padding=0, kernel=1),
        nn.Flatten(),
    )


class ConvolutionalEncoder(nn.Module):
    """Mel windows of a frame's taps -> its condition, learned with the field.

    Source: SyncTalk §3.1 (audio-visual encoder, attention over taps).
    """

    def __init__(self, spec: AudioSpec, n_condition: int) -> None:
        super().__init__()
        self.window = _ave_encoder(spec)
        self.project = nn.Sequential(
            nn.Linear(spec.embedding, spec.hidden),
            nn.LeakyReLU(0.02),
            nn.Linear(spec.hidden, n_condition),
        )
        self.attention = nn.Sequential(
            nn.Conv1d(n_condition, 16, 3, padding=1),
            nn.LeakyReLU(0.02),
            nn.Conv1d(16, 4, 3, padding=1),
            nn.LeakyReLU(0.02),
            nn.Conv1d(4, 1, 3, padding=1),
            nn.Flatten(),
            nn.Linear(spec.n_taps, spec.n_taps),
            nn.Softmax(dim=-1),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """windows: [N, taps, 80, columns] -> condition [N, C]."""
        n, n_taps = windows.shape[:2]
        return self.attend(self.tap(windows.flatten(0, 1)).view(n, n_taps, -1))

    def tap(self, windows: Tensor) -> Tensor:
        """Single windows [M, 80, columns] -> [M, C]."""
        tap: Tensor = self.project(self.window(windows))
        return tap

    def attend(self, taps: Tensor) -> Tensor:
        """What the windows of a frame say, [N, taps, C] -> condition [N, C]."""
        weight: Tensor = self.attention(taps.transpose(1, 2))  # [N, taps]
        condition: Tensor = (weight[:, :, None] * taps).sum(dim=1)
        return condition


class LearnedFeatures(torch.autograd.Function):
    """A speech encoder in ONNX inside a network of torch; exported as one node, whose definition is the encoder."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, speech: SpeechEncoder) -> Tensor:
        """windows: [N, 1, 80, 16] -> [N, D]."""
        return torch.from_numpy(speech(windows.cpu().numpy())).to(windows.device)

    @staticmethod
    def symbolic(g: Any, windows: Any, speech: SpeechEncoder) -> Any:
        node = g.op("synctalk::SpeechEncoder", windows)
        node.setType(windows.type().with_sizes([None, speech.n_embedding]))
        return node


class KernelEncoder(nn.Module):
    """Mel window of a frame -> its condition: a kernel machine, fitted in closed form (``audio_fit``).

    What it looks at: the window's mel bands, and beside them, if there is a speech encoder, what that says of the
    window's last columns, which lie about the frame's own time. Its weights are buffers: no gradient ever touches
    them. Source: Rahimi and Recht 2007 (random features).
    """

    def __init__(self, spec: AudioSpec, n_condition: int, speech: SpeechEncoder | None = None) -> None:
        super().__init__()
        if spec.n_taps != 1:
            raise ValueError(
                f"the kernel encoder sees one window a frame, the spec asks for {spec.n_taps} taps"
            )
        self.speech = speech
        self.n_bands = spec.pooled_bands
        self.n_pooled = spec.pooled_bands * spec.window_columns
        n_inputs = self.n_pooled + (0 if speech is None else speech.n_embedding)
        n_components = spec.components * (1 if speech is None else 2)
        self.centre: Tensor
        self.components: Tensor
        self.frequencies: Tensor
        self.phases: Tensor
        self.readout: Tensor
        self.bias: Tensor
        self.register_buffer("centre", torch.zeros(n_inputs))
        self.register_buffer("components", torch.zeros(n_inputs, n_components))
        self.register_buffer("frequencies", torch.zeros(n_components, spec.cosines))
        self.register_buffer("phases", torch.zeros(spec.cosines))
        self.register_buffer("readout", torch.zeros(spec.cosines, n_condition))
        self.register_buffer("bias", torch.zeros(n_condition))

    def inputs(self, windows: Tensor) -> Tensor:
        """windows: [N, 1, 80, columns] -> [N, bands * columns], and the speech encoder's embedding beside them."""
        n, _, n_mels, n_columns = windows.shape
        bands = windows.view(n, self.n_bands, n_mels // self.n_bands, n_columns)
        pooled = bands.mean(dim=2).flatten(1)
        if self.speech is None:
            return pooled
        learned = LearnedFeatures.apply(windows[..., -COLUMNS:], self.speech)  # type: ignore[no-untyped-call]
        return torch.cat([pooled, learned], dim=1)

    def features(self, inputs: Tensor) -> Tensor:
        """Random cosine features of ``inputs``, [N, cosines]."""
        return torch.cos((inputs - self.centre) @ self.components @ self.frequencies + self.phases)

    def forward(self, windows: Tensor) -> Tensor:
        """windows: [N, 1, 80, columns] -> condition [N, C]."""
        return self.features(self.inputs(windows)) @ self.readout + self.bias


def audio_encoder(
    spec: AudioSpec, n_condition: int, speech: SpeechEncoder | None = None
) -> ConvolutionalEncoder | KernelEncoder:
    """The audio branch that a spec asks for; ``speech``: what ``KernelEncoder`` hears with, beside the mel bands."""
    return (
        KernelEncoder(spec, n_condition, speech)
        if spec.encoder == "kernel"
        else ConvolutionalEncoder(spec, n_condition)
    )


class Avatar(nn.Module):
    """Everything that is trained for a subject."""

    def __init__(
        self, spec: Spec, n_appearance: int, seed: int = 0, speech: SpeechEncoder | None = None
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.spec = spec
        self.field = Field(spec.field, generator)
        self.audio = audio_encoder(spec.audio, spec.field.condition, speech)
        self.appearance = nn.Parameter(torch.zeros(n_appearance, spec.field.appearance))

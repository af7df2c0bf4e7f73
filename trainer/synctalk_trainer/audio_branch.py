"""The audio branch in PyTorch: mel windows to the condition that moves the mouth.

``GenericEncoder`` is the default: a generic model says what any voice does with a mouth, a small map makes it this
subject's mouth, and a kernel machine corrects it where the voice is the subject's own. ``KernelEncoder`` is that machine
alone, as older versions fitted it; ``ConvolutionalEncoder`` is the published network, learned with the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from synctalk.spec import AudioSpec
from synctalk.voice import N_SHAPE, average_voice, shape_basis
from torch import Tensor, nn

from .audio_visual.encoder import SpeechEncoder, generic_model
from .audio_visual.networks import N_MEASURES, OUTPUTS, REACH, SPREAD

__all__ = [
    "ConvolutionalEncoder",
    "GenericEncoder",
    "Hearing",
    "KernelEncoder",
    "LearnedFeatures",
    "audio_encoder",
]

_KERNEL_COLUMNS = 24
"""Newest columns of a window that the correction in the subject's own voice hears beside the generic model."""
_LEAST_MEL = -4.0
"""Users' encoders hear the usual range of mel values."""
_SHUT, _SPEAKS = (8.0, -0.2), (2.0, -1.5)
"""Slope and threshold of the logits by which lips shut, as often as filmed ones do in speech, and by which mouths rest: a
word's soft end is still speech."""


@dataclass(frozen=True)
class Hearing:
    """The models in ONNX that an audio branch hears with."""

    generic: SpeechEncoder | None = None
    """The generic speech-to-mouth model, windows of 65 columns"""
    extra: SpeechEncoder | None = None
    """A speech encoder of the user's (``audio_visual.encoder``), windows of 16 columns"""


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
    """A model in ONNX inside a network of torch; exported as one node, whose definition is the model."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, model: SpeechEncoder) -> Tensor:
        """windows: [N, 1, 80, columns] -> [N, D]."""
        return torch.from_numpy(model(windows.cpu().numpy())).to(windows.device)

    @staticmethod
    def symbolic(g: Any, windows: Any, model: SpeechEncoder) -> Any:
        node = g.op(f"synctalk::{model.node}", windows)
        node.setType(windows.type().with_sizes([None, model.n_embedding]))
        return node


def _heard(windows: Tensor, model: SpeechEncoder) -> Tensor:
    """What a model says of the newest columns of windows, as many as it hears: [N, D]."""
    newest = windows[..., windows.shape[-1] - model.columns :]
    features: Tensor = LearnedFeatures.apply(newest, model)  # type: ignore[no-untyped-call]
    return features


class KernelEncoder(nn.Module):
    """Mel window of a frame -> its condition: a kernel machine, fitted in closed form (``audio_fit``).

    What it looks at: the window's mel bands, and beside them, if there is a speech encoder, what that says of the
    window's last columns, which lie about the frame's own time. Its weights are buffers: no gradient ever touches
    them. Source: Rahimi and Recht 2007 (random features).
    """

    def __init__(
        self, spec: AudioSpec, n_condition: int, speech: SpeechEncoder | None = None, n_heard: int = 0
    ) -> None:
        """n_heard: further inputs beside the mel bands and the speech encoder's."""
        super().__init__()
        if spec.n_taps != 1:
            raise ValueError(
                f"the kernel encoder sees one window a frame, the spec asks for {spec.n_taps} taps"
            )
        self.speech = speech
        self.n_bands = spec.pooled_bands
        self.n_pooled = spec.pooled_bands * min(spec.window_columns, _KERNEL_COLUMNS)
        n_inputs = self.n_pooled + n_heard + (0 if speech is None else speech.n_embedding)
        n_components = spec.components * (1 if n_inputs == self.n_pooled else 2)
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

    @property
    def models(self) -> tuple[SpeechEncoder, ...]:
        """The models in ONNX that it hears with."""
        return () if self.speech is None else (self.speech,)

    def inputs(self, windows: Tensor) -> Tensor:
        """windows: [N, 1, 80, columns] -> [N, bands * columns], and the speech encoder's embedding beside them."""
        pooled = self.pooled(windows[:, 0])
        if self.speech is None:
            return pooled
        return torch.cat([pooled, _heard(windows, self.speech)], dim=1)

    def pooled(self, mel: Tensor) -> Tensor:
        """The newest columns of mel [N, 80, columns], bands averaged: [N, n_pooled]."""
        n, n_mels, n_columns = mel.shape
        newest = mel[..., n_columns - self.n_pooled // self.n_bands :]
        return newest.reshape(n, self.n_bands, n_mels // self.n_bands, -1).mean(dim=2).flatten(1)

    def features(self, inputs: Tensor) -> Tensor:
        """Random cosine features of ``inputs``, [N, cosines]."""
        return torch.cos((inputs - self.centre) @ self.components @ self.frequencies + self.phases)

    def forward(self, windows: Tensor) -> Tensor:
        """windows: [N, 1, 80, columns] -> condition [N, C]."""
        return self.features(self.inputs(windows)) @ self.readout + self.bias


class GenericEncoder(KernelEncoder):
    """Mel window and voice of a frame -> its condition, for any voice.

    A linear map makes the subject's mouth of what the generic model says; lips shut where it is sure that they touch, and
    the mouth rests where nobody speaks. Where the voice's long-term spectrum is the subject's own, the kernel machine,
    which hears the generic model, too, takes over. All of it is fitted in closed form (``generic_fit``).
    """

    mouth: Tensor
    mouth_bias: Tensor
    shut: Tensor
    rest: Tensor
    voice_centre: Tensor
    voice_precision: Tensor
    voice_bias: Tensor
    basis: Tensor

    def __init__(
        self, spec: AudioSpec, n_condition: int, generic: SpeechEncoder, extra: SpeechEncoder | None = None
    ) -> None:
        super().__init__(spec, n_condition, extra, generic.n_embedding)
        self.generic = generic
        sizes = {
            "mouth": (N_MEASURES, n_condition),
            "mouth_bias": (n_condition,),
            "shut": (n_condition,),
            "rest": (n_condition,),
            "voice_centre": (2, N_SHAPE - 1),
            "voice_precision": (2, N_SHAPE - 1),
            "voice_bias": (1,),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))
        basis = shape_basis(spec.n_mels)
        self.register_buffer("basis", torch.from_numpy(basis).float())
        self.average_shape = torch.from_numpy(basis @ average_voice(spec.n_mels)).float()
        """[N_SHAPE - 1] of many voices"""

    @property
    def models(self) -> tuple[SpeechEncoder, ...]:
        """The models in ONNX that it hears with."""
        return (self.generic, *super().models)

    def inputs(self, windows: Tensor) -> Tensor:
        """windows: [N, 1, 80, columns + 1] -> [N, inputs]: mel bands about the voice's own spectrum, what the generic model
        says, and the user's encoder."""
        mel, known = windows[:, 0, :, :-1], windows[:, 0, :, -1:]
        parts = [self.pooled(((mel - known) / SPREAD).clamp(-REACH, REACH)), _heard(windows, self.generic)]
        if self.speech is not None:
            parts.append(_heard(windows[..., :-1].clamp(min=_LEAST_MEL), self.speech))
        return torch.cat(parts, dim=1)

    def forward(self, windows: Tensor) -> Tensor:
        """windows: [N, 1, 80, columns + 1] -> condition [N, C]."""
        inputs = self.inputs(windows)
        said = inputs[:, self.n_pooled : self.n_pooled + len(OUTPUTS)]
        own = self.features(inputs) @ self.readout + self.bias
        generic = self.generic_condition(said)
        return generic + self.is_own_voice(windows[:, 0, :, -1]) * (own - generic)

    def generic_condition(self, said: Tensor) -> Tensor:
        """What the generic model says [N, OUTPUTS] as this subject's mouth, [N, C]: the lips shut, and the mouth rests, where
        it says so."""
        is_shut = torch.sigmoid(_SHUT[0] * (said[:, N_MEASURES, None] - _SHUT[1]))
        speaks = torch.sigmoid(_SPEAKS[0] * (said[:, N_MEASURES + 1, None] - _SPEAKS[1]))
        condition = said[:, :N_MEASURES] @ self.mouth + self.mouth_bias
        condition = condition + is_shut * (self.shut - condition)
        return self.rest + speaks * (condition - self.rest)

    def is_own_voice(self, known: Tensor) -> Tensor:
        """Whether the voice is the subject's, 0..1: [N, 80] -> [N, 1]. The log-likelihood ratio of two Gaussians over the
        shape of the long-term spectrum: this voice's, and all voices'."""
        shape = known @ self.basis.T  # [N, N_SHAPE - 1]
        far = ((shape[:, None] - self.voice_centre) ** 2 * self.voice_precision).sum(dim=-1)  # [N, 2]
        return torch.sigmoid(self.voice_bias + 0.5 * (far[:, 1] - far[:, 0]))[:, None]


def audio_encoder(
    spec: AudioSpec, n_condition: int, hearing: Hearing
) -> ConvolutionalEncoder | KernelEncoder:
    """The audio branch that a spec asks for; it hears with the packaged generic model unless another is given."""
    if spec.encoder == "ave":
        return ConvolutionalEncoder(spec, n_condition)
    if spec.encoder == "kernel":
        return KernelEncoder(spec, n_condition, hearing.extra)
    return GenericEncoder(spec, n_condition, hearing.generic or generic_model(), hearing.extra)

"""Synthetic speech in many voices and languages, with the mouths that go with it: espeak-ng says which sound is when.

Phonemes are named in IPA here, so that one table serves all languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from ..synthetic.plain_head import plain_head
from ..synthetic.rig import load_ict
from ..synthetic.speech import SAMPLE_RATE, VISEMES, Espeak, Phoneme, Speech, mouth_shapes
from .languages import TEXTS
from .mouths import posed_measures

__all__ = ["IPA_SHAPES", "VISEME_NAMES", "Utterance", "Voices", "ipa_shapes"]

Float = NDArray[np.float32]

VISEME_NAMES = tuple(VISEMES)

_SOUNDS_OF = {
    "p": "pbmɓ", "f": "fvɱʋɸβ", "th": "θð", "t": "tdnlɾɫʈɖɳɭɗɽr", "k": "kgɡŋxɣqχʁħʕcɟɲʎçʝ", "sh": "ʃʒɕʑʂʐ",
    "s": "sz", "r": "ɹɻɚɝɜ", "a": "aɑɐæʌäã", "e": "eɛẽ", "i": "iɪɨjᵻ", "o": "oɔɒøœɵɤõ", "u": "uʊyʏwɥʉũ",
    "uh": "əɯhɦʔ",
}  # fmt: skip
IPA_SHAPES = {letter: shape for shape, letters in _SOUNDS_OF.items() for letter in letters}
"""First letter of a sound in IPA -> mouth shape"""

_VARIANTS = ("", *(f"+m{k}" for k in range(1, 9)), *(f"+f{k}" for k in range(1, 6)))
_SHORTEST_PAUSE_S = 0.03
_STEP_FPS = 25


def ipa_shapes(name: str) -> tuple[str, ...]:
    """Mouth shapes of one sound, one after the other: two for diphthongs and affricates, ``rest`` for none."""
    shapes: list[str] = []
    for letter in name:
        shape = IPA_SHAPES.get(letter)
        if shape is not None and (not shapes or shapes[-1] != shape):
            shapes.append(shape)
    return tuple(shapes[:2]) or ("rest",)


@dataclass(frozen=True)
class Utterance:
    """audio: [n] float32, 16 kHz; measures: [N, measures] at 25 frames a second; viseme: [N] index of VISEME_NAMES;
    phonemes: in IPA, with their times."""

    audio: Float
    measures: Float
    viseme: NDArray[np.int64]
    language: str
    phonemes: tuple[Phoneme, ...]


class Voices:
    """Says sentences in random languages, voices, speeds and pitches."""

    def __init__(self, generator: np.random.Generator, head: Path | None = None) -> None:
        """head: the ICT-FaceKit light mesh; a plain head without it.

        Raises: MediaError: espeak-ng is missing. ModelError: not that mesh.
        """
        self._generator = generator
        self._espeak = Espeak(ipa=True)
        self._head = plain_head(generator) if head is None else load_ict(head, generator)
        self._names = tuple(
            name
            for name in self._head.names
            if name.startswith(("mouth", "jaw")) and name not in ("jawForward",)
        )

    def say(self, n_sentences: int = 3, language: str | None = None) -> Utterance:
        """Some sentences of one voice with pauses between them, in a random language if none is named."""
        draw = self._generator
        language = language or str(draw.choice(list(TEXTS)))
        voice = language + str(draw.choice(_VARIANTS))
        speed, pitch = int(draw.integers(110, 230)), int(draw.integers(15, 90))
        pieces: list[Float] = [np.zeros(int(draw.uniform(0.2, 0.6) * SAMPLE_RATE), np.float32)]
        phonemes: list[Phoneme] = [Phoneme("_", 0.0, len(pieces[0]) / SAMPLE_RATE)]
        for text in draw.choice(TEXTS[language], n_sentences, replace=False):
            self._append(str(text), voice, speed, pitch, pieces, phonemes)
        audio = np.concatenate(pieces)
        audio *= 0.7 / max(float(np.abs(audio).max()), 1e-6)
        speech = Speech(audio, tuple(phonemes), "")
        n_frames = len(audio) * _STEP_FPS // SAMPLE_RATE
        shapes = mouth_shapes(speech, self._names, n_frames, _STEP_FPS, ipa_shapes)
        shapes *= self._effort(n_frames)
        measures = posed_measures(self._head, self._names, shapes)
        return Utterance(audio, measures, _visemes(phonemes, n_frames), language, tuple(phonemes))

    def _effort(self, n_frames: int) -> Float:
        """People open their mouths more or less as they talk, [N, 1]."""
        knots = self._generator.uniform(0.7, 1.25, 2 + n_frames // 40)
        return np.interp(np.linspace(0, len(knots) - 1, n_frames), np.arange(len(knots)), knots)[
            :, None
        ].astype(np.float32)

    def _append(
        self, text: str, voice: str, speed: int, pitch: int, pieces: list[Float], phonemes: list[Phoneme]
    ) -> None:
        """Say a sentence, with a pause after it."""
        at = phonemes[-1].end
        sound, starts = self._espeak.say(text, voice, speed, pitch)
        sound = np.asarray(soxr.resample(sound, self._espeak.rate, SAMPLE_RATE), np.float32)
        pause = np.zeros(int(self._generator.uniform(0.1, 0.7) * SAMPLE_RATE), np.float32)
        pieces += [sound, pause]
        ends = [start for _, start in starts[1:]] + [len(sound) / SAMPLE_RATE]
        for (name, start), end in zip(starts, ends, strict=True):
            is_sound = any(letter in IPA_SHAPES for letter in name) and not name.startswith("(")
            if is_sound:
                phonemes.append(Phoneme(name, at + start, at + end))
            elif end - start > _SHORTEST_PAUSE_S:
                phonemes.append(Phoneme("_", at + start, at + end))
        end = at + (len(sound) + len(pause)) / SAMPLE_RATE
        phonemes.append(Phoneme("_", at + len(sound) / SAMPLE_RATE, end))


def _visemes(phonemes: list[Phoneme], n_frames: int) -> NDArray[np.int64]:
    """Index of the mouth shape at each frame's time, [N]."""
    labels = np.zeros(n_frames, np.int64)
    for phoneme in phonemes:
        shapes = ipa_shapes(phoneme.name)
        edges = np.linspace(phoneme.start, phoneme.end, len(shapes) + 1) * _STEP_FPS
        for shape, first, end in zip(shapes, edges[:-1], edges[1:], strict=True):
            labels[int(np.ceil(first)) : int(np.ceil(end))] = VISEME_NAMES.index(shape)
    return labels

"""What is said, and when: speech with exact phoneme times, and the mouth shapes that go with it.

Phonemes carry espeak-ng's mnemonics. Source of the blending: Cohen & Massaro 1993 (overlapping dominance functions).
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import signal
from synctalk.errors import MediaError
from synctalk_trainer.synthetic.rig import Floats
from synctalk_trainer.synthetic.sentences import SENTENCES

__all__ = ["SAMPLE_RATE", "VISEMES", "Espeak", "Phoneme", "Speech", "babble", "mouth_shapes", "say"]

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Phoneme:
    """One sound: ``name`` is "_" in a pause; seconds from the start of the clip."""

    name: str
    start: float
    end: float
    is_stressed: bool = False


@dataclass(frozen=True)
class Speech:
    """audio: [n] float32 in -1..1, 16 kHz; phonemes in order, without gaps."""

    audio: Floats
    phonemes: tuple[Phoneme, ...]
    text: str


VISEMES: dict[str, dict[str, float]] = {
    "rest": {},
    "p": {"mouthPress": 0.35, "mouthRollLower": 0.18, "mouthRollUpper": 0.15},
    "f": {"jawOpen": 0.05, "mouthRollLower": 0.45, "mouthUpperUp": 0.28, "mouthShrugLower": 0.20},
    "th": {"jawOpen": 0.13, "mouthLowerDown": 0.30, "mouthUpperUp": 0.12},
    "t": {"jawOpen": 0.11, "mouthLowerDown": 0.28, "mouthUpperUp": 0.12, "mouthStretch": 0.08},
    "k": {"jawOpen": 0.15, "mouthLowerDown": 0.20, "mouthUpperUp": 0.08},
    "sh": {"jawOpen": 0.08, "mouthFunnel": 0.55, "mouthPucker": 0.22, "mouthLowerDown": 0.15},
    "s": {
        "jawOpen": 0.05,
        "mouthStretch": 0.20,
        "mouthSmile": 0.14,
        "mouthLowerDown": 0.35,
        "mouthUpperUp": 0.14,
    },
    "r": {"jawOpen": 0.12, "mouthFunnel": 0.32, "mouthPucker": 0.32},
    "a": {"jawOpen": 0.42, "mouthLowerDown": 0.22, "mouthUpperUp": 0.18, "mouthStretch": 0.06},
    "e": {
        "jawOpen": 0.25,
        "mouthStretch": 0.18,
        "mouthSmile": 0.16,
        "mouthLowerDown": 0.28,
        "mouthUpperUp": 0.14,
    },
    "i": {
        "jawOpen": 0.11,
        "mouthSmile": 0.34,
        "mouthStretch": 0.24,
        "mouthLowerDown": 0.26,
        "mouthUpperUp": 0.12,
    },
    "o": {"jawOpen": 0.30, "mouthFunnel": 0.50, "mouthPucker": 0.24},
    "u": {"jawOpen": 0.11, "mouthPucker": 0.72, "mouthFunnel": 0.26},
    "uh": {"jawOpen": 0.20, "mouthLowerDown": 0.16, "mouthUpperUp": 0.08},
}
"""Fifteen mouth shapes; a name without a side means both sides."""

_BOTH_SIDES = ("mouthPress", "mouthUpperUp", "mouthLowerDown", "mouthStretch", "mouthSmile")

# The first that starts a mnemonic wins: longer ones stand before shorter ones.
_SOUNDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("tS", ("sh",)), ("dZ", ("sh",)), ("aI", ("a", "i")), ("aU", ("a", "u")), ("eI", ("e", "i")), ("OI", ("o", "i")),
    ("oU", ("o", "u")), ("@U", ("o", "u")), ("e@", ("e",)), ("i@", ("i", "uh")), ("U@", ("u", "uh")), ("3", ("r",)),
    ("A", ("a",)), ("O", ("o",)), ("0", ("o",)), ("a", ("a",)), ("V", ("a",)), ("E", ("e",)), ("e", ("e",)),
    ("i", ("i",)), ("I", ("i",)), ("u", ("u",)), ("U", ("u",)), ("o", ("o",)), ("@", ("uh",)), ("p", ("p",)),
    ("b", ("p",)), ("m", ("p",)), ("f", ("f",)), ("v", ("f",)), ("T", ("th",)), ("D", ("th",)), ("t", ("t",)),
    ("d", ("t",)), ("n", ("t",)), ("l", ("t",)), ("k", ("k",)), ("g", ("k",)), ("N", ("k",)), ("h", ("uh",)),
    ("x", ("k",)), ("S", ("sh",)), ("Z", ("sh",)), ("s", ("s",)), ("z", ("s",)), ("r", ("r",)), ("w", ("u",)),
    ("j", ("i",)),
)  # fmt: skip


def _shapes_of(name: str) -> tuple[str, ...]:
    """Mouth shapes of one phoneme, one after the other (two for diphthongs)."""
    plain = name.lstrip("'%,=")
    return next((shapes for prefix, shapes in _SOUNDS if plain.startswith(prefix)), ("rest",))


def mouth_shapes(
    speech: Speech,
    names: tuple[str, ...],
    n_frames: int,
    fps: float,
    shapes_of: Callable[[str], tuple[str, ...]] = _shapes_of,
) -> Floats:
    """Expression coefficients [n_frames, K] of the mouth at ``frame / fps``, with co-articulation.

    Every sound pulls the mouth to its shape with a strength that falls off before it (about 100 ms: anticipation) and after it; the jaw follows the loudness.
    """
    columns = {name: i for i, name in enumerate(names)}
    time = np.arange(n_frames) / fps
    total = np.full(n_frames, 1e-6)
    values = np.zeros((n_frames, len(names)))
    for phoneme in speech.phonemes:
        shapes = shapes_of(phoneme.name)
        edges = np.linspace(phoneme.start, phoneme.end, len(shapes) + 1)
        for shape, start, end in zip(shapes, edges[:-1], edges[1:], strict=True):
            weight = _dominance(shape, time, start, end)
            total += weight
            for name, value in VISEMES[shape].items():
                for side in ("Left", "Right") if name in _BOTH_SIDES else ("",):
                    if name + side in columns:
                        values[:, columns[name + side]] += weight * value
    values /= total[:, None]
    values[:, columns["jawOpen"]] *= 0.55 + 0.65 * _loudness(speech.audio, time)
    return values.astype(np.float32)


def _dominance(shape: str, time: Floats, start: float, end: float) -> Floats:
    """How strongly a sound shapes the mouth at each time; lips that must close do so briefly and firmly."""
    strength, before, after = {
        "p": (9.0, 0.038, 0.032),
        "f": (3.5, 0.05, 0.045),
        "rest": (1.2, 0.07, 0.09),
    }.get(shape, (1.6, 0.10, 0.085) if shape in ("u", "sh", "o", "r") else (1.0, 0.07, 0.06))
    margin = 0.3 * min(end - start, 0.4)
    away = np.where(time < start + margin, (start + margin - time) / before, (time - (end - margin)) / after)
    pull: Floats = strength * np.exp(-(np.maximum(away, 0.0) ** 1.5))
    return pull


def _loudness(audio: Floats, time: Floats) -> Floats:
    """Smoothed loudness at each time, 1 for loud speech."""
    width = 0.03 * SAMPLE_RATE
    kernel = signal.windows.gaussian(2 * round(4 * width) + 1, width)
    power = signal.fftconvolve(audio.astype(np.float64) ** 2, kernel / kernel.sum(), mode="same")
    level = np.sqrt(np.maximum(power, 0.0))
    loud = level / max(float(np.quantile(level, 0.95)), 1e-6)
    at = np.interp(time, np.arange(len(audio)) / SAMPLE_RATE, np.sqrt(loud)).clip(0, 1.15)
    return np.asarray(at, np.float32)


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    )


_PHONEME_EVENT, _SYNCHRONOUS, _WITH_PHONEMES, _IN_IPA, _UTF8 = 7, 2, 1, 2, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_LONG_VOWELS = ("aI", "aU", "eI", "oU", "OI", "i:", "u:", "A:", "A@", "O:", "O@", "3:", "a", "E")
"""Espeak-ng does not report stress: a long vowel that takes its time stands for it."""

_VOICES = {"f": ("en-us+f2", "en-us+f3", "en-gb+f4"), "m": ("en-us", "en-gb+m3", "en-us+m2", "en-us+m7")}


class Espeak:
    """libespeak-ng through ctypes; one utterance at a time."""

    def __init__(self, ipa: bool = False) -> None:
        """ipa: name phonemes in IPA, not by espeak-ng's mnemonics. Raises: MediaError: it is missing."""
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise MediaError(
                f"speech needs the library espeak-ng, which is not installed ({error}): apt install espeak-ng"
            ) from error
        options = _WITH_PHONEMES | (_IN_IPA if ipa else 0)
        self.rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, options))
        if self.rate <= 0:
            raise MediaError(
                "espeak-ng does not start (its voice data is missing?): apt install espeak-ng espeak-ng-data"
            )

    def say(
        self, text: str, voice: str, words_per_minute: int, pitch: int
    ) -> tuple[Floats, list[tuple[str, float]]]:
        """Audio at ``self.rate`` and (mnemonic, start in seconds) of every phoneme."""
        chunks: list[Floats] = []
        starts: list[tuple[str, float]] = []

        def receive(samples: int, n: int, events: ctypes._Pointer[_Event]) -> int:
            if n > 0:
                block = ctypes.cast(samples, ctypes.POINTER(ctypes.c_int16 * n)).contents
                chunks.append(np.ctypeslib.as_array(block).astype(np.float32) / 32768.0)
            i = 0
            while events[i].type != 0:
                if events[i].type == _PHONEME_EVENT:
                    starts.append((events[i].string.decode("utf-8", "replace"), events[i].sample / self.rate))
                i += 1
            return 0

        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))(
            receive
        )
        self._library.espeak_SetSynthCallback(callback)
        self._library.espeak_SetVoiceByName(voice.encode())
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, 65)):
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        status = self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if status != 0 or not chunks:
            raise MediaError(
                f"espeak-ng gave no sound for {text!r} (status {status}): apt install espeak-ng-data"
            )
        return np.concatenate(chunks), starts


def say(seconds: float, generator: np.random.Generator, gender: str = "f") -> Speech:
    """Read sentences in random order with pauses, for ``seconds``. Needs libespeak-ng.

    gender: "f" or "m". Raises: MediaError: espeak-ng is missing.
    """
    import soxr

    espeak = Espeak()
    voice = str(generator.choice(_VOICES[gender]))
    speed, pitch = int(generator.integers(145, 170)), int(generator.integers(40, 60))
    length = round(seconds * SAMPLE_RATE)
    audio = np.zeros(length, np.float32)
    phonemes: list[Phoneme] = []
    said: list[str] = []
    order: list[int] = []
    at = 0.4
    while at < seconds - 0.3:
        if not order:
            order = [int(i) for i in generator.permutation(len(SENTENCES))]
        text = SENTENCES[order.pop()]
        sound, starts = espeak.say(text, voice, speed, pitch)
        sound = np.asarray(soxr.resample(sound, espeak.rate, SAMPLE_RATE), np.float32)
        first = round(at * SAMPLE_RATE)
        part = sound[: length - first]
        audio[first : first + len(part)] += part
        ends = [start for _, start in starts[1:]] + [len(sound) / SAMPLE_RATE]
        for (name, start), end in zip(starts, ends, strict=True):
            is_pause = not name.strip("'%,=_:| \0")
            is_stressed = name in _LONG_VOWELS and end - start > 0.09
            phonemes.append(Phoneme("_" if is_pause else name, at + start, at + end, is_stressed))
        said.append(text)
        at += len(sound) / SAMPLE_RATE + float(generator.choice([0.15, 0.3, 0.5, 0.9]))
    fade = min(length, SAMPLE_RATE // 20)
    audio[length - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    audio *= 0.7 / max(float(np.abs(audio).max()), 1e-6)
    return Speech(audio, _without_gaps(phonemes, seconds), " ".join(said))


def _without_gaps(phonemes: list[Phoneme], seconds: float) -> tuple[Phoneme, ...]:
    """Fill what lies between sounds with pauses and end at ``seconds``."""
    whole: list[Phoneme] = []
    at = 0.0
    for phoneme in phonemes:
        if phoneme.start >= seconds:
            break
        if phoneme.start > at + 1e-6:
            whole.append(Phoneme("_", at, phoneme.start))
        whole.append(Phoneme(phoneme.name, phoneme.start, min(phoneme.end, seconds), phoneme.is_stressed))
        at = whole[-1].end
    if at < seconds:
        whole.append(Phoneme("_", at, seconds))
    return tuple(whole)


_FORMANTS = {
    "a": (750, 1250, 2550),
    "e": (520, 1850, 2500),
    "i": (290, 2250, 2950),
    "o": (470, 900, 2450),
    "u": (320, 800, 2250),
}
_NOISES = {"s": 5500.0, "S": 3000.0, "f": 4500.0}


def babble(seconds: float, generator: np.random.Generator, pitch_hz: float = 170.0) -> Speech:
    """Syllables without sense from a small formant synthesiser: no library needed."""
    length = round(seconds * SAMPLE_RATE)
    audio = np.zeros(length, np.float32)
    phonemes: list[Phoneme] = []
    at, left = 0.25, int(generator.integers(4, 9))
    while at < seconds - 0.25:
        consonant = str(generator.choice(["p", "m", "s", "S", "f", "t", "l"]))
        vowel = str(generator.choice(list(_FORMANTS)))
        ends = at + float(generator.uniform(0.06, 0.11)), 0.0
        ends = ends[0], ends[0] + float(generator.uniform(0.12, 0.24))
        is_stressed = bool(generator.random() < 0.3)
        for name, start, end in ((consonant, at, ends[0]), (vowel, ends[0], ends[1])):
            first, last = round(start * SAMPLE_RATE), min(round(end * SAMPLE_RATE), length)
            audio[first:last] = _sound(
                name, last - first, pitch_hz * (1.15 if is_stressed else 1.0), generator
            )
            phonemes.append(Phoneme(name, start, end, is_stressed))
        at, left = ends[1], left - 1
        if left == 0:
            at, left = at + float(generator.uniform(0.25, 0.7)), int(generator.integers(4, 9))
    audio *= 0.7 / max(float(np.abs(audio).max()), 1e-6)
    return Speech(audio, _without_gaps(phonemes, seconds), "")


def _sound(name: str, n: int, pitch_hz: float, generator: np.random.Generator) -> Floats:
    """``n`` samples of one babbled phoneme."""
    if n <= 0:
        return np.zeros(0, np.float32)
    envelope = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 0.5
    if name in _FORMANTS:
        wave = (np.cumsum(np.full(n, pitch_hz / SAMPLE_RATE)) % 1.0) - 0.5
        for formant in _FORMANTS[name]:
            radius = np.exp(-np.pi * 90.0 / SAMPLE_RATE)
            turn = 2 * np.pi * formant / SAMPLE_RATE
            wave = signal.lfilter([1 - radius], [1, -2 * radius * np.cos(turn), radius**2], wave)
        return np.asarray(0.5 * envelope * wave / max(np.abs(wave).max(), 1e-6), np.float32)
    hiss = generator.standard_normal(n)
    if name in _NOISES:
        turn = 2 * np.pi * _NOISES[name] / SAMPLE_RATE
        hiss = signal.lfilter([0.1], [1, -1.8 * np.cos(turn), 0.81], hiss)
        return np.asarray(0.12 * envelope * hiss / max(np.abs(hiss).max(), 1e-6), np.float32)
    burst = np.exp(-np.arange(n)[::-1] / 80.0)
    return np.asarray(0.05 * burst * hiss, np.float32)

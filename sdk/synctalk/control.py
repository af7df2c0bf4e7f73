"""Live control of a session: head pose, expression, blink, gaze, background, each now or later, at once or gradually.

Times are seconds of the session's own clock (``Frame.pts_samples / sample_rate``).
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["KEEP", "MAX_POSE_DEG", "Control", "Keep", "eased"]

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Picture = NDArray[np.uint8]


class Keep(Enum):
    """Marks what a call leaves as it is."""

    KEEP = 0


KEEP: Final = Keep.KEEP

MAX_POSE_DEG: Final = (10.0, 10.0, 10.0)
"""Pitch, yaw and roll are held to plus or minus this: further from the recorded poses the field was never seen."""

_MAX_PENDING = 1000
_MEMORY_S = 2.0
"""Frames that were planned and dropped are planned again: so far back values must still be known."""

_BLINK = ("eyeBlinkLeft", "eyeBlinkRight")
_GAZE = ("eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeLookDownLeft")
_GAZE_NAMES = _GAZE + tuple(name.replace("Left", "Right") for name in _GAZE)


def eased(share: float) -> float:
    """0..1 with a soft start and a soft end; what lies outside is held."""
    x = min(1.0, max(0.0, share))
    return x * x * (3.0 - 2.0 * x)


@dataclass(frozen=True)
class _Key:
    at_s: float
    lerp_s: float
    target: Double

    def share(self, now_s: float) -> float:
        return 1.0 if self.lerp_s == 0.0 else eased((now_s - self.at_s) / self.lerp_s)


class _Ramp:
    """Values over time: each command leads from where the values are when it starts to its target."""

    def __init__(self, start: ArrayLike) -> None:
        self._from = np.asarray(start, np.float64)
        self._keys: list[_Key] = []

    def add(self, key: _Key) -> None:
        """Raises: ValueError: too many commands wait."""
        if len(self._keys) >= _MAX_PENDING:
            raise ValueError(f"{_MAX_PENDING} commands wait already: set controls closer to their time")
        bisect.insort_right(self._keys, key, key=lambda one: one.at_s)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __call__(self, now_s: float) -> Double:
        while len(self._keys) > 1 and self._keys[1].at_s < now_s - _MEMORY_S:
            self._from = self._after(self._from, 0, now_s)
            del self._keys[0]
        value = self._from
        for i in range(len(self._keys)):
            if now_s < self._keys[i].at_s:
                break
            value = self._after(value, i, now_s)
        return value

    def _after(self, value: Double, i: int, now_s: float) -> Double:
        """The value at ``now_s``, or when the next command takes over."""
        key = self._keys[i]
        until = min(now_s, self._keys[i + 1].at_s) if i + 1 < len(self._keys) else now_s
        return value + key.share(until) * (key.target - value)


@dataclass(frozen=True, eq=False)
class _Scenery:
    at_s: float
    lerp_s: float
    background: Picture | None


Pose: TypeAlias = tuple[float, float, float]


class Control:
    """What an app has asked of one session. Thread-safe; takes effect with the next frame that is planned."""

    def __init__(self, names: Sequence[str], size: tuple[int, int], now_s: Callable[[], float]) -> None:
        """names: the avatar's expression coefficients; size: width and height; now_s: time of the next frame."""
        self._names, self._size, self._now_s = tuple(names), size, now_s
        self._lock = threading.Lock()
        self._pose = _Ramp(np.zeros(3))
        self._expression: dict[str, _Ramp] = {}  # name -> [value, how far it replaces the avatar's own]
        self._scenery: list[_Scenery] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Expression coefficients that this avatar has."""
        return self._names

    def set(
        self,
        *,
        pose: Pose | Keep | None = KEEP,
        expression: Mapping[str, float | None] | Keep | None = KEEP,
        blink: float | Keep | None = KEEP,
        gaze: tuple[float, float] | Keep | None = KEEP,
        background: ArrayLike | Keep | None = KEEP,
        lerp_s: float = 0.0,
        at_s: float | None = None,
    ) -> None:
        """Change what is named, leave the rest; None gives a thing back to the avatar's own.

        pose: degrees (pitch up, yaw to the subject's left, roll to the subject's left shoulder) added to the recorded
        motion, held to ``MAX_POSE_DEG``. expression: coefficient -> 0..1, from the least to the most that the subject
        showed. blink: both eyes, 0 open .. 1 shut. gaze: left and up, -1..1, for avatars that learned gaze.
        background: uint8 [H, W, 3], or three numbers 0..255 for a colour. lerp_s: how long the change takes. at_s: when
        it starts, in seconds of the session's clock; None for the next frame.
        Raises: ValueError: an unknown coefficient, a value out of range, a size that differs, no gaze to control.
        """
        if not (math.isfinite(lerp_s) and lerp_s >= 0.0):
            raise ValueError(f"lerp_s: expected seconds from 0, got {lerp_s}")
        if at_s is not None and not math.isfinite(at_s):
            raise ValueError(f"at_s: expected seconds, got {at_s}")
        start = self._now_s() if at_s is None else at_s
        turn = None if isinstance(pose, Keep) else _pose(pose)
        faces = self._faces(expression, blink, gaze)
        scenery = None if isinstance(background, Keep) else self._scene(background, start, lerp_s)
        with self._lock:
            if turn is not None:
                self._pose.add(_Key(start, lerp_s, turn))
            for name, value in faces.items():
                self._face(name, value, start, lerp_s)
            if scenery is not None:
                self._scenery.append(scenery)
                self._scenery.sort(key=lambda one: one.at_s)

    def pose(self, now_s: float) -> Pose:
        """Pitch, yaw, roll in degrees at a time."""
        with self._lock:
            if not self._pose:
                return 0.0, 0.0, 0.0
            pitch, yaw, roll = self._pose(now_s)
        return float(pitch), float(yaw), float(roll)

    def expression(self, names: Sequence[str], now_s: float, own: Float, least: Float, most: Float) -> Float:
        """The coefficients [E] to draw; own: the avatar's; least, most: their range, which 0..1 is mapped to."""
        with self._lock:
            faces = {name: ramp(now_s) for name, ramp in self._expression.items() if name in names}
        if not faces:
            return own
        shown = own.copy()
        for name, (value, share) in faces.items():
            i = names.index(name)
            shown[i] += share * (least[i] + value * (most[i] - least[i]) - own[i])
        return shown

    def background(self, now_s: float) -> tuple[Picture | None, float]:
        """The picture that replaces the recorded background, and how far it does, 0..1."""
        with self._lock:
            while (
                len(self._scenery) > 1 and self._scenery[1].at_s + self._scenery[1].lerp_s < now_s - _MEMORY_S
            ):
                del self._scenery[0]
            past = [one for one in self._scenery if one.at_s <= now_s]
        if not past:
            return None, 0.0
        to, before = past[-1], past[-2].background if len(past) > 1 else None
        share = _Key(to.at_s, to.lerp_s, np.zeros(0)).share(now_s)
        if to.background is None:
            return (None, 0.0) if share == 1.0 else (before, 1.0 - share)
        if before is None or share == 1.0:
            return to.background, share
        mixed = before + share * (to.background.astype(np.float32) - before)
        return np.asarray(mixed + 0.5, np.uint8), 1.0

    def retarget(self, names: Sequence[str], size: tuple[int, int]) -> None:
        """Control another avatar from now on; what was set for the one before and this one lacks is ignored."""
        with self._lock:
            self._names, self._size = tuple(names), size

    def _faces(
        self,
        expression: Mapping[str, float | None] | Keep | None,
        blink: float | Keep | None,
        gaze: tuple[float, float] | Keep | None,
    ) -> dict[str, float | None]:
        faces: dict[str, float | None] = {}
        if expression is None:
            faces |= dict.fromkeys(self._names)
        elif not isinstance(expression, Keep):
            faces |= expression
        if not isinstance(blink, Keep):
            faces |= dict.fromkeys(_BLINK, blink)
        if not isinstance(gaze, Keep):
            faces |= self._gaze(gaze)
        for name, value in faces.items():
            if name not in self._names:
                raise ValueError(f"this avatar has no {name!r}: choose from {', '.join(self._names)}")
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}: expected 0..1 or None, got {value}")
        return faces

    def _gaze(self, gaze: tuple[float, float] | None) -> dict[str, float | None]:
        if not set(_GAZE_NAMES) <= set(self._names):
            raise ValueError(
                f"this avatar did not learn gaze: it has {', '.join(self._names)}. Turn the head instead."
            )
        if gaze is None:
            return dict.fromkeys(_GAZE_NAMES)
        left, up = gaze
        if not (abs(left) <= 1.0 and abs(up) <= 1.0):
            raise ValueError(f"gaze: expected (left, up), each -1..1, got {gaze}")
        sides = {"OutLeft": left, "InRight": left, "InLeft": -left, "OutRight": -left}
        heights = {"UpLeft": up, "UpRight": up, "DownLeft": -up, "DownRight": -up}
        return {f"eyeLook{name}": max(0.0, value) for name, value in (sides | heights).items()}

    def _face(self, name: str, value: float | None, at_s: float, lerp_s: float) -> None:
        ramp = self._expression.setdefault(name, _Ramp([0.0 if value is None else value, 0.0]))
        held = ramp(at_s)[0] if value is None else value
        ramp.add(_Key(at_s, lerp_s, np.array([held, 0.0 if value is None else 1.0])))

    def _scene(self, background: ArrayLike | None, at_s: float, lerp_s: float) -> _Scenery:
        if background is None:
            return _Scenery(at_s, lerp_s, None)
        values = np.asarray(background)
        width, height = self._size
        if values.shape not in ((3,), (height, width, 3)):
            raise ValueError(f"background: expected [3] or [{height}, {width}, 3], got {list(values.shape)}")
        if values.min() < 0 or values.max() > 255:
            raise ValueError("background: expected values 0..255")
        if len(self._scenery) >= _MAX_PENDING:
            raise ValueError(f"{_MAX_PENDING} backgrounds wait already: set them closer to their time")
        return _Scenery(at_s, lerp_s, values.astype(np.uint8))


def _pose(pose: Pose | None) -> Double:
    values = np.zeros(3) if pose is None else np.asarray(pose, np.float64)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"pose: expected (pitch, yaw, roll) in degrees, got {pose}")
    return np.clip(values, -np.array(MAX_POSE_DEG), MAX_POSE_DEG)

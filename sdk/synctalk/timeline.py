"""One session without threads or clocks: sound goes in, plans of frames come out, drawn frames are handed over.

``Avatar.speak`` drives a timeline itself; an ``Executor`` drives those of sessions. Time is whatever ``now`` (seconds)
the caller passes. With pace ``realtime`` frame ``i`` is due at ``anchor + i / fps``; with ``fast`` it is never due.

Rules that keep it right: one frame of a timeline is in work at a time; a frame is stamped with the generation it was
planned in, and dropped where that has passed; what was planned and not taken when an interruption comes is planned
again under the same index, so that indices, and with them the recorded motion, have no gap.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synctalk.audio import whole_rate
from synctalk.condition import Spoken, Utterance
from synctalk.control import Control
from synctalk.expression import Brows, Expression, Source
from synctalk.frame import Frame
from synctalk.idle import Mouth, Sway
from synctalk.sound import Chunk, SampleStream
from synctalk.stage import Shot, Stage

__all__ = ["Interrupted", "Limits", "Pace", "Plan", "SessionStats", "Timeline"]

Float = NDArray[np.float32]
Pace: TypeAlias = Literal["realtime", "fast"]

_NEVER = math.inf
_EPSILON_S = 1e-6
_MEMORY_FRAMES = 32
"""Frames that were planned and dropped are planned again: more than may be drawn ahead."""
_MAX_LAG_S = 1.0
"""Further behind, for a stalled machine or consumer, the clock starts anew instead of catching up."""


@dataclass(frozen=True)
class Limits:
    """What a session may hold."""

    ahead_frames: int = 3
    """Frames that are drawn and wait to be taken."""
    pending_s: float = 30.0
    """Sound that waits to be spoken: above it a push waits (async, or sync with a consumer in another thread)."""
    stall_s: float = 10.0
    """A push that waits this long without any frame being taken raises ``CapacityError``."""

    def __post_init__(self) -> None:
        if not 1 <= self.ahead_frames <= _MEMORY_FRAMES or self.pending_s <= 0 or self.stall_s <= 0:
            raise ValueError(
                f"limits: expected positive numbers, {_MEMORY_FRAMES} frames at most, got {self}"
            )


@dataclass(frozen=True)
class Interrupted:
    """What an interruption cut off."""

    played_ms: float
    """How much of the current sound was handed out in frames."""
    dropped_ms: float
    """How much of what was pushed will never be."""


@dataclass(frozen=True)
class SessionStats:
    """Counts since a session began."""

    frames: int
    """Frames taken."""
    late: int
    """Frames that were not ready when due."""
    repeated: int
    """Frames whose picture is the one before, to keep up with the sound on a machine that is too slow."""
    starved: int
    """Idle frames inside a sound, because the next piece was not pushed in time."""
    restarts: int
    """How often the clock started anew: with each sound where there is no idle motion, or after a long stall."""
    pending_ms: float
    """Sound that waits to be handed out."""
    generation: int
    """Interruptions so far."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A frame to draw."""

    shot: Shot
    index: int
    generation: int
    due: float
    audio: Float
    spoken: Spoken | None
    utterance: Utterance | None
    mouth: Mouth
    brows: Brows
    stage: Stage
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, eq=False)
class _Ready:
    frame: Frame
    plan: Plan


class Timeline:
    """The state of one session. Any thread may push, interrupt and take; one at a time plans and finishes."""

    def __init__(
        self,
        stage: Stage,
        *,
        pace: Pace = "fast",
        idle: bool = False,
        rgba: bool = False,
        expression: Source = "generated",
        seed: int = 0,
        limits: Limits | None = None,
    ) -> None:
        """idle: motion while silent; needs pace ``realtime`` to show between sounds."""
        if pace not in ("realtime", "fast"):
            raise ValueError(f"pace: expected 'realtime' or 'fast', got {pace!r}")
        self.stage, self.pace, self.limits = stage, pace, limits or Limits()
        self._idle, self._rgba, self._source, self._seed = idle, rgba, expression, seed
        names = stage.spec.field.expression_names
        self.control = Control(names, stage.size, lambda: self._next / self.fps)
        self.fps, self.sample_rate = stage.spec.fps, stage.spec.audio.sample_rate
        self._lock = threading.Lock()
        self._utterances: deque[Utterance] = deque()  # the first is being taken
        self._sound: SampleStream | None = None  # what the last of them is pushed through
        self._ready: deque[_Ready] = deque()
        self._generation = 0
        self._next = 0  # index of the next frame to plan
        self._in_work: Plan | None = None
        self._has_news = False  # there may be sound that was not yet turned into a plan
        self._anchor: float | None = None
        self._is_waiting = True  # for sound, without idle motion: the clock stands still
        self._last_image: NDArray[np.uint8] | None = None
        self._error: BaseException | None = None
        self.is_closed = False
        self._taken = self._late = self._repeated = self._starved = self._restarts = 0
        self._coming: Stage | None = None  # planned with from the next frame on
        self._settle(stage)

    def _settle(self, stage: Stage) -> None:
        """Take on a stage's motion and voice."""
        for utterance in self._utterances:
            utterance.stream.retarget(stage.backend.condition, stage.shaping)
        self._coming, self._last_image = None, None
        self.stage = stage
        self._expression = Expression(
            stage.track,
            stage.spec.field.expression_names,
            self.fps,
            source=self._source,
            seed=self._seed,
            first=max(0, self._next - _MEMORY_FRAMES),
        )
        self._brows = self._shown_brows = Brows()
        self._sway = Sway(self.fps, self._seed)
        self._mouth = self._shown = Mouth.at_rest(stage.shaping.rest)

    # --- the app's side ---------------------------------------------------------------------------------------------

    def push(self, chunk: Chunk, rate: int) -> None:
        """Append sound (``sound.SampleStream``) to the current utterance, or begin one.

        Raises: MediaError: no sound, or an impossible rate; ValueError: another rate than the utterance began with.
        """
        rate = whole_rate(rate)
        with self._lock:
            self._check_open()
            sound = self._sound or SampleStream(rate)
            if sound.rate != rate:
                raise ValueError(
                    f"sound at {rate} Hz inside one at {sound.rate} Hz: flush() before a new rate"
                )
            mono = sound.push(chunk)
            if sound.is_empty:
                return
            self._sound = sound
            if len(mono) == 0:
                return
            if not self._utterances or self._utterances[-1].is_ended:
                self._utterances.append(Utterance((self._coming or self.stage).listen(rate), rate))
            self._utterances[-1].push(mono)
            self._has_news = True

    def flush(self) -> None:
        """End the utterance; without one, nothing happens. Half a sample that waits for its other half is dropped."""
        with self._lock:
            self._sound = None
            if self._utterances:
                self._utterances[-1].is_ended = True
                self._has_news = True

    def interrupt(self) -> Interrupted:
        """Drop all sound and every frame that was not taken; without sound, nothing happens."""
        with self._lock:
            self._sound = None
            if not self._utterances:
                return Interrupted(0.0, 0.0)
            played = self._utterances[0].played_s
            dropped = max(0.0, self._pending_s())
            self._utterances.clear()
            self._drop_planned()
            return Interrupted(1000.0 * played, 1000.0 * dropped)

    def swap(self, stage: Stage) -> None:
        """Go on as another avatar from the next frame; sound that is under way goes on where audio settings agree.

        Raises: ValueError: another frame rate, sample rate, or, in the midst of a sound, other audio settings.
        """
        old, new = (self._coming or self.stage).spec, stage.spec
        if (old.fps, old.audio.sample_rate) != (new.fps, new.audio.sample_rate):
            raise ValueError(
                f"the other avatar has {new.fps} fps and {new.audio.sample_rate} Hz, this session "
                f"{old.fps} and {old.audio.sample_rate}: open another session"
            )
        with self._lock:
            if self._utterances and old.audio != new.audio:
                raise ValueError("the other avatar listens differently: swap when the sound is over")
            self.control.retarget(new.field.expression_names, stage.size)
            self._coming = stage

    def take(self, now: float) -> Frame | None:
        """The next frame if there is one and it is due. Raises: what went wrong while drawing."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if not self._ready or self._ready[0].plan.due > now:
                return None
            ready = self._ready.popleft()
            plan = ready.plan
            self._taken += 1
            if plan.stage is self.stage:
                self._shown, self._shown_brows = plan.mouth, plan.brows
            if plan.utterance is not None:
                plan.utterance.played_s += len(ready.frame.audio) / self.sample_rate
                if ready.frame.end_of_speech:
                    self._utterances.popleft()
            return ready.frame

    def next_due(self) -> float | None:
        """When the next frame can be taken; None while none is drawn."""
        with self._lock:
            if self._error is not None:
                return -_NEVER
            return self._ready[0].plan.due if self._ready else None

    def has_room(self, seconds: float) -> bool:
        """Whether so much more sound fits; a single push of any length does where none waits."""
        with self._lock:
            pending = self._pending_s()
            return not self._utterances or pending + seconds <= self.limits.pending_s

    @property
    def generation(self) -> int:
        """Interruptions so far."""
        return self._generation

    @property
    def is_drained(self) -> bool:
        """Whether every frame of all sound has been taken."""
        return not self._utterances

    def stats(self) -> SessionStats:
        with self._lock:
            pending_ms = 1000.0 * max(0.0, self._pending_s())
            return SessionStats(
                self._taken,
                self._late,
                self._repeated,
                self._starved,
                self._restarts,
                pending_ms,
                self._generation,
            )

    def close(self) -> None:
        """Drop everything; frames are neither planned nor taken any more."""
        with self._lock:
            self.is_closed = True
            self._utterances.clear()
            self._ready.clear()
            self._has_news = False

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError("the session is closed: open another one")

    def _pending_s(self) -> float:
        return sum(one.pushed_s - one.played_s for one in self._utterances)

    def _drop_planned(self) -> None:
        self._next = self._taken
        self._ready.clear()
        self._mouth, self._brows = self._shown, self._shown_brows
        self._generation += 1
        self._has_news = False

    # --- the executor's side ----------------------------------------------------------------------------------------

    def call(self, now: float) -> tuple[float, float]:
        """When the next frame can be planned, and when it is due: (inf, inf) for not before somebody acts."""
        with self._lock:
            if self.is_closed or self._error is not None or self._in_work is not None:
                return _NEVER, _NEVER
            if len(self._ready) >= self.limits.ahead_frames:
                return _NEVER, _NEVER
            due = self._due(now)
            if self._has_news:
                return now, due
            if not self._idle or self.pace == "fast":
                return _NEVER, _NEVER
            return due - self._lead(), due

    def _lead(self) -> float:
        """How long before they are due idle frames are planned: late, so that speech begins soon; in a sound, later."""
        return (0.5 if self._utterances else 1.0) / self.fps

    def _due(self, now: float) -> float:
        """When the next frame is due, with the clock started, or started anew, where it must be."""
        if self.pace == "fast":
            return _NEVER
        frame_s = 1.0 / self.fps
        if self._anchor is None:
            return now + frame_s
        due = self._anchor + self._next * frame_s
        is_behind = due < now + frame_s if self._is_waiting else due < now - _MAX_LAG_S
        return now + frame_s if is_behind else due

    def _keep_time(self, due: float) -> None:
        """Let the next frame be due then."""
        on_time = self._anchor is not None and abs(self._anchor + self._next / self.fps - due) < _EPSILON_S
        if not on_time:
            self._restarts += self._anchor is not None
            self._anchor = due - self._next / self.fps

    def plan(self, now: float) -> Plan | None:
        """The next frame to draw, or None where there is nothing to say and no idle motion."""
        with self._lock:
            if self._coming is not None:
                self._settle(self._coming)
            generation, utterances = self._generation, tuple(self._utterances)
            self._has_news = False
        spoken, utterance = self._listen(utterances)  # the audio branch, without the lock
        with self._lock:
            if generation != self._generation or self.is_closed:
                return None
            due = self._due(now)
            if spoken is not None:
                self._has_news = True
            elif not self._idle or self.pace == "fast":
                self._is_waiting = True
                return None
            elif due - now > self._lead() + _EPSILON_S:
                return None
            self._is_waiting = False
            self._starved += spoken is None and bool(self._utterances)
            if self.pace == "realtime":
                self._keep_time(due)
            self._in_work = self._planned(spoken, utterance, due if self.pace == "realtime" else -_NEVER)
            self._next += 1
            return self._in_work

    @staticmethod
    def _listen(utterances: tuple[Utterance, ...]) -> tuple[Spoken | None, Utterance | None]:
        for utterance in utterances:
            if (spoken := utterance.next()) is not None:
                return spoken, utterance
            if not utterance.is_ended:
                break
        return None, None

    def _planned(self, spoken: Spoken | None, utterance: Utterance | None, due: float) -> Plan:
        mouth = self._mouth
        if self._idle:
            mouth = mouth.speak(spoken.condition, spoken.is_speaking) if spoken else mouth.be_quiet()
        self._mouth = mouth
        self._brows = self._brows.follow(spoken.prominence if spoken else 0.0, self.fps)
        audio = np.zeros(self.stage.frame_samples, np.float32)
        if spoken is not None:
            audio = spoken.audio
            missing = self.stage.frame_samples - len(audio)
            if self._idle and missing:  # the clock goes on after a short last frame
                audio = np.pad(audio, (0, missing))
        return Plan(
            shot=self._shot(mouth.condition if self._idle or spoken is None else spoken.condition),
            index=self._next,
            generation=self._generation,
            due=due,
            audio=audio,
            spoken=spoken,
            utterance=utterance,
            mouth=mouth,
            brows=self._brows,
            stage=self.stage,
        )

    def _shot(self, condition: Float) -> Shot:
        index, now_s = self._next, self._next / self.fps
        at = self.stage.track.index(index)
        own, pose = self._expression(index, self._brows), self.control.pose(now_s)
        if self._idle:
            sway = self._sway(index, self._mouth.idle_share)
            pose = (pose[0] + sway[0], pose[1] + sway[1], pose[2] + sway[2])
        background, share = self.control.background(now_s)
        if background is not None and background.shape[:-1] not in ((), self.stage.size[::-1]):
            background = None  # made for the avatar before
        names = self.stage.spec.field.expression_names
        return Shot(
            at=at,
            condition=condition,
            expression=self.control.expression(
                names, now_s, own, self._expression.least, self._expression.most
            ),
            pose_deg=pose,
            background=background,
            background_share=share,
            rgba=self._rgba,
        )

    def repeated(self, now: float) -> NDArray[np.uint8] | None:
        """The picture to show again instead of drawing the frame in work, where that is more than a frame late."""
        with self._lock:
            plan = self._in_work
            if plan is None or self.pace == "fast" or now <= plan.due + 1.0 / self.fps:
                return None
            self._repeated += self._last_image is not None
            return self._last_image

    def finish(self, plan: Plan, image: NDArray[np.uint8], now: float) -> Frame | None:
        """Hand over a drawn frame; None where it is stale."""
        spoken, frame_samples = plan.spoken, plan.stage.frame_samples
        frame = Frame(
            image=image,
            index=plan.index,
            pts_samples=plan.index * frame_samples,
            audio=plan.audio,
            speaking=spoken is not None and spoken.is_speaking,
            end_of_speech=spoken is not None and spoken.is_last,
            sound_pts_samples=None if spoken is None else spoken.index * frame_samples,
            generation=plan.generation,
            render_ms=1000.0 * (time.perf_counter() - plan.began),
            sample_rate=self.sample_rate,
        )
        with self._lock:
            self._in_work = None
            if plan.generation != self._generation or self.is_closed:
                return None
            if plan.stage is self.stage:
                self._last_image = image
            self._late += self.pace == "realtime" and now > plan.due
            self._ready.append(_Ready(frame, plan))
            return frame

    def fail(self, error: BaseException) -> None:
        """Drawing went wrong: whoever takes frames gets the error."""
        with self._lock:
            self._in_work = None
            self._error = error

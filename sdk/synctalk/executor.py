"""One executor draws the frames of all sessions: those that are due, earliest deadline first, and those of one avatar
together where its backend draws batches.

Sessions of pace ``realtime`` are admitted only while the frames of all of them fit into the machine's time; those of
pace ``fast`` have no deadline and take what is left.
"""

from __future__ import annotations

import atexit
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakKeyDictionary

from synctalk.errors import CapacityError
from synctalk.forks import renew_in_children
from synctalk.stage import Shot, Stage
from synctalk.timeline import Plan, Timeline

__all__ = ["Executor"]

_BATCH_S = 0.01
"""Work that is taken on between two looks at the deadlines."""

_COST_RATE = 0.05
_PROBE_FRAMES = 3


class Executor:
    """Draws for any number of sessions on one thread (which the backend may spread over many). Thread-safe."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        load_limit: float = 0.9,
        max_sessions: int = 1000,
        is_threaded: bool = True,
    ) -> None:
        """clock: seconds, the time that frames are due by. load_limit: share of the time that deadlines may fill.

        is_threaded: False leaves the work to whoever calls ``step``: for tests and simulated clocks.
        """
        self.clock, self._load_limit, self._max_sessions = clock, load_limit, max_sessions
        self._is_threaded = is_threaded
        self._n_served = 0
        self._cost_s: WeakKeyDictionary[Stage, float] = WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        self._forget()
        renew_in_children(self)

    def _forget(self) -> None:
        self._condition = threading.Condition()
        self._rings: dict[Timeline, Callable[[], None]] = {}
        self._served: dict[Timeline, int] = {}
        self._is_woken = False

    def renew_after_fork(self) -> None:
        """A child has no session and no thread yet."""
        if self._thread is not None:
            atexit.unregister(self._stop)
            self._thread = None
        self._forget()

    def add(self, timeline: Timeline, ring: Callable[[], None]) -> None:
        """Draw for a session from now on; ``ring`` is called, on the executor's thread, when frames are ready.

        Raises: CapacityError: no room beside the sessions that are open, with the reason. The first one always fits.
        """
        self.probe(timeline.stage)
        with self._condition:
            self._admit(timeline)
            self._rings[timeline] = ring
            self._served[timeline] = self._n_served
            self._is_woken = True
            if self._thread is None and self._is_threaded:
                self._thread = threading.Thread(target=self._run, name="synctalk-executor", daemon=True)
                self._thread.start()
                atexit.register(self._stop)  # a thread inside native code must not outlive the interpreter
            self._condition.notify()

    def remove(self, timeline: Timeline) -> None:
        """Forget a session; with the last one the thread ends."""
        with self._condition:
            self._rings.pop(timeline, None)
            self._served.pop(timeline, None)
            self._is_woken = True
            self._condition.notify()

    def wake(self) -> None:
        """There is news: sound, room for frames."""
        if self._is_woken:
            return
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def close(self) -> None:
        """Close every session."""
        with self._condition:
            open_ones = list(self._rings.items())
        for timeline, ring in open_ones:
            timeline.close()
            self.remove(timeline)
            ring()

    def probe(self, stage: Stage) -> None:
        """Measure, once, what a frame of an avatar costs; this also warms it up."""
        if stage in self._cost_s:
            return
        shot = Shot(0, stage.shaping.rest, stage.track.expression[0])
        seconds = []
        for _ in range(1 + _PROBE_FRAMES):
            began = self.clock()
            stage.draw(shot)
            seconds.append(self.clock() - began)
        with self._condition:
            self._cost_s.setdefault(stage, statistics.median(seconds[1:]))

    def cost_s(self, stage: Stage) -> float:
        """Seconds that a frame of an avatar takes, by the latest frames; NaN before ``probe``."""
        return self._cost_s.get(stage, math.nan)

    @property
    def n_sessions(self) -> int:
        """Sessions that are open."""
        return len(self._rings)

    @property
    def load(self) -> float:
        """Share of the machine's time that sessions in real time need, by the frames drawn so far; 1 is all."""
        with self._condition:
            return self._load()

    def step(self) -> float:
        """Draw the frames that should be drawn now; how many seconds until there is more to do (inf: not known)."""
        now = self.clock()
        batch, wait = self._due(now)
        for group in _together(batch):
            self._serve(group)
        return 0.0 if batch else wait

    def _load(self) -> float:
        return sum(
            self._cost_s.get(one.stage, 0.0) * one.fps for one in self._rings if one.pace == "realtime"
        )

    def _admit(self, timeline: Timeline) -> None:
        if len(self._rings) >= self._max_sessions:
            raise CapacityError(
                f"{self._max_sessions} sessions are open, the most there may be: close one",
                limit=self._max_sessions,
                load=len(self._rings) + 1,
            )
        if timeline.pace == "fast" or not any(one.pace == "realtime" for one in self._rings):
            return  # it disturbs nobody: on a machine too slow for it, pictures are repeated
        cost = self._cost_s[timeline.stage]
        load = self._load() + cost * timeline.fps
        if load > self._load_limit:
            raise CapacityError(
                f"a frame takes {1000 * cost:.1f} ms here: with {len(self._rings)} sessions open, one more at "
                f"{timeline.fps} fps would need {load:.0%} of the time there is ({self._load_limit:.0%} at most). "
                "Close a session, take a faster machine or a smaller avatar, or ask for pace='fast'.",
                limit=self._load_limit,
                load=load,
            )

    def _due(self, now: float) -> tuple[list[Timeline], float]:
        """Sessions to serve now, earliest deadline first, and how long to wait where there are none."""
        with self._condition:
            self._is_woken = False
            timelines = list(self._rings)
        due: list[tuple[float, int, int, Timeline]] = []
        soonest = math.inf
        for i, timeline in enumerate(timelines):
            start, deadline = timeline.call(now)
            if start <= now:
                due.append((deadline, self._served.get(timeline, 0), i, timeline))
            else:
                soonest = min(soonest, start)
        due.sort()
        batch: list[Timeline] = []
        seconds = 0.0
        for *_, timeline in due:
            if batch and seconds > _BATCH_S:
                break
            seconds += self._cost_s.get(timeline.stage, 0.0)
            batch.append(timeline)
        return batch, soonest - now

    def _serve(self, group: Sequence[Timeline]) -> None:
        """A frame of each session of one avatar; whatever fails is that session's, and the others go on."""
        planned: dict[Stage, list[tuple[Timeline, Plan]]] = {}
        for timeline in group:
            try:
                plan = timeline.plan(self.clock())
                if plan is None:
                    continue
                image = timeline.repeated(self.clock())
                if image is None:
                    planned.setdefault(plan.stage, []).append((timeline, plan))
                else:
                    timeline.finish(plan, image, self.clock())
            except Exception as error:
                timeline.fail(error)
        for stage, work in planned.items():
            self._draw(stage, work)
        for timeline in group:
            self._tell(timeline)

    def _draw(self, stage: Stage, work: Sequence[tuple[Timeline, Plan]]) -> None:
        began = self.clock()
        try:
            images = stage.draw_all([plan.shot for _, plan in work])
        except Exception as error:
            if len(work) == 1:
                work[0][0].fail(error)
            else:  # one after the other shows whose it is
                for one in work:
                    self._draw(stage, [one])
            return
        self._learn(stage, (self.clock() - began) / len(work))
        for (timeline, plan), image in zip(work, images, strict=True):
            try:
                timeline.finish(plan, image, self.clock())
            except Exception as error:
                timeline.fail(error)

    def _tell(self, timeline: Timeline) -> None:
        self._n_served += 1
        with self._condition:
            ring = self._rings.get(timeline)
            if ring is not None:
                self._served[timeline] = self._n_served
        if ring is not None:
            ring()

    def _learn(self, stage: Stage, seconds: float) -> None:
        known = self._cost_s.get(stage, seconds)
        self._cost_s[stage] = known + _COST_RATE * (seconds - known)

    def _stop(self) -> None:
        with self._condition:
            thread = self._thread
            self._rings.clear()
            self._is_woken = True
            self._condition.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            wait = self.step()
            with self._condition:
                if not self._rings:
                    self._thread = None
                    atexit.unregister(self._stop)
                    return
                if wait > 0.0 and not self._is_woken:
                    self._condition.wait(None if wait == math.inf else wait)


def _together(timelines: Iterable[Timeline]) -> list[list[Timeline]]:
    """In order, but sessions of one avatar with the first of them where its backend draws batches."""
    groups: list[list[Timeline]] = []
    of_stage: dict[Stage, list[Timeline]] = {}
    for timeline in timelines:
        if timeline.stage in of_stage:
            of_stage[timeline.stage].append(timeline)
        else:
            groups.append([timeline])
            if timeline.stage.is_batched:
                of_stage[timeline.stage] = groups[-1]
    return groups

"""Sessions under load: latency, interruptions, drift, many sessions, memory, a soak. Figures as JSON, and a plot.

    python scripts/load_test.py first-frame|interrupts|drift|mock|curve|memory|soak|long-sound [--avatar A.avatar] [--json out/x.json]

``--avatar mock`` (the default of most) needs no bundle. Ends with status 1 where the bar is missed. docs/streaming.md
explains the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import random
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synctalk import Avatar, Executor, Frame, Limits, Session
from synctalk.audio import resample
from synctalk.cli import DEMO
from synctalk.media import atomic_path, read_audio

Float = NDArray[np.float32]
Figures = dict[str, Any]

RATE = 16_000
_GROWTH_MB = 20.0
"""An hour of sound has 230 MB, as floats at 16 kHz; the index of an hour's film a few."""
UNLIMITED = math.inf
"""Admits every session, to see what happens."""


def speech() -> Float:
    """The demo sentence, from its first loud sample on."""
    samples, rate = read_audio(DEMO / "sentence.wav")
    mono = resample(samples, rate)
    return mono[int(np.argmax(np.abs(mono) > 0.02)) :]


def percentiles(values: list[float]) -> Figures:
    names = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(values, at)), 2) for name, at in names.items()}


# --- first frame ---------------------------------------------------------------------------------------------------


async def first_frame(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """From the first push to the first frame that carries speech; 20 ms pieces in real time, at random moments."""
    sound, generator, latencies = speech(), random.Random(1), []
    async with avatar.session() as session:
        frames = aiter(session.run())
        for _ in range(arguments.trials):
            until = time.monotonic() + generator.uniform(0.2, 0.4)
            while time.monotonic() < until:
                await anext(frames)
            feeder = asyncio.create_task(feed(session, sound[: RATE // 2], 0.02))
            await asyncio.sleep(0)
            began = time.monotonic()
            while not (await anext(frames)).audio.any():
                pass
            latencies.append(1000.0 * (time.monotonic() - began))
            await feeder
            session.interrupt()
    figures = percentiles(latencies)
    lookahead = avatar.info().lookahead_ms
    return {
        "trials": len(latencies),
        "lookahead_ms": lookahead,
        "ms": figures,
        "values_ms": latencies,
    } | verdict(figures["p95"] <= 200.0)


async def feed(session: Session, sound: Float, piece_s: float) -> None:
    """Push a sound in pieces, at the speed at which it plays."""
    began, piece = time.monotonic(), round(RATE * piece_s)
    for i in range(0, len(sound), piece):
        await session.push_audio(sound[i : i + piece], RATE)
        await asyncio.sleep(max(0.0, began + (i + piece) / RATE - time.monotonic()))


def verdict(is_met: bool) -> Figures:
    return {"met": bool(is_met)}


# --- interruptions -------------------------------------------------------------------------------------------------


async def interrupts(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """Random interruptions; half by the consumer's own event loop, half from another thread."""
    sound, stale, n_each = speech(), [], arguments.trials // 10
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(avatar.session(seed=i)) for i in range(5)]
        in_loop = [_interrupt_often(session, sound, n_each, i, stale) for i, session in enumerate(sessions)]
        in_threads = [
            asyncio.to_thread(_interrupt_thread, avatar, sound, n_each, 9 + i, stale) for i in range(5)
        ]
        await asyncio.gather(*in_loop, *in_threads)
    worst = max(stale)
    return {"interrupts": len(stale), "stale_frames": sum(stale), "worst": worst} | verdict(
        worst <= 1 and len(stale) >= arguments.trials
    )


async def _interrupt_often(session: Session, sound: Float, n: int, seed: int, stale: list[int]) -> None:
    generator, generation, old = random.Random(seed), 0, 0

    async def watch() -> None:
        nonlocal old
        async for frame in session.run():
            old += frame.generation < generation

    watcher = asyncio.create_task(watch())
    for _ in range(n):
        await session.push_audio(sound, RATE)
        await asyncio.sleep(generator.uniform(0.0, 0.3))
        old = 0
        session.interrupt()
        generation += 1
        await asyncio.sleep(0.1)
        stale.append(old)
    watcher.cancel()


def _interrupt_thread(avatar: Avatar, sound: Float, n: int, seed: int, stale: list[int]) -> None:
    generator = random.Random(seed)
    with avatar.sync_session(seed=seed) as session:
        taken: list[int] = []
        consumer = threading.Thread(target=lambda: [taken.append(f.generation) for f in session.run()])
        consumer.start()
        for i in range(n):
            session.push_audio(sound, RATE)
            time.sleep(generator.uniform(0.0, 0.3))
            session.interrupt()
            before = len(taken)
            time.sleep(0.1)
            stale.append(sum(generation <= i for generation in taken[before:]))
    consumer.join()


# --- drift ---------------------------------------------------------------------------------------------------------


class SimulatedClock:
    """Seconds that pass in ticks of 20 ms, when told. Frames are due at whole ticks, and looked for in their middle: that
    none hangs on the last bit of a float. What is counted are samples, which are whole numbers."""

    def __init__(self) -> None:
        self._n_ticks = 0

    def __call__(self) -> float:
        return (self._n_ticks + 0.5) / 50.0 if self._n_ticks else 0.0

    @property
    def samples(self) -> int:
        """The time in samples of the audio clock, to the tick."""
        return self._n_ticks * RATE // 50

    def tick(self) -> None:
        self._n_ticks += 1


async def drift(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """Hours of simulated time: each frame against the clock, and the mouth against clicks in the sound."""
    clock = SimulatedClock()
    executor = Executor(clock=clock, is_threaded=False)
    skews: list[float] = []
    least, most = sys.maxsize, -sys.maxsize  # of what a frame is behind its time stamp, samples
    n_frames, n_samples, next_click_s = 0, 0, 5.0
    click = np.sin(2.0 * np.pi * 440.0 * np.arange(RATE // 20) / RATE).astype(np.float32)
    sound = np.concatenate([np.zeros(RATE // 2, np.float32), click, np.zeros(RATE // 2, np.float32)])
    recent: list[Frame] = []
    began = time.perf_counter()
    with avatar.sync_session(executor=executor) as session:
        while clock() < arguments.hours * 3600.0:
            wait = executor.step()
            while (frame := session.poll()) is not None:
                behind = clock.samples - frame.pts_samples
                least, most = min(least, behind), max(most, behind)
                n_frames += 1
                n_samples += len(frame.audio)
                recent = [*recent[-24:], frame]
                if frame.end_of_speech:
                    skews.append(_mouth_lag_ms(recent))
            if clock() > next_click_s:
                session.push_audio(sound, RATE)
                session.flush()
                next_click_s += 30.0 + 0.0137
            if wait > 0.0:
                clock.tick()
        stats = session.stats
    return {
        "hours": arguments.hours,
        "frames": n_frames,
        "drift_samples": most - least,
        "samples_off": n_samples - n_frames * RATE // avatar.fps,
        "clicks": len(skews),
        "skew_ms": {"mean": round(float(np.mean(skews)), 2), "worst": round(float(np.max(np.abs(skews))), 2)},
        "late": stats.late,
        "restarts": stats.restarts,
        "seconds": round(time.perf_counter() - began, 1),
    } | verdict(most == least and max(map(abs, skews)) <= 20.0 and stats.restarts == 0)


def _mouth_lag_ms(frames: list[Frame]) -> float:
    """How much later the mouth opens than the sound is loud: difference of their centres of gravity."""
    sound = np.concatenate([frame.audio for frame in frames]) ** 2
    mouth = np.array([_mouth_pixels(frame.image) for frame in frames])
    times = (np.arange(len(frames)) + 0.5) * 1000.0 / 25.0
    return float(
        (mouth @ times) / mouth.sum() - (sound @ np.arange(len(sound))) / sound.sum() * 1000.0 / RATE
    )


def _mouth_pixels(image: NDArray[np.uint8]) -> int:
    """How open the mock's mouth is: pixels of its colour, less those of the closed one."""
    below = image[len(image) // 2 :]
    return max(0, int(((below[..., 0] > 90) & (below[..., 1] < 60) & (below[..., 2] < 60)).sum()) - 10)


# --- many sessions -------------------------------------------------------------------------------------------------


@dataclass
class Lateness:
    """When frames came, against the session's first frame."""

    ms: list[float] = field(default_factory=list)

    async def watch(self, session: Session, seconds: float) -> None:
        began = time.monotonic()
        seen: list[float] = []
        async for frame in session.run():
            seen.append(time.monotonic() - frame.pts_samples / RATE)
            if time.monotonic() - began > seconds:
                break
        offset = float(np.percentile(seen, 1))
        self.ms += [1000.0 * (one - offset) for one in seen]


async def talk(session: Session, sound: Float, seed: int) -> None:
    """Sentences and pauses, in the bursts of half a second that speech synthesis gives."""
    generator = random.Random(seed)
    await asyncio.sleep(generator.uniform(0.0, 2.0))
    while True:
        length = round(RATE * generator.uniform(1.0, 6.0))
        for i in range(0, length, RATE // 2):
            await session.push_audio(sound[i : i + RATE // 2], RATE)
            await asyncio.sleep(0.25)
        session.flush()
        await asyncio.sleep(length / RATE / 2 + generator.uniform(0.5, 3.0))


async def _many(avatar: Avatar, n: int, seconds: float) -> Figures:
    executor = Executor(load_limit=UNLIMITED)
    sound, lateness = speech(), Lateness()
    cpu = time.process_time()
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(avatar.session(seed=i, executor=executor)) for i in range(n)
        ]
        talkers = [asyncio.create_task(talk(session, sound, i)) for i, session in enumerate(sessions)]
        await asyncio.gather(*(lateness.watch(session, seconds) for session in sessions))
        for talker in talkers:
            talker.cancel()
        stats = [session.stats for session in sessions]
        load = executor.load
    frames = sum(one.frames for one in stats)
    late, repeated = sum(one.late for one in stats), sum(one.repeated for one in stats)
    return {
        "sessions": n,
        "frames": frames,
        "late": late,
        "repeated": repeated,
        "drawn_fps": round(avatar.fps * (frames - repeated) / frames, 2),
        "came_late_ms": percentiles(lateness.ms),
        "load": round(load, 3),
        "cpus": round((time.process_time() - cpu) / (time.monotonic() - began), 2),
    }


async def mock(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """Many mock sessions at 25 fps, half of the time talking."""
    figures = await _many(avatar, arguments.sessions, arguments.seconds)
    return figures | verdict(figures["late"] == 0)


async def curve(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """More and more sessions of one avatar without admission control: how many the machine carries."""
    rows = [await _many(avatar, n, arguments.seconds) for n in range(1, arguments.most + 1)]
    carried = [row["sessions"] for row in rows if row["late"] <= 0.01 * row["frames"]]
    executor = Executor()
    executor.probe(avatar.stage)
    cost = executor.cost_s(avatar.stage)
    admitted = int(0.9 / (cost * avatar.fps))
    return {
        "rows": rows,
        "carried": max(carried, default=0),
        "admitted": admitted,
        "frame_ms": round(1000 * cost, 2),
    }


# --- memory --------------------------------------------------------------------------------------------------------


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


async def memory(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """What a session holds: open, with five seconds of sound waiting and its frames drawn."""
    executor, sound = Executor(load_limit=UNLIMITED), speech()

    async def hold(stack: AsyncExitStack, n: int) -> None:
        for i in range(n):
            session = await stack.enter_async_context(
                avatar.session(seed=i, executor=executor, pace="fast", idle=True)
            )
            await session.push_audio(sound[: 5 * RATE], RATE)
            await anext(aiter(session.run()))
        await asyncio.sleep(1.0)

    for _ in avatar.speak(
        np.zeros(16 * RATE, np.float32), RATE
    ):  # every plate is decoded, once for all sessions
        pass
    async with AsyncExitStack() as stack:
        await hold(stack, 5)
        before = rss_mb()
        await hold(stack, arguments.sessions)
        each = (rss_mb() - before) / arguments.sessions
    return {"sessions": arguments.sessions, "mb_each": round(each, 2), "size": list(avatar.size)} | verdict(
        each <= 5.0
    )


# --- soak ----------------------------------------------------------------------------------------------------------


async def soak(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """Random pushes, pauses, interruptions, controls, openings and closings in real time; memory must stay flat."""
    began, rows, counts = time.monotonic(), [], {"frames": 0, "interrupts": 0, "sessions": 0, "late": 0}
    end = began + 60.0 * arguments.minutes
    users = [asyncio.create_task(_user(avatar, i, end, counts)) for i in range(arguments.sessions)]
    while time.monotonic() < end:
        await asyncio.sleep(min(10.0, max(0.1, end - time.monotonic())))
        gc.collect()
        rows.append(
            {
                "s": round(time.monotonic() - began),
                "rss_mb": round(rss_mb(), 2),
                "threads": threading.active_count(),
                "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
                **counts,
            }
        )
        if arguments.json:
            write_json(arguments.json, {"rows": rows})
    await asyncio.gather(*users)
    late = [row for row in rows if row["s"] >= min(300.0, rows[-1]["s"] / 3)]
    middle = float(np.median([row["rss_mb"] for row in late]))
    swing = max(abs(row["rss_mb"] / middle - 1.0) for row in late)
    steady = all(
        row[key] <= max(late[0][key], rows[0][key]) + 1 for row in late for key in ("threads", "descriptors")
    )
    return {"rows": rows, "rss_mb": middle, "swing": round(swing, 4), "steady": steady, **counts} | verdict(
        swing <= 0.02 and steady
    )


async def _user(avatar: Avatar, seed: int, end: float, counts: dict[str, int]) -> None:
    """Somebody who opens sessions, talks, interrupts, steers, cancels, leaves."""
    generator, sound = random.Random(seed), speech()
    while time.monotonic() < end:
        leave = min(end, time.monotonic() + generator.uniform(5.0, 60.0))
        counts["sessions"] += 1
        async with avatar.session(seed=seed, limits=Limits(pending_s=20.0)) as session:
            watcher = asyncio.create_task(_count(session, counts))
            while time.monotonic() < leave:
                await _act(session, generator, sound, counts)
                if generator.random() < 0.05:
                    watcher.cancel()
                    await asyncio.gather(watcher, return_exceptions=True)
                    watcher = asyncio.create_task(_count(session, counts))
            counts["late"] += session.stats.late
        await watcher


async def _count(session: Session, counts: dict[str, int]) -> None:
    async for _ in session.run():
        counts["frames"] += 1


async def _act(session: Session, generator: random.Random, sound: Float, counts: dict[str, int]) -> None:
    what = generator.random()
    if what < 0.5:
        at = generator.randrange(len(sound) // 2)
        await session.push_audio(sound[at : at + generator.randrange(1, 2 * RATE)], RATE)
    elif what < 0.6:
        session.flush()
        await session.push_audio((generator.random() * sound[:4000] * 20_000).astype(np.int16), 8000)
        session.flush()
    elif what < 0.7:
        counts["interrupts"] += session.interrupt().dropped_ms > 0
    elif what < 0.9:
        pose = (generator.uniform(-5, 5), generator.uniform(-8, 8), generator.uniform(-5, 5))
        session.control.set(pose=pose, blink=generator.choice([None, 0.0, 1.0]), lerp_s=generator.random())
        session.control.set(background=generator.choice([None, (0, 99, 0), (9, 9, 99)]), lerp_s=0.5)
    await asyncio.sleep(generator.uniform(0.0, 1.0))


# --- a long sound --------------------------------------------------------------------------------------------------


async def long_sound(avatar: Avatar, arguments: argparse.Namespace) -> Figures:
    """``speak`` and ``save`` of a wav of many minutes on disk: the memory after the first minute, and at most."""
    sound, minutes = (32_767 * speech()).astype(np.int16), max(2, round(arguments.minutes))
    rows: dict[str, list[float]] = {"speak": [], "save": []}

    def note(of: str, frame: Frame) -> None:
        if (frame.index + 1) % (60 * avatar.fps) == 0:
            rows[of].append(round(rss_mb(), 1))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            for _ in range(math.ceil(minutes * 60 * RATE / len(sound))):
                file.writeframes(sound.tobytes())
        for frame in avatar.speak(path):
            note("speak", frame)
        avatar.save(Path(folder) / "long.mp4", path, on_frame=lambda frame: note("save", frame))
    grown = {f"{of}_grown_mb": round(max(values) - values[0], 1) for of, values in rows.items()}
    return {"minutes": minutes, "rss_mb": rows, **grown, **verdict(max(grown.values()) < _GROWTH_MB)}


# --- output --------------------------------------------------------------------------------------------------------


def write_json(path: Path, figures: Figures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def plot(name: str, figures: Figures, path: Path) -> None:
    """The figures as a picture, where there is something to see."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.0, 3.2), layout="constrained")
    if name == "first-frame":
        axes.hist(figures["values_ms"], bins=40)
        axes.axvline(figures["lookahead_ms"], color="grey", linestyle="--", label="look-ahead")
        axes.axvline(figures["ms"]["p95"], color="tab:red", label="p95")
        axes.set(xlabel="first push to first talking frame, ms", ylabel="trials")
        axes.legend()
    elif name == "curve":
        n = [row["sessions"] for row in figures["rows"]]
        axes.plot(n, [row["drawn_fps"] for row in figures["rows"]], "o-", label="pictures drawn a second")
        axes.plot(
            n, [100.0 * row["late"] / row["frames"] for row in figures["rows"]], "s-", label="late frames, %"
        )
        axes.axvline(figures["admitted"] + 0.5, color="grey", linestyle="--", label="admission control")
        axes.set(xlabel="sessions at 25 fps", ylim=(-2, 102))
        axes.legend()
    elif name == "soak":
        minutes = [row["s"] / 60.0 for row in figures["rows"]]
        for key in ("rss_mb", "threads", "descriptors"):
            axes.plot(minutes, [row[key] for row in figures["rows"]], label=key)
        axes.set(xlabel="minutes", ylim=(0, None))
        axes.legend()
    else:
        pyplot.close(figure)
        return
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


TESTS: dict[str, Callable[[Avatar, argparse.Namespace], Coroutine[Any, Any, Figures]]] = {
    "first-frame": first_frame,
    "interrupts": interrupts,
    "drift": drift,
    "mock": mock,
    "curve": curve,
    "memory": memory,
    "soak": soak,
    "long-sound": long_sound,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("test", choices=TESTS)
    parser.add_argument("--avatar", default="mock", help="a bundle, or mock")
    parser.add_argument("--json", type=Path, help="write the figures there, and a plot beside them")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--most", type=int, default=4, help="curve: up to so many sessions")
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    avatar = Avatar.mock() if arguments.avatar == "mock" else Avatar.from_bundle(arguments.avatar)
    figures = asyncio.run(TESTS[arguments.test](avatar, arguments))
    if arguments.json:
        write_json(arguments.json, figures)
        plot(arguments.test, figures, arguments.json.with_suffix(".png"))
    print(json.dumps({key: value for key, value in figures.items() if key not in ("rows", "values_ms")}))
    for row in figures.get("rows", [])[-8:]:
        print(json.dumps(row))
    return 0 if figures.get("met", True) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What integers gain and cost on the CPU: precision_check.py AVATAR [RUN]

For the head at full and half size, in float32, int16 and int8: milliseconds of one thread's own time (the best of ten
rounds, in which all take turns, the mean of eight frames) and PSNR to float32 over the head; the same for the
upsampler. With the avatar's RUN also PSNR and SSIM of up to 50 held-out frames over their own background.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from gpu_backends import psnr, requests
from numpy.typing import NDArray
from synctalk import _native
from synctalk.backends import HeadRequest, create_backend
from synctalk.backends.half_size import drive_of, half_sized, native_upsampler
from synctalk.bundle import Bundle, open_bundle

Float = NDArray[np.float32]
Draw = Callable[[], Float]
PRECISIONS = ("float32", "int16", "int8")
ROUNDS, FRAMES, HELD_OUT = 10, 8, 50


def race(candidates: dict[str, list[Draw]]) -> dict[str, tuple[float, list[Float]]]:
    """Milliseconds a picture, and the pictures, of each candidate."""
    best = {name: np.full(len(draws), np.inf) for name, draws in candidates.items()}
    pictures: dict[str, list[Float]] = {name: [] for name in candidates}
    for turn in range(ROUNDS):
        for i in range(FRAMES):
            for name, draws in candidates.items():
                began = time.process_time()
                picture = draws[i]()
                best[name][i] = min(best[name][i], time.process_time() - began)
                if turn == 0:
                    pictures[name].append(picture.copy())
    return {name: (1000 * float(taken.mean()), pictures[name]) for name, taken in best.items()}


def table(what: str, results: dict[str, tuple[float, list[Float]]]) -> None:
    slow, exact = results["float32"]
    for name, (taken, pictures) in results.items():
        decibels = [psnr([a], [b]) for a, b in zip(exact, pictures, strict=True)]
        print(
            f"{what:18} {name:8} {taken:7.2f} ms, {slow / taken:.2f} x float32, {min(decibels):.1f} to {max(decibels):.1f} dB"
        )


def heads(bundle: Bundle, asked: list[HeadRequest]) -> dict[str, list[Draw]]:
    backends = {
        name: create_backend("native-cpu", bundle, precision=name, detail="full") for name in PRECISIONS
    }
    return {
        name: [partial(backend.render_head, request) for request in asked]
        for name, backend in backends.items()
    }


def enlargements(bundle: Bundle, asked: list[HeadRequest], small: list[Float]) -> dict[str, list[Draw]]:
    networks = {name: native_upsampler(bundle, name) for name in ("float32", "int8")}
    given = [(head, drive_of(request)) for request, head in zip(asked, small, strict=True)]
    return {name: [partial(network, *one) for one in given] for name, network in networks.items()}


def held_out(bundle: Bundle, folder: Path) -> None:
    """Mean PSNR and SSIM of frames that were not trained on, by precision and detail."""
    from synctalk_trainer.measure import Regions, compose, own_background
    from synctalk_trainer.run import load_run
    from synctalk_trainer.split import split

    run = load_run(folder)
    data, (rotation, translation) = run.dataset, run.poses
    _, held = split(data.takes, data.n_frames, run.settings.holdout, data.valid)
    frames = held[np.linspace(0, len(held) - 1, min(len(held), HELD_OUT)).astype(int)]
    details = ("full", "half") if bundle.manifest.spec.upsampler else ("full",)
    for detail in details:
        for precision in PRECISIONS:
            backend = create_backend("native-cpu", bundle, precision=precision, detail=detail)
            scores = []
            for frame in frames.tolist():
                request = HeadRequest(
                    bundle.manifest.camera,
                    rotation[frame],
                    translation[frame],
                    run.condition_of(frame),
                    run.expression[frame],
                    bundle.tensors["field.appearance"],
                )
                regions, truth = Regions.of(data, frame), np.asarray(data.frames[frame])
                picture = compose(backend.render_head(request), own_background(data, frame, regions))
                scores.append(regions.score(picture, truth))
            means = {key: float(np.nanmean([score[key] for score in scores])) for key in scores[0]}
            print(
                f"{len(frames)} held-out frames, {detail:4} {precision:8}",
                "  ".join(f"{key} {value:.3f}" for key, value in means.items()),
            )


def main() -> None:
    bundle = open_bundle(sys.argv[1])
    _native.set_threads(1)
    print(f"{sys.argv[1]}, {_native.simd()}")
    asked = requests(bundle)
    asked = [asked[i] for i in np.linspace(0, len(asked) - 1, FRAMES).astype(int)]
    table("head, full size", race(heads(bundle, asked)))
    halves = race(heads(bundle, [half_sized(request) for request in asked]))
    table("head, half size", halves)
    if bundle.manifest.spec.upsampler:
        table("upsampler", race(enlargements(bundle, asked, halves["float32"][1])))
    if len(sys.argv) > 2:
        _native.set_threads(2)
        held_out(bundle, Path(sys.argv[2]))


if __name__ == "__main__":
    main()

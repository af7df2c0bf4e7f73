"""How well the watermark is seen and not seen: figures for docs/provenance.md.

    python scripts/watermark_check.py --clips ../shared/data/clips --avatar-256 demo.avatar --avatar-512 big.avatar

A film is 2.56 seconds of a clip at a random time, cut at a random place, scaled and perhaps mirrored; each fourth is
drawn by an avatar instead. Each gives fifteen spans of two seconds, 40 ms apart. Marked films pass through each treatment.
Unmarked ones are looked at as made and after one of the treatments, with the mark's pattern and with others: a picture
knows of none of them, and so each is as good a test.

Results go to --results line by line. Run again, the script goes on where it was ended, and tells the figures.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from synctalk import watermark
from synctalk.avatar import Avatar
from synctalk.media import read_audio, read_video, write_mp4
from synctalk.watermark import SPAN_FRAMES, Watermark, pattern

Film = NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[1]
STEP, N_SPANS = 1, 15
N_FRAMES = SPAN_FRAMES + STEP * (N_SPANS - 1)
N_DRAWN = 250
"""Frames that an avatar draws once, of which its films are pieces."""
SIDES = (256, 512)


def h264(film: Film, crf: int = 28) -> Film:
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "film.mp4", list(film), 25, crf=crf)
        return read_video(Path(folder) / "film.mp4")


def scaled(film: Film, side: int) -> Film:
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24") for picture in film)
    return np.stack(
        [picture.reformat(side, side, interpolation="BICUBIC").to_ndarray() for picture in pictures]
    )


def half(film: Film) -> Film:
    return scaled(film, film.shape[1] // 2)


def jpeg(film: Film, quality: int = 70) -> Film:
    from PIL import Image

    pictures = []
    for picture in film:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        pictures.append(np.asarray(Image.open(buffer)))
    return np.stack(pictures)


Treatment = Callable[[Film], Film]
TREATMENTS: dict[str, Treatment] = {"H.264, crf 28": h264, "half size": half, "JPEG, quality 70": jpeg}
AS_MADE = "as made"
HARDER: dict[str, Treatment] = {
    AS_MADE: lambda film: film,
    "H.264, half size, JPEG": lambda film: jpeg(half(h264(film))),
    "half size, then H.264, crf 28": lambda film: h264(half(film)),
    "H.264, crf 34": lambda film: h264(film, 34),
    "cut by 37 and 51 pixels, H.264": lambda film: h264(film[:, 37:, 51:]),
}
"""Of each eighth film only: of sixteen, one that is of a clip and one that is drawn."""
_ALL = HARDER | TREATMENTS


def drawn(avatar: Path, side: int, sound: Path, cache: Path) -> Film:
    """What an avatar says, unmarked; kept, because drawing takes longer than all the rest."""
    path = cache / f"{avatar.stem}.npy"
    if not path.exists():
        speaker = Avatar.from_bundle(avatar, watermark=False)
        frames = islice(speaker.speak(*read_audio(sound)), N_DRAWN)
        np.save(path, np.stack([frame.image for frame in frames]))
    film: Film = np.load(path, mmap_mode="r")
    if film.shape[1:] != (side, side, 3):
        raise SystemExit(f"{avatar} draws {film.shape[2]} x {film.shape[1]}, not {side} x {side} pixels")
    return film


def piece(clip: Path, chance: np.random.Generator, side: int) -> Film:
    """Frames of a clip from some time on, cut and scaled to a square."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 25)
        begin_s = chance.uniform(0, stream.frames / fps - N_FRAMES / fps - 0.5)
        container.seek(int(begin_s * av.time_base))
        late = (frame for frame in container.decode(stream) if frame.time >= begin_s)
        film: Film = np.stack([frame.to_ndarray(format="rgb24") for frame in islice(late, N_FRAMES)])
    n = int(min(film.shape[1:3]) * chance.uniform(0.6, 1.0))
    top, left = (int(chance.integers(0, size - n + 1)) for size in film.shape[1:3])
    return scaled(film[:, top : top + n, left : left + n], side)


def film_of(index: int, side: int, clips: list[Path], drawings: Film) -> Film:
    """The same for the same arguments."""
    chance = np.random.default_rng((index, side))
    if index % 4 == 3:
        start = int(chance.integers(0, len(drawings) - N_FRAMES + 1))
        film = np.array(drawings[start : start + N_FRAMES])
    else:
        film = piece(clips[int(chance.integers(len(clips)))], chance, side)
    return np.ascontiguousarray(film[:, :, ::-1]) if chance.random() < 0.5 else film


def marked(film: Film) -> Film:
    film, mark = film.copy(), Watermark(film.shape[2], film.shape[1])
    for picture in film:
        mark.apply(picture)
    return film


def spans(film: Film) -> Iterator[list[watermark.Spectrum]]:
    """What the detector correlates: for each span of two seconds, a spectrum for each scale."""
    residuals = np.stack([watermark._residual(picture) for picture in film])
    for start in range(0, STEP * N_SPANS, STEP):
        mean = residuals[start : start + SPAN_FRAMES].mean(axis=0)
        yield [watermark._folded(mean, scale) for scale in watermark._SCALES]


def scores(span: list[watermark.Spectrum], keys: list[int]) -> list[tuple[float, float]]:
    """For each key the best score in place, and the best at any shift."""
    found = []
    for key in keys:
        each = [watermark._scores(spectrum, watermark._wanted(key)) for spectrum in span]
        found.append((max(float(one[0, 0]) for one in each), max(float(one.max()) for one in each)))
    return found


def is_found(in_place: float, anywhere: float) -> bool:
    return in_place >= watermark._IN_PLACE or anywhere >= watermark._ANYWHERE


def jobs(index: int) -> Iterator[tuple[bool, str]]:
    """Whether a film is marked, and what is done to it."""
    yield from ((True, name) for name in (_ALL if index % 16 in (0, 3) else TREATMENTS))
    yield False, AS_MADE
    yield False, list(TREATMENTS)[index % len(TREATMENTS)]


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results, of the older runs first."""
    rows: list[dict[str, Any]] = []
    if options.results.exists():
        rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    yield from rows
    done = {(row["side"], row["film"], row["marked"], row["treatment"]) for row in rows}
    clips, keys = sorted(options.clips.glob("*.mp4")), [watermark._KEY, *range(1, options.patterns + 1)]
    avatars = dict(zip(SIDES, (options.avatar_256, options.avatar_512), strict=True))
    drawings = {
        side: drawn(path, side, options.sound, options.results.parent) for side, path in avatars.items()
    }
    began = time.monotonic()
    for index in range(options.films):
        for side in SIDES:
            left = [job for job in jobs(index) if (side, index, *job) not in done]
            plain = film_of(index, side, clips, drawings[side]) if left else None
            for is_marked, name in left:
                assert plain is not None
                film = _ALL[name](marked(plain) if is_marked else plain)
                found = [scores(span, keys[:1] if is_marked else keys) for span in spans(film)]
                yield {"side": side, "film": index, "marked": is_marked, "treatment": name, "scores": found}
        if time.monotonic() - began > 60 * options.minutes:
            return


def upper_bound(n_bad: int, n: int, doubt: float = 0.05) -> float:
    """The rate above which so few bad ones of n would be seen with a probability below doubt (Clopper and Pearson)."""

    def at_most(rate: float) -> float:
        logs = (
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            + k * math.log(rate) + (n - k) * math.log1p(-rate)
            for k in range(n_bad + 1)
        )  # fmt: skip
        return sum(map(math.exp, logs))

    if n_bad == n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) > doubt else (low, middle)
    return high


def told(name: str, rows: list[dict[str, Any]], *, is_wanted: bool, keys: slice) -> str:
    """One line of the report: how many of the rows' spans are decided wrongly, and how the scores lie."""
    pairs = np.array([pair for row in rows for span in row["scores"] for pair in span[keys]])
    bad = [pair for pair in pairs if is_found(*pair) != is_wanted]
    bad_films = sum(
        any(is_found(*p) != is_wanted for span in row["scores"] for p in span[keys]) for row in rows
    )
    bound = 100 * upper_bound(len(bad), len(pairs))
    extreme = np.quantile(pairs, 0.01, axis=0) if is_wanted else pairs.max(axis=0)
    which = "1 % score below" if is_wanted else "greatest:"
    return (
        f"{name}: {len(pairs) - len(bad)} of {len(pairs)} right (at most {bound:.3f} % wrong, 95 %); "
        f"{len(rows) - bad_films} of {len(rows)} films; {which} {extreme[0]:.1f} in place, {extreme[1]:.1f} anywhere"
    )


def report(rows: list[dict[str, Any]]) -> None:
    for side in SIDES:
        for name in [*TREATMENTS, *HARDER]:
            of = [row for row in rows if (row["side"], row["marked"], row["treatment"]) == (side, True, name)]
            if of:
                print(told(f"{side}, marked, {name}", of, is_wanted=True, keys=slice(0, 1)))
        of = [row for row in rows if row["side"] == side and not row["marked"]]
        if of:
            print(told(f"{side}, unmarked", of, is_wanted=False, keys=slice(0, 1)))
            print(
                told(f"{side}, unmarked, with other patterns", of, is_wanted=False, keys=slice(1, None)),
                flush=True,
            )


def time_ms(side: int) -> float:
    image, mark, best = np.full((side, side, 3), 99, np.uint8), Watermark(side, side), np.inf
    for _ in range(200):
        began = time.perf_counter()
        mark.apply(image)
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--avatar-256", type=Path, default=ROOT / "sdk/synctalk/demo/demo.avatar")
    parser.add_argument("--avatar-512", type=Path, required=True)
    parser.add_argument("--sound", type=Path, default=ROOT / "sdk/synctalk/demo/sentence.wav")
    parser.add_argument("--clips", type=Path, default=ROOT.parent / "shared/data/clips")
    parser.add_argument("--films", type=int, default=80)
    parser.add_argument("--patterns", type=int, default=4, help="other patterns for each unmarked span")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="end after so long, to go on another time"
    )
    parser.add_argument("--results", type=Path, default=ROOT / ".work/watermark/results.jsonl")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    psnr_db = 10 * math.log10(255**2 / np.mean(pattern().astype(float) ** 2))
    print(f"time of a 512 x 512 frame: {time_ms(512):.2f} ms, best of 200; PSNR at least {psnr_db:.2f} dB")
    n_old = len(options.results.read_text().splitlines()) if options.results.exists() else 0
    with options.results.open("a") as results:
        for row in measure(options):
            rows.append(row)
            if len(rows) > n_old:
                results.write(json.dumps(row) + "\n")
                results.flush()
                print(f"film {row['film']} of {options.films}", end="\r", flush=True)
    report(rows)


if __name__ == "__main__":
    main()

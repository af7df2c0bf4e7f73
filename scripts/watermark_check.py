"""How well the watermark is seen and not seen: figures for docs/provenance.md.

    python scripts/watermark_check.py --avatar sdk/synctalk/demo/demo.avatar --clips ../shared/data/clips

Marked: every 2-second span (each fifth start) of what the avatars say, after each treatment. Unmarked: spans of real
films and of the same renders without the mark, with the mark's pattern and with others, which are as good a test.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from synctalk import watermark
from synctalk.avatar import Avatar
from synctalk.media import VideoFrames, read_audio, read_video, write_mp4
from synctalk.watermark import SPAN_FRAMES, Watermark, pattern

Film = NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[1]


def h264(film: Film, crf: int = 28) -> Film:
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "film.mp4", list(film), 25, crf=crf)
        return read_video(Path(folder) / "film.mp4")


def half(film: Film) -> Film:
    size = {"width": film.shape[2] // 2, "height": film.shape[1] // 2, "interpolation": "BICUBIC"}
    pictures = (av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in film)
    return np.stack([picture.reformat(**size).to_ndarray() for picture in pictures])


def jpeg(film: Film, quality: int = 70) -> Film:
    from PIL import Image

    pictures = []
    for picture in film:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        pictures.append(np.asarray(Image.open(buffer)))
    return np.stack(pictures)


TREATMENTS: dict[str, Callable[[Film], Film]] = {
    "as made": lambda film: film,
    "H.264, crf 28": h264,
    "half size": half,
    "JPEG, quality 70": jpeg,
    "H.264, half size, JPEG": lambda film: jpeg(half(h264(film))),
    "half size, then H.264, crf 28": lambda film: h264(half(film)),
    "H.264, crf 34": lambda film: h264(film, 34),
    "cut by 37 and 51 pixels, H.264": lambda film: h264(film[:, 37:, 51:]),
}


def spans(film: Film, step: int = 5) -> Iterator[list[tuple[float, watermark.Spectrum]]]:
    """What the detector correlates, for each span of two seconds."""
    residuals = np.stack([watermark._residual(picture).astype(np.float32) for picture in film])
    for start in range(0, len(film) - SPAN_FRAMES + 1, step):
        mean = residuals[start : start + SPAN_FRAMES].mean(axis=0, dtype=np.float64)
        yield [(scale, watermark._folded(mean, scale)) for scale in watermark._SCALES]


def found(span: list[tuple[float, watermark.Spectrum]], tile: NDArray[np.int8]) -> watermark.Detection:
    return watermark._decide(span, SPAN_FRAMES, tile)


def marked(film: Film) -> Film:
    film, mark = film.copy(), Watermark(film.shape[2], film.shape[1])
    for picture in film:
        mark.apply(picture)
    return film


def psnr_db(film: Film, other: Film) -> float:
    return float(20 * np.log10(255) - 10 * np.log10(np.mean((film.astype(np.float32) - other) ** 2)))


def time_ms(side: int) -> float:
    image, mark, best = np.full((side, side, 3), 99, np.uint8), Watermark(side, side), np.inf
    for _ in range(200):
        began = time.perf_counter()
        mark.apply(image)
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def rendered(path: Path, sound: Path, n_frames: int) -> Film:
    avatar = Avatar.from_bundle(path, watermark=False)
    return np.stack([frame.image for frame in islice(avatar.speak(*read_audio(sound)), n_frames)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--avatar", type=Path, nargs="+", default=[ROOT / "sdk/synctalk/demo/demo.avatar"])
    parser.add_argument("--sound", type=Path, default=ROOT / "sdk/synctalk/demo/sentence.wav")
    parser.add_argument("--clips", type=Path, default=ROOT.parent / "shared/data/clips")
    parser.add_argument("--frames", type=int, default=190)
    parser.add_argument("--patterns", type=int, default=200)
    options = parser.parse_args()
    print(f"time of a 512 x 512 frame: {time_ms(512):.2f} ms, best of 200")
    films = {path.stem: rendered(path, options.sound, options.frames) for path in options.avatar}
    for name, film in films.items():
        print(f"PSNR of {name}: {psnr_db(film, marked(film)):.2f} dB", flush=True)
    for treatment, treat in TREATMENTS.items():
        hits = [found(span, pattern()) for film in films.values() for span in spans(treat(marked(film)))]
        n_true, least = sum(hit.is_marked for hit in hits), min(hit.score for hit in hits)
        print(f"{treatment}: {n_true} of {len(hits)} spans, least score {least:.1f}", flush=True)
    n_spans = n_own = n_others = 0
    generator = np.random.default_rng(0)
    for path in sorted(options.clips.glob("*.mp4")):
        films[path.stem] = np.stack(list(islice(VideoFrames(path), 400)))
    for film in films.values():
        for treat in (TREATMENTS["as made"], h264):
            for span in spans(treat(film), step=25):
                n_spans += 1
                n_own += found(span, pattern()).is_marked
                keys = generator.integers(1 << 32, 1 << 40, options.patterns)
                n_others += sum(found(span, pattern.__wrapped__(int(key))).is_marked for key in keys)
    print(
        f"unmarked: {n_own} of {n_spans} spans; {n_others} of {n_spans * options.patterns} with other patterns"
    )


if __name__ == "__main__":
    main()

"""Frames back into the full-size video that the avatar was cut from.

Where in the video the avatar's motion begins is found by looking: torso and background of its plates are those of some
stretch of the video. So any avatar can be pasted, and another video is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import MediaError
from synctalk.forks import renew_in_children
from synctalk.media import open_media
from synctalk.pictures import upright
from synctalk.watermark import Watermark

if TYPE_CHECKING:
    from synctalk.manifest import Placement
    from synctalk.stage import Stage

__all__ = ["Paste"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]

_FEATHER = 1.0 / 24.0
"""Of the crop's side: so wide is the cross-fade."""
_THUMB = 48
"""Pixels a side: to look for the plates among the video's pictures."""
_SAME = 6.0
"""Grey levels of 255 within which a plate shows the video's own picture."""
_LEAST_SAME = 0.4
"""Share of the picture that must: torso and background, about half; another video has a tenth."""
_PROBES = 12
_BLOCK = 32
"""Pictures decoded at once: the motion is walked backwards, too, and videos are not."""
_BLOCKS_KEPT = 2


class Paste:
    """An open source video, ready to take an avatar's frames. Thread-safe; holds at most 64 decoded pictures."""

    def __init__(self, source: str | os.PathLike[str], stage: Stage, placement: Placement) -> None:
        """Looks through the whole video once.

        Raises: MediaError: unreadable, of another size, or not the video that the avatar was made from.
        """
        self.source, self._place, self._lock = source, placement, threading.Lock()
        self.size = (placement.width, placement.height)
        x, y, side = round(placement.x), round(placement.y), round(placement.side)
        self._square = slice(y, y + side), slice(x, x + side)
        self._side = side
        self._weight = _feather(placement)  # [side, side, 1]
        self._mark = Watermark(placement.width, placement.height) if stage.is_marked else None
        self._blocks: dict[int, list[Any]] = {}
        times, thumbs = self._look(stage.spec.fps)
        self._times = times  # [N] seconds of the pictures at the avatar's rate
        self._first = self._find(stage, thumbs)
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Nobody else decodes in a child."""
        self._lock = threading.Lock()

    def __call__(self, at: int, image: Picture) -> Picture:
        """The source's picture of recorded frame ``at`` with an avatar's frame in its place, uint8 [H, W, 3].

        image: uint8 [h, w, 3], the whole frame as the avatar drew it.
        """
        whole = self._picture(self._first + at)
        if self._mark is not None:
            self._mark.apply(whole)  # before: the avatar's frame has its own
        square = whole[self._square]
        square[...] = square + self._weight * (_resized(image, self._side) - square.astype(np.float32)) + 0.5
        return whole

    # --- which stretch of the video -------------------------------------------------------------------------------

    def _look(self, fps: int) -> tuple[NDArray[np.float64], Picture]:
        """Times [N] and thumbnails [N, T, T] of the crop, of the pictures nearest to each frame of the avatar's clock."""
        times: list[float] = []
        thumbs: list[Picture] = []
        for frame in self._decode(None):
            if not times:
                self._check_size(frame)
            times.append(frame.time)
            thumbs.append(_thumb(upright(frame)[self._square]))
        if not times:
            raise MediaError(f"{self.source} holds no pictures. Give an intact video.")
        seen = np.array(times)
        clock = self._sound_start(seen[0]) + np.arange(round((seen[-1] - seen[0]) * fps) + 2) / fps
        clock = clock[(clock >= seen[0] - 0.5 / fps) & (clock <= seen[-1] + 0.5 / fps)]
        nearest = np.searchsorted((seen[1:] + seen[:-1]) / 2.0, clock)
        return seen[nearest], np.stack(thumbs)[nearest]

    def _sound_start(self, otherwise: float) -> float:
        """Seconds of the first sample: the clock that the avatar's frames were taken on."""
        with closing(open_media(self.source)) as container:
            audio = container.streams.best("audio")
            if audio is None or audio.start_time is None or audio.time_base is None:
                return otherwise
            return float(audio.start_time * audio.time_base)

    def _check_size(self, frame: Any) -> None:
        height, width = upright(frame).shape[:2]
        place = self._place
        if (width, height) != (place.width, place.height):
            raise MediaError(
                f"{self.source} is {width} x {height}, the avatar was cut from a video of {place.width} x {place.height}: "
                "give the very video that `synctalk prepare` was given"
            )

    def _find(self, stage: Stage, thumbs: Picture) -> int:
        """The picture that recorded frame 0 was. Raises: MediaError: there is none."""
        n_track, n_starts = len(stage.track), len(thumbs) - len(stage.track) + 1
        if n_starts < 1:
            raise MediaError(
                f"{self.source} has {len(thumbs)} pictures, the avatar's motion {n_track}: give the whole video that it "
                "was made from"
            )
        probes = np.unique(np.linspace(0, n_track - 1, _PROBES).astype(int))
        plates = np.stack([_thumb(stage.plate(int(k))) for k in probes]).astype(np.int16)
        away = np.zeros(n_starts)
        for probe, plate in zip(probes, plates, strict=True):
            candidates = thumbs[probe : probe + n_starts].astype(np.int16)
            away += np.minimum(np.abs(candidates - plate), _SAME).mean(axis=(1, 2))
        first = int(away.argmin())
        same = np.mean(np.abs(thumbs[first + probes].astype(np.int16) - plates) < _SAME)
        if same < _LEAST_SAME:
            raise MediaError(
                f"{self.source} is not the video that the avatar was made from: its pictures agree with torso and "
                f"background in {same:.0%} of their area at best. Give the video that `synctalk prepare` was given."
            )
        return first

    # --- its pictures ---------------------------------------------------------------------------------------------

    def _picture(self, index: int) -> Picture:
        number, within = divmod(index, _BLOCK)
        with self._lock:
            if number not in self._blocks:
                while len(self._blocks) >= _BLOCKS_KEPT:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[number] = self._block(number)
            return upright(self._blocks[number][within])

    def _block(self, number: int) -> list[Any]:
        """The decoded frames of a block."""
        times = self._times[number * _BLOCK : (number + 1) * _BLOCK]
        found: dict[float, Any] = {}
        for frame in self._decode(float(times[0])):
            if frame.time >= times[0]:
                found[frame.time] = frame
            if frame.time >= times[-1]:
                break
        return [found[time] for time in times.tolist()]

    def _decode(self, start_s: float | None) -> Iterator[Any]:
        """Frames in the order they are shown, from the last key frame before ``start_s`` on."""
        import av

        with closing(open_media(self.source)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise MediaError(
                    f"{self.source} has no video stream. Give the video that the avatar was made from."
                )
            try:
                if start_s is not None and stream.time_base is not None:
                    container.seek(int(start_s / stream.time_base), stream=stream)
                decoded = container.decode(cast("Any", stream))
                yield from (frame for frame in decoded if frame.time is not None)
            except av.error.FFmpegError as error:
                raise MediaError(f"{self.source} is damaged: {error}. Convert it again.") from error


def _resized(image: Picture, side: int) -> Picture:
    """uint8 [side, side, 3]."""
    import av

    if image.shape[:2] == (side, side):
        return image
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return np.asarray(frame.reformat(side, side, interpolation="BICUBIC").to_ndarray(), np.uint8)


def _thumb(image: Picture) -> Picture:
    """Grey uint8 [T, T]."""
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    small = frame.reformat(_THUMB, _THUMB, format="gray8", interpolation="AREA").to_ndarray()
    return np.asarray(small, np.uint8)


def _feather(place: Placement) -> Float:
    """How much of the avatar shows, [side, side, 1]: none at the crop's border, but all at that of the video."""
    x, y, side = round(place.x), round(place.y), round(place.side)
    width = max(1.0, _FEATHER * side)
    at = np.arange(side, dtype=np.float32) + 0.5

    def ramp(is_start_inside: bool, is_end_inside: bool) -> Float:
        start = at / width if is_start_inside else np.full_like(at, np.inf)
        end = (side - at) / width if is_end_inside else np.full_like(at, np.inf)
        share = np.minimum(np.minimum(start, end), 1.0)
        return np.asarray(share * share * (3.0 - 2.0 * share), np.float32)

    columns = ramp(x > 0, x + side < place.width)
    rows = ramp(y > 0, y + side < place.height)
    return (rows[:, None] * columns[None, :])[..., None]

"""The person in a picture, found by MediaPipe's selfie segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.frame_pool import TaskPerThread
from synctalk_trainer.prepare.models import SELFIE_SEGMENTER, find_model

__all__ = ["MediaPipeSegmenter", "Segmenter"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]


class Segmenter(Protocol):
    """Tells a person from the background; called from several threads."""

    def person(self, picture: Picture) -> Float:
        """Probability [H, W] for a picture uint8 [H, W, 3]."""
        ...


class MediaPipeSegmenter:
    """MediaPipe's selfie segmentation, loaded on first use; threads may ask side by side.

    Raises: ModelError: no model file, or a wrong one.
    """

    def __init__(self, given: Path | None = None) -> None:
        """given: a copy of the model file; the packaged one by default."""
        file = find_model(SELFIE_SEGMENTER, given)
        self._tasks = TaskPerThread(lambda: _selfie_segmenter(file))

    def person(self, picture: Picture) -> Float:
        import mediapipe

        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
        mask = self._tasks.ask(lambda task: task.segment(image)).confidence_masks[-1].numpy_view()
        return np.array(mask, np.float32).reshape(picture.shape[:2])

    def close(self) -> None:
        """Free the model."""
        self._tasks.close()


def _selfie_segmenter(file: Path) -> Any:
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_path=str(file)),
        running_mode=vision.RunningMode.IMAGE,
        output_confidence_masks=True,
        output_category_mask=False,
    )
    return vision.ImageSegmenter.create_from_options(options)

"""The person in a picture, found by MediaPipe's selfie segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from synctalk_trainer.prepare.models import SELFIE_SEGMENTER, find_model

__all__ = ["MediaPipeSegmenter", "Segmenter"]

Picture = NDArray[np.uint8]
Float = NDArray[np.float32]


class Segmenter(Protocol):
    """Tells a person from the background."""

    def person(self, picture: Picture) -> Float:
        """Probability [H, W] for a picture uint8 [H, W, 3]."""
        ...


class MediaPipeSegmenter:
    """MediaPipe's selfie segmentation, loaded on first use."""

    def __init__(self, given: Path | None) -> None:
        self._given = given
        self._task: Any = None

    def person(self, picture: Picture) -> Float:
        """Raises: ModelError: no model file."""
        import mediapipe

        task = self._task or self._load()
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
        mask = task.segment(image).confidence_masks[-1].numpy_view()
        return np.array(mask, np.float32).reshape(picture.shape[:2])

    def _load(self) -> Any:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.ImageSegmenterOptions(
            base_options=BaseOptions(model_asset_path=str(find_model(SELFIE_SEGMENTER, self._given))),
            running_mode=vision.RunningMode.IMAGE,
            output_confidence_masks=True,
            output_category_mask=False,
        )
        self._task = vision.ImageSegmenter.create_from_options(options)
        return self._task

    def close(self) -> None:
        """Free the model."""
        if self._task is not None:
            self._task.close()
            self._task = None

"""Coefficients of the lower face (smile, jaw) beside sound, which moves the same lips.

Taught as filmed, such a coefficient would tell the field what the mouth does, and sound would say nothing any more. So the
field is given what sound leaves open: the coefficient less what a linear map of the sound's condition says of it. At run
time it rests at its median, so that new speech moves the mouth, until somebody moves it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from synctalk.spec import expression_region

__all__ = ["beyond_sound"]

Float = NDArray[np.float32]


def beyond_sound(
    expression: Float,
    names: tuple[str, ...],
    conditions: Callable[[], Float],
    frames: NDArray[np.int64],
) -> Float:
    """Coefficients [N, E] in 0..1 where those of the lower face are their median and what sound does not explain.

    expression: [N, E] as filmed. conditions: gives what sound says of every frame, [N, C]; asked only where needed.
    frames: those that the map is fitted to.
    """
    lower = [i for i, name in enumerate(names) if expression_region(name) != "upper"]
    if not lower:
        return expression
    heard = conditions()
    inputs = np.concatenate([heard, np.ones((len(heard), 1), np.float32)], axis=1).astype(np.float64)
    filmed = expression[:, lower].astype(np.float64)
    weights = np.linalg.lstsq(inputs[frames], filmed[frames], rcond=None)[0]
    shown = expression.copy()
    shown[:, lower] = (np.median(filmed[frames], axis=0) + filmed - inputs @ weights).clip(0.0, 1.0)
    return shown

"""Which points of MediaPipe's face mesh are what. Names say left and right as the subject does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ANCHORS_CM", "CHEEK_LINE", "EYES", "JAW", "OVAL", "STABLE", "head_axes"]

Float = NDArray[np.float32]

OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
    *(148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The face's outline, from the top of the forehead over the left side and the chin and back."""

JAW = (
    *(58, 172, 136, 150, 149, 176, 148, 152),
    *(377, 400, 378, 379, 365, 397, 288),
)
"""The lower outline from the right ear lobe over the chin to the left ear lobe."""

STABLE = (
    *(168, 6, 197, 195, 5, 4, 1, 10, 151, 8, 33, 133, 263, 362),
    *(122, 351, 196, 419, 3, 248, 51, 281, 45, 275, 193, 417, 245, 465, 188, 412, 174, 399),
    *(236, 456, 198, 420, 131, 360, 115, 344, 220, 440, 128, 357),
    *(117, 346, 118, 347, 119, 348, 111, 340, 116, 345, 123, 352, 50, 280, 101, 330, 100, 329, 47, 277),
    *(114, 343, 121, 350, 127, 356, 162, 389, 34, 264, 143, 372, 139, 368, 21, 251),
    *(109, 338, 67, 297, 103, 332, 54, 284),
)
"""Points that move with the skull: forehead, nose, cheekbones, temples, eye corners; no lips, jaw, lids or brows."""

CHEEK_LINE = (93, 137, 123, 50, 205, 98, 2, 327, 425, 280, 352, 366, 323)
"""From the right ear under cheekbone and nose to the left ear: below it, speech moves the skin."""

EYES = (
    (
        33,
        7,
        163,
        144,
        145,
        153,
        154,
        155,
        133,
        173,
        55,
        107,
        66,
        105,
        63,
        70,
        46,
        226,
        31,
        228,
        229,
        230,
        231,
    ),
    (
        263,
        249,
        390,
        373,
        374,
        380,
        381,
        382,
        362,
        398,
        285,
        336,
        296,
        334,
        293,
        300,
        276,
        446,
        261,
        448,
        449,
        450,
        451,
    ),
)
"""Eyes, lids and brows, right and left."""

ANCHORS_CM: dict[int, tuple[float, float, float]] = {
    33: (-4.446, 2.664, 3.173),
    263: (4.446, 2.664, 3.173),
    133: (-1.856, 2.585, 3.758),
    362: (1.856, 2.585, 3.758),
    168: (0.000, 3.271, 5.236),
    6: (0.000, 2.473, 5.789),
    197: (0.000, 1.728, 6.317),
    195: (0.000, 1.059, 6.775),
    5: (0.000, 0.366, 7.243),
    4: (0.000, -0.463, 7.587),
    1: (0.000, -1.127, 7.476),
    10: (0.000, 8.262, 4.482),
    151: (0.000, 6.545, 5.027),
    127: (-7.743, 2.365, -2.005),
    356: (7.743, 2.365, -2.005),
    117: (-5.259, 0.946, 2.974),
    346: (5.259, 0.946, 2.974),
    50: (-4.766, -0.702, 3.535),
    280: (4.766, -0.702, 3.535),
    101: (-3.327, 0.105, 4.114),
    330: (3.327, 0.105, 4.114),
    54: (-6.279, 6.615, 1.426),
    284: (6.279, 6.615, 1.426),
    103: (-5.133, 7.486, 2.660),
    332: (5.133, 7.486, 2.660),
}
"""Some vertices of MediaPipe's canonical face mesh (Apache-2.0): they fix orientation and origin of head space."""


def head_axes(xy: Float) -> tuple[Float, Float, float]:
    """Unit vectors to the right of the picture and up along the head, and the face's height (chin to hairline).

    xy: [478, 2] pixels.
    """
    up = xy[10] - xy[152]
    height = float(np.linalg.norm(up))
    up = up / max(height, 1e-6)
    right = np.array([-up[1], up[0]], np.float32)
    return right, np.asarray(up, np.float32), height

"""How far each link of the parity chain may differ, with the reason."""

from __future__ import annotations

GRID_ENCODE = 2e-4
"""Absolute, tables of order 1: float32 coordinates at scale 512 carry a fraction to about 3e-5; fused multiply-adds differ."""

GRID_GRADIENT = 2e-4
"""Absolute, relative to the largest entry: weights as above, and sums in another order."""

MARCH_DISTANCE_M = 2e-6
"""Metres: rounding of the box's entry at about one metre."""

COMPOSITE = 2e-6
"""Absolute, features of order 1: float32 products along at most 32 samples."""

CENTRAL_DIFFERENCE = 1e-6
"""Relative: analytic gradients of the float64 twin against central differences."""

UPSAMPLER = 3e-6
"""Absolute, pictures of 0..1: float32 sums of some hundred products, four layers deep."""

CUDA_FLOAT_DB = 60.0
"""PSNR of native-cuda in float32 to native-cpu, over the head: sums in another order, now and then a sample in the next cell."""

CUDA_HALF_DB = 45.0
"""PSNR of native-cuda in half precision to native-cpu: weights and activations of 11 bits, sums in float32."""

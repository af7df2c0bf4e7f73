"""What a spec's missing keys mean: the values that held before a key existed.

Avatars and runs live longer than the defaults of ``spec.py``. A bundle that lacks a key was written before that key
existed, so it takes the value here and never today's default. Entries are never changed. A new field of a spec needs an
entry: the value with which an older avatar renders as it always did.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

__all__ = ["MISSING"]

MISSING: MappingProxyType[str, MappingProxyType[str, Any]] = MappingProxyType(
    {
        "spec": MappingProxyType({"name": "default", "fps": 25, "field": {}, "audio": {}, "upsampler": None}),
        "field": MappingProxyType(
            {
                "grid": {},
                "condition": 12,
                "expression_names": (
                    "browDownLeft",
                    "browDownRight",
                    "browInnerUp",
                    "browOuterUpLeft",
                    "browOuterUpRight",
                    "eyeBlinkLeft",
                    "eyeBlinkRight",
                ),
                "attention_hidden": 16,
                "gate": "sigmoid",
                "density_hidden": 48,
                "density_layers": 2,
                "feature": 15,
                "deferred": True,
                "colour_hidden": 64,
                "colour_layers": 1,
                "direction_degree": 4,
                "appearance": 4,
                "density_scale_per_m": 40.0,
                "max_log_density": 10.0,
                "box_min_m": (-0.13, -0.16, -0.13),
                "box_max_m": (0.13, 0.18, 0.11),
                "occupancy_resolution": 128,
                "step_m": 0.006,
                "max_samples": 16,
            }
        ),
        "grid": MappingProxyType(
            {
                "n_levels": 12,
                "n_channels": 1,
                "base_resolution": 64,
                "finest_resolution": 512,
                "log2_table_size": 14,
            }
        ),
        "audio": MappingProxyType(
            {
                "sample_rate": 16_000,
                "preemphasis": 0.97,
                "n_fft": 800,
                "hop_samples": 200,
                "n_mels": 80,
                "mel_min_hz": 55.0,
                "mel_max_hz": 7600.0,
                "window_columns": 24,
                "window_future_columns": 8,
                "taps_past": 0,
                "taps_future": 0,
                "encoder": "kernel",
                "silence": -4.0,
                "calm": 0.0,
                "pooled_bands": 40,
                "components": 64,
                "cosines": 3072,
                "encoder_width": 32,
                "embedding": 512,
                "hidden": 256,
            }
        ),
        "upsampler": MappingProxyType({"width": 16, "levels": 3, "hidden": 64, "expression": 7}),
    }
)
"""Part of the spec -> key -> value where the key is missing (format version 1)."""

"""Types of the native module; see docs/native.md. Its sources are in csrc/."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Int = NDArray[np.int32]

def simd_paths() -> list[str]: ...
def simd() -> str: ...
def set_simd(name: str) -> None: ...
def threads() -> int: ...
def set_threads(n: int) -> None: ...
def cuda_devices() -> int: ...
def peak_kinds() -> list[str]: ...
def measure_peak(kind: str, threads: int, seconds: float) -> float: ...
def grid_encode(positions: Float, tables: Float, levels: NDArray[np.float64], out: Float) -> None: ...
def grid_encode_backward(
    positions: Float,
    tables: Float,
    d_out: Float,
    levels: NDArray[np.float64],
    d_tables: Float,
    d_positions: Float | None = None,
) -> None: ...
def grid_unroll(tables: Float, level: NDArray[np.float64], out: Float) -> None: ...
def plane_lookup(
    positions: Float, planes: Sequence[NDArray[np.float16]], scales: Sequence[float], out: Float
) -> None: ...
def march(
    origins: Float,
    directions: Float,
    jitter: Float,
    box_min: Float,
    box_max: Float,
    occupancy: NDArray[np.uint8],
    resolution: int,
    step: float,
    max_samples: int,
    positions: Float,
    distances: Float,
    rays: Int,
    offsets: Int,
) -> int: ...
def composite(
    density: Float, feature: Float, offsets: Int, step: float, out: Float, alpha: Float, weight: Float
) -> None: ...
def composite_backward(
    density: Float,
    feature: Float,
    offsets: Int,
    step: float,
    weight: Float,
    d_out: Float,
    d_alpha: Float,
    d_weight: Float | None,
    d_density: Float,
    d_feature: Float,
) -> None: ...
def rasterize(vertices: Float, triangles: Int, ids: Int, depth: Float, perspective: bool = True) -> None: ...
def interpolate_attributes(
    vertices: Float, triangles: Int, ids: Int, attributes: Float, out: Float, perspective: bool = True
) -> None: ...
def shade_picture(
    vertices: Float,
    triangles: Int,
    ids: Int,
    attributes: Float,
    materials: Int,
    table: Float,
    lights: Float,
    textures: Float,
    out: Float,
) -> None: ...

class Field:
    def __init__(
        self,
        levels: NDArray[np.float64],
        channels: int,
        condition: int,
        expression: int,
        attention_hidden: int,
        is_sigmoid: bool,
        density_hidden: int,
        density_layers: int,
        feature: int,
    ) -> None: ...
    def forward(
        self,
        positions: Float,
        groups: Int,
        condition: Float,
        expression: Float,
        tables: Float,
        weights: list[Float],
        log_density: Float,
        feature: Float,
    ) -> None: ...
    def backward(
        self,
        positions: Float,
        groups: Int,
        condition: Float,
        expression: Float,
        tables: Float,
        weights: list[Float],
        d_log_density: Float,
        d_feature: Float,
        d_condition: Float,
        d_expression: Float,
        d_tables: Float,
        d_weights: list[Float],
    ) -> None: ...

def paste(head: Float, plate: NDArray[np.uint8], out: NDArray[np.uint8]) -> None: ...

class Upsampler:
    def __init__(self, weights: list[Float], ranges: list[float] = ...) -> None: ...
    def apply(self, small: Float, modulation: Float, out: Float) -> None: ...

class Renderer:
    def __init__(
        self,
        scales: list[float],
        planes: list[NDArray[np.float16]],
        attention: list[Float],
        density: list[Float],
        colour: list[Float],
        occupancy: NDArray[np.uint8],
        resolution: int,
        box_min: Float,
        box_max: Float,
        step: float,
        max_samples: int,
        density_scale: float,
        max_log_density: float,
        condition: int,
        appearance: int,
        direction_degree: int,
        is_sigmoid: bool,
        is_deferred: bool,
        ranges: list[float] = ...,
        byte_reach: float = ...,
    ) -> None: ...
    def render(
        self,
        rotation: Float,
        translation: Float,
        focal: float,
        centre_x: float,
        centre_y: float,
        x0: int,
        y0: int,
        x1: int,
        y1: int,
        condition: Float,
        expression: Float,
        appearance: Float,
        out: Float,
    ) -> None: ...
    def query(
        self, positions: Float, condition: Float, expression: Float, log_density: Float, feature: Float
    ) -> None: ...

class GpuBatch:
    rotation: Float
    translation: Float
    camera: Float
    def __init__(
        self,
        rotation: Float,
        translation: Float,
        camera: Float,
        condition: Float,
        expression: Float,
        appearance: Float,
    ) -> None: ...

class GpuEmulation:
    def __init__(
        self,
        scales: list[float],
        planes: list[NDArray[np.float16]],
        attention: list[Float],
        density: list[Float],
        colour: list[Float],
        occupancy: NDArray[np.uint8],
        resolution: int,
        box_min: Float,
        box_max: Float,
        step: float,
        max_samples: int,
        density_scale: float,
        max_log_density: float,
        condition: int,
        appearance: int,
        direction_degree: int,
        is_sigmoid: bool,
        is_deferred: bool,
        is_half: bool,
        is_reversed: bool = False,
    ) -> None: ...
    def render(
        self, batch: GpuBatch, plates: NDArray[np.uint8], pictures: NDArray[np.uint8], heads: Float
    ) -> None: ...

def __getattr__(name: str) -> Any: ...  # parts that only some builds have (CUDA)

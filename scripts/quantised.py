"""Int8 with Q/DQ nodes, calibrated on given inputs, for `upsampler_int8.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

__all__ = ["best_ms", "layers_of", "quantise", "session"]

Feed = Mapping[str, np.ndarray]


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def layers_of(path: Path, kind: str) -> list[str]:
    """Names of the nodes of an operator, in order."""
    return [node.name for node in onnx.load(path).graph.node if node.op_type == kind]


def quantise(path: Path, out: Path, feeds: Iterable[Feed], layers: list[str]) -> None:
    """Write a model whose named layers compute in int8, weights by channel."""
    quantize_static(
        path,
        out,
        _Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        nodes_to_quantize=layers,
        weight_type=QuantType.QInt8,
    )


def session(path: Path) -> Any:
    """On one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def best_ms(work: Callable[[], object], n: int) -> float:
    """The best of so many runs, milliseconds of processor time."""
    times = []
    for _ in range(n):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1e3 * min(times)

"""The roof over a figure: what this GPU's memory and its arithmetic would need at least for the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Machine:
    """What this GPU reaches in two plain loops of PyTorch."""

    bytes_per_s: float
    """A copy from memory to memory, both ways counted."""
    multiply_adds_per_s: float
    """A product of large float16 matrices."""


@dataclass(frozen=True)
class Work:
    """What one call cannot do without."""

    bytes: float
    """Read and written once each, whatever caches do."""
    multiply_adds: float = 0.0

    def roof_ms(self, machine: Machine) -> float:
        """The larger of the two times: they may overlap."""
        seconds = max(self.bytes / machine.bytes_per_s, self.multiply_adds / machine.multiply_adds_per_s)
        return 1e3 * seconds


def milliseconds(call: Callable[[], object], repeats: int = 50) -> dict[str, float]:
    """Percentiles of a call's time on the GPU, after a warm-up."""
    times = []
    for i in range(repeats + 5):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        last.synchronize()
        if i >= 5:
            times.append(first.elapsed_time(last))
    return {f"p{p}": float(np.percentile(times, p)) for p in (50, 95, 99)}


def measured_machine() -> Machine:
    """Runs both loops, once each."""
    there, here = (torch.empty(1 << 28, dtype=torch.uint8, device="cuda") for _ in range(2))
    copied = 2 * there.numel() / (1e-3 * milliseconds(lambda: here.copy_(there), 20)["p50"])
    n = 8192
    left, right = (torch.ones(n, n, dtype=torch.float16, device="cuda") for _ in range(2))
    multiplied = n**3 / (1e-3 * milliseconds(lambda: left @ right, 20)["p50"])
    return Machine(copied, multiplied)


def row(name: str, times: dict[str, float], work: Work, machine: Machine, **more: float) -> dict[str, object]:
    """A line of the table: times and roof in ms, and the share of the roof that is reached."""
    roof = work.roof_ms(machine)
    return {
        "name": name,
        **{f"{key}_ms": round(value, 4) for key, value in times.items()},
        "roof_ms": round(roof, 4),
        "roof_share": round(roof / times["p50"], 3),
        "bytes": int(work.bytes),
        "multiply_adds": int(work.multiply_adds),
        **{key: round(value, 2) for key, value in more.items()},
    }
